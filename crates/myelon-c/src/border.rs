//! What callers' pointers become: NULL is an error with the argument's name, anything else is taken at the caller's word.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use crate::guard::Fault;

fn null(name: &str) -> Fault {
    Fault::invalid(format!("{name} is NULL"))
}

/// What a handle stands for.
///
/// # Safety
/// A pointer that is not NULL points to a `T` that lives, and is not changed, for as long as the caller of this uses it.
pub(crate) unsafe fn shared<'a, T>(handle: *const T, name: &str) -> Result<&'a T, Fault> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| null(name))
}

/// As [`shared`], to change it.
///
/// # Safety
/// As [`shared`]; nobody else uses it meanwhile.
pub(crate) unsafe fn exclusive<'a, T>(handle: *mut T, name: &str) -> Result<&'a mut T, Fault> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_mut() }.ok_or_else(|| null(name))
}

/// Takes back what [`Place::put_handle`] gave away.
///
/// # Safety
/// A pointer that is not NULL came from there, and is used by nobody from now on.
pub(crate) unsafe fn owned<T>(handle: *mut T) -> Option<Box<T>> {
    // SAFETY: the caller's promise.
    (!handle.is_null()).then(|| unsafe { Box::from_raw(handle) })
}

/// Elements of the caller's. NULL will do for none.
///
/// # Safety
/// `first` points to `count` elements that live, and are not changed, for as long as the caller of this uses them.
pub(crate) unsafe fn list<'a, T>(first: *const T, count: usize, name: &str) -> Result<&'a [T], Fault> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(Fault::invalid(format!("{name} is NULL, with a count of {count}")));
    }
    if !first.is_aligned() || count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Fault::invalid(format!("{name} is {first:p} with {count} elements, which is no array of them")));
    }
    // SAFETY: the caller's promise; aligned and of a size that memory can have, as was just looked at.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// Text of the caller's; what is no UTF-8 in it is replaced. `None` for NULL.
///
/// # Safety
/// A pointer that is not NULL points to characters that end with a zero.
pub(crate) unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Where a caller wants a result.
pub(crate) struct Place<T>(NonNull<T>);

impl<T> Place<T> {
    /// Looked at before any work is done for the result.
    ///
    /// # Safety
    /// A pointer that is not NULL may be written until the last use of this; what is there may be anything.
    pub(crate) unsafe fn at(place: *mut T, name: &str) -> Result<Self, Fault> {
        NonNull::new(place).map(Self).ok_or_else(|| null(name))
    }

    /// Writes the result.
    pub(crate) fn put(self, value: T) {
        // SAFETY: the promise of `at`. Unaligned, as nothing was promised of that.
        unsafe { self.0.write_unaligned(value) }
    }
}

impl<T> Place<*mut T> {
    /// Writes a handle, which [`owned`] takes back.
    pub(crate) fn put_handle(self, value: T) {
        self.put(Box::into_raw(Box::new(value)));
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::{null, null_mut};

    use super::*;

    #[test]
    fn null_is_an_error_that_names_the_argument() {
        // SAFETY: NULL alone, or memory of this function.
        unsafe {
            assert_eq!(shared::<u8>(null(), "comm").unwrap_err().text, "comm is NULL");
            assert_eq!(exclusive::<u8>(null_mut(), "options").unwrap_err().text, "options is NULL");
            assert_eq!(Place::<u8>::at(null_mut(), "rank").err().unwrap().text, "rank is NULL");
            assert!(owned::<u8>(null_mut()).is_none() && text(null()).is_none());
            assert!(list::<u8>(null(), 0, "dtypes").unwrap().is_empty());
            assert!(list::<u8>(null(), 2, "dtypes").unwrap_err().text.contains("dtypes is NULL"));
            assert!(list([1u64; 2].as_ptr(), usize::MAX, "dtypes").is_err());
        }
    }

    #[test]
    fn handles_come_back() {
        let mut handle = null_mut();
        // SAFETY: memory of this function, and what was put there.
        unsafe {
            Place::at(&raw mut handle, "comm").unwrap().put_handle(7u32);
            assert_eq!(*shared(handle, "comm").unwrap(), 7);
            assert_eq!(owned(handle).as_deref(), Some(&7));
        }
    }
}
