//! [`NcclEngine`]: what runs operations where Myelon's kernels cannot, by [`Fallback::Nccl`](super::Fallback::Nccl).

use std::ops::Deref;
use std::sync::{Arc, Weak};

use crate::baseline::NcclCommunicator;
use crate::bootstrap::{Bootstrap, ControlEvent, Listener, agree};
use crate::device::handles::Buffer;
use crate::device::{Device, StreamHandle};
use crate::error::Result;
use crate::types::{DType, ReduceOp};
use crate::watch::Watch;

/// NCCL, which knows nothing of the control plane: what that tells of the peers ends NCCL's kernels here.
pub(super) struct NcclEngine {
    live: Arc<Live>,
    watch: Arc<Watch>,
}

/// What lives until the last abort has returned.
struct Live {
    // Dropped first, which ends its kernels.
    communicator: NcclCommunicator,
    /// A word to reduce where streams meet: NCCL has no barrier.
    word: Buffer,
}

impl NcclEngine {
    /// Collective.
    pub(super) fn new(
        communicator: NcclCommunicator,
        device: &Arc<dyn Device>,
        bootstrap: &dyn Bootstrap,
    ) -> Result<Self> {
        let (rank, world_size) = (bootstrap.rank(), bootstrap.world_size());
        let watch = agree(bootstrap, "making control pages", Watch::new(device, rank, world_size))?;
        let word = Buffer::new(device, size_of::<u32>() as u64);
        let word = agree(bootstrap, "making a word for barriers", word)?;
        Ok(Self { live: Arc::new(Live { communicator, word }), watch: Arc::new(watch) })
    }

    /// What hears the control plane: a peer that is lost or gives up ends the operations of this rank. A goodbye does not, so a wait
    /// for a rank that left before it came to the operation lasts until somebody aborts. Nor does anything end the first operation,
    /// while NCCL connects the ranks in its call.
    pub(super) fn listener(&self) -> Listener {
        let (watch, live) = (Arc::downgrade(&self.watch), Arc::downgrade(&self.live));
        Arc::new(move |event| {
            if matches!(event, ControlEvent::PeerLeft { .. }) {
                return;
            }
            let Some(watch) = watch.upgrade() else { return };
            watch.hear(event);
            // WHY: NCCL may take seconds to let go, and the control plane has others to tell.
            let live = Weak::clone(&live);
            let stop = move || live.upgrade().map(|live| live.stop());
            let stop = std::thread::Builder::new().name("myelon-nccl-abort".into()).spawn(stop);
            if let Err(error) = stop {
                tracing::warn!(%error, "no thread to abort NCCL on: its kernels go on waiting");
            }
        })
    }

    /// Errors: what the control plane has told, else what NCCL says of itself.
    pub(super) fn check(&self) -> Result<()> {
        self.watch.check()?;
        self.live.communicator.check()
    }

    /// Ends every operation of this rank, for a reason of its own.
    pub(super) fn abort(&self, detail: &str) {
        self.watch.abort(detail);
        self.live.stop();
    }

    /// # Safety
    /// `stream` exists.
    pub(super) unsafe fn barrier(&self, stream: StreamHandle) -> Result<()> {
        let word = self.live.word.address();
        // Whatever the word holds: nobody reads the result.
        // SAFETY: the word lives as long as the communicator that reduces it.
        unsafe { self.live.communicator.all_reduce(word, word, 1, DType::U32, ReduceOp::Max, stream) }
    }
}

impl Live {
    fn stop(&self) {
        if let Err(error) = self.communicator.abort() {
            tracing::warn!(%error, "NCCL did not abort");
        }
    }
}

impl Deref for NcclEngine {
    type Target = NcclCommunicator;

    fn deref(&self) -> &NcclCommunicator {
        &self.live.communicator
    }
}
