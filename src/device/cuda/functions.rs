//! Tables of functions taken from an open library by name.

use std::ffi::CStr;

use super::locate::Found;
use crate::error::{Error, Result};

/// Looks one function up; `None` where the library lacks it.
///
/// # Safety
/// `F` is an `extern "C"` function pointer type with the signature that the library gives `name`.
pub(crate) unsafe fn function<F: Copy>(found: &Found, name: &CStr) -> Option<F> {
    // SAFETY: the type is the caller's promise; the library is never closed, so the copied pointer stays valid.
    unsafe { found.opened.get::<F>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
}

/// As [`function`], for one that the library must have.
///
/// # Safety
/// As for [`function`].
pub(crate) unsafe fn required<F: Copy>(found: &Found, name: &CStr) -> Result<F> {
    // SAFETY: the caller's promise is the same.
    unsafe { function(found, name) }.ok_or_else(|| {
        Error::unsupported(format!("{} has no {}: install a newer release of it", found.origin, name.to_string_lossy()))
    })
}

/// Declares a struct of function pointers and its `load(&Found)`: required ones fail, optional ones are `Option`s.
macro_rules! function_table {
    (
        $(#[$doc:meta])*
        $table:ident
        required { $($name:ident: fn($($arg:ty),*) -> $ret:ty;)* }
        optional { $($oname:ident: fn($($oarg:ty),*) -> $oret:ty;)* }
    ) => {
        $(#[$doc])*
        #[allow(non_snake_case, reason = "the fields carry the names of the C functions")]
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) -> $ret,)*
            $(pub(crate) $oname: Option<unsafe extern "C" fn($($oarg),*) -> $oret>,)*
        }

        impl $table {
            pub(crate) fn load(found: &$crate::device::cuda::locate::Found) -> $crate::Result<Self> {
                use $crate::device::cuda::functions;
                const fn terminated(name: &'static str) -> &'static ::std::ffi::CStr {
                    match ::std::ffi::CStr::from_bytes_with_nul(name.as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("the macro appends the one terminator"),
                    }
                }
                // SAFETY: each type is the C declaration of the function of that name.
                unsafe {
                    Ok(Self {
                        $($name: functions::required(found, const { terminated(concat!(stringify!($name), "\0")) })?,)*
                        $($oname: functions::function(found, const { terminated(concat!(stringify!($oname), "\0")) }),)*
                    })
                }
            }
        }
    };
}
pub(crate) use function_table;

#[cfg(test)]
mod tests {
    use super::super::locate;
    use std::ffi::{c_char, c_int};

    function_table! {
        Present
        required { strlen: fn(*const c_char) -> usize; }
        optional { myelon_nowhere: fn() -> c_int; }
    }
    function_table! {
        Absent
        required { myelon_nowhere: fn() -> c_int; }
        optional {}
    }

    #[test]
    fn required_functions_must_be_there_and_optional_ones_may() {
        const LIBC: locate::Wanted = locate::Wanted { names: &["libc.so.6"], ..locate::NCCL };
        let found = locate::open(&locate::Wanted { variable: "MYELON_TEST_LIBC_LIB", ..LIBC }, &|_| Ok(())).unwrap();
        let table = Present::load(&found).unwrap();
        // SAFETY: a terminated string.
        assert_eq!(unsafe { (table.strlen)(c"four".as_ptr()) }, 4);
        assert!(table.myelon_nowhere.is_none());
        assert!(Absent::load(&found).map(|table| table.myelon_nowhere).is_err());
        let message = Absent::load(&found).unwrap_err().to_string();
        assert!(message.contains("libc.so.6 has no myelon_nowhere"), "{message}");
    }
}
