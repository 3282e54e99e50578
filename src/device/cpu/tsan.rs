//! Orderings and copies told to ThreadSanitizer, which cannot see those of code that it did not instrument.
//!
//! It sees the kernels, `malloc`, `memcpy` and `mmap`, but neither Rust's locks nor its atomics. Without these
//! calls each hand-over from the host to a kernel would be a data race to it. They do nothing where the sanitizer
//! is not loaded.

use std::ffi::c_void;
use std::sync::OnceLock;

use libloading::os::unix::Library;

type Annotate = unsafe extern "C" fn(*mut c_void);
type Access = unsafe extern "C" fn(*mut c_void, usize);

/// The sanitizer's run-time, as far as it is called here.
struct Calls {
    acquire: Annotate,
    release: Annotate,
    read: Access,
    write: Access,
}

/// Everything before [`release`] of the same object happened before what follows.
pub(crate) fn acquire<T>(object: &T) {
    if let Some(calls) = calls() {
        // SAFETY: the address is only a name for the ordering; nothing is read or written through it.
        unsafe { (calls.acquire)(std::ptr::from_ref(object).cast_mut().cast()) }
    }
}

/// Partner of [`acquire`]. The address of `object` is what counts.
pub(crate) fn release<T>(object: &T) {
    if let Some(calls) = calls() {
        // SAFETY: as above.
        unsafe { (calls.release)(std::ptr::from_ref(object).cast_mut().cast()) }
    }
}

/// A plain read of a range by this thread. That of `memcpy` itself may be told to be kept out.
pub(super) fn read(address: u64, bytes: usize) {
    if let Some(calls) = calls() {
        // SAFETY: what is noted is the access; nothing is read through the address.
        unsafe { (calls.read)(address as *mut c_void, bytes) }
    }
}

/// As [`read`], of a write.
pub(super) fn write(address: u64, bytes: usize) {
    if let Some(calls) = calls() {
        // SAFETY: as above.
        unsafe { (calls.write)(address as *mut c_void, bytes) }
    }
}

fn calls() -> Option<&'static Calls> {
    static CALLS: OnceLock<Option<Calls>> = OnceLock::new();
    let find = || {
        let process = Library::this();
        // SAFETY: where the sanitizer's run-time is loaded, its interface (sanitizer/tsan_interface.h) gives these
        // functions these signatures; nobody else may use a name that begins with two underscores.
        unsafe {
            let annotate = |name: &[u8]| process.get::<Annotate>(name).ok().map(|symbol| *symbol);
            let access = |name: &[u8]| process.get::<Access>(name).ok().map(|symbol| *symbol);
            Some(Calls {
                acquire: annotate(b"__tsan_acquire\0")?,
                release: annotate(b"__tsan_release\0")?,
                read: access(b"__tsan_read_range\0")?,
                write: access(b"__tsan_write_range\0")?,
            })
        }
    };
    CALLS.get_or_init(find).as_ref()
}
