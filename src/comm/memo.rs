//! What requests became before, so that a call that is like an earlier one neither chooses nor plans again.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use crate::abi::mix;
use crate::types::Collective;
use crate::variant::{Choice, Request};

/// More than a program asks for in turn; those beyond are planned at every call. A power of two.
const PLACES: usize = 1024;
/// Places that a request can have, from that of its hash on.
const TRIES: usize = 4;

/// Values of requests under choices, read by one load: a place is filled once and for all, so nothing is freed under a reader
/// and no call allocates for a request once the places are taken.
///
/// INVARIANT: choices and plans are pure and kernels are loaded for good, so what a request became it stays. Requests that
/// fail, and those whose kernel is missing, are not kept.
pub(super) struct Memo<T> {
    places: Box<[OnceLock<Box<Entry<T>>>]>,
}

struct Entry<T> {
    collective: Collective,
    /// The caller's; absent where the communicator chose.
    choice: Option<Choice>,
    request: Request,
    value: T,
}

impl<T> Memo<T> {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| OnceLock::new()).collect() }
    }

    /// What was kept for this request of a collective under this choice.
    pub(super) fn get(&self, collective: Collective, choice: Option<&Choice>, request: &Request) -> Option<&T> {
        for place in self.tries(collective, choice, request) {
            // Places are tried in one order and stay filled: behind an empty one there is nothing.
            let entry = place.get()?;
            if entry.collective == collective && entry.request == *request && are_same(entry.choice.as_ref(), choice) {
                return Some(&entry.value);
            }
        }
        None
    }

    /// Keeps a value where there is room, else gives it back. Also where another thread takes the place at the same time.
    pub(super) fn keep(
        &self,
        collective: Collective,
        choice: Option<&Choice>,
        request: &Request,
        value: T,
    ) -> Result<&T, T> {
        let mut tries = self.tries(collective, choice, request);
        let Some(place) = tries.find(|place| place.get().is_none()) else { return Err(value) };
        let entry = Box::new(Entry { collective, choice: choice.cloned(), request: *request, value });
        place.set(entry).map_err(|entry| entry.value)?;
        Ok(&place.get().expect("set above").value)
    }

    fn tries(
        &self,
        collective: Collective,
        choice: Option<&Choice>,
        request: &Request,
    ) -> impl Iterator<Item = &OnceLock<Box<Entry<T>>>> {
        let mut mixer = Mixer(collective as u64);
        request.hash(&mut mixer);
        if let Some(choice) = choice {
            (Arc::as_ptr(&choice.variant) as usize).hash(&mut mixer);
            choice.shape.hash(&mut mixer);
        }
        let home = mixer.finish() as usize;
        (0..TRIES).map(move |offset| &self.places[home.wrapping_add(offset) % PLACES])
    }
}

/// The variant by its address: an entry keeps it alive, so no other can have the address.
fn are_same(kept: Option<&Choice>, asked: Option<&Choice>) -> bool {
    match (kept, asked) {
        (None, None) => true,
        (Some(kept), Some(asked)) => Arc::ptr_eq(&kept.variant, &asked.variant) && kept.shape == asked.shape,
        _ => false,
    }
}

/// A multiplication a field. Whoever calls chooses the requests, so nobody can mean harm by them.
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }

    /// The upper bits are the mixed ones.
    fn finish(&self) -> u64 {
        self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Collective::{AllGather, AllReduce};
    use crate::types::{DType, ReduceOp};
    use crate::variant::{Manifest, Shape};

    fn request(count: u64) -> Request {
        Request { count, dtype: DType::F32, op: ReduceOp::Sum, registered: false }
    }

    #[test]
    fn a_value_is_of_one_request_under_one_choice() {
        let variant = |name| Choice::of(Manifest::embedded().get(name).unwrap());
        let (ring, pipeline) = (variant("ring"), variant("low_latency"));
        let shaped = Choice { shape: Shape { threads: Some(64), ..Shape::default() }, ..ring.clone() };
        let cases = [
            (AllReduce, None),
            (AllGather, None),
            (AllReduce, Some(&ring)),
            (AllReduce, Some(&pipeline)),
            (AllReduce, Some(&shaped)),
        ];
        let requests = [request(7), request(8), Request { dtype: DType::I8, ..request(7) }];
        let all: Vec<_> = cases
            .iter()
            .flat_map(|&(collective, choice)| requests.iter().map(move |request| (collective, choice, request)))
            .collect();
        let memo = Memo::new();
        for (number, &(collective, choice, request)) in all.iter().enumerate() {
            assert_eq!(memo.get(collective, choice, request), None);
            assert_eq!(memo.keep(collective, choice, request, number), Ok(&number));
        }
        for (number, &(collective, choice, request)) in all.iter().enumerate() {
            assert_eq!(memo.get(collective, choice, request), Some(&number));
        }
        assert!(memo.get(AllReduce, Some(&ring.clone()), &requests[0]).is_some(), "a clone is the same choice");
    }

    #[test]
    fn what_has_no_room_is_given_back_and_nothing_is_lost() {
        let memo = Memo::new();
        let kept: Vec<u64> = (0..4 * PLACES as u64)
            .filter(|&count| memo.keep(AllReduce, None, &request(count), count).is_ok())
            .collect();
        assert!(kept.len() > PLACES * 9 / 10 && kept.len() <= PLACES, "{} of {PLACES} places are used", kept.len());
        for count in 0..4 * PLACES as u64 {
            assert_eq!(memo.get(AllReduce, None, &request(count)).is_some(), kept.binary_search(&count).is_ok());
        }
    }

    #[test]
    fn sizes_of_programs_are_spread() {
        let memo = Memo::new();
        let counts = (0..30).map(|power| 1u64 << power).chain((1..400).map(|tokens| tokens * 4096));
        assert!(
            counts.into_iter().filter(|&count| memo.keep(AllReduce, None, &request(count), ()).is_err()).count() < 8
        );
    }
}
