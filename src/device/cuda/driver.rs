//! The driver itself: opening it, its version, its errors, and the context that calls run in.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{
    self, CUcontext, CUevent, CUgraph, CUgraphNode, CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus,
};

use super::functions;
use super::locate::{self, Found};
use crate::error::{Error, Result};

/// Oldest driver that has every function called here (cuLaunchKernelEx, graphs, POSIX handles).
const OLDEST_DRIVER: CudaVersion = CudaVersion { major: 12, minor: 0 };

/// A CUDA release, ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// 13 of 13.0.
    pub major: u32,
    /// 0 of 13.0.
    pub minor: u32,
}

impl CudaVersion {
    /// From the one number that the driver reports: 13000 is 13.0, 12080 is 12.8.
    pub(crate) fn from_number(number: c_int) -> Self {
        let number = u32::try_from(number).unwrap_or(0);
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Calls a driver function; an error becomes [`Error::Driver`] under the function's name.
macro_rules! driver_call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        $crate::device::cuda::driver::check(stringify!($name), ::cudarc::driver::sys::$name($($argument),*))
    };
}
pub(crate) use driver_call;

/// The driver, open and initialised.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) version: CudaVersion,
    elapsed: unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult,
    capture_info: CaptureInfo,
    record_everything: Option<RecordEverything>,
}

/// `cuStreamGetCaptureInfo_v2`: stream; status, number, graph, dependencies and their count.
type CaptureInfo = unsafe extern "C" fn(
    CUstream,
    *mut CUstreamCaptureStatus,
    *mut u64,
    *mut CUgraph,
    *mut *const CUgraphNode,
    *mut usize,
) -> CUresult;

/// `cuCtxRecordEvent`, which drivers before 12.5 lack.
type RecordEverything = unsafe extern "C" fn(CUcontext, CUevent) -> CUresult;

/// The driver of this process.
///
/// Errors: [`Error::LibraryMissing`] without a driver; [`Error::Driver`] where it cannot start, with
/// `CUDA_ERROR_NO_DEVICE` on a machine that has the driver and no GPU; [`Error::Unsupported`] where it is too old.
pub(crate) fn driver() -> Result<&'static Driver> {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    // Failures are not kept: they cost a search each time, and an environment may be mended while a program waits.
    let opened = open_driver()?;
    Ok(DRIVER.get_or_init(|| opened))
}

fn open_driver() -> Result<Driver> {
    let found = locate::open(&locate::DRIVER, &|_| Ok(()))?;
    // WHY: cudarc opens the driver again under names of its own and panics where none fits. Ours is open by now and
    // global, so the name libcuda.so.1 finds it wherever it lies; only a file with another SONAME can fail here.
    // SAFETY: only opens and closes libraries by name.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::LibraryMissing {
            library: locate::DRIVER.stem,
            purpose: locate::DRIVER.purpose,
            searched: vec![format!("{} (it does not call itself libcuda.so.1)", found.origin)],
        });
    }
    let mut number: c_int = 0;
    // SAFETY: cuInit may be called at any time and any number of times; the version goes to a local.
    unsafe {
        driver_call!(cuInit(0))?;
        driver_call!(cuDriverGetVersion(&mut number))?;
    }
    let version = CudaVersion::from_number(number);
    if version < OLDEST_DRIVER {
        return Err(Error::unsupported(format!(
            "the NVIDIA driver supports CUDA {version}, Myelon needs {OLDEST_DRIVER} or newer: update the driver"
        )));
    }
    // SAFETY: the type is that of the function. WHY: cudarc's bindings of CUDA 13 know its third form alone, which drivers before 12.3 lack.
    let capture_info = unsafe { functions::required(&found, c"cuStreamGetCaptureInfo_v2") }?;
    // SAFETY: likewise.
    let record_everything = unsafe { functions::function(&found, c"cuCtxRecordEvent") };
    Ok(Driver { version, elapsed: find_elapsed(&found)?, capture_info, record_everything })
}

/// WHY: cudarc's bindings of CUDA 13 know cuEventElapsedTime_v2 alone, which drivers before 12.8 lack.
fn find_elapsed(found: &Found) -> Result<unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult> {
    // SAFETY: both forms have this signature; the second differs only in accepting events that did not finish timing.
    unsafe {
        match functions::function(found, c"cuEventElapsedTime_v2") {
            Some(function) => Ok(function),
            None => functions::required(found, c"cuEventElapsedTime"),
        }
    }
}

impl Driver {
    /// Milliseconds between two reached events.
    ///
    /// # Safety
    /// Both events exist and belong to the current context.
    pub(crate) unsafe fn elapsed_ms(&self, start: CUevent, end: CUevent) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: the events are the caller's promise; the result goes to a local.
        check("cuEventElapsedTime", unsafe { (self.elapsed)(&mut milliseconds, start, end) })?;
        Ok(milliseconds)
    }

    /// Puts an event behind everything that a context holds; false where the driver cannot.
    ///
    /// # Safety
    /// The event exists and belongs to the context, which is a primary one.
    pub(crate) unsafe fn record_everything(&self, context: CUcontext, event: CUevent) -> Result<bool> {
        let Some(record) = self.record_everything else { return Ok(false) };
        // SAFETY: the caller's promise.
        check("cuCtxRecordEvent", unsafe { record(context, event) }).map(|()| true)
    }

    /// What a stream is captured in, by number; an invalidated capture lasts until it is ended.
    ///
    /// # Safety
    /// The stream exists, of the current context.
    pub(crate) unsafe fn capture_of(&self, stream: CUstream) -> Result<Option<u64>> {
        let none = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut status, mut number) = (none, 0);
        let (graph, dependencies, count) = (null_mut(), null_mut(), null_mut());
        // SAFETY: the stream is the caller's promise; results go to locals, and what is null is not asked for.
        let code = unsafe { (self.capture_info)(stream, &mut status, &mut number, graph, dependencies, count) };
        check("cuStreamGetCaptureInfo", code)?;
        Ok((status != none).then_some(number))
    }
}

/// Turns a driver's result into ours.
pub(crate) fn check(call: &'static str, code: CUresult) -> Result<()> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(failure(call, code)),
    }
}

fn failure(call: &'static str, code: CUresult) -> Error {
    Error::Driver { call, code: code as i32, detail: describe(code) }
}

/// The driver's name and text for a code, and what to do where that is known.
fn describe(code: CUresult) -> String {
    // SAFETY: both functions accept any code and give a static string or null.
    let (name, text) = unsafe {
        (driver_string(|out| sys::cuGetErrorName(code, out)), driver_string(|out| sys::cuGetErrorString(code, out)))
    };
    let advice = advice(code).map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("{} ({}): {}{advice}", name.unwrap_or("unknown error"), code as i32, text.unwrap_or("no description"))
}

fn driver_string(call: impl FnOnce(*mut *const c_char) -> CUresult) -> Option<&'static str> {
    let mut text = std::ptr::null();
    if call(&mut text) != CUresult::CUDA_SUCCESS || text.is_null() {
        return None;
    }
    // SAFETY: on success the driver gives a terminated string with static storage.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

fn advice(code: CUresult) -> Option<&'static str> {
    Some(match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "free memory on this GPU or lower the heap size",
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "a link-time stub was loaded in the driver's place: take the stubs directory out of LD_LIBRARY_PATH, or point MYELON_CUDA_LIB at the driver's libcuda.so.1"
        }
        CUresult::CUDA_ERROR_NO_DEVICE => "no GPU is visible: check CUDA_VISIBLE_DEVICES and nvidia-smi",
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => "the NVLink fabric is not up: check that nvidia-fabricmanager runs",
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "the kernel module and libcuda are of different releases",
        CUresult::CUDA_ERROR_NOT_INITIALIZED => {
            "a process forked after CUDA was initialised cannot use it: start ranks by exec"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED => "the stream is being captured and this call cannot be",
        _ => return None,
    })
}

/// The primary context of one GPU, shared with everything else in the process that uses the GPU.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    inner: Arc<CudaContext>,
    pub(crate) driver: &'static Driver,
}

impl Context {
    /// Retains the primary context.
    pub(crate) fn new(ordinal: u32) -> Result<Self> {
        let driver = driver()?;
        let inner = CudaContext::new(ordinal as usize).map_err(|error| failure("cuDevicePrimaryCtxRetain", error.0))?;
        Ok(Self { inner, driver })
    }

    pub(crate) fn inner(&self) -> &Arc<CudaContext> {
        &self.inner
    }

    /// Makes the context current on the calling thread; one thread-local read where it is already.
    ///
    /// WHY: not cudarc's `bind_to_thread`, which reports errors that its own destructors left behind.
    pub(crate) fn bind(&self) -> Result<()> {
        let mut current = std::ptr::null_mut();
        // SAFETY: the result goes to a local; the context is retained by `inner`.
        unsafe {
            driver_call!(cuCtxGetCurrent(&mut current))?;
            if current != self.inner.cu_ctx() {
                driver_call!(cuCtxSetCurrent(self.inner.cu_ctx()))?;
            }
        }
        Ok(())
    }

    /// As [`Context::bind`], for calls that must not break a capture that another thread runs in global mode.
    pub(crate) fn bind_relaxed(&self) -> Result<RelaxedCapture> {
        self.bind()?;
        RelaxedCapture::enter()
    }
}

/// While it lives, allocations, loads and queries of this thread are no concern of captures on other streams.
///
/// INVARIANT: dropped on the thread that made it; the raw pointer keeps it from being sent.
pub(crate) struct RelaxedCapture {
    previous: CUstreamCaptureMode,
    _this_thread: std::marker::PhantomData<*const ()>,
}

impl RelaxedCapture {
    fn enter() -> Result<Self> {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: swaps a thread-local of the driver with the local.
        unsafe { driver_call!(cuThreadExchangeStreamCaptureMode(&mut mode))? };
        Ok(Self { previous: mode, _this_thread: std::marker::PhantomData })
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        log_failure(unsafe { driver_call!(cuThreadExchangeStreamCaptureMode(&mut self.previous)) });
    }
}

/// For destructors, which have nobody to return an error to.
pub(crate) fn log_failure(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "giving a CUDA resource back failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(CudaVersion::from_number(13000).to_string(), "13.0");
        assert_eq!(CudaVersion::from_number(12080).to_string(), "12.8");
        assert!(CudaVersion::from_number(12080) < CudaVersion::from_number(13000));
        assert!(CudaVersion::from_number(12090) > CudaVersion::from_number(12080));
    }

    #[test]
    fn success_is_no_error_and_advice_names_the_fix() {
        assert!(check("cuInit", CUresult::CUDA_SUCCESS).is_ok());
        assert!(advice(CUresult::CUDA_ERROR_STUB_LIBRARY).unwrap().contains("MYELON_CUDA_LIB"));
        assert!(advice(CUresult::CUDA_ERROR_INVALID_VALUE).is_none());
    }

    #[test]
    fn without_a_driver_the_error_names_the_library_and_the_override() {
        match driver() {
            Ok(driver) => println!("skipped: this machine has a driver for CUDA {}", driver.version),
            Err(error) => assert!(matches!(error, Error::LibraryMissing { .. } | Error::Driver { .. }), "{error}"),
        }
    }
}
