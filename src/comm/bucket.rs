//! [`Bucket`]: one buffer of a list that is reduced as one message, and how a list is cut into launches. Pure.

use super::Operation;
use crate::abi::{BucketPlace, BucketTable, MAX_BUCKETS, buckets_descriptor, mix};
use crate::device::DevicePtr;
use crate::error::Result;
use crate::types::{DType, ReduceOp};

/// One buffer of a list: every rank's `input` into every rank's `output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// First element of this rank's operand.
    pub input: DevicePtr,
    /// First element of this rank's result; equals `input` to work in place.
    pub output: DevicePtr,
    /// Elements. Equal on all ranks.
    pub count: u64,
}

impl Bucket {
    /// It as an operation of its own.
    pub(super) fn operation(&self, dtype: DType, op: ReduceOp) -> Operation<'static> {
        let &Self { input, output, count } = self;
        Operation { input, output, count, dtype, op, window: None }
    }
}

/// Whether each bucket can be what it is said to be.
///
/// Errors: those of an operation, with the bucket's place.
pub(super) fn check(buckets: &[Bucket], dtype: DType, op: ReduceOp) -> Result<()> {
    buckets.iter().enumerate().try_for_each(|(place, bucket)| {
        let outcome = bucket.operation(dtype, op).check();
        outcome.map_err(|error| error.in_part(format_args!("bucket {place} of a list of {}", buckets.len())))
    })
}

/// What ranks compare of a list.
pub(super) fn descriptor_of(buckets: &[Bucket], dtype: DType, op: ReduceOp) -> u64 {
    let hash = buckets.iter().fold(mix(0, dtype as u64 + 1), |hash, bucket| mix(hash, bucket.count));
    buckets_descriptor(buckets.len() as u64, hash >> 32, op as u8)
}

/// Packs of a bucket: the last one can be short.
pub(super) fn packs_of(count: u64, dtype: DType) -> u64 {
    count.div_ceil(dtype.pack_elements())
}

/// The tables of a list's launches, each with its packs: as many buckets as a table holds and packs as a launch holds. A bucket
/// that does not fit is cut between packs, and goes on in the next.
pub(super) struct Tables<I> {
    buckets: I,
    /// What is left of the bucket that was cut.
    rest: Option<Bucket>,
    dtype: DType,
    most_packs: u64,
}

impl<I: Iterator<Item = Bucket>> Tables<I> {
    /// `buckets` have elements; a launch holds `most_packs`, one at least.
    pub(super) fn new(buckets: I, dtype: DType, most_packs: u64) -> Self {
        // A table counts elements in 32 bits.
        let most_packs = most_packs.min(u64::from(u32::MAX) / dtype.pack_elements());
        Self { buckets, rest: None, dtype, most_packs }
    }
}

impl<I: Iterator<Item = Bucket>> Iterator for Tables<I> {
    type Item = (BucketTable, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let mut table = BucketTable {
            search_step: 0,
            padding: 0,
            first_pack: [u32::MAX; MAX_BUCKETS],
            elements: [0; MAX_BUCKETS],
            place: [BucketPlace::default(); MAX_BUCKETS],
        };
        let (mut length, mut packs) = (0, 0);
        while length < MAX_BUCKETS && packs < self.most_packs {
            let Some(bucket) = self.rest.take().or_else(|| self.buckets.next()) else { break };
            let here = bucket.count.min((self.most_packs - packs) * self.dtype.pack_elements());
            table.first_pack[length] = packs as u32;
            table.elements[length] = here as u32;
            table.place[length] = BucketPlace { input: bucket.input.0, output: bucket.output.0 };
            length += 1;
            packs += packs_of(here, self.dtype);
            let offset = here * self.dtype.size_bytes() as u64;
            let (input, output) = (bucket.input.offset(offset), bucket.output.offset(offset));
            self.rest = Some(Bucket { input, output, count: bucket.count - here }).filter(|rest| rest.count > 0);
        }
        if length > 1 {
            table.search_step = 1 << (length - 1).ilog2();
        }
        (length > 0).then_some((table, packs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mirror of `bucket_of` in cuda/base/buckets.cuh.
    fn bucket_of(table: &BucketTable, index: u64) -> usize {
        let (mut bucket, mut step) = (0, table.search_step as usize);
        while step != 0 {
            if u64::from(table.first_pack[bucket + step]) <= index {
                bucket += step;
            }
            step /= 2;
        }
        bucket
    }

    fn list(counts: &[u64]) -> Vec<Bucket> {
        let at = |place: usize| (place as u64 + 1) << 32;
        let bucket =
            |(place, &count)| Bucket { input: DevicePtr(at(place)), output: DevicePtr(at(place) + (1 << 31)), count };
        counts.iter().enumerate().map(bucket).collect()
    }

    proptest! {
        #[test]
        fn launches_have_every_element_once_and_in_order(
            counts in prop::collection::vec(prop_oneof![1..=9_u64, 1..2000_u64], 1..300),
            dtype in prop::sample::select(DType::ALL),
            most_packs in prop_oneof![1..50_u64, Just(u64::MAX)],
        ) {
            let (buckets, size) = (list(&counts), dtype.size_bytes() as u64);
            let mut seen: Vec<BucketPlace> = Vec::new();
            let mut whole = 0;
            for (table, packs) in Tables::new(buckets.iter().copied(), dtype, most_packs) {
                prop_assert!(packs > 0 && packs <= most_packs);
                whole += packs;
                for index in 0..packs {
                    let bucket = bucket_of(&table, index);
                    let first = (index - u64::from(table.first_pack[bucket])) * dtype.pack_elements();
                    let elements = u64::from(table.elements[bucket]);
                    prop_assert!(first < elements, "pack {} is behind bucket {}", index, bucket);
                    let BucketPlace { input, output } = table.place[bucket];
                    seen.extend((first..elements.min(first + dtype.pack_elements())).map(|element| {
                        BucketPlace { input: input + element * size, output: output + element * size }
                    }));
                }
            }
            let expected = buckets.iter().flat_map(|bucket| {
                let at = move |address: DevicePtr, element| address.offset(element * size).0;
                let place = move |element| BucketPlace { input: at(bucket.input, element), output: at(bucket.output, element) };
                (0..bucket.count).map(place)
            });
            prop_assert!(expected.eq(seen.iter().copied()));
            prop_assert_eq!(whole, counts.iter().map(|&count| packs_of(count, dtype)).sum::<u64>());
        }
    }

    #[test]
    fn a_launch_is_as_full_as_it_can_be() {
        let launches =
            |counts: &[u64], most_packs| Tables::new(list(counts).into_iter(), DType::F32, most_packs).count();
        assert_eq!(launches(&[1; MAX_BUCKETS], 1000), 1);
        assert_eq!(launches(&[1; MAX_BUCKETS + 1], 1000), 2);
        // Nine packs of four, in launches of three.
        assert_eq!(launches(&[4 * 7, 1, 4], 3), 3);
    }

    #[test]
    fn ranks_notice_other_lists() {
        let descriptor = |counts: &[u64], dtype, op| descriptor_of(&list(counts), dtype, op);
        let all = [
            descriptor(&[3, 5], DType::F32, ReduceOp::Sum),
            descriptor(&[5, 3], DType::F32, ReduceOp::Sum),
            descriptor(&[8], DType::F32, ReduceOp::Sum),
            descriptor(&[3, 5, 0], DType::F32, ReduceOp::Sum),
            descriptor(&[3, 5], DType::I32, ReduceOp::Sum),
            descriptor(&[3, 5], DType::F32, ReduceOp::Max),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one), "{place}: {all:x?}");
        }
    }

    #[test]
    fn a_wrong_bucket_is_named() {
        let mut buckets = list(&[4, 4, 4]);
        buckets[1].input = DevicePtr(0x1001);
        let message = check(&buckets, DType::F32, ReduceOp::Sum).unwrap_err().to_string();
        assert!(message.contains("bucket 1 of a list of 3") && message.contains("aligned"), "{message}");
    }
}
