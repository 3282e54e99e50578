//! Rank, size and unique id from MPI itself. Needs the cargo feature `mpi`.
//!
//! MPI is used for one broadcast and nothing afterwards, so the caller may finalise it whenever it likes.

use ::mpi::traits::{Communicator, Root};

use super::unique_id::UNIQUE_ID_BYTES;
use super::{RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// Connects the processes of `world`: rank 0 starts a server and broadcasts its id. Collective over `world`.
///
/// Errors: [`Error::InvalidArgument`] for more than 8 processes (split the communicator by node first);
/// [`Error::Bootstrap`] on every other rank when rank 0 could not start the server; those of
/// [`TcpBootstrap::connect`].
pub fn connect(world: &impl Communicator, options: &TcpOptions) -> Result<TcpBootstrap> {
    let non_negative = |value: i32| u32::try_from(value).map_err(|_| Error::invalid(format!("MPI gave rank {value}")));
    let rank = Rank(non_negative(world.rank())?);
    let size = WorldSize::new(non_negative(world.size())?)?;
    let server = (rank == Rank(0)).then(|| RendezvousServer::start(options));
    // WHY: rank 0 broadcasts zeros when it failed, so that the others get an error and no hang.
    let mut bytes = match &server {
        Some(Ok(server)) => server.id().to_bytes(),
        Some(Err(_)) | None => [0; UNIQUE_ID_BYTES],
    };
    world.process_at_rank(0).broadcast_into(&mut bytes[..]);
    let server = server.transpose()?;
    let id = UniqueId::from_bytes(&bytes).map_err(|_| Error::Bootstrap {
        rank,
        phase: "connecting",
        detail: "rank 0 could not start the rendezvous server: its own error says why".into(),
    })?;
    let bootstrap = TcpBootstrap::connect(&id, rank, size, options)?;
    Ok(match server {
        Some(server) => bootstrap.hosting(server),
        None => bootstrap,
    })
}
