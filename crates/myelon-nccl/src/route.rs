//! Myelon or NCCL, for one call.
//!
//! INVARIANT: decided by what every rank has alike: whether the communicator is attached, the data type, the operator. Never by
//! addresses, streams, captures, or what else is in a group, which a rank has for itself: a rank that chose otherwise than its
//! peers would wait for ever. A lane table that says NCCL is faster at a size would be asked here, for it too is the same everywhere.

use std::ffi::c_int;
use std::fmt;

use myelon_ccl::{DType, ReduceOp};

use crate::abi;
use crate::communicators::Entry;

/// Types and operators whose kernels every rank has ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prepared([[bool; ReduceOp::ALL.len()]; DType::ALL.len()]);

impl Prepared {
    pub(crate) fn of(pairs: &[(DType, ReduceOp)]) -> Self {
        let mut prepared = Self::default();
        for &(dtype, op) in pairs {
            prepared.0[dtype as usize][op as usize] = true;
        }
        prepared
    }

    fn has(&self, dtype: DType, op: ReduceOp) -> bool {
        self.0[dtype as usize][op as usize]
    }
}

/// Why NCCL runs a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Myelon does not stand in for this function.
    OtherFunction,
    /// The communicator is not attached, or was not made through this library.
    NotAttached,
    /// The type has no counterpart.
    UnknownType,
    /// The operator has no counterpart: one that the program made.
    UnknownOperator,
    /// The kernels of this type and operator were not made ready.
    NotPrepared,
}

impl Reason {
    pub(crate) const ALL: [Self; 5] =
        [Self::OtherFunction, Self::NotAttached, Self::UnknownType, Self::UnknownOperator, Self::NotPrepared];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherFunction => "not a function that Myelon takes",
            Self::NotAttached => "the communicator is not attached",
            Self::UnknownType => "a data type that Myelon lacks",
            Self::UnknownOperator => "an operator that Myelon lacks",
            Self::NotPrepared => "type and operator not in MYELON_NCCL_PREPARE",
        })
    }
}

/// Who runs an all-reduce.
pub(crate) fn all_reduce(entry: Option<&Entry>, datatype: c_int, op: c_int) -> Result<(DType, ReduceOp), Reason> {
    let attached = entry.and_then(|entry| entry.attached.as_ref());
    choose(attached.map(|attached| &attached.prepared), datatype, op)
}

fn choose(prepared: Option<&Prepared>, datatype: c_int, op: c_int) -> Result<(DType, ReduceOp), Reason> {
    let prepared = prepared.ok_or(Reason::NotAttached)?;
    let dtype = abi::data_type(datatype).ok_or(Reason::UnknownType)?;
    let op = abi::operator(op).ok_or(Reason::UnknownOperator)?;
    if prepared.has(dtype, op) { Ok((dtype, op)) } else { Err(Reason::NotPrepared) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_is_taken_and_the_rest_has_a_reason() {
        let prepared = Prepared::of(&[(DType::F32, ReduceOp::Sum), (DType::I64, ReduceOp::Max)]);
        let choose = |datatype, op| choose(Some(&prepared), datatype, op);
        assert_eq!(choose(7, 0), Ok((DType::F32, ReduceOp::Sum)));
        assert_eq!(choose(4, 2), Ok((DType::I64, ReduceOp::Max)));
        assert_eq!(choose(7, 2), Err(Reason::NotPrepared));
        assert_eq!(choose(7, 5), Err(Reason::UnknownOperator), "the first operator that a program makes");
        assert_eq!(choose(12, 0), Err(Reason::UnknownType));
        assert_eq!(super::choose(None, 7, 0), Err(Reason::NotAttached));
    }
}
