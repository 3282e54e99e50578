//! One rank's place of work: communicator, stream and operands, and how a candidate's operation is queued there.

use std::cell::Cell;

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Graph, Stream};
use myelon_ccl::memory::Window;
use myelon_ccl::{Call, Collective, Communicator, Error, Operation, Rank, Result};

use myelon_ccl::measure::Baseline;
use myelon_ccl::measure::overlap::NcclMemory;
use myelon_ccl::variant::Request;
use myelon_ccl::verify::Tally;

use super::candidate::{Engine, Planned};
use super::rival::Rival;
use super::room;
pub(crate) use super::room::Room;

/// Mixed into all test data. Any number does.
const SEED: u64 = 0x6d79_656c_6f6e;

/// Sets of operands at most: as many operations of a batch as are verified.
const MOST_SETS: u32 = 4;
/// Where a set begins, so that its operations run as those of the first: as much as an allocation is aligned to.
const SET_ALIGNMENT: u64 = 256;

/// Where a rank measures. The operands have room for the largest size; for batches there are several sets of them.
pub(crate) struct Bench {
    // INVARIANT: declared first, so that it is dropped while the stream of its last operation exists.
    communicator: Communicator,
    stream: Stream,
    input: Buffer,
    /// That all of `output` is, where it is registered.
    window: Option<Window>,
    output: Buffer,
    /// One a set.
    tallies: Vec<Tally>,
    /// Bytes from set to set.
    set_bytes: u64,
    collective: Collective,
    in_place: bool,
    rival: Option<Rival>,
    /// Verifications so far.
    verified: Cell<u64>,
}

/// Where an operation reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) input: DevicePtr,
    pub(crate) output: DevicePtr,
}

impl Bench {
    /// Allocates what is needed on this rank.
    ///
    /// Errors: those of the device; the other ranks are told.
    pub(crate) fn new(communicator: Communicator, room: &Room) -> Result<Self> {
        let set_bytes = room.bytes.next_multiple_of(SET_ALIGNMENT);
        let sets = room.batch.clamp(1, MOST_SETS);
        let bytes = set_bytes * u64::from(sets);
        let device = communicator.device();
        let tally = |_| Tally::new(device, communicator.rank(), communicator.world_size(), SEED);
        let allocate = || {
            let input = Buffer::new(device, if room.in_place { 0 } else { bytes })?;
            let output = if room.window { Buffer::shared(device, bytes)? } else { Buffer::new(device, bytes)? };
            let tallies = (0..sets).map(tally).collect::<Result<_>>()?;
            Ok((Stream::new(device)?, input, output, tallies, Rival::connect(&communicator, room, bytes)?))
        };
        let operands = if room.in_place { bytes } else { bytes.saturating_mul(2) };
        let (stream, input, output, tallies, rival) = allocate()
            .map_err(|error| room::explained(error, operands, communicator.world_size()))
            .inspect_err(|error: &Error| communicator.abort(&error.to_string()))?;
        let mut bench = Self {
            communicator,
            stream,
            input,
            window: None,
            output,
            tallies,
            set_bytes,
            collective: room.collective,
            in_place: room.in_place,
            rival,
            verified: Cell::new(0),
        };
        if room.window {
            // SAFETY: `close` deregisters the window; after a failure it goes behind the communicator and before the buffer.
            let window = unsafe { bench.communicator.register(bench.output.address(), bytes.max(1))? };
            if room.registered && !window.is_zero_copy() {
                return Err(Error::unsupported(
                    "registered operands: these ranks cannot map each other's memory; MYELON_LOG=info says why",
                ));
            }
            bench.window = Some(window);
        }
        Ok(bench)
    }

    /// Whether results can go straight into their memory.
    pub(crate) fn is_registered(&self) -> bool {
        self.window.as_ref().is_some_and(Window::is_zero_copy)
    }

    pub(crate) fn communicator(&self) -> &Communicator {
        &self.communicator
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What is measured.
    pub(crate) fn collective(&self) -> Collective {
        self.collective
    }

    /// Whether results replace their operands.
    pub(crate) fn is_in_place(&self) -> bool {
        self.in_place
    }

    fn parts(&self) -> u64 {
        if self.collective.has_parts() { self.communicator.world_size().get().into() } else { 1 }
    }

    /// As many elements of a message as whole parts take.
    pub(crate) fn whole_parts(&self, count: u64) -> u64 {
        count / self.parts() * self.parts()
    }

    /// One rank's part of a message, or all of it where there are no parts: what a call is about.
    pub(crate) fn part_of(&self, request: &Request) -> Request {
        Request { count: request.count / self.parts(), ..*request }
    }

    /// A candidate's operation on a set of operands, as a call: a broadcast is from rank 0.
    pub(crate) fn call(&self, engine: &Engine, request: &Request, set: usize) -> Call {
        let Operands { mut input, mut output } = self.operands_of(engine, set);
        let Request { count, dtype, op, .. } = self.part_of(request);
        let own = u64::from(self.communicator.rank().0) * count * dtype.size_bytes() as u64;
        match self.collective {
            Collective::ReduceScatter if self.in_place => output = input.offset(own),
            Collective::AllGather if self.in_place => input = output.offset(own),
            _ => {}
        }
        Call { collective: self.collective, input, output, count, dtype, op, root: Rank(0) }
    }

    /// What counts the operations that are verified, one a set of operands.
    pub(crate) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// The first number for the operations of a verification. Numbers are far apart: none has the data of another's.
    pub(crate) fn first_number(&self) -> u64 {
        self.verified.set(self.verified.get() + 1);
        self.verified.get() << 32
    }

    /// The first operands of an engine; equal addresses where results replace them.
    pub(crate) fn operands(&self, engine: &Engine) -> Operands {
        self.operands_of(engine, 0)
    }

    /// Those of a set, which no other has.
    pub(crate) fn operands_of(&self, engine: &Engine, set: usize) -> Operands {
        let Operands { input, output } = self.first_operands(engine);
        let offset = self.set_bytes * set as u64;
        Operands { input: input.offset(offset), output: output.offset(offset) }
    }

    fn first_operands(&self, engine: &Engine) -> Operands {
        if let (Engine::Rival(Baseline::NcclSymmetric), Some(rival)) = (engine, &self.rival)
            && let Some(operands) = rival.symmetric_operands()
        {
            return operands;
        }
        let output = self.output.address();
        Operands { input: if self.in_place { output } else { self.input.address() }, output }
    }

    /// Whether a baseline has the type and operator of this request.
    pub(crate) fn rival_supports(&self, baseline: Baseline, request: &Request) -> Result<bool> {
        let Some(rival) = &self.rival else { return Ok(false) };
        rival.supports(baseline, &self.call(&Engine::Rival(baseline), request, 0), &self.stream)
    }

    /// Device memory that NCCL holds on this rank by now; none where it is not connected. Nobody else may have allocated since then.
    pub(crate) fn rival_memory(&self) -> Result<Option<NcclMemory>> {
        self.rival.as_ref().map(|rival| rival.memory(self.communicator.device())).transpose()
    }

    /// Queues one operation.
    pub(crate) fn issue(&self, planned: &Planned) -> Result<()> {
        let (operation, stream) = (self.operation(planned, 0), self.stream.handle());
        let call = self.call(&planned.engine, &planned.request, 0);
        match &planned.engine {
            Engine::Rival(baseline) => self.issue_rival(*baseline, &call),
            // SAFETY: the operands have room for the largest size, and live until `drop` has synchronised the stream.
            Engine::Auto if self.collective != Collective::AllReduce => unsafe {
                self.communicator.call(&call, stream)
            },
            Engine::Variant(choice) if self.collective != Collective::AllReduce => {
                // SAFETY: as above.
                unsafe { self.communicator.call_as(choice, &call, stream) }
            }
            // SAFETY: as above.
            Engine::Auto => unsafe { self.communicator.all_reduce_operation(&operation, stream) },
            // SAFETY: as above.
            Engine::Variant(choice) => unsafe { self.communicator.all_reduce_as(choice, &operation, stream) },
        }
    }

    fn issue_rival(&self, baseline: Baseline, call: &Call) -> Result<()> {
        match &self.rival {
            // SAFETY: as in `issue`.
            Some(rival) => unsafe { rival.issue(baseline, call, self.stream.handle()) },
            None => Err(Error::unsupported(format!("{baseline} is not connected"))),
        }
    }

    /// A candidate's operation on a set of operands, for [`Bench::issue_batch`].
    pub(crate) fn operation(&self, planned: &Planned, set: usize) -> Operation<'_> {
        let Operands { input, output } = self.operands_of(&planned.engine, set);
        let window = self.window.as_ref().filter(|_| planned.request.registered);
        Operation { window, ..Operation::of(&planned.request, input, output) }
    }

    /// Queues operations of [`Bench::operation`], by one call where the engine has one for several.
    pub(crate) fn issue_batch(&self, planned: &Planned, batch: &[Operation<'_>]) -> Result<()> {
        let stream = self.stream.handle();
        match &planned.engine {
            // SAFETY: as in `issue`.
            Engine::Auto => unsafe { self.communicator.all_reduce_batch(batch, stream) },
            // SAFETY: as in `issue`.
            Engine::Variant(choice) => unsafe { self.communicator.all_reduce_batch_as(choice, batch, stream) },
            Engine::Rival(baseline) => batch.iter().try_for_each(|&Operation { input, output, .. }| {
                self.issue_rival(*baseline, &Call { input, output, ..self.call(&planned.engine, &planned.request, 0) })
            }),
        }
    }

    /// Records what `work` queues, to be replayed.
    pub(crate) fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Replay<'_>> {
        Ok(Replay { graph: self.stream.capture(work)?, bench: self })
    }

    /// Waits until everything queued has finished, and says what went wrong with it.
    pub(crate) fn finish(&self) -> Result<()> {
        if let Some(rival) = &self.rival {
            rival.wait(&self.communicator, &self.stream)?;
        }
        self.communicator.synchronize(self.stream.handle())
    }

    /// Takes leave of the other ranks after a sweep that came to its end. Collective.
    pub(crate) fn close(mut self) -> Result<()> {
        self.finish()?;
        if let Some(window) = self.window.take() {
            self.communicator.deregister(window)?;
        }
        self.rival.take().map_or(Ok(()), Rival::close)
    }

    /// Leaves nothing queued behind. What is still running after a failure is told to stop, so that the wait is short.
    pub(crate) fn settle(&self) {
        let device = self.communicator.device();
        if !device.stream_is_idle(self.stream.handle()).unwrap_or(true) {
            self.communicator.abort("the sweep failed on this rank");
            if let Some(rival) = &self.rival {
                rival.abort();
                rival.end_with_stuck(&self.communicator, &self.stream);
            }
        }
        // What went wrong was reported by the call that noticed.
        let _ = self.stream.synchronize();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.settle();
        // Still here only after a failure, and then the other ranks may never come to say goodbye.
        if let Some(rival) = &self.rival {
            rival.abort();
        }
    }
}

/// A captured graph whose launches have finished before it goes.
pub(crate) struct Replay<'a> {
    graph: Graph,
    bench: &'a Bench,
}

impl Replay<'_> {
    /// Queues everything that was captured.
    pub(crate) fn launch(&self) -> Result<()> {
        self.graph.launch(&self.bench.stream)
    }
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        // INVARIANT: a graph is given back only when no launch of it is queued.
        self.bench.settle();
    }
}
