//! What is said of a shape that nothing takes.

use myelon_ccl::Error;
use myelon_ccl::variant::Shape;

/// Why no candidate takes a shape: in the words of a variant that has its parameters, which name what is possible. `refusals` are of
/// every variant, and whether it has them.
pub(crate) fn none_takes(shape: &Shape, refusals: impl IntoIterator<Item = (bool, Error)>) -> Error {
    let mut refusals: Vec<_> = refusals.into_iter().collect();
    refusals.sort_by_key(|(has, _)| !has);
    let why = refusals.first().map_or(String::new(), |(_, error)| format!(": {error}"));
    Error::invalid(format!("no candidate takes{shape}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_that_has_the_parameter_says_what_is_possible() {
        let shape = Shape { slots: Some(3), ..Shape::default() };
        let refusals = [(false, "a has no slots"), (true, "b takes 2, 4"), (true, "c takes 2")];
        let error = none_takes(&shape, refusals.map(|(has, error)| (has, Error::invalid(error))));
        assert_eq!(error.to_string(), "no candidate takes slots=3: b takes 2, 4");
        assert_eq!(none_takes(&shape, []).to_string(), "no candidate takes slots=3");
    }
}
