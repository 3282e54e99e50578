//! What averages: Myelon, or NCCL to compare it with.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use myelon_ccl::baseline::{NcclCommunicator, Provider};
use myelon_ccl::bootstrap::{Bootstrap, ControlEvent};
use myelon_ccl::device::handles::{Event, Stream};
use myelon_ccl::device::{Device, DevicePtr, StreamHandle};
use myelon_ccl::{Communicator, DType, Options, Rank, ReduceOp};
use serde::{Deserialize, Serialize};

use crate::Result;

/// The library that averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Library {
    /// This project's kernels.
    Myelon,
    /// NCCL, on GPUs.
    Nccl,
}

impl Library {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Myelon => "myelon",
            Self::Nccl => "nccl",
        }
    }
}

/// Longest wait for what NCCL has queued, whose kernels have no deadline of their own.
const NCCL_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for the other ranks' goodbye.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// One rank's way to the others, and the stream that its collectives run on.
pub struct Engine {
    // INVARIANT: declared before the stream, which its last operation needs.
    collective: Collective,
    stream: Stream,
    computed: Event,
    device: Arc<dyn Device>,
    rank: usize,
    ranks: usize,
}

enum Collective {
    Myelon(Box<Communicator>),
    Nccl { communicator: NcclCommunicator, bootstrap: Arc<dyn Bootstrap>, lost: Arc<OnceLock<String>> },
}

impl Engine {
    /// Connects this rank with the others. Collective.
    ///
    /// Errors: those of [`Communicator::connect`] and [`NcclCommunicator::connect`].
    pub fn connect(
        library: Library,
        device: &Arc<dyn Device>,
        bootstrap: Arc<dyn Bootstrap>,
        options: Options,
    ) -> Result<Self> {
        let (rank, ranks) = (bootstrap.rank().index(), bootstrap.world_size().get() as usize);
        let collective = match library {
            Library::Myelon => {
                Collective::Myelon(Box::new(Communicator::connect(Arc::clone(device), bootstrap, options)?))
            }
            Library::Nccl => connect_nccl(device, bootstrap)?,
        };
        let (stream, computed) = (Stream::new(device)?, Event::new(device)?);
        Ok(Self { collective, stream, computed, device: Arc::clone(device), rank, ranks })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// The device in Myelon's terms.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Makes later collectives wait for what `compute` has queued by now.
    pub fn follow(&self, compute: StreamHandle) -> Result<()> {
        self.computed.record(compute)?;
        Ok(self.computed.hold(self.stream.handle())?)
    }

    /// Queues the average of `count` elements over all ranks, in place, behind the collectives before it.
    ///
    /// # Safety
    /// `address` holds `count` elements on this rank's device, which nothing else touches until [`Engine::wait`] has returned or
    /// the engine is dropped.
    pub unsafe fn average(&self, address: DevicePtr, count: usize, dtype: DType) -> Result<()> {
        let (count, stream) = (count as u64, self.stream.handle());
        match &self.collective {
            // SAFETY: the caller's promise; the stream is dropped after the communicator.
            Collective::Myelon(communicator) => unsafe {
                communicator.all_reduce(address, address, count, dtype, ReduceOp::Avg, stream)?;
            },
            // SAFETY: as above.
            Collective::Nccl { communicator, .. } => unsafe {
                communicator.all_reduce(address, address, count, dtype, ReduceOp::Avg, stream)?;
            },
        }
        Ok(())
    }

    /// Queues a copy of rank 0's elements to every rank, in place, behind the collectives before it.
    ///
    /// # Safety
    /// As [`Engine::average`].
    pub unsafe fn broadcast(&self, address: DevicePtr, count: usize, dtype: DType) -> Result<()> {
        let (count, root, stream) = (count as u64, Rank(0), self.stream.handle());
        match &self.collective {
            // SAFETY: the caller's promise; the stream is dropped after the communicator.
            Collective::Myelon(communicator) => unsafe {
                communicator.broadcast(address, address, count, dtype, root, stream)?;
            },
            // SAFETY: as above.
            Collective::Nccl { communicator, .. } => unsafe {
                communicator.broadcast(address, address, count, dtype, root, stream)?;
            },
        }
        Ok(())
    }

    /// Waits until everything queued has ended, and says what went wrong with it: results are of use only where it returns `Ok`.
    /// Nothing runs any more when it returns.
    ///
    /// Bounded: by [`Options::timeout`], and a minute on NCCL.
    pub fn wait(&self) -> Result<()> {
        match &self.collective {
            Collective::Myelon(communicator) => Ok(communicator.synchronize(self.stream.handle())?),
            Collective::Nccl { communicator, lost, .. } => {
                let outcome = self.wait_for_nccl(communicator, lost);
                if outcome.is_err() {
                    // The failure above says more.
                    let _ = communicator.abort();
                }
                outcome
            }
        }
    }

    /// WHY: a kernel of NCCL waits for a lost peer for ever, so the stream may not be waited for without a bound.
    fn wait_for_nccl(&self, communicator: &NcclCommunicator, lost: &OnceLock<String>) -> Result<()> {
        let start = Instant::now();
        while !self.device.stream_is_idle(self.stream.handle())? {
            if let Some(lost) = lost.get() {
                return Err(format!("rank {}: {lost}", self.rank).into());
            }
            if start.elapsed() > NCCL_PATIENCE {
                return Err(format!(
                    "rank {}: NCCL has not ended in {} s what was queued: a rank may have stopped",
                    self.rank,
                    NCCL_PATIENCE.as_secs()
                )
                .into());
            }
            std::hint::spin_loop();
        }
        Ok(communicator.check()?)
    }

    /// Ends what runs, here and on the peers.
    pub fn abort(&self, why: &str) {
        match &self.collective {
            Collective::Myelon(communicator) => communicator.abort(why),
            Collective::Nccl { communicator, bootstrap, .. } => {
                bootstrap.announce_abort(why);
                // The failure that led here says more.
                let _ = communicator.abort();
            }
        }
    }

    /// Takes leave of the other ranks after work that came to its end. Collective.
    pub fn close(self) -> Result<()> {
        self.wait()?;
        if let Collective::Nccl { communicator, bootstrap, .. } = &self.collective {
            communicator.finalize()?;
            bootstrap.leave(LEAVE_PATIENCE);
        }
        Ok(())
    }
}

fn connect_nccl(device: &Arc<dyn Device>, bootstrap: Arc<dyn Bootstrap>) -> Result<Collective> {
    let lost = Arc::new(OnceLock::new());
    let note = Arc::clone(&lost);
    bootstrap.listen(Arc::new(move |event| {
        let text = match event {
            ControlEvent::PeerLost { rank, detail } => format!("rank {rank} was lost: {detail}"),
            ControlEvent::PeerAborted { rank, detail } => format!("rank {rank} gave up: {detail}"),
            ControlEvent::PeerLeft { .. } => return,
        };
        // The first one is the cause.
        let _ = note.set(text);
    }));
    let communicator = NcclCommunicator::connect(
        Provider::Nccl,
        &|bytes| bootstrap.all_gather("connecting NCCL", bytes),
        bootstrap.rank(),
        bootstrap.world_size(),
        device.properties().ordinal,
        NCCL_PATIENCE,
    )?;
    Ok(Collective::Nccl { communicator, bootstrap, lost })
}
