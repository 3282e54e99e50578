//! Which library is the real NCCL: the one that the process has, else the user's, else what the loader and pip have.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use myelon_ccl::device::cuda::locate::{NCCL, Places};

/// A library with NCCL's functions, open for good.
pub(super) struct Found {
    pub(super) opened: &'static Library,
}

const NAME: &str = "libnccl.so.2";
const VARIABLE: &str = "MYELON_NCCL_LIB";
/// A function that only this library has.
const MARK: &[u8] = b"ncclMyelonVersion\0";

/// Finds the one NCCL of this process.
///
/// WHY: two in one process have two sets of communicators, of which neither knows the other's; so one that is loaded comes before
/// one that the user names.
pub(super) fn find() -> Result<Found, String> {
    let mut refused = Vec::new();
    let mut attempt = |name: &Path, flags: c_int| match open(name, flags) {
        Ok(library) => match check(&library) {
            Ok(()) => Some(Found { opened: Box::leak(Box::new(library)) }),
            Err(why) => {
                refused.push(format!("{} ({why})", name.display()));
                None
            }
        },
        // Not loaded yet: no place to name.
        Err(_) if flags & libc::RTLD_NOLOAD != 0 => None,
        Err(why) => {
            refused.push(format!("{} ({why})", name.display()));
            None
        }
    };
    let loaded = RTLD_NOW | RTLD_LOCAL | libc::RTLD_NOLOAD;
    // WHY: no deep binding, by which NCCL would have another `free` than the `malloc` of a program that brings its own allocator. Its calls
    // of its own functions come here where this library is preloaded, and `guard` knows them.
    let fresh = RTLD_NOW | RTLD_LOCAL;
    if let Some(found) = attempt(Path::new(NAME), loaded) {
        return Ok(found);
    }
    for path in loaded_paths() {
        if let Some(found) = attempt(&path, loaded) {
            return Ok(found);
        }
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let found = attempt(Path::new(&path), fresh);
        return found.ok_or_else(|| format!("no NCCL where {VARIABLE} says: {}", refused.join(", ")));
    }
    if let Some(found) = attempt(Path::new(NAME), fresh) {
        return Ok(found);
    }
    let installed = Places::of_process().directories(&NCCL).into_iter().map(|directory| directory.join(NAME));
    for path in installed.filter(|path| path.exists()) {
        if let Some(found) = attempt(&path, fresh) {
            return Ok(found);
        }
    }
    Err(format!("no NCCL behind Myelon's stand-in: looked for {}; {VARIABLE} names one", refused.join(", ")))
}

fn open(name: &Path, flags: c_int) -> Result<Library, String> {
    // SAFETY: NCCL's initialisers may run at any time; a variable names one by the user's word.
    unsafe { Library::open(Some(name), flags) }
        .map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

/// Whether a library is an NCCL, and not this one under another name.
fn check(library: &Library) -> Result<(), String> {
    // SAFETY: only the address is looked at.
    if unsafe { library.get::<*const c_void>(MARK) }.is_ok() {
        return Err("Myelon's stand-in itself, which cannot stand behind itself: name the real NCCL's file".into());
    }
    // SAFETY: as above.
    let all_reduce = unsafe { library.get::<*const c_void>(b"ncclAllReduce\0") };
    let all_reduce = all_reduce.map_err(|_| "no NCCL: it has no ncclAllReduce".to_owned())?;
    // A library that is linked to this one has our functions by inheritance.
    let own: unsafe extern "C" fn() -> *const std::ffi::c_char = crate::exports::ncclMyelonVersion;
    if image(*all_reduce) == image(own as *const c_void) {
        return Err("its functions are those of Myelon's stand-in".into());
    }
    Ok(())
}

/// First address of the library that an address is in.
fn image(address: *const c_void) -> *mut c_void {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the result goes to a local; any address may be asked for.
    unsafe { libc::dladdr(address, &mut info) };
    info.dli_fbase
}

/// Loaded libraries whose file is called like an NCCL.
fn loaded_paths() -> Vec<PathBuf> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, paths: *mut c_void) -> c_int {
        // SAFETY: the loader gives a live entry, and `paths` is the vector below.
        let (name, paths) = unsafe { ((*info).dlpi_name, &mut *paths.cast::<Vec<PathBuf>>()) };
        if !name.is_null() {
            // SAFETY: a terminated string of the loader's, alive during the visit.
            let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
            if path.file_name().is_some_and(|file| file.as_bytes().starts_with(b"libnccl.so")) {
                paths.push(path.to_owned());
            }
        }
        0
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    // SAFETY: the visitor gets the vector, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut paths).cast()) };
    paths
}
