//! The NCCL library, or another with its functions: what it has, its version, its names for types and operators.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId, ncclWindow_t};

use super::mscclpp;
use crate::device::cuda::functions::function_table;
use crate::device::cuda::locate;
use crate::error::{Error, Result};
use crate::types::{Collective, DType, Rank, ReduceOp};

function_table! {
    /// Functions of NCCL, as `nccl.h` declares them. `ncclResult_t` is taken as its integer: a newer NCCL may have
    /// values that a Rust enum does not.
    Functions
    required {
        ncclGetVersion: fn(*mut c_int) -> c_int;
        ncclGetUniqueId: fn(*mut ncclUniqueId) -> c_int;
        ncclCommInitRank: fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> c_int;
        ncclCommDestroy: fn(ncclComm_t) -> c_int;
        ncclCommAbort: fn(ncclComm_t) -> c_int;
        ncclCommGetAsyncError: fn(ncclComm_t, *mut c_int) -> c_int;
        ncclGetErrorString: fn(c_int) -> *const c_char;
        ncclAllReduce: fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> c_int;
        ncclReduceScatter: fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t) -> c_int;
        ncclAllGather: fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> c_int;
        ncclBroadcast: fn(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> c_int;
        ncclGroupStart: fn() -> c_int;
        ncclGroupEnd: fn() -> c_int;
    }
    optional {
        ncclCommFinalize: fn(ncclComm_t) -> c_int;
        ncclGetLastError: fn(ncclComm_t) -> *const c_char;
        ncclMemAlloc: fn(*mut *mut c_void, usize) -> c_int;
        ncclMemFree: fn(*mut c_void) -> c_int;
        ncclCommWindowRegister: fn(ncclComm_t, *mut c_void, usize, *mut ncclWindow_t, c_int) -> c_int;
        ncclCommWindowDeregister: fn(ncclComm_t, ncclWindow_t) -> c_int;
    }
}

/// Whose library is behind NCCL's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// NCCL itself.
    Nccl,
    /// MSCCL++, which has NCCL's functions in a library of its own; only its all-reduces are taken. It has no abort: a kernel
    /// of it that waits for a lost rank runs on. It keeps state of a rank in the process, which holds one rank only.
    Mscclpp,
}

impl Provider {
    /// Its name for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nccl => "NCCL",
            Self::Mscclpp => "MSCCL++",
        }
    }
}

/// A release of NCCL, ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NcclVersion(u32);

impl NcclVersion {
    /// From NCCL's own number: 22803 is 2.28.3. MSCCL++ numbers its own releases so: 900 is 0.9.0.
    pub const fn from_code(code: u32) -> Self {
        Self(code)
    }

    /// NCCL's own number.
    pub const fn code(self) -> u32 {
        self.0
    }
}

impl fmt::Display for NcclVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// First release with sums and the like of 8-bit floats.
const FIRST_WITH_FP8: NcclVersion = NcclVersion(22_400);
/// First release whose version number has the form that [`NcclVersion`] reads, and with averages.
pub(super) const OLDEST: NcclVersion = NcclVersion(21_000);

/// Version of the NCCL that would be used.
///
/// Errors: [`Error::LibraryMissing`] without NCCL, [`Error::Unsupported`] where it is too old.
pub fn version() -> Result<NcclVersion> {
    Library::open(Provider::Nccl).map(|library| library.version)
}

/// NCCL or another library with its functions, open for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Library {
    pub(super) functions: Functions,
    pub(super) version: NcclVersion,
    provider: Provider,
}

impl Library {
    pub(super) fn open(provider: Provider) -> Result<Self> {
        let wanted = match provider {
            Provider::Nccl => &locate::NCCL,
            Provider::Mscclpp => {
                // INVARIANT: before it is opened, for it reads its environment once.
                mscclpp::check_environment(&|name| std::env::var(name).ok())?;
                &locate::MSCCLPP
            }
        };
        let found = locate::open(wanted, &|_| Ok(()))?;
        let functions = Functions::load(&found)?;
        let mut code: c_int = 0;
        // SAFETY: the number goes to a local.
        let outcome = unsafe { (functions.ncclGetVersion)(&mut code) };
        let version = NcclVersion(u32::try_from(code).unwrap_or(0));
        if provider == Provider::Mscclpp {
            mscclpp::check_version(version, &found.origin)?;
        } else if outcome != 0 || version < OLDEST {
            return Err(Error::unsupported(format!(
                "NCCL {version} ({}) is older than {OLDEST}: install a newer release, or name one with MYELON_NCCL_LIB",
                found.origin
            )));
        }
        Ok(Self { functions, version, provider })
    }

    /// For the calls of one rank.
    pub(super) fn of(self, rank: Rank) -> RankLibrary {
        RankLibrary { functions: self.functions, version: self.version, provider: self.provider, rank }
    }
}

/// NCCL as one rank calls it: errors name the rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct RankLibrary {
    pub(super) functions: Functions,
    pub(super) version: NcclVersion,
    pub(super) provider: Provider,
    pub(super) rank: Rank,
}

impl RankLibrary {
    /// The library's names for what a reduction is of.
    ///
    /// Errors: [`Error::Unsupported`] for what this library or this release of it lacks.
    pub(super) fn reduction(
        &self,
        collective: Collective,
        dtype: DType,
        op: ReduceOp,
    ) -> Result<(ncclDataType_t, ncclRedOp_t)> {
        if self.provider == Provider::Mscclpp {
            mscclpp::check_request(collective, dtype, op)?;
        }
        Ok((data_type(dtype, self.version)?, operator(op)))
    }

    /// The library's name for a type of the same size that every release has, for what only moves bytes.
    ///
    /// Errors: as [`RankLibrary::reduction`].
    pub(super) fn moved_type(&self, collective: Collective, dtype: DType) -> Result<ncclDataType_t> {
        let (dtype, op) = collective.compiled_for(dtype, ReduceOp::Sum);
        self.reduction(collective, dtype, op).map(|(dtype, _)| dtype)
    }

    /// Turns NCCL's result into ours.
    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: gives a static string for any code.
        let mut detail = text(unsafe { (self.functions.ncclGetErrorString)(code) });
        if let Some(last) = self.functions.ncclGetLastError {
            // SAFETY: the argument is unused and may be null; the string lives until the next error of this thread.
            let last = text(unsafe { last(std::ptr::null_mut()) });
            if !last.trim().is_empty() {
                detail = format!("{detail}: {}", last.trim());
            }
        }
        if self.provider != Provider::Nccl {
            detail = format!("{}: {detail}", self.provider.label());
        }
        Err(Error::Nccl { rank: self.rank, call, detail })
    }
}

fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: NCCL's strings are terminated and live through this copy.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// NCCL's name for an element type.
///
/// Errors: [`Error::Unsupported`] for one that this release lacks.
fn data_type(dtype: DType, version: NcclVersion) -> Result<ncclDataType_t> {
    if dtype.is_fp8() && version < FIRST_WITH_FP8 {
        return Err(Error::unsupported(format!(
            "NCCL {version} cannot reduce {dtype}: {FIRST_WITH_FP8} is the first that can"
        )));
    }
    Ok(match dtype {
        DType::F32 => ncclDataType_t::ncclFloat32,
        DType::F64 => ncclDataType_t::ncclFloat64,
        DType::F16 => ncclDataType_t::ncclFloat16,
        DType::Bf16 => ncclDataType_t::ncclBfloat16,
        DType::E4m3 => ncclDataType_t::ncclFloat8e4m3,
        DType::E5m2 => ncclDataType_t::ncclFloat8e5m2,
        DType::I8 => ncclDataType_t::ncclInt8,
        DType::U8 => ncclDataType_t::ncclUint8,
        DType::I32 => ncclDataType_t::ncclInt32,
        DType::U32 => ncclDataType_t::ncclUint32,
        DType::I64 => ncclDataType_t::ncclInt64,
        DType::U64 => ncclDataType_t::ncclUint64,
    })
}

/// NCCL's name for an operator.
fn operator(op: ReduceOp) -> ncclRedOp_t {
    match op {
        ReduceOp::Sum => ncclRedOp_t::ncclSum,
        ReduceOp::Prod => ncclRedOp_t::ncclProd,
        ReduceOp::Min => ncclRedOp_t::ncclMin,
        ReduceOp::Max => ncclRedOp_t::ncclMax,
        ReduceOp::Avg => ncclRedOp_t::ncclAvg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_nccl_prints_them() {
        assert_eq!(NcclVersion::from_code(22_803).to_string(), "2.28.3");
        assert_eq!(NcclVersion::from_code(22_304).to_string(), "2.23.4");
        assert!(NcclVersion::from_code(22_304) < FIRST_WITH_FP8);
    }

    #[test]
    fn every_type_and_operator_has_its_own_code() {
        let newest = NcclVersion(23_000);
        let types: std::collections::HashSet<_> =
            DType::ALL.iter().map(|&dtype| data_type(dtype, newest).unwrap() as u32).collect();
        assert_eq!(types.len(), DType::ALL.len());
        // Codes of nccl.h, which are part of its ABI.
        assert_eq!(data_type(DType::Bf16, newest).unwrap() as u32, 9);
        assert_eq!(data_type(DType::E4m3, newest).unwrap() as u32, 10);
        assert_eq!(data_type(DType::U8, newest).unwrap() as u32, 1);
        let operators: Vec<_> = ReduceOp::ALL.iter().map(|&op| operator(op) as u32).collect();
        assert_eq!(operators, [0, 1, 3, 2, 4]);
    }

    #[test]
    fn eight_bit_floats_need_a_release_that_has_them() {
        let message = data_type(DType::E5m2, NcclVersion(22_304)).unwrap_err().to_string();
        assert!(message.contains("2.23.4") && message.contains("e5m2") && message.contains("2.24.0"), "{message}");
        assert!(data_type(DType::U8, NcclVersion(22_304)).is_ok());
    }

    #[test]
    fn the_library_opens_where_there_is_one() {
        match Library::open(Provider::Nccl) {
            Ok(library) => {
                assert!(library.version >= OLDEST);
                let library = library.of(Rank(3));
                assert!(library.check("ncclAllReduce", 0).is_ok());
                let error = library.check("ncclAllReduce", 4).unwrap_err().to_string();
                assert!(error.starts_with("ncclAllReduce failed on rank 3: invalid argument"), "{error}");
            }
            Err(error @ Error::LibraryMissing { .. }) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
