//! One rank's place of work: communicator, stream and operands, and how a candidate's operation is queued there.

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Graph, Stream};
use myelon_ccl::{Communicator, Error, Result};

use crate::candidate::{Engine, Planned};
use crate::request::SweepRequest;

/// Where a rank measures. The operands have room for the largest size of the sweep.
pub(crate) struct Bench {
    // INVARIANT: declared first, so that it is dropped while the stream of its last operation exists.
    communicator: Communicator,
    stream: Stream,
    input: Buffer,
    output: Buffer,
    in_place: bool,
}

/// Where an operation reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) input: DevicePtr,
    pub(crate) output: DevicePtr,
}

impl Bench {
    /// Allocates what the sweep needs on this rank.
    ///
    /// Errors: those of the device; the other ranks are told.
    pub(crate) fn new(communicator: Communicator, request: &SweepRequest) -> Result<Self> {
        let bytes = request.sizes.largest().map_or(0, |bytes| bytes.0);
        let device = communicator.device();
        let allocate = || {
            let input = Buffer::new(device, if request.in_place { 0 } else { bytes })?;
            Ok((Stream::new(device)?, input, Buffer::new(device, bytes)?))
        };
        let (stream, input, output) = allocate().inspect_err(|error: &Error| communicator.abort(&error.to_string()))?;
        Ok(Self { communicator, stream, input, output, in_place: request.in_place })
    }

    pub(crate) fn communicator(&self) -> &Communicator {
        &self.communicator
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The operands of a candidate; equal addresses where results replace them.
    pub(crate) fn operands(&self, _planned: &Planned) -> Operands {
        let output = self.output.address();
        Operands { input: if self.in_place { output } else { self.input.address() }, output }
    }

    /// Queues one operation.
    pub(crate) fn issue(&self, planned: &Planned) -> Result<()> {
        let Operands { input, output } = self.operands(planned);
        let (request, stream) = (&planned.request, self.stream.handle());
        match &planned.engine {
            // SAFETY: the operands have room for the largest size, and live until `drop` has synchronised the stream.
            Engine::Auto => unsafe {
                self.communicator.all_reduce(input, output, request.count, request.dtype, request.op, stream)
            },
            // SAFETY: as above.
            Engine::Variant(choice) => unsafe {
                self.communicator.all_reduce_as(choice, request, input, output, stream)
            },
        }
    }

    /// Records what `work` queues, to be replayed.
    pub(crate) fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Replay<'_>> {
        Ok(Replay { graph: self.stream.capture(work)?, bench: self })
    }

    /// Waits until everything queued has finished, and says what went wrong with it.
    pub(crate) fn finish(&self) -> Result<()> {
        self.communicator.synchronize(self.stream.handle())
    }

    /// Leaves nothing queued behind. What is still running after a failure is told to stop, so that the wait is short.
    pub(crate) fn settle(&self) {
        let device = self.communicator.device();
        if !device.stream_is_idle(self.stream.handle()).unwrap_or(true) {
            self.communicator.abort("the sweep failed on this rank");
        }
        // What went wrong was reported by the call that noticed.
        let _ = self.stream.synchronize();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.settle();
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
