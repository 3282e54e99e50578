//! Logarithmic axes: where a value lies on the paper, and which values deserve a label.

/// An axis from one positive value to another, mapped to coordinates that may grow either way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    /// The axis that just holds all positive `values`, widened by `margin` (a factor, 1 for none) at both ends.
    ///
    /// A single value is widened at least twofold each way, so that it lies in the middle. None without a positive value.
    pub fn holding(values: impl IntoIterator<Item = f64>, margin: f64, from: f64, to: f64) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.into_iter().filter(|value| *value > 0.0 && value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        let margin = if low == high { margin.max(2.0) } else { margin };
        (high > 0.0).then(|| Self { low: low / margin, high: high * margin, from, to })
    }

    /// Coordinate of a positive value; outside the axis for values outside its range.
    pub fn position(&self, value: f64) -> f64 {
        self.from + (value / self.low).ln() / (self.high / self.low).ln() * (self.to - self.from)
    }

    /// Powers of two to label, ascending: those on the axis, every first, second, fourth and so on, `most` at most.
    pub fn binary_ticks(&self, most: usize) -> Vec<f64> {
        let (first, last) = (self.low.log2().ceil() as i32, self.high.log2().floor() as i32);
        let count = |stride: i32| ((last - first) / stride + 1).max(0) as usize;
        let stride = (0..).map(|power| 1 << power).find(|&stride| count(stride) <= most.max(1)).unwrap_or(1);
        (first..=last).step_by(stride as usize).map(|power| f64::from(power).exp2()).collect()
    }

    /// Decimal values to label, ascending: 1, 2 and 5 of each decade where the axis is short, else 1 of each.
    pub fn decimal_ticks(&self, most: usize) -> Vec<f64> {
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let of = |digits: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)));
            all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
        };
        [&[1.0, 2.0, 5.0][..], &[1.0, 3.0]]
            .map(of)
            .into_iter()
            .find(|ticks| ticks.len() <= most)
            .unwrap_or_else(|| of(&[1.0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_map_to_ends() {
        let axis = LogAxis::holding([1.0, 100.0, 10.0, 0.0, f64::NAN], 1.0, 0.0, 200.0).unwrap();
        assert_eq!([1.0, 10.0, 100.0].map(|value| axis.position(value).round()), [0.0, 100.0, 200.0]);
        let flipped = LogAxis::holding([1.0, 100.0], 1.0, 200.0, 0.0).unwrap();
        assert_eq!(flipped.position(100.0).round(), 0.0);
    }

    #[test]
    fn degenerate_axes() {
        assert_eq!(LogAxis::holding([0.0, -1.0], 1.0, 0.0, 1.0), None);
        let single = LogAxis::holding([1024.0], 1.0, 0.0, 100.0).unwrap();
        assert_eq!(single.position(1024.0).round(), 50.0);
        assert!(single.binary_ticks(7).contains(&1024.0));
    }

    #[test]
    fn binary_ticks_thin_out() {
        let axis = LogAxis::holding([1024.0, (1_u64 << 30) as f64], 1.0, 0.0, 1.0).unwrap();
        let ticks: Vec<u64> = axis.binary_ticks(7).into_iter().map(|tick| tick as u64).collect();
        assert_eq!(ticks, [1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 26, 1 << 30]);
        assert_eq!(axis.binary_ticks(0).len(), 1);
    }

    #[test]
    fn decimal_ticks_thin_out() {
        let axis = LogAxis::holding([1.6, 30.0], 1.0, 0.0, 1.0).unwrap();
        assert_eq!(axis.decimal_ticks(8), [2.0, 5.0, 10.0, 20.0]);
        let wide = LogAxis::holding([1.0, 1e6], 1.0, 0.0, 1.0).unwrap();
        assert_eq!(wide.decimal_ticks(8).len(), 7);
    }
}
