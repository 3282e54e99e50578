//! Orderings told to ThreadSanitizer, which cannot see those of code that it did not instrument.
//!
//! It sees the kernels, `malloc`, `memcpy` and `mmap`, but neither Rust's locks nor its atomics. Without these
//! calls each hand-over from the host to a kernel would be a data race to it. They do nothing where the sanitizer
//! is not loaded.

use std::ffi::c_void;
use std::sync::OnceLock;

use libloading::os::unix::Library;

type Annotate = unsafe extern "C" fn(*mut c_void);

/// Everything before [`release`] of the same object happened before what follows.
pub(crate) fn acquire<T>(object: &T) {
    annotate(object, |(acquire, _)| *acquire);
}

/// Partner of [`acquire`]. The address of `object` is what counts.
pub(crate) fn release<T>(object: &T) {
    annotate(object, |(_, release)| *release);
}

fn annotate<T>(object: &T, choose: impl Fn(&(Annotate, Annotate)) -> Annotate) {
    static CALLS: OnceLock<Option<(Annotate, Annotate)>> = OnceLock::new();
    let calls = CALLS.get_or_init(|| {
        let process = Library::this();
        let find = |name: &[u8]| {
            // SAFETY: where the sanitizer's run-time is loaded, its interface (sanitizer/tsan_interface.h) gives both
            // functions this signature; nobody else may use a name that begins with two underscores.
            unsafe { process.get::<Annotate>(name) }.ok().map(|symbol| *symbol)
        };
        Some((find(b"__tsan_acquire\0")?, find(b"__tsan_release\0")?))
    });
    if let Some(calls) = calls {
        // SAFETY: the address is only a name for the ordering; nothing is read or written through it.
        unsafe { choose(calls)(std::ptr::from_ref(object).cast_mut().cast()) }
    }
}
