//! How a rank comes to a communicator: what it can find out alone, and the connection that all make together.

use std::ffi::c_int;
use std::time::Duration;

use cudarc::nccl::sys::{ncclComm_t, ncclUniqueId};

use super::bounded::within;
use super::library::{Library, Provider, RankLibrary};
use super::live::{Handle, no_return};
use super::mscclpp;
use crate::device::cuda::driver::Context;
use crate::device::cuda::topology;
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// A rank that can take part.
pub(super) struct Prepared {
    pub(super) nccl: RankLibrary,
    pub(super) context: Context,
    pub(super) id: Option<ncclUniqueId>,
}

/// All that can fail on this rank alone; rank 0 makes the id.
pub(super) fn prepare(provider: Provider, rank: Rank, world: WorldSize, ordinal: u32) -> Result<Prepared> {
    if rank.0 >= world.get() {
        return Err(Error::invalid(format!("rank {rank} in a world of {world} ranks, which are counted from 0")));
    }
    let library = Library::open(provider)?.of(rank);
    let device = topology::device(ordinal)?;
    if provider == Provider::Mscclpp {
        mscclpp::check_architecture(&topology::properties(device, ordinal)?.arch)?;
    }
    let context = Context::new(ordinal)?;
    if rank != Rank(0) {
        return Ok(Prepared { nccl: library, context, id: None });
    }
    let mut id = ncclUniqueId { internal: [0; 128] };
    // SAFETY: the id goes to a local.
    library.check("ncclGetUniqueId", unsafe { (library.functions.ncclGetUniqueId)(&mut id) })?;
    Ok(Prepared { nccl: library, context, id: Some(id) })
}

/// Connects the ranks of `id`, within `patience`.
pub(super) fn start(
    library: RankLibrary,
    context: Context,
    world: WorldSize,
    id: ncclUniqueId,
    patience: Duration,
) -> Result<Handle> {
    // WHY: a blocking communicator, connected on a thread that can be left behind. NCCL's own non-blocking mode hands
    // every later collective to a thread, which would make the baseline slower than NCCL is.
    let rank = library.rank;
    let connected = within(patience, move || {
        context.bind()?;
        let mut communicator: ncclComm_t = std::ptr::null_mut();
        // SAFETY: the world is at most 8 and the rank below it; the pointer goes to a local.
        let code = unsafe {
            (library.functions.ncclCommInitRank)(&mut communicator, world.get() as c_int, id, rank.0 as c_int)
        };
        library.check("ncclCommInitRank", code)?;
        Ok(Handle::new(communicator))
    })?;
    connected.unwrap_or_else(|| Err(no_return(rank, "ncclCommInitRank", patience)))
}
