//! How packs are cut into parts. Mirror of `cuda/base/share.cuh`.

use crate::abi::{LINE_BYTES, PACK_BYTES};

const LINE_PACKS: u64 = LINE_BYTES / PACK_BYTES;

/// The packs of each of `parts` parts: large ones are whole lines.
pub(super) fn part_packs(packs: u64, parts: u64) -> u64 {
    let exact = packs.div_ceil(parts);
    if exact < 8 * LINE_PACKS { exact } else { exact.next_multiple_of(LINE_PACKS) }
}

/// Part `index` of `packs` packs from `first`, cut into `parts`: its first pack, and how many.
pub(super) fn cut(first: u64, packs: u64, parts: u64, index: u64) -> (u64, u64) {
    let each = part_packs(packs, parts);
    let start = (each * index).min(packs);
    (first + start, each.min(packs - start))
}

/// `bytes` in whole lines, but for what is short of one.
pub(super) fn whole_lines(bytes: u64) -> u64 {
    if bytes < LINE_BYTES { bytes } else { bytes / LINE_BYTES * LINE_BYTES }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Parts follow each other without a gap; what holds whole lines and an exactly equal part holds any of them, and none is
        /// more than an eighth larger than that.
        #[test]
        fn parts_cover_all_and_fit(first in 0u64..1000, packs in 0u64..200_000, parts in 1u64..=128) {
            let exact = packs.div_ceil(parts);
            let mut end = first;
            for index in 0..parts {
                let (start, part) = cut(first, packs, parts, index);
                prop_assert_eq!(start, end);
                end += part;
                prop_assert!(part <= exact.next_multiple_of(LINE_PACKS));
                prop_assert!(8 * (part.saturating_sub(exact)) <= exact);
                prop_assert!(exact < 64 || (start - first).is_multiple_of(LINE_PACKS) || part == 0);
            }
            prop_assert_eq!(end, first + packs);
        }
    }
}
