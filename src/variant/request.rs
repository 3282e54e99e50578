//! What is asked for: a request, and a choice of how to run it.

use std::sync::Arc;

use super::manifest::VariantSpec;
use super::parameters::Parameters;
use super::shape::Shape;
use crate::error::{Error, Result};
use crate::types::{DType, Output, ReduceOp, WorldSize};

/// What is to be reduced. Equal on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Elements.
    pub count: u64,
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// Whether every rank's output lies in a zero-copy window, at one offset.
    pub registered: bool,
}

impl Request {
    /// Size of the message in bytes.
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.dtype.size_bytes() as u64)
    }

    /// How results get into the output: direct where that is possible and the shape does not say otherwise, for it leaves out a
    /// copy.
    ///
    /// Errors: [`Error::InvalidArgument`] for a direct output that is not registered.
    pub(super) fn output(&self, shape: &Shape, parameters: &Parameters) -> Result<Output> {
        match shape.output {
            Some(output @ (Output::Direct | Output::Landing)) if !self.registered => Err(Error::invalid(format!(
                "output={output}: results go straight into windows, and this output lies in none that is zero-copy: register it on \
                 all ranks and name the window in the operation, or ask for output=staged"
            ))),
            Some(output) => Ok(output),
            None if self.registered && parameters.has_output(Output::Direct) => Ok(Output::Direct),
            None => Ok(Output::Staged),
        }
    }
}

/// A variant and the parameters that override the manifest's. Equal on all ranks.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The variant.
    pub variant: Arc<VariantSpec>,
    /// What runs instead of the manifest's tuning; absent parts are the tuning's.
    pub shape: Shape,
}

impl Choice {
    /// The variant in its default shape.
    pub fn of(variant: &Arc<VariantSpec>) -> Self {
        Self { variant: Arc::clone(variant), shape: Shape::default() }
    }

    /// Whether `auto` may take it for a request of so many ranks on this architecture.
    pub fn serves(&self, arch: &str, ranks: WorldSize, request: &Request) -> bool {
        self.variant.is_trusted_on(arch) && self.variant.supports(request.dtype, request.op, ranks).is_ok()
    }
}

impl PartialEq for Choice {
    /// Variants are equal by name.
    fn eq(&self, other: &Self) -> bool {
        self.variant.name == other.variant.name && self.shape == other.shape
    }
}

impl Eq for Choice {}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.variant.name, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_direct_where_they_are_registered_and_nobody_says_otherwise() {
        let [with, without]: [Parameters; 2] =
            ["output = [\"staged\", \"direct\"]", ""].map(|text| toml::from_str(text).unwrap());
        let output = |registered, asked, parameters| {
            let request = Request { count: 1, dtype: DType::F32, op: ReduceOp::Sum, registered };
            request.output(&Shape { output: asked, ..Shape::default() }, parameters)
        };
        for (registered, asked, parameters, expected) in [
            (false, None, &with, Output::Staged),
            (true, None, &with, Output::Direct),
            (true, None, &without, Output::Staged),
            (true, Some(Output::Staged), &with, Output::Staged),
            (true, Some(Output::Direct), &with, Output::Direct),
        ] {
            assert_eq!(output(registered, asked, parameters).unwrap(), expected, "{registered} {asked:?}");
        }
        let message = output(false, Some(Output::Direct), &with).unwrap_err().to_string();
        assert!(message.contains("output=direct") && message.contains("register it"), "{message}");
    }
}
