//! Myelon or NCCL, for one call.
//!
//! INVARIANT: decided by what every rank has alike: the collective, whether the communicator is attached, the data type, the
//! operator, the size. Never by addresses, streams, captures, or what else is in a group, which a rank has for itself: a rank that
//! chose otherwise than its peers would wait for ever.

use std::ffi::c_int;
use std::fmt;

use myelon_ccl::{Collective, DType, ReduceOp};

use crate::abi;
use crate::communicators::Entry;
use crate::settings::Taken;

/// Types and operators whose kernels every rank has ready, for each collective that is taken, and the size up to which it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prepared([Option<Kernels>; Collective::ALL.len()]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kernels {
    has: [[bool; ReduceOp::ALL.len()]; DType::ALL.len()],
    most_bytes: u64,
}

impl Prepared {
    pub(crate) fn of(taken: &[Taken], pairs: &[(DType, ReduceOp)]) -> Self {
        let mut prepared = Self::default();
        for &Taken { collective, most_bytes } in taken {
            let mut has = [[false; ReduceOp::ALL.len()]; DType::ALL.len()];
            for (dtype, op) in kernels(collective, pairs) {
                has[dtype as usize][op as usize] = true;
            }
            prepared.0[collective as usize] = Some(Kernels { has, most_bytes });
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
    /// So large that NCCL was measured to be as fast.
    Large,
}

impl Reason {
    pub(crate) const ALL: [Self; 6] = [
        Self::OtherFunction,
        Self::NotAttached,
        Self::UnknownType,
        Self::UnknownOperator,
        Self::NotPrepared,
        Self::Large,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherFunction => "not a function that Myelon takes, or not in MYELON_NCCL_COLLECTIVES",
            Self::NotAttached => "the communicator is not attached",
            Self::UnknownType => "a data type that Myelon lacks",
            Self::UnknownOperator => "an operator that Myelon lacks",
            Self::NotPrepared => "type and operator not in MYELON_NCCL_PREPARE",
            Self::Large => "NCCL is as fast at this size, and MYELON_NCCL_COLLECTIVES does not name it",
        })
    }
}

/// Who runs a call of so many bytes of each rank: Myelon with this type and operator, or NCCL. Without an operator there is none
/// to know.
pub(crate) fn route(
    entry: Option<&Entry>,
    collective: Collective,
    datatype: c_int,
    op: Option<c_int>,
    bytes: u64,
) -> Result<(DType, ReduceOp), Reason> {
    let attached = entry.and_then(|entry| entry.attached.as_ref()).ok_or(Reason::NotAttached)?;
    let parts = if collective.has_parts() { attached.communicator.world_size().get() } else { 1 };
    choose(&attached.prepared, collective, datatype, op, bytes.saturating_mul(parts.into()))
}

fn choose(
    prepared: &Prepared,
    collective: Collective,
    datatype: c_int,
    op: Option<c_int>,
    bytes: u64,
) -> Result<(DType, ReduceOp), Reason> {
    let prepared = prepared.0[collective as usize].ok_or(Reason::OtherFunction)?;
    let dtype = abi::data_type(datatype).ok_or(Reason::UnknownType)?;
    let op = op.map_or(Some(ReduceOp::Sum), abi::operator).ok_or(Reason::UnknownOperator)?;
    let kernel = collective.compiled_for(dtype, op);
    if !prepared.has[kernel.0 as usize][kernel.1 as usize] {
        return Err(Reason::NotPrepared);
    }
    if bytes > prepared.most_bytes { Err(Reason::Large) } else { Ok((dtype, op)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_is_taken_and_the_rest_has_a_reason() {
        let pairs = [(DType::F32, ReduceOp::Sum), (DType::I64, ReduceOp::Max)];
        let taken = [(Collective::AllReduce, u64::MAX), (Collective::AllGather, 4096)];
        let prepared = Prepared::of(&taken.map(|(collective, most_bytes)| Taken { collective, most_bytes }), &pairs);
        let all_reduce = |datatype, op| choose(&prepared, Collective::AllReduce, datatype, Some(op), 1 << 40);
        assert_eq!(all_reduce(7, 0), Ok((DType::F32, ReduceOp::Sum)));
        assert_eq!(all_reduce(4, 2), Ok((DType::I64, ReduceOp::Max)));
        assert_eq!(all_reduce(7, 2), Err(Reason::NotPrepared));
        assert_eq!(all_reduce(7, 5), Err(Reason::UnknownOperator), "the first operator that a program makes");
        assert_eq!(all_reduce(12, 0), Err(Reason::UnknownType));
        for datatype in 0..12 {
            let all_gather = |bytes| choose(&prepared, Collective::AllGather, datatype, None, bytes);
            assert!(all_gather(4096).is_ok(), "bytes are bytes");
            assert_eq!(all_gather(4097), Err(Reason::Large));
        }
        let reduce_scatter = choose(&prepared, Collective::ReduceScatter, 7, Some(0), 4);
        assert_eq!(reduce_scatter, Err(Reason::OtherFunction));
        assert_eq!(route(None, Collective::AllReduce, 7, Some(0), 4), Err(Reason::NotAttached));
    }
}
