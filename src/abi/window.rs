//! What ranks compare of an all-reduce into a registered window.

use super::{BUCKETS_CODE, COUNT_BITS, Description, descriptor};

/// In place of a data type's code: an all-reduce into a window.
pub const WINDOW_CODE: u8 = 13;

/// A value mixed into a hash, by a multiplication with the golden ratio in 64 bits; the upper bits are the mixed ones.
pub const fn mix(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The [`descriptor`] of an all-reduce into a window: its operator, and a hash of all else that is equal on all ranks, among it which
/// window it is and where in it the output lies. What one rank says of these is where another one stores.
pub const fn window_descriptor(window: u64, offset: u64, count: u64, dtype: u8, op: u8) -> u64 {
    let hash = mix(mix(mix(mix(0, window), offset), count), dtype as u64 + 1);
    descriptor(Description { count: hash >> (64 - COUNT_BITS), collective: 0, detail: op, dtype: WINDOW_CODE })
}

const _: () = assert!(WINDOW_CODE < BUCKETS_CODE);

#[cfg(test)]
mod tests {
    use super::super::describe;
    use super::*;

    #[test]
    fn what_differs_in_anything_has_another_word() {
        let base = (7, 64, 100, 0, 3);
        let word = |(window, offset, count, dtype, op)| window_descriptor(window, offset, count, dtype, op);
        let others =
            [(8, 64, 100, 0, 3), (7, 80, 100, 0, 3), (7, 64, 101, 0, 3), (7, 64, 100, 1, 3), (7, 64, 100, 0, 2)];
        assert!(others.into_iter().all(|other| word(other) != word(base)));
        let Description { collective, detail, dtype, .. } = describe(word(base));
        assert_eq!((collective, detail, dtype), (0, 3, WINDOW_CODE));
    }
}
