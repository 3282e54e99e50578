//! Structures whose bytes a launch takes.

/// The bytes of an argument struct, as a launch takes them.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` types are repr(C) without padding bytes, so every byte is initialised; the slice borrows `value`.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// repr(C), no padding bytes, valid for any bit pattern.
///
/// # Safety
/// The implementor is exactly that.
pub unsafe trait Plain: Copy {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Args, HeapLayout, HeapState};

    #[test]
    fn plain_types_have_no_gaps() {
        assert_eq!(size_of::<Args>(), 16 * 8 + size_of::<HeapLayout>() + 48);
        assert_eq!(bytes_of(&HeapState::default()).len(), 384);
    }
}
