//! One rank: operands, streams, what verifies them, and how a stretch is queued.

use std::cell::Cell;
use std::collections::HashMap;

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Event, Graph, Stream};
use myelon_ccl::memory::Window;
use myelon_ccl::variant::Request;
use myelon_ccl::verify::{Tally, Verifier};
use myelon_ccl::{self as ccl, Call, Collective, Communicator, DType, Error, ReduceOp, Result};

use crate::draw::{Case, Draw, Operation, STREAMS, Step, Stretch};

/// Wrong operations that are named.
const NAMED: usize = 4;

/// A stream with operands and counts of its own, so that nothing but the operations is ordered between streams.
struct Track {
    stream: Stream,
    /// Of input and output.
    windows: [Window; 2],
    input: Buffer,
    output: Buffer,
    tally: Tally,
}

pub(crate) struct Rig {
    // INVARIANT: declared first, so that it is dropped while the streams exist.
    communicator: Communicator,
    tracks: Vec<Track>,
    verifiers: HashMap<(DType, ReduceOp), Verifier>,
    /// Where the last operation went, and whether it was a replay.
    last: Cell<Option<(usize, bool)>>,
    event: Event,
}

impl Rig {
    /// Compiles and loads everything. Collective.
    pub(crate) fn new(communicator: Communicator, cases: &[Case], draw: &Draw) -> Self {
        let device = communicator.device();
        let (rank, world_size) = (communicator.rank(), communicator.world_size());
        let track = |_| {
            // Room for the misalignment.
            let [input, output] = [(); 2].map(|()| Buffer::shared(device, draw.most_bytes + 256).unwrap());
            // SAFETY: the communicator is dropped first, with every operation, then the windows, then the buffers.
            let windows =
                [&input, &output].map(|it| unsafe { communicator.register(it.address(), it.bytes()).unwrap() });
            let tally = Tally::new(device, rank, world_size, draw.seed).unwrap();
            Track { stream: Stream::new(device).unwrap(), windows, input, output, tally }
        };
        let tracks = (0..STREAMS).map(track).collect();
        let mut verifiers = HashMap::new();
        for case in cases {
            let pair = (case.dtype, case.op);
            verifiers.entry(pair).or_insert_with(|| Verifier::prepare(device, case.dtype, case.op).unwrap());
        }
        let plans: Vec<_> = cases.iter().map(|case| case.plan.clone()).collect();
        communicator.prepare(&plans).unwrap();
        let event = Event::new(device).unwrap();
        Self { tracks, verifiers, last: Cell::new(None), event, communicator }
    }

    /// Runs a stretch and waits for it. Returns the wrong elements of all ranks. Collective.
    ///
    /// Errors: those of the communicator, which is of no further use then.
    pub(crate) fn run(&self, stretch: &Stretch, index: u64) -> Result<u64> {
        self.restart(index)?;
        let mut graphs = Vec::new();
        let queued = stretch.steps.iter().try_for_each(|step| self.step(stretch, step, &mut graphs));
        let ended = queued.and_then(|()| self.synchronize());
        if let Err(error) = &ended {
            self.communicator.abort(&error.to_string());
            // INVARIANT: a graph is given back only when no launch of it is queued. What went wrong is known.
            let _ = self.synchronize();
        }
        drop(graphs);
        ended?;
        let mut wrong = 0;
        for (at, track) in self.tracks.iter().enumerate() {
            let (next, here) = track.tally.read(&track.stream)?;
            let operations = stretch.operations().filter(|operation| operation.stream == at).count() as u64;
            assert_eq!(next, first(index, at) + operations, "not every operation of stream {at} was checked");
            wrong += here;
        }
        let all = self.communicator.bootstrap().all_gather("counting wrong elements", &u64::to_ne_bytes(wrong))?;
        Ok(all.iter().map(|bytes| u64::from_ne_bytes(bytes.as_slice().try_into().unwrap())).sum())
    }

    /// Runs the operations of a stretch again, one at a time, and names those whose result is wrong on this rank. Collective.
    pub(crate) fn find_wrong(&self, stretch: &Stretch, index: u64) -> String {
        let mut found = Vec::new();
        let mut again = || -> Result<()> {
            self.restart(index)?;
            let mut before = [0; STREAMS as usize];
            for (number, operation) in stretch.operations().enumerate() {
                let track = &self.tracks[operation.stream];
                self.queue(operation)?;
                self.synchronize()?;
                let (_, wrong) = track.tally.read(&track.stream)?;
                if wrong > before[operation.stream] && found.len() < NAMED {
                    found.push(format!("number {number} of these, {operation}"));
                }
                before[operation.stream] = wrong;
            }
            Ok(())
        };
        match again() {
            Err(error) => format!("and one at a time, {error}"),
            Ok(()) if found.is_empty() => "none on this rank when run one at a time".to_owned(),
            Ok(()) => found.join("; "),
        }
    }

    fn restart(&self, index: u64) -> Result<()> {
        let mut tracks = self.tracks.iter().enumerate();
        tracks.try_for_each(|(at, track)| track.tally.restart(first(index, at), &track.stream))
    }

    fn synchronize(&self) -> Result<()> {
        let outcomes: Vec<_> =
            self.tracks.iter().map(|track| self.communicator.synchronize(track.stream.handle())).collect();
        outcomes.into_iter().collect()
    }

    fn step(&self, stretch: &Stretch, step: &Step, graphs: &mut Vec<Graph>) -> Result<()> {
        match step {
            Step::Eager(operation) => {
                // One without elements has no kernel, and no place in the communicator's order.
                if operation.request.count > 0 {
                    self.follow(operation.stream, false)?;
                }
                self.queue(operation)
            }
            Step::Capture(graph) => {
                let operations = &stretch.graphs[*graph];
                let stream = &self.tracks[operations[0].stream].stream;
                graphs.push(stream.capture(|| operations.iter().try_for_each(|operation| self.queue(operation)))?);
                Ok(())
            }
            Step::Replay(graph) => {
                let stream = stretch.graphs[*graph][0].stream;
                self.follow(stream, true)?;
                graphs[*graph].launch(&self.tracks[stream].stream)
            }
        }
    }

    /// The communicator orders operations between streams, but for replays: that is the caller's part.
    fn follow(&self, stream: usize, replay: bool) -> Result<()> {
        let before = self.last.replace(Some((stream, replay)));
        if let Some((last, was_replay)) = before
            && last != stream
            && (replay || was_replay)
        {
            self.event.record(self.tracks[last].stream.handle())?;
            self.event.hold(self.tracks[stream].stream.handle())?;
        }
        Ok(())
    }

    /// Queues an operation between the kernels that write its input and check its result.
    fn queue(&self, operation: &Operation) -> Result<()> {
        let Operation { choice, request, root, in_place, .. } = operation;
        let Track { stream, windows, input, output, tally } = &self.tracks[operation.stream];
        let Some(verifier) = self.verifiers.get(&(request.dtype, request.op)) else {
            return Err(Error::invalid("an operation of no case"));
        };
        let skew = operation.skew(self.communicator.rank()) * request.dtype.size_bytes() as u64;
        let window = request.registered.then(|| &windows[usize::from(!in_place)]);
        let at = |buffer: &Buffer| DevicePtr(buffer.address().0 + skew);
        let (mut input, mut output) = (at(input), at(if *in_place { input } else { output }));
        let collective = choice.variant.collective;
        let own = u64::from(self.communicator.rank().0) * request.bytes();
        match collective {
            Collective::ReduceScatter if *in_place => output = input.offset(own),
            Collective::AllGather if *in_place => input = output.offset(own),
            _ => {}
        }
        let Request { count, dtype, op, .. } = *request;
        let call = Call { collective, input, output, count, dtype, op, root: *root };
        let (given, _) = call.elements(self.communicator.world_size())?;
        // SAFETY: the operands have room for the largest message, misaligned by 15 elements of 8 bytes at most; they, the
        // tally and the stream are dropped after the communicator, once `run` or `find_wrong` has waited for the stream.
        unsafe {
            verifier.fill(tally, input, &Request { count: given, ..*request }, stream)?;
            if collective == Collective::AllReduce {
                let operation = ccl::Operation { window, ..ccl::Operation::of(request, input, output) };
                self.communicator.all_reduce_as(choice, &operation, stream.handle())?;
            } else {
                self.communicator.call_as(choice, &call, stream.handle())?;
            }
            verifier.check_result(tally, (collective, *root), output, request, stream)
        }
    }
}

/// The number of the first operation of a stretch on a stream: no two have the same data.
fn first(index: u64, stream: usize) -> u64 {
    (index << 24) + ((stream as u64) << 20)
}
