//! The shapes of points in pictures: curves stay apart by them where there is no colour.

/// What a point looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    Circle,
    Square,
    Diamond,
    Triangle,
    Inverted,
}

impl Mark {
    /// The element, with its middle at this place.
    pub(crate) fn at(self, class: &str, x: f64, y: f64) -> String {
        let (left, top) = (x - 3.5, y - 3.5);
        match self {
            Self::Circle => format!("<circle class=\"mark {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.2\"/>"),
            Self::Square => {
                format!("<rect class=\"mark {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"7\" height=\"7\"/>")
            }
            Self::Diamond => {
                format!("<path class=\"mark {class}\" d=\"M{x:.1} {:.1}l4.8 4.8l-4.8 4.8l-4.8 -4.8z\"/>", y - 4.8)
            }
            Self::Triangle => format!("<path class=\"mark {class}\" d=\"M{x:.1} {:.1}l4.6 8h-9.2z\"/>", y - 4.8),
            Self::Inverted => format!("<path class=\"mark {class}\" d=\"M{x:.1} {:.1}l4.6 -8h-9.2z\"/>", y + 4.8),
        }
    }
}
