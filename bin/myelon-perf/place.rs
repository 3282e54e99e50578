//! This process's place among the ranks of a job, from its environment.
//!
//! | set by | rank | world size | local rank | meeting place |
//! |---|---|---|---|---|
//! | `myelon-perf` itself | `MYELON_RANK` | `MYELON_WORLD_SIZE` | `MYELON_LOCAL_RANK` | `MYELON_PERF_ID` |
//! | a script | `MYELON_RANK` | `MYELON_WORLD_SIZE` | `MYELON_LOCAL_RANK` | `MYELON_ROOT`, `MYELON_SECRET` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK` | `OMPI_COMM_WORLD_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK` | `MYELON_ROOT`, `MYELON_SECRET` |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::bootstrap::{Bootstrap, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::{Error, Rank, Result, WorldSize};

/// Carries the id from the process that starts the ranks to them.
pub(crate) const ID_VARIABLE: &str = "MYELON_PERF_ID";

/// Longest wait for a peer: compiling and the slowest case of a sweep are part of it.
const DEADLINE: Duration = Duration::from_secs(120);

/// One rank of a job of processes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) rank: Rank,
    pub(crate) world_size: WorldSize,
    /// Index among the job's processes on this host.
    pub(crate) local_rank: u32,
    id: UniqueId,
    /// Rank 0 runs the server; else somebody outside does.
    is_hosted_by_rank_0: bool,
}

impl Place {
    /// The place that the environment describes; none where it names no rank.
    ///
    /// Errors: [`Error::Config`] naming the variable that is missing, malformed or out of range.
    pub(crate) fn from_env() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let own = ["MYELON_RANK", "MYELON_WORLD_SIZE", "MYELON_LOCAL_RANK"];
        let open_mpi = ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"];
        let Some([rank_name, size_name, local_name]) =
            [own, open_mpi].into_iter().find(|names| lookup(names[0]).is_some())
        else {
            return Ok(None);
        };
        let number = |name: &str| match lookup(name) {
            None => Ok(None),
            Some(text) => {
                text.parse::<u32>().map(Some).map_err(|_| wrong(name, format!("'{text}' is not a whole number")))
            }
        };
        let missing = |name: &str| wrong(name, format!("is not set, but {rank_name} is: set both or neither"));
        let rank = number(rank_name)?.ok_or_else(|| missing(rank_name))?;
        let world_size = number(size_name)?.ok_or_else(|| missing(size_name))?;
        let world_size = WorldSize::new(world_size).map_err(|error| wrong(size_name, error.to_string()))?;
        if rank >= world_size.get() {
            let last = world_size.get() - 1;
            return Err(wrong(rank_name, format!("rank {rank} in a world of {world_size}: ranks are 0 to {last}")));
        }
        let local_rank = number(local_name)?.unwrap_or(rank);
        let (id, is_hosted_by_rank_0) = match (lookup(ID_VARIABLE), lookup("MYELON_ROOT")) {
            (Some(text), _) => (text.parse().map_err(|error: Error| wrong(ID_VARIABLE, error.to_string()))?, false),
            (None, Some(text)) => {
                let address: SocketAddr = text.parse().map_err(|_| {
                    wrong("MYELON_ROOT", format!("'{text}' is not an address and port such as 127.0.0.1:29400"))
                })?;
                (UniqueId::derive(address, lookup("MYELON_SECRET").unwrap_or_default().as_bytes()), true)
            }
            (None, None) => {
                let detail = format!(
                    "is not set, but {rank_name} is: set it to a free address and port of this machine, \
                     such as 127.0.0.1:29400, equal on all ranks"
                );
                return Err(wrong("MYELON_ROOT", detail));
            }
        };
        Ok(Some(Self { rank: Rank(rank), world_size, local_rank, id, is_hosted_by_rank_0 }))
    }

    /// Connects to the other ranks and waits for all of them.
    ///
    /// Errors: [`Error::Io`] where rank 0 cannot listen; those of [`TcpBootstrap::connect`].
    pub(crate) fn join(&self) -> Result<Arc<dyn Bootstrap>> {
        let options = TcpOptions { deadline: DEADLINE, ..TcpOptions::default() };
        let is_host = self.is_hosted_by_rank_0 && self.rank == Rank(0);
        let server = is_host.then(|| RendezvousServer::start_at(&self.id, &options)).transpose()?;
        let bootstrap = TcpBootstrap::connect(&self.id, self.rank, self.world_size, &options)?;
        Ok(Arc::new(match server {
            Some(server) => bootstrap.hosting(server),
            None => bootstrap,
        }))
    }
}

fn wrong(name: &str, detail: String) -> Error {
    Error::Config { source_name: "environment".into(), key: name.into(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pairs: &[(&str, &str)]) -> Result<Option<Place>> {
        Place::from_variables(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_process_without_a_rank_is_alone() {
        assert!(place(&[("MYELON_ROOT", "127.0.0.1:1"), ("MYELON_RANK", "")]).unwrap().is_none());
    }

    #[test]
    fn both_kinds_of_launcher_are_understood() {
        let root = ("MYELON_ROOT", "127.0.0.1:29400");
        let own = place(&[("MYELON_RANK", "1"), ("MYELON_WORLD_SIZE", "3"), root]).unwrap().unwrap();
        assert_eq!((own.rank, own.world_size.get(), own.local_rank), (Rank(1), 3, 1));
        let mpi =
            [("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_LOCAL_RANK", "2"), root];
        let mpi = place(&mpi).unwrap().unwrap();
        assert_eq!((mpi.rank, mpi.local_rank), (Rank(5), 2));
        assert_eq!(own.id.to_text(), mpi.id.to_text(), "every rank computes the same id");
    }

    #[test]
    fn wrong_variables_are_named() {
        let root = ("MYELON_ROOT", "127.0.0.1:29400");
        for (pairs, expected) in [
            (&[("MYELON_RANK", "0"), root][..], "MYELON_WORLD_SIZE: is not set"),
            (&[("MYELON_RANK", "x"), ("MYELON_WORLD_SIZE", "2"), root], "MYELON_RANK: 'x'"),
            (&[("MYELON_RANK", "2"), ("MYELON_WORLD_SIZE", "2"), root], "ranks are 0 to 1"),
            (&[("MYELON_RANK", "2"), ("MYELON_WORLD_SIZE", "9"), root], "9 ranks"),
            (&[("MYELON_RANK", "0"), ("MYELON_WORLD_SIZE", "2")], "MYELON_ROOT: is not set"),
            (&[("MYELON_RANK", "0"), ("MYELON_WORLD_SIZE", "2"), ("MYELON_ROOT", "here")], "MYELON_ROOT: 'here'"),
            (
                &[("MYELON_RANK", "0"), ("MYELON_WORLD_SIZE", "2"), (ID_VARIABLE, "12")],
                "MYELON_PERF_ID: not a unique id",
            ),
        ] {
            let message = place(pairs).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
