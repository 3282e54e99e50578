//! The enumerations of the header, and what they are in Rust.
//!
//! A C program can pass any number where it should pass an enumerator, which a Rust enum may not hold: codes cross the border as
//! `int`s under the names [`StatusCode`], [`DataTypeCode`] and [`OpCode`], which the header calls by the enumerations.

use std::ffi::c_int;

use myelon::{Collective, DType, ReduceOp};

use crate::guard::Fault;

/// A `myelonStatus_t` that a caller passes.
pub type StatusCode = c_int;
/// A `myelonDataType_t` that a caller passes.
pub type DataTypeCode = c_int;
/// A `myelonOp_t` that a caller passes.
pub type OpCode = c_int;

/// A `myelonCollective_t` that a caller passes.
pub type CollectiveCode = c_int;

/// How a call ended. myelonGetLastError says more of what is not myelonSuccess.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum myelonStatus_t {
    /// All went well.
    myelonSuccess = 0,
    /// The call, or a variable of the environment, was wrong. Nothing was launched and nothing is lost.
    myelonInvalidArgument = 1,
    /// The request is valid, but this machine, variant or build cannot serve it. Nothing was launched.
    myelonUnsupported = 2,
    /// A wait inside a kernel passed its deadline. Output undefined: destroy the communicator and make a new one.
    myelonStalled = 3,
    /// A peer's process ended or stopped answering, or it left while an operation still waited for it. Output undefined: destroy the
    /// communicator.
    myelonPeerLost = 4,
    /// Ranks disagree on something that must be equal: an operation, a setting, the version.
    myelonPeerMismatch = 5,
    /// This rank, or a peer, called myelonCommAbort. Destroy the communicator.
    myelonAborted = 6,
    /// A step that every rank takes by itself failed on a peer; here it went well.
    myelonPeerFailed = 7,
    /// The driver, a GPU, NCCL or the compiler of kernels failed, or a peer's memory cannot be reached.
    myelonDeviceError = 8,
    /// The operating system failed, a library is missing, or the ranks did not find each other.
    myelonSystemError = 9,
    /// A fault of this library. Please report it, with the text of myelonGetLastError.
    myelonInternalError = 10,
}

/// Element type of a collective. Buffers are aligned to the element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum myelonDataType_t {
    /// IEEE 754 binary32.
    myelonF32 = 0,
    /// IEEE 754 binary64.
    myelonF64 = 1,
    /// IEEE 754 binary16, accumulated in binary32.
    myelonF16 = 2,
    /// bfloat16, accumulated in binary32.
    myelonBf16 = 3,
    /// 8-bit float, 4 exponent bits, no infinity; accumulated in binary32.
    myelonE4m3 = 4,
    /// 8-bit float, 5 exponent bits; accumulated in binary32.
    myelonE5m2 = 5,
    /// Signed 8-bit integer, wrapping.
    myelonI8 = 6,
    /// Unsigned 8-bit integer, wrapping.
    myelonU8 = 7,
    /// Signed 32-bit integer, wrapping.
    myelonI32 = 8,
    /// Unsigned 32-bit integer, wrapping.
    myelonU32 = 9,
    /// Signed 64-bit integer, wrapping.
    myelonI64 = 10,
    /// Unsigned 64-bit integer, wrapping.
    myelonU64 = 11,
}

/// What a reduction does with the elements of all ranks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum myelonOp_t {
    /// x0 + x1 + ..., integers wrapping.
    myelonSum = 0,
    /// x0 * x1 * ..., integers wrapping.
    myelonProd = 1,
    /// Smallest; a NaN anywhere gives NaN.
    myelonMin = 2,
    /// Largest; a NaN anywhere gives NaN.
    myelonMax = 3,
    /// Sum divided by the world size; integers divide the wrapped sum, toward zero.
    myelonAvg = 4,
}

/// Which collective, for myelonPrepareCollective.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum myelonCollective_t {
    /// myelonAllReduce, also in batches.
    myelonCollectiveAllReduce = 0,
    /// myelonReduceScatter.
    myelonCollectiveReduceScatter = 1,
    /// myelonAllGather.
    myelonCollectiveAllGather = 2,
    /// myelonBroadcast.
    myelonCollectiveBroadcast = 3,
}

/// What to do where the ranks cannot reach each other's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum myelonFallback_t {
    /// Say what is missing: bringing a communicator up is an error.
    myelonFallbackRefuse = 0,
    /// Run on NCCL, whose kernels have no deadline. myelonCommEngine says which of the two runs.
    myelonFallbackNccl = 1,
}

impl myelonStatus_t {
    const ALL: [Self; 11] = [
        Self::myelonSuccess,
        Self::myelonInvalidArgument,
        Self::myelonUnsupported,
        Self::myelonStalled,
        Self::myelonPeerLost,
        Self::myelonPeerMismatch,
        Self::myelonAborted,
        Self::myelonPeerFailed,
        Self::myelonDeviceError,
        Self::myelonSystemError,
        Self::myelonInternalError,
    ];

    /// The status of this number.
    pub(crate) fn of(code: StatusCode) -> Option<Self> {
        Self::ALL.into_iter().find(|&status| status as StatusCode == code)
    }
}

/// The data type of this number.
pub(crate) fn data_type(code: DataTypeCode) -> Result<DType, Fault> {
    let known = DType::ALL.iter().copied().find(|&dtype| dtype as DataTypeCode == code);
    known.ok_or_else(|| unknown("dtype", code, "myelonDataType_t", DType::ALL.iter().map(|dtype| dtype.name())))
}

/// The operator of this number.
pub(crate) fn operator(code: OpCode) -> Result<ReduceOp, Fault> {
    let known = ReduceOp::ALL.iter().copied().find(|&op| op as OpCode == code);
    known.ok_or_else(|| unknown("op", code, "myelonOp_t", ReduceOp::ALL.iter().map(|op| op.name())))
}

/// The collective of this number.
pub(crate) fn collective(code: CollectiveCode) -> Result<Collective, Fault> {
    let known = Collective::ALL.iter().copied().find(|&collective| collective as CollectiveCode == code);
    let names = Collective::ALL.iter().map(|collective| collective.name());
    known.ok_or_else(|| unknown("collective", code, "myelonCollective_t", names))
}

/// An argument that is no enumerator. Those of an enumeration are numbered from 0.
pub(crate) fn unknown<'a>(name: &str, code: c_int, kind: &str, known: impl Iterator<Item = &'a str>) -> Fault {
    let known: Vec<_> = known.enumerate().map(|(code, name)| format!("{code} ({name})")).collect();
    Fault::invalid(format!("{name} is {code}, which is no {kind}: known are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::myelonCollective_t::*;
    use super::myelonDataType_t::*;
    use super::myelonOp_t::*;
    use super::*;

    #[test]
    fn enumerators_are_the_codes_of_the_library() {
        let types = [
            (myelonF32, DType::F32),
            (myelonF64, DType::F64),
            (myelonF16, DType::F16),
            (myelonBf16, DType::Bf16),
            (myelonE4m3, DType::E4m3),
            (myelonE5m2, DType::E5m2),
            (myelonI8, DType::I8),
            (myelonU8, DType::U8),
            (myelonI32, DType::I32),
            (myelonU32, DType::U32),
            (myelonI64, DType::I64),
            (myelonU64, DType::U64),
        ];
        assert_eq!(types.len(), DType::ALL.len(), "a data type that C cannot name");
        for (code, dtype) in types {
            assert_eq!(data_type(code as DataTypeCode).ok(), Some(dtype));
        }
        let operators = [
            (myelonSum, ReduceOp::Sum),
            (myelonProd, ReduceOp::Prod),
            (myelonMin, ReduceOp::Min),
            (myelonMax, ReduceOp::Max),
            (myelonAvg, ReduceOp::Avg),
        ];
        assert_eq!(operators.len(), ReduceOp::ALL.len(), "an operator that C cannot name");
        for (code, op) in operators {
            assert_eq!(operator(code as OpCode).ok(), Some(op));
        }
        let collectives = [
            (myelonCollectiveAllReduce, Collective::AllReduce),
            (myelonCollectiveReduceScatter, Collective::ReduceScatter),
            (myelonCollectiveAllGather, Collective::AllGather),
            (myelonCollectiveBroadcast, Collective::Broadcast),
        ];
        assert_eq!(collectives.len(), Collective::ALL.len(), "a collective that C cannot name");
        for (code, known) in collectives {
            assert_eq!(collective(code as CollectiveCode).ok(), Some(known));
        }
    }

    #[test]
    fn other_numbers_are_errors_that_list_the_known_ones() {
        for code in [-1, 12, c_int::MAX, c_int::MIN] {
            let fault = data_type(code).unwrap_err();
            assert!(fault.text.contains("3 (bf16)"), "{}", fault.text);
            assert!(operator(code).unwrap_err().text.contains("4 (avg)"));
            assert!(collective(code).unwrap_err().text.contains("3 (broadcast)"));
            assert_eq!(myelonStatus_t::of(code), None);
        }
    }
}
