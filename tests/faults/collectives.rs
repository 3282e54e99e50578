//! Collectives other than an all-reduce: a rank that never comes, and ranks that call for different ones.

use std::sync::Barrier;
use std::time::Instant;

use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::variant::Choice;
use myelon_ccl::{Call, Collective, Communicator, DType, Error, Rank, ReduceOp, Result};

use crate::rig::{ELEMENTS, SHORT, SOON, culprits_of, with_timeout};
use crate::support::{on_ranks, variants_of};

/// A communicator with a buffer that has room for all parts of a message.
struct Caller {
    communicator: Communicator,
    stream: Stream,
    input: Buffer,
    output: Buffer,
}

impl Caller {
    /// Collective: prepares all collectives, so that a later call needs nobody but kernels.
    fn new(communicator: Communicator) -> Self {
        for &collective in Collective::ALL {
            communicator.prepare_collective(collective, &[(DType::F32, ReduceOp::Sum)]).unwrap();
        }
        let device = communicator.device();
        let bytes = 4 * ELEMENTS * u64::from(communicator.world_size().get());
        let stream = Stream::new(device).unwrap();
        let (input, output) = (Buffer::new(device, bytes).unwrap(), Buffer::new(device, bytes).unwrap());
        input.fill(0, &stream).unwrap();
        // A call may fail before it is queued, and then the buffers go at once.
        stream.synchronize().unwrap();
        Self { stream, input, output, communicator }
    }

    fn call(&self, collective: Collective, root: Rank, count: u64) -> Result<()> {
        self.issue(None, collective, root, count)
    }

    /// From rank 0, if it is a broadcast.
    fn call_as(&self, choice: &Choice, count: u64) -> Result<()> {
        self.issue(Some(choice), choice.variant.collective, Rank(0), count)
    }

    fn issue(&self, choice: Option<&Choice>, collective: Collective, root: Rank, count: u64) -> Result<()> {
        let (input, output) = (self.input.address(), self.output.address());
        let call = Call { collective, input, output, count, dtype: DType::F32, op: ReduceOp::Sum, root };
        let stream = self.stream.handle();
        // SAFETY: both buffers have room for all parts, and outlive the kernels by the communicator's drop before theirs.
        unsafe {
            match choice {
                None => self.communicator.call(&call, stream)?,
                Some(choice) => self.communicator.call_as(choice, &call, stream)?,
            }
        }
        self.communicator.synchronize(stream)
    }
}

#[test]
fn a_rank_that_never_comes_is_named() {
    for variant in Collective::ALL[1..].iter().flat_map(|&collective| variants_of(collective)) {
        let everyone_is_done = Barrier::new(3);
        on_ranks(3, &with_timeout(SHORT), |communicator| {
            let (caller, choice) = (Caller::new(communicator), Choice::of(&variant));
            caller.call_as(&choice, ELEMENTS).unwrap();
            // Also the root, which needs nothing from anybody.
            if caller.communicator.rank() != Rank(2) {
                let start = Instant::now();
                let error = caller.call_as(&choice, ELEMENTS).unwrap_err();
                assert!(start.elapsed() < SOON, "{choice}: {error}");
                assert_eq!(culprits_of(&error), [Rank(2)], "{choice}: {error}");
            }
            everyone_is_done.wait();
        });
    }
}

#[test]
fn different_collectives_and_roots_are_an_error_that_names_both() {
    let ours = (Collective::Broadcast, Rank(0), "broadcast from rank 0 of 1000 f32");
    for theirs in [
        (Collective::Broadcast, Rank(1), "broadcast from rank 1 of 1000 f32"),
        (Collective::AllGather, Rank(0), "all_gather of 1000 f32 a rank"),
        (Collective::ReduceScatter, Rank(0), "reduce_scatter sum of 1000 f32 a rank"),
        (Collective::AllReduce, Rank(0), "sum of 1000 f32"),
    ] {
        let errors = on_ranks(3, &with_timeout(SOON), |communicator| {
            let caller = Caller::new(communicator);
            let (collective, root, _) = if caller.communicator.rank() == Rank(1) { theirs } else { ours };
            // A difference may let the operation complete, and is found by the next at the latest.
            let first = caller.call(collective, root, 1000);
            first.and_then(|()| caller.call(Collective::AllReduce, Rank(0), 100)).expect_err("the ranks differ")
        });
        let named = errors.iter().filter(|error| {
            let said = error.to_string();
            matches!(error, Error::PeerMismatch { .. }) && said.contains(ours.2) && said.contains(theirs.2)
        });
        assert!(named.count() >= 1, "{}: {errors:?}", theirs.2);
        let known = |error: &Error| matches!(error, Error::PeerMismatch { .. } | Error::Aborted { .. });
        assert!(errors.iter().all(known), "{}: {errors:?}", theirs.2);
    }
}
