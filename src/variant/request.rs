//! What is asked for: a request, and a choice of how to run it.

use std::sync::Arc;

use super::manifest::VariantSpec;
use super::shape::Shape;
use crate::types::{DType, ReduceOp};

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
        self.count * self.dtype.size_bytes() as u64
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
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.variant.name, self.shape)
    }
}
