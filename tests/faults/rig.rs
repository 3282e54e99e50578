//! One rank that sums floats whose sum everybody knows.

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::device::Device;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::variant::{Choice, Request, VariantSpec};
use myelon_ccl::{Communicator, DType, Error, Operation, Options, Rank, ReduceOp, Result};

pub(crate) use crate::support::variants;
use crate::support::{on_devices, options};

/// Deadline of waits that are meant to pass it.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// Tenfold slack on it.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// Elements of an operand: several pieces of everything.
pub(crate) const ELEMENTS: u64 = 5000;

/// Options whose deadline is `timeout`.
pub(crate) fn with_timeout(timeout: Duration) -> Options {
    Options { timeout, ..options() }
}

/// A communicator with operands and a stream.
pub(crate) struct Rig {
    pub(crate) communicator: Communicator,
    pub(crate) stream: Stream,
    pub(crate) input: Buffer,
    pub(crate) output: Buffer,
    choice: Choice,
}

impl Rig {
    /// As [`Rig::of`], in the variant's default shape.
    pub(crate) fn new(communicator: Communicator, variant: &Arc<VariantSpec>) -> Self {
        Self::of(communicator, Choice::of(variant))
    }

    /// Collective: prepares the kernels of `choice`, so that a later call needs nobody but kernels.
    pub(crate) fn of(communicator: Communicator, choice: Choice) -> Self {
        let device = communicator.device();
        let stream = Stream::new(device).unwrap();
        let (input, output) = (Buffer::new(device, 4 * ELEMENTS).unwrap(), Buffer::new(device, 4 * ELEMENTS).unwrap());
        let rig = Self { stream, input, output, choice, communicator };
        // A message of a few elements may run in another shape.
        let plans = [(DType::F32, ELEMENTS), (DType::F32, 7), (DType::I32, ELEMENTS), (DType::I32, 7)];
        let plans = plans.map(|(dtype, count)| {
            let request = Request { count, dtype, op: ReduceOp::Sum, registered: false };
            rig.communicator.plan(&rig.choice, &request).unwrap()
        });
        rig.communicator.prepare(&plans).unwrap();
        rig
    }

    pub(crate) fn rank(&self) -> Rank {
        self.communicator.rank()
    }

    /// Writes this rank's operand of `round`.
    pub(crate) fn fill(&self, round: u32) {
        let value = Self::operand(self.rank(), round);
        self.input.upload(&value.to_le_bytes().repeat(ELEMENTS as usize), &self.stream).unwrap();
    }

    /// Queues a sum of `count` elements.
    pub(crate) fn issue(&self, count: u64, dtype: DType) -> Result<()> {
        self.issue_on(&self.stream, count, dtype)
    }

    /// As [`Rig::issue`], on a stream of the caller's.
    pub(crate) fn issue_on(&self, stream: &Stream, count: u64, dtype: DType) -> Result<()> {
        let request = Request { count, dtype, op: ReduceOp::Sum, registered: false };
        let (input, output) = (self.input.address(), self.output.address());
        // SAFETY: both buffers hold ELEMENTS elements of four bytes, and live until the rig is dropped, which its
        // communicator outlives the kernels of.
        unsafe {
            self.communicator.all_reduce_as(&self.choice, &Operation::of(&request, input, output), stream.handle())
        }
    }

    /// Sums floats and waits.
    pub(crate) fn sum(&self, count: u64) -> Result<()> {
        self.issue(count, DType::F32)?;
        self.communicator.synchronize(self.stream.handle())
    }

    /// Expects the sum of everybody's operands of `round` in the output.
    pub(crate) fn check(&self, round: u32) {
        let mut seen = vec![0; 4 * ELEMENTS as usize];
        self.output.download(&mut seen, &self.stream).unwrap();
        let expected: f32 = self.communicator.world_size().ranks().map(|rank| Self::operand(rank, round)).sum();
        let wrong = seen.chunks_exact(4).position(|bytes| bytes != expected.to_le_bytes());
        assert_eq!(wrong, None, "rank {}: round {round} is wrong from that element on", self.rank());
    }

    /// A few sums that have to be right.
    pub(crate) fn works(&self) {
        for round in 0..3 {
            self.fill(round);
            self.sum(ELEMENTS).unwrap();
            self.check(round);
        }
    }

    fn operand(rank: Rank, round: u32) -> f32 {
        (100 * round + rank.0 + 1) as f32
    }
}

/// Runs `body` on every rank of `devices`, each with a rig for `variant`.
pub(crate) fn on_rigs<T: Send>(
    devices: &[Arc<dyn Device>],
    options: &Options,
    variant: &Arc<VariantSpec>,
    body: impl Fn(Rig) -> T + Sync,
) -> Vec<T> {
    on_rigs_of(devices, options, &Choice::of(variant), body)
}

/// As [`on_rigs`], with a shape of the caller's.
pub(crate) fn on_rigs_of<T: Send>(
    devices: &[Arc<dyn Device>],
    options: &Options,
    choice: &Choice,
    body: impl Fn(Rig) -> T + Sync,
) -> Vec<T> {
    on_devices(devices, options, |communicator| body(Rig::of(communicator, choice.clone())))
}

/// The culprits of a stall; anything else is a failure.
#[track_caller]
pub(crate) fn culprits_of(error: &Error) -> &[Rank] {
    let Error::Stalled { culprits, .. } = error else { panic!("no stall: {error}") };
    culprits
}
