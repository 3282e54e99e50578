//! The NVRTC library: its functions, its release, and the builtins it needs beside it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use super::driver::CudaVersion;
use super::functions::function_table;
use super::locate;
use crate::error::{Error, Result};

/// `nvrtcProgram`.
pub(super) type Program = *mut c_void;

function_table! {
    /// Functions of NVRTC, as `nvrtc.h` declares them; `nvrtcResult` is a C enum.
    Functions
    required {
        nvrtcVersion: fn(*mut c_int, *mut c_int) -> c_int;
        nvrtcGetErrorString: fn(c_int) -> *const c_char;
        nvrtcGetNumSupportedArchs: fn(*mut c_int) -> c_int;
        nvrtcGetSupportedArchs: fn(*mut c_int) -> c_int;
        nvrtcCreateProgram: fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
        nvrtcDestroyProgram: fn(*mut Program) -> c_int;
        nvrtcCompileProgram: fn(Program, c_int, *const *const c_char) -> c_int;
        nvrtcGetCUBINSize: fn(Program, *mut usize) -> c_int;
        nvrtcGetCUBIN: fn(Program, *mut c_char) -> c_int;
        nvrtcGetProgramLogSize: fn(Program, *mut usize) -> c_int;
        nvrtcGetProgramLog: fn(Program, *mut c_char) -> c_int;
    }
    optional {}
}

/// NVRTC, open for good.
#[derive(Clone, Debug)]
pub(super) struct Library {
    pub(super) functions: Functions,
    pub(super) version: CudaVersion,
    /// Name or path it was opened by.
    pub(super) origin: String,
    /// Size of its file: tells apart patch releases, which report one version.
    pub(super) file_bytes: u64,
}

impl Library {
    /// The best NVRTC of the machine, passing over those newer than `driver`.
    pub(super) fn open(driver: Option<CudaVersion>) -> Result<Self> {
        let found = locate::open(&locate::NVRTC, &|found| {
            let version = Functions::load(found).and_then(|functions| version_of(&functions));
            check_against_driver(version.map_err(|error| error.to_string())?, driver)
        })?;
        let functions = Functions::load(&found)?;
        let version = version_of(&functions)?;
        let file = file_of(&functions);
        if let Some(directory) = file.as_deref().and_then(Path::parent) {
            open_builtins(directory, version);
        }
        let file_bytes = file.and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        Ok(Self { functions, version, origin: found.origin, file_bytes })
    }

    /// Turns NVRTC's result into ours.
    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<()> {
        check(&self.functions, call, code)
    }
}

fn check(functions: &Functions, call: &'static str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: gives a static terminated string for any code.
    let text = unsafe { CStr::from_ptr((functions.nvrtcGetErrorString)(code)) };
    Err(Error::Driver { call, code, detail: text.to_string_lossy().into_owned() })
}

fn version_of(functions: &Functions) -> Result<CudaVersion> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both numbers go to locals.
    check(functions, "nvrtcVersion", unsafe { (functions.nvrtcVersion)(&mut major, &mut minor) })?;
    Ok(CudaVersion { major: u32::try_from(major).unwrap_or(0), minor: u32::try_from(minor).unwrap_or(0) })
}

fn check_against_driver(version: CudaVersion, driver: Option<CudaVersion>) -> Result<(), String> {
    match driver {
        Some(driver) if version > driver => Err(format!(
            "NVRTC {version} is newer than the driver, which supports CUDA {driver}: install NVRTC {driver} or older, or update the driver"
        )),
        _ => Ok(()),
    }
}

/// The file that the library was loaded from.
fn file_of(functions: &Functions) -> Option<PathBuf> {
    // SAFETY: an all-zero Dl_info is a valid value, and the address is that of a function of the library.
    let path = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let address = functions.nvrtcVersion as *const c_void;
        if libc::dladdr(address, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(info.dli_fname)
    };
    Some(PathBuf::from(path.to_str().ok()?))
}

/// NVRTC opens this library by its bare name at the first compile, which fails where it lies outside the loader's
/// search. Open already, it is found by that name.
fn open_builtins(directory: &Path, version: CudaVersion) {
    let path = directory.join(format!("libnvrtc-builtins.so.{version}"));
    let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_LOCAL;
    // SAFETY: the library holds data and no initialiser with requirements; it is kept open for good.
    match unsafe { libloading::os::unix::Library::open(Some(&path), flags) } {
        Ok(library) => std::mem::forget(library),
        Err(error) => tracing::debug!(path = %path.display(), %error, "NVRTC's builtins are not beside it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_newer_than_the_driver_is_turned_down() {
        let version = |major, minor| CudaVersion { major, minor };
        let refusal = check_against_driver(version(13, 0), Some(version(12, 8))).unwrap_err();
        assert!(refusal.contains("13.0") && refusal.contains("12.8"), "{refusal}");
        assert!(check_against_driver(version(12, 8), Some(version(13, 0))).is_ok());
        assert!(check_against_driver(version(13, 0), Some(version(13, 0))).is_ok());
        assert!(check_against_driver(version(13, 0), None).is_ok());
    }
}
