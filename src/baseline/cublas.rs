//! cuBLAS, for one thing: a large product of matrices, which is what models compute beside an all-reduce.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::Arc;

use crate::device::cuda::driver::{self, Context, CudaVersion};
use crate::device::cuda::functions::function_table;
use crate::device::cuda::locate::{self, Found};
use crate::device::handles::{Buffer, Stream};
use crate::device::{Device, DeviceKind};
use crate::error::{Error, Result};

/// `cublasHandle_t`.
type Handle = *mut c_void;

function_table! {
    /// Functions of cuBLAS, as `cublas_api.h` declares them; its enums are C enums.
    Functions
    required {
        cublasGetProperty: fn(c_int, *mut c_int) -> c_int;
        cublasGetStatusString: fn(c_int) -> *const c_char;
        cublasCreate_v2: fn(*mut Handle) -> c_int;
        cublasDestroy_v2: fn(Handle) -> c_int;
        cublasSetStream_v2: fn(Handle, *mut c_void) -> c_int;
        cublasGemmEx: fn(
            Handle, c_int, c_int, c_int, c_int, c_int, *const c_void, *const c_void, c_int, c_int, *const c_void, c_int, c_int,
            *const c_void, *mut c_void, c_int, c_int, c_int, c_int
        ) -> c_int;
    }
    optional {}
}

/// CUBLAS_OP_N, CUBLAS_COMPUTE_32F and CUBLAS_GEMM_DEFAULT of cublas_api.h.
const NOT_TRANSPOSED: c_int = 0;
const COMPUTE_F32: c_int = 68;
const BY_HEURISTIC: c_int = -1;
/// CUDA_R_16BF, and MAJOR_VERSION, MINOR_VERSION and PATCH_LEVEL, of library_types.h.
const BF16: c_int = 14;
const VERSION_PARTS: [c_int; 3] = [0, 1, 2];
/// Bytes of a `bf16`.
const ELEMENT: u64 = 2;

/// A release of cuBLAS: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CublasVersion([u32; 3]);

impl fmt::Display for CublasVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Version of the cuBLAS that would be used.
///
/// Errors: [`Error::LibraryMissing`], which says how to get it; those of the driver.
pub fn cublas_version() -> Result<CublasVersion> {
    Library::open().map(|library| library.version)
}

/// cuBLAS, open for good.
#[derive(Clone, Copy, Debug)]
struct Library {
    functions: Functions,
    version: CublasVersion,
}

impl Library {
    fn open() -> Result<Self> {
        let driver = driver::driver()?.version;
        // WHY: cuBLAS needs this library, which pip's packages may have outside the loader's search. Open already, it is found by its
        // name; where there is none, cuBLAS itself says that it lacks it.
        let _ = locate::open(&locate::CUBLAS_LT, &|_| Ok(()));
        let found = locate::open(&locate::CUBLAS, &|found| {
            let version = Self::of(found).map_err(|error| error.to_string())?.version;
            check_against_driver(version, driver)
        })?;
        Self::of(&found)
    }

    fn of(found: &Found) -> Result<Self> {
        let functions = Functions::load(found)?;
        let mut version = [0; 3];
        for (part, number) in VERSION_PARTS.into_iter().zip(&mut version) {
            let mut value: c_int = 0;
            // SAFETY: the number goes to a local.
            check(&functions, "cublasGetProperty", unsafe { (functions.cublasGetProperty)(part, &mut value) })?;
            *number = u32::try_from(value).unwrap_or(0);
        }
        Ok(Self { functions, version: CublasVersion(version) })
    }
}

/// CUDA's libraries run on every driver of their major release or of a later one.
fn check_against_driver(version: CublasVersion, driver: CudaVersion) -> Result<(), String> {
    if version.0[0] <= driver.major {
        return Ok(());
    }
    Err(format!(
        "cuBLAS {version} is newer than the driver, which supports CUDA {driver}: install cuBLAS {}, or update the driver",
        driver.major
    ))
}

fn check(functions: &Functions, call: &'static str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: gives a static terminated string for any code.
    let text = unsafe { CStr::from_ptr((functions.cublasGetStatusString)(code)) };
    Err(Error::Driver { call, code, detail: text.to_string_lossy().into_owned() })
}

/// A product of two square matrices of `bf16` into a third, accumulated in 32 bits, on one stream of a GPU.
///
/// The owner synchronises the stream before dropping it.
#[derive(Debug)]
pub struct MatrixProduct {
    cublas: Library,
    context: Context,
    handle: Handle,
    order: u32,
    /// Left, right, result: column by column.
    matrices: [Buffer; 3],
}

impl MatrixProduct {
    /// Fills two matrices of `order` rows and columns with numbers of random sign and fraction, and computes their product once, so
    /// that no later one loads a kernel. Waits for it.
    ///
    /// Errors: those of [`cublas_version`], of cuBLAS and of the device; [`Error::Unsupported`] on the CPU device.
    pub fn new(device: &Arc<dyn Device>, stream: &Stream, order: u32) -> Result<Self> {
        let properties = device.properties();
        if properties.kind != DeviceKind::Cuda {
            return Err(Error::unsupported("cuBLAS runs on GPUs only"));
        }
        let cublas = Library::open()?;
        let context = Context::new(properties.ordinal)?;
        let elements = u64::from(order) * u64::from(order);
        let matrix = || Buffer::new(device, elements * ELEMENT);
        let matrices = [matrix()?, matrix()?, matrix()?];
        for (seed, matrix) in (0..).zip(&matrices[..2]) {
            let numbers: Vec<u8> = (0..elements).flat_map(|index| number(seed, index).to_ne_bytes()).collect();
            matrix.upload(&numbers, stream)?;
        }
        context.bind()?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the handle goes to a local; it belongs to the context that is current.
        check(&cublas.functions, "cublasCreate_v2", unsafe { (cublas.functions.cublasCreate_v2)(&mut handle) })?;
        let product = Self { cublas, context, handle, order, matrices };
        // SAFETY: the handle is live; the stream is one of the device's, which are of the context's.
        let code =
            unsafe { (cublas.functions.cublasSetStream_v2)(handle, stream.handle().raw() as usize as *mut c_void) };
        check(&cublas.functions, "cublasSetStream_v2", code)?;
        product.queue()?;
        stream.synchronize()?;
        Ok(product)
    }

    /// Queues one product on the stream.
    ///
    /// Errors: [`Error::Driver`] with what cuBLAS says.
    pub fn queue(&self) -> Result<()> {
        self.context.bind()?;
        let order = self.order as c_int;
        let [left, right, result] = self.matrices.each_ref().map(|matrix| matrix.address().0 as usize as *mut c_void);
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the handle is live and used by this thread alone, for it is not `Sync`; each matrix has `order` columns of `order`
        // elements, and lives until the owner has synchronised the stream; the factors are read before the call returns.
        let code = unsafe {
            (self.cublas.functions.cublasGemmEx)(
                self.handle,
                NOT_TRANSPOSED,
                NOT_TRANSPOSED,
                order,
                order,
                order,
                (&raw const one).cast(),
                left,
                BF16,
                order,
                right,
                BF16,
                order,
                (&raw const zero).cast(),
                result,
                BF16,
                order,
                COMPUTE_F32,
                BY_HEURISTIC,
            )
        };
        check(&self.cublas.functions, "cublasGemmEx", code)
    }

    /// What it computes and with what, for people.
    pub fn describe(&self) -> String {
        format!("bf16 product of {0} x {0} matrices by cuBLAS {1}", self.order, self.cublas.version)
    }

    /// Left, right, and result of the last product: column by column.
    pub fn matrices(&self) -> &[Buffer; 3] {
        &self.matrices
    }
}

impl Drop for MatrixProduct {
    fn drop(&mut self) {
        let destroyed = self.context.bind().and_then(|()| {
            // SAFETY: the handle is live and not used afterwards; the owner has synchronised the stream.
            let code = unsafe { (self.cublas.functions.cublasDestroy_v2)(self.handle) };
            check(&self.cublas.functions, "cublasDestroy_v2", code)
        });
        if let Err(error) = destroyed {
            tracing::warn!(%error, "a handle of cuBLAS was left behind");
        }
    }
}

/// A `bf16` from 0.5 to below 1, of either sign. WHY: a product of equal numbers takes less power, and so less time.
fn number(seed: u64, index: u64) -> u16 {
    // The last steps of SplitMix64.
    let mut bits = (seed << 40 | index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits >> 48) as u16 & 0x807f | 0x3f00
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;

    #[test]
    fn a_release_newer_than_the_driver_is_turned_down() {
        let driver = CudaVersion { major: 12, minor: 8 };
        let refusal = check_against_driver(CublasVersion([13, 1, 0]), driver).unwrap_err();
        assert!(refusal.contains("cuBLAS 13.1.0") && refusal.contains("CUDA 12.8"), "{refusal}");
        assert!(check_against_driver(CublasVersion([12, 9, 1]), driver).is_ok());
        assert!(check_against_driver(CublasVersion([11, 0, 0]), driver).is_ok());
    }

    #[test]
    fn numbers_are_halves_to_ones_of_either_sign() {
        let numbers: Vec<_> = (0..1000).map(|index| half::bf16::from_bits(number(0, index)).to_f32()).collect();
        assert!(numbers.iter().all(|number| (0.5..1.0).contains(&number.abs())), "{numbers:?}");
        let negative = numbers.iter().filter(|number| **number < 0.0).count();
        assert!((400..600).contains(&negative), "{negative}");
        assert_ne!(number(0, 7), number(1, 7));
    }

    #[test]
    fn the_cpu_has_no_cublas() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let stream = Stream::new(&device).unwrap();
        let error = MatrixProduct::new(&device, &stream, 64).map(|product| product.describe()).unwrap_err();
        assert!(error.to_string().contains("GPUs only"), "{error}");
    }
}
