//! This process's place among the ranks of a job, from its environment.
//!
//! A launcher's variables are those of [`myelon_ccl::bootstrap::launcher`]. Where the program itself started the
//! ranks, they are Myelon's, and `MYELON_GROUP_ID` says where its server is.

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::bootstrap::launcher::Launcher;
use myelon_ccl::bootstrap::{self, Bootstrap, TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::{Error, Rank, Result, WorldSize};

/// Carries the id from the process that starts the ranks to them.
pub(crate) const ID_VARIABLE: &str = "MYELON_GROUP_ID";

/// Longest wait for a peer: compiling and the slowest case of a sweep are part of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// One rank of a job of processes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) rank: Rank,
    pub(crate) world_size: WorldSize,
    /// Index among the job's processes on this host.
    pub(crate) local_rank: u32,
    /// Where the server of the process that started the ranks is; none under a launcher.
    id: Option<UniqueId>,
}

impl Place {
    /// The place that the environment describes; none where it names no rank.
    ///
    /// Errors: [`Error::Config`] naming the variable that is missing, malformed or out of range.
    pub(crate) fn from_env() -> Result<Option<Self>> {
        Self::from_variables(&|name: &str| std::env::var(name).ok())
    }

    fn from_variables(lookup: &impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let Some(info) = Launcher::from_env(lookup)? else { return Ok(None) };
        let wrong = |error: Error| Error::Config {
            source_name: "environment".into(),
            key: ID_VARIABLE.into(),
            detail: error.to_string(),
        };
        let text = lookup(ID_VARIABLE).filter(|text| !text.is_empty());
        let id = text.map(|text| text.parse().map_err(wrong)).transpose()?;
        Ok(Some(Self { rank: info.rank, world_size: info.world_size, local_rank: info.local_rank, id }))
    }

    /// Whether this program started the ranks.
    pub(crate) fn is_own(&self) -> bool {
        self.id.is_some()
    }

    /// Connects to the other ranks and waits for all of them.
    ///
    /// Errors: those of [`bootstrap::from_env`] and [`TcpBootstrap::connect`].
    pub(crate) fn join(&self) -> Result<Arc<dyn Bootstrap>> {
        let options = TcpOptions { deadline: DEADLINE, ..TcpOptions::default() };
        match &self.id {
            Some(id) => Ok(Arc::new(TcpBootstrap::connect(id, self.rank, self.world_size, &options)?)),
            None => bootstrap::from_env(&options)?
                .map(Arc::from)
                .ok_or_else(|| Error::invalid("the launcher's variables are gone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pairs: &[(&str, &str)]) -> Result<Option<Place>> {
        Place::from_variables(&|name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_process_without_a_rank_is_alone() {
        assert!(place(&[("MYELON_ROOT", "127.0.0.1:1"), ("MYELON_RANK", "")]).unwrap().is_none());
    }

    #[test]
    fn ranks_are_read_and_a_bad_id_is_named() {
        let (rank, size) = (("MYELON_RANK", "1"), ("MYELON_WORLD_SIZE", "3"));
        let own = place(&[rank, size]).unwrap().unwrap();
        assert_eq!((own.rank, own.world_size.get(), own.local_rank), (Rank(1), 3, 1));
        let message = place(&[rank, size, (ID_VARIABLE, "12")]).unwrap_err().to_string();
        assert!(message.contains("MYELON_GROUP_ID: not a unique id"), "{message}");
    }
}
