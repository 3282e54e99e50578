//! NCCL on the same stream, for the rows that Myelon is held against.

use std::sync::Arc;
use std::time::{Duration, Instant};

use myelon_ccl::baseline::{NcclCommunicator, SymmetricBuffer};
use myelon_ccl::device::handles::Stream;
use myelon_ccl::device::{Device, StreamHandle, cuda};
use myelon_ccl::measure::Baseline;
use myelon_ccl::measure::overlap::NcclMemory;
use myelon_ccl::{Call, Collective, Communicator, Error, Rank, Result};

use super::bench::{Operands, Room};

/// Longest wait for the other ranks, and for what is queued.
const PATIENCE: Duration = Duration::from_secs(120);
/// A wait polls without a pause for this long, so that short operations do not pay for a sleep.
const EAGER: Duration = Duration::from_millis(1);

/// NCCL over the ranks of a communicator.
pub(crate) struct Rival {
    rank: Rank,
    // INVARIANT: declared before `communicator`, which goes only once its windows are gone.
    symmetric: Option<Windows>,
    communicator: NcclCommunicator,
    /// What was free of the GPU's memory before.
    free_before: u64,
}

/// Operands that are registered on all ranks.
struct Windows {
    input: Option<SymmetricBuffer>,
    output: SymmetricBuffer,
}

impl Rival {
    /// Connects the same ranks through NCCL; none where nothing is measured against it. Collective.
    ///
    /// Errors: those of [`NcclCommunicator::connect`] and [`NcclCommunicator::symmetric_buffer`].
    pub(crate) fn connect(communicator: &Communicator, room: &Room, bytes: u64) -> Result<Option<Self>> {
        if room.against.is_empty() {
            return Ok(None);
        }
        let (rank, bootstrap) = (communicator.rank(), communicator.bootstrap());
        let ordinal = communicator.device().properties().ordinal;
        let free_before = cuda::free_bytes(ordinal)?;
        let all_gather = |bytes: &[u8]| bootstrap.all_gather("connecting nccl", bytes);
        let nccl = NcclCommunicator::connect(&all_gather, rank, communicator.world_size(), ordinal, PATIENCE)?;
        let symmetric = if room.against.contains(&Baseline::NcclSymmetric) {
            let output = nccl.symmetric_buffer(bytes)?;
            let input = if room.in_place { None } else { Some(nccl.symmetric_buffer(bytes)?) };
            Some(Windows { input, output })
        } else {
            None
        };
        Ok(Some(Self { rank, symmetric, communicator: nccl, free_before }))
    }

    /// What is gone of the GPU's memory since before the ranks connected, and how much of it the operands take that are registered.
    pub(crate) fn memory(&self, device: &Arc<dyn Device>) -> Result<NcclMemory> {
        let free = cuda::free_bytes(device.properties().ordinal)?;
        let windows = self.symmetric.iter().flat_map(|windows| windows.input.iter().chain([&windows.output]));
        Ok(NcclMemory {
            bytes: self.free_before.saturating_sub(free),
            window_bytes: windows.map(SymmetricBuffer::bytes).sum(),
        })
    }

    /// The registered operands; none where nothing is measured on them.
    pub(crate) fn symmetric_operands(&self) -> Option<Operands> {
        let Windows { input, output } = self.symmetric.as_ref()?;
        let input = input.as_ref().unwrap_or(output);
        Some(Operands { input: input.address(), output: output.address() })
    }

    /// Queues one operation.
    ///
    /// Errors: [`Error::Unsupported`] before anything is queued, for a type that this NCCL lacks.
    ///
    /// # Safety
    /// As [`Communicator::call`].
    pub(crate) unsafe fn issue(&self, call: &Call, stream: StreamHandle) -> Result<()> {
        let &Call { collective, input, output, count, dtype, op, root } = call;
        let nccl = &self.communicator;
        // SAFETY: the caller's promise is this function's.
        unsafe {
            match collective {
                Collective::AllReduce => nccl.all_reduce(input, output, count, dtype, op, stream),
                Collective::ReduceScatter => nccl.reduce_scatter(input, output, count, dtype, op, stream),
                Collective::AllGather => nccl.all_gather(input, output, count, dtype, stream),
                Collective::Broadcast => nccl.broadcast(input, output, count, dtype, root, stream),
            }
        }
    }

    /// Whether this NCCL has the type and operator; the same answer on all ranks, which run one release of it.
    pub(crate) fn supports(&self, call: &Call, stream: &Stream) -> Result<bool> {
        let nothing = Call { count: 0, ..*call };
        // SAFETY: no element is touched.
        match unsafe { self.issue(&nothing, stream.handle()) } {
            Err(Error::Unsupported(detail)) => {
                tracing::warn!(rank = self.rank.0, detail, "measured without NCCL");
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        }
    }

    /// Waits until the stream has passed everything, as long as neither library reports a failure.
    ///
    /// WHY: a kernel of NCCL waits for a lost peer for ever, so the stream may not be waited for without a bound.
    pub(crate) fn wait(&self, communicator: &Communicator, stream: &Stream) -> Result<()> {
        let (device, start): (&Arc<dyn Device>, _) = (communicator.device(), Instant::now());
        while !device.stream_is_idle(stream.handle())? {
            if start.elapsed() < EAGER {
                std::hint::spin_loop();
                continue;
            }
            communicator.status()?;
            self.communicator.check()?;
            if start.elapsed() > PATIENCE {
                let detail = format!("the operations queued have not ended in {} s", PATIENCE.as_secs());
                return Err(Error::Nccl { rank: self.rank, call: "ncclAllReduce", detail });
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        self.communicator.check()
    }

    /// Ends whatever runs on this rank.
    pub(crate) fn abort(&self) {
        if let Err(error) = self.communicator.abort() {
            tracing::warn!(rank = self.rank.0, %error, "NCCL does not let go");
        }
    }

    /// Says goodbye to the other ranks. Collective; the stream has passed everything.
    ///
    /// Errors: those of [`NcclCommunicator::finalize`].
    pub(crate) fn close(self) -> Result<()> {
        drop(self.symmetric);
        self.communicator.finalize()
    }
}
