//! Myelon or NCCL, for one call.
//!
//! INVARIANT: decided by what every rank has alike: the collective, whether the communicator is attached, the data type, the
//! operator. Never by addresses, streams, captures, or what else is in a group, which a rank has for itself: a rank that chose otherwise than its
//! peers would wait for ever. A lane table that says NCCL is faster at a size would be asked here, for it too is the same everywhere.

use std::ffi::c_int;
use std::fmt;

use myelon_ccl::{Collective, DType, ReduceOp};

use crate::abi;
use crate::communicators::Entry;

/// Types and operators whose kernels every rank has ready, for each collective that is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prepared([Option<[[bool; ReduceOp::ALL.len()]; DType::ALL.len()]>; Collective::ALL.len()]);

impl Prepared {
    pub(crate) fn of(collectives: &[Collective], pairs: &[(DType, ReduceOp)]) -> Self {
        let mut prepared = Self::default();
        for &collective in collectives {
            let has = prepared.0[collective as usize].insert(Default::default());
            for (dtype, op) in kernels(collective, pairs) {
                has[dtype as usize][op as usize] = true;
            }
        }
        prepared
    }
}

/// What a collective is prepared for: where bytes are moved, whatever they mean, every size of an element.
pub(crate) fn kernels(collective: Collective, pairs: &[(DType, ReduceOp)]) -> Vec<(DType, ReduceOp)> {
    if collective.has_operator() {
        return pairs.to_vec();
    }
    let mut kernels: Vec<_> = DType::ALL.iter().map(|&dtype| collective.compiled_for(dtype, ReduceOp::Sum)).collect();
    kernels.sort();
    kernels.dedup();
    kernels
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
            Self::OtherFunction => "not a function that Myelon takes, or not in MYELON_NCCL_COLLECTIVES",
            Self::NotAttached => "the communicator is not attached",
            Self::UnknownType => "a data type that Myelon lacks",
            Self::UnknownOperator => "an operator that Myelon lacks",
            Self::NotPrepared => "type and operator not in MYELON_NCCL_PREPARE",
        })
    }
}

/// Who runs a call: Myelon with this type and operator, or NCCL. Without an operator there is none to know.
pub(crate) fn route(
    entry: Option<&Entry>,
    collective: Collective,
    datatype: c_int,
    op: Option<c_int>,
) -> Result<(DType, ReduceOp), Reason> {
    let attached = entry.and_then(|entry| entry.attached.as_ref());
    choose(attached.map(|attached| &attached.prepared), collective, datatype, op)
}

fn choose(
    prepared: Option<&Prepared>,
    collective: Collective,
    datatype: c_int,
    op: Option<c_int>,
) -> Result<(DType, ReduceOp), Reason> {
    let prepared = prepared.ok_or(Reason::NotAttached)?.0[collective as usize].ok_or(Reason::OtherFunction)?;
    let dtype = abi::data_type(datatype).ok_or(Reason::UnknownType)?;
    let op = op.map_or(Some(ReduceOp::Sum), abi::operator).ok_or(Reason::UnknownOperator)?;
    let kernel = collective.compiled_for(dtype, op);
    if prepared[kernel.0 as usize][kernel.1 as usize] { Ok((dtype, op)) } else { Err(Reason::NotPrepared) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_is_taken_and_the_rest_has_a_reason() {
        let pairs = [(DType::F32, ReduceOp::Sum), (DType::I64, ReduceOp::Max)];
        let prepared = Prepared::of(&[Collective::AllReduce, Collective::AllGather], &pairs);
        let all_reduce = |datatype, op| choose(Some(&prepared), Collective::AllReduce, datatype, Some(op));
        assert_eq!(all_reduce(7, 0), Ok((DType::F32, ReduceOp::Sum)));
        assert_eq!(all_reduce(4, 2), Ok((DType::I64, ReduceOp::Max)));
        assert_eq!(all_reduce(7, 2), Err(Reason::NotPrepared));
        assert_eq!(all_reduce(7, 5), Err(Reason::UnknownOperator), "the first operator that a program makes");
        assert_eq!(all_reduce(12, 0), Err(Reason::UnknownType));
        for datatype in 0..12 {
            assert!(choose(Some(&prepared), Collective::AllGather, datatype, None).is_ok(), "bytes are bytes");
        }
        let reduce_scatter = choose(Some(&prepared), Collective::ReduceScatter, 7, Some(0));
        assert_eq!(reduce_scatter, Err(Reason::OtherFunction));
        assert_eq!(choose(None, Collective::AllReduce, 7, Some(0)), Err(Reason::NotAttached));
    }
}
