//! NCCL's types, codes and numbers, as `nccl.h` has them. Results and enums are taken as integers: a newer NCCL has more of them.

use std::ffi::{c_char, c_int, c_uint, c_void};

use myelon_ccl::{DType, ReduceOp};

/// `ncclComm_t`: the real NCCL's, opaque here.
pub(crate) type Comm = *mut c_void;
/// `cudaStream_t`.
pub(crate) type Stream = *mut c_void;

/// `ncclUniqueId`, which goes by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId {
    /// Opaque.
    pub internal: [c_char; 128],
}

/// `ncclSuccess`.
pub(crate) const SUCCESS: c_int = 0;
/// `ncclUnhandledCudaError`.
pub(crate) const CUDA_ERROR: c_int = 1;
/// `ncclSystemError`.
pub(crate) const SYSTEM_ERROR: c_int = 2;
/// `ncclInternalError`.
pub(crate) const INTERNAL_ERROR: c_int = 3;
/// `ncclInvalidArgument`.
pub(crate) const INVALID_ARGUMENT: c_int = 4;
/// `ncclInvalidUsage`.
pub(crate) const INVALID_USAGE: c_int = 5;
/// `ncclRemoteError`.
pub(crate) const REMOTE_ERROR: c_int = 6;
/// `ncclInProgress`.
pub(crate) const IN_PROGRESS: c_int = 7;

/// `ncclUint8`.
pub(crate) const UINT8: c_int = 1;

/// The beginning of `ncclConfig_t`, which no release has changed. The rest grows and is not looked at.
#[repr(C)]
pub(crate) struct ConfigStart {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// `NCCL_API_MAGIC`.
const MAGIC: c_uint = 0xcafe_beef;

/// Whether a configuration asks for a communicator that blocks; none where it does not say.
///
/// # Safety
/// `config` is null or points to an `ncclConfig_t` of any release.
pub(crate) unsafe fn blocking_of(config: *const c_void) -> Option<bool> {
    if config.is_null() {
        return None;
    }
    // SAFETY: every release's configuration begins so: the caller's promise.
    let start = unsafe { &*config.cast::<ConfigStart>() };
    let is_one = start.magic == MAGIC && start.size >= size_of::<ConfigStart>();
    match start.blocking {
        0 if is_one => Some(false),
        1 if is_one => Some(true),
        _ => None,
    }
}

/// `ncclDataType_t` as Myelon names it.
pub(crate) fn data_type(code: c_int) -> Option<DType> {
    Some(match code {
        0 => DType::I8,
        1 => DType::U8,
        2 => DType::I32,
        3 => DType::U32,
        4 => DType::I64,
        5 => DType::U64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        9 => DType::Bf16,
        10 => DType::E4m3,
        11 => DType::E5m2,
        _ => return None,
    })
}

/// `ncclRedOp_t` as Myelon names it; not those that a program made, whose numbers come later.
pub(crate) fn operator(code: c_int) -> Option<ReduceOp> {
    Some(match code {
        0 => ReduceOp::Sum,
        1 => ReduceOp::Prod,
        2 => ReduceOp::Max,
        3 => ReduceOp::Min,
        4 => ReduceOp::Avg,
        _ => return None,
    })
}

/// Bytes of so many elements, for the log.
pub(crate) fn bytes(count: usize, datatype: c_int) -> u64 {
    (count as u64).saturating_mul(data_type(datatype).map_or(1, DType::size_bytes) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_header() {
        assert_eq!((data_type(7), data_type(9), data_type(12)), (Some(DType::F32), Some(DType::Bf16), None));
        assert_eq!((operator(2), operator(3), operator(5)), (Some(ReduceOp::Max), Some(ReduceOp::Min), None));
        assert_eq!(bytes(3, 6), 6);
        assert_eq!(bytes(usize::MAX, 8), u64::MAX);
    }

    #[test]
    fn a_configuration_says_whether_it_blocks_or_nothing() {
        let config = |magic, blocking| ConfigStart { size: 64, magic, version: 0, blocking };
        let asked = |config: &ConfigStart| {
            // SAFETY: the structure is what the function reads.
            unsafe { blocking_of((&raw const *config).cast()) }
        };
        // SAFETY: null is allowed.
        assert_eq!(unsafe { blocking_of(std::ptr::null()) }, None);
        assert_eq!([0, 1, c_int::MIN].map(|blocking| asked(&config(MAGIC, blocking))), [Some(false), Some(true), None]);
        assert_eq!(asked(&config(1, 0)), None, "not a configuration");
    }
}
