//! NCCL and MSCCL++ on the same stream, for the rows that Myelon is held against.

use std::sync::Arc;
use std::time::{Duration, Instant};

use myelon_ccl::baseline::{NcclCommunicator, Provider, SymmetricBuffer};
use myelon_ccl::device::handles::Stream;
use myelon_ccl::device::{Device, StreamHandle, cuda};
use myelon_ccl::measure::Baseline;
use myelon_ccl::measure::overlap::NcclMemory;
use myelon_ccl::{Call, Collective, Communicator, Error, Rank, Result};

use super::bench::{Operands, Room};
use super::program::{exit, fail};

/// Longest wait for the other ranks, and for what is queued.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long what is queued may go on after it was aborted.
const PARTING_PATIENCE: Duration = Duration::from_secs(15);
/// A wait polls without a pause for this long, so that short operations do not pay for a sleep.
const EAGER: Duration = Duration::from_millis(1);

/// Other libraries over the ranks of a communicator; at least one.
pub(crate) struct Rival {
    rank: Rank,
    // INVARIANT: declared before `nccl`, which goes only once its windows are gone.
    symmetric: Option<Windows>,
    nccl: Option<NcclCommunicator>,
    mscclpp: Option<NcclCommunicator>,
    /// What was free of the GPU's memory before.
    free_before: u64,
}

/// Operands that are registered on all ranks.
struct Windows {
    input: Option<SymmetricBuffer>,
    output: SymmetricBuffer,
}

impl Rival {
    /// Connects the same ranks through the libraries that are measured; none where nothing is. Collective.
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
        let connect = |provider, is_wanted: fn(Baseline) -> bool| {
            let wanted = room.against.iter().any(|&baseline| is_wanted(baseline));
            let world = communicator.world_size();
            let connect = || NcclCommunicator::connect(provider, &all_gather, rank, world, ordinal, PATIENCE);
            wanted.then(connect).transpose()
        };
        let nccl = connect(Provider::Nccl, Baseline::is_of_nccl)?;
        let symmetric = match &nccl {
            Some(nccl) if room.against.contains(&Baseline::NcclSymmetric) => {
                let output = nccl.symmetric_buffer(bytes)?;
                let input = if room.in_place { None } else { Some(nccl.symmetric_buffer(bytes)?) };
                Some(Windows { input, output })
            }
            _ => None,
        };
        let mscclpp = connect(Provider::Mscclpp, |baseline| baseline == Baseline::Mscclpp)?;
        Ok(Some(Self { rank, symmetric, nccl, mscclpp, free_before }))
    }

    fn communicators(&self) -> impl Iterator<Item = &NcclCommunicator> {
        self.nccl.iter().chain(&self.mscclpp)
    }

    fn of(&self, baseline: Baseline) -> Result<&NcclCommunicator> {
        let communicator = match baseline {
            Baseline::Nccl | Baseline::NcclSymmetric => &self.nccl,
            Baseline::Mscclpp => &self.mscclpp,
            Baseline::TorchSymmMem => &None,
        };
        communicator.as_ref().ok_or_else(|| Error::unsupported(format!("{baseline} is not connected")))
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

    /// Queues one operation of a baseline.
    ///
    /// Errors: [`Error::Unsupported`] before anything is queued, for a type or operator that this library lacks.
    ///
    /// # Safety
    /// As [`Communicator::call`].
    pub(crate) unsafe fn issue(&self, baseline: Baseline, call: &Call, stream: StreamHandle) -> Result<()> {
        let &Call { collective, input, output, count, dtype, op, root } = call;
        let nccl = self.of(baseline)?;
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

    /// Whether a baseline has the type and operator; the same answer on all ranks, which run one release of it.
    pub(crate) fn supports(&self, baseline: Baseline, call: &Call, stream: &Stream) -> Result<bool> {
        let nothing = Call { count: 0, ..*call };
        // SAFETY: no element is touched.
        match unsafe { self.issue(baseline, &nothing, stream.handle()) } {
            Err(Error::Unsupported(detail)) => {
                tracing::warn!(rank = self.rank.0, detail, "measured without {}", baseline.label());
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        }
    }

    /// Waits until the stream has passed everything, as long as no library reports a failure.
    ///
    /// WHY: a kernel of NCCL or MSCCL++ waits for a lost peer for ever, so the stream may not be waited for without a bound.
    pub(crate) fn wait(&self, communicator: &Communicator, stream: &Stream) -> Result<()> {
        let (device, start): (&Arc<dyn Device>, _) = (communicator.device(), Instant::now());
        while !device.stream_is_idle(stream.handle())? {
            if start.elapsed() < EAGER {
                std::hint::spin_loop();
                continue;
            }
            communicator.status()?;
            self.communicators().try_for_each(NcclCommunicator::check)?;
            if start.elapsed() > PATIENCE {
                let detail = format!("the operations queued have not ended in {} s", PATIENCE.as_secs());
                return Err(Error::Nccl { rank: self.rank, call: "ncclAllReduce", detail });
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        self.communicators().try_for_each(NcclCommunicator::check)
    }

    /// Ends whatever runs on this rank.
    pub(crate) fn abort(&self) {
        for communicator in self.communicators() {
            if let Err(error) = communicator.abort() {
                tracing::warn!(rank = self.rank.0, %error, "NCCL does not let go");
            }
        }
    }

    /// Ends this process where what is queued goes on after it was aborted.
    ///
    /// WHY: MSCCL++ has no abort. A kernel of it that waits for a lost rank never ends, and neither would any wait for it, nor the
    /// giving back of memory.
    pub(crate) fn end_with_stuck(&self, communicator: &Communicator, stream: &Stream) {
        let start = Instant::now();
        while self.mscclpp.is_some() && !communicator.device().stream_is_idle(stream.handle()).unwrap_or(true) {
            if start.elapsed() > PARTING_PATIENCE {
                let why = communicator.status().err().map_or_else(String::new, |error| format!(" after: {error}"));
                fail(exit::FAILED, &format!("rank {} ends with a kernel of MSCCL++ that does not{why}", self.rank));
                std::process::exit(exit::FAILED.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Says goodbye to the other ranks. Collective; the stream has passed everything.
    ///
    /// Errors: those of [`NcclCommunicator::finalize`].
    pub(crate) fn close(self) -> Result<()> {
        drop(self.symmetric);
        self.nccl.iter().chain(&self.mscclpp).try_for_each(NcclCommunicator::finalize)
    }
}
