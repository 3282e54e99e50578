//! How gradients are put together: pure.

use std::ops::Range;

/// Gradients that share a buffer and are averaged by one call: a run of the order in which they are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Places in that order.
    pub members: Range<usize>,
    /// Elements of all members.
    pub elements: usize,
}

/// Packs gradients of these sizes, in elements, into buckets of at most `limit` elements. A larger gradient has a bucket of its own.
pub fn pack(sizes: &[usize], limit: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for (place, &size) in sizes.iter().enumerate() {
        match buckets.last_mut() {
            Some(last) if last.elements.saturating_add(size) <= limit => {
                last.members.end = place + 1;
                last.elements += size;
            }
            _ => buckets.push(Bucket { members: place..place + 1, elements: size }),
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn buckets_hold_every_gradient_once_in_order_and_are_full(
            sizes in prop::collection::vec(1usize..5000, 0..60),
            limit in 0usize..20_000,
        ) {
            let buckets = pack(&sizes, limit);
            let members: Vec<usize> = buckets.iter().flat_map(|bucket| bucket.members.clone()).collect();
            prop_assert_eq!(members, (0..sizes.len()).collect::<Vec<_>>());
            for bucket in &buckets {
                prop_assert_eq!(bucket.elements, sizes[bucket.members.clone()].iter().sum::<usize>());
                prop_assert!(bucket.elements <= limit || bucket.members.len() == 1);
            }
            for pair in buckets.windows(2) {
                prop_assert!(pair[0].elements + sizes[pair[1].members.start] > limit);
            }
        }
    }
}
