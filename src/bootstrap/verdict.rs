//! One outcome for all ranks: a failure of one is heard by every other, so that nobody goes on alone.

use serde::{Deserialize, Serialize};

use super::Bootstrap;
use crate::error::{Error, Result};

/// What a rank tells of its part.
#[derive(Serialize, Deserialize, Default)]
struct Outcome {
    failed: bool,
    environment: bool,
    text: String,
}

/// Most characters of an error that are passed on; compilers write long logs.
const MAX_TEXT: usize = 1000;

/// Ends a step that every rank tried by itself: the own result where all succeeded. Collective.
///
/// Errors: the own error; [`Error::PeerFailed`] with the first failed peer where the own part went well; those of
/// [`Bootstrap::all_gather`].
pub fn agree<T>(bootstrap: &dyn Bootstrap, phase: &'static str, own: Result<T>) -> Result<T> {
    let outcome = match &own {
        Ok(_) => Outcome::default(),
        Err(error) => Outcome {
            failed: true,
            environment: error.is_environment(),
            text: error.to_string().chars().take(MAX_TEXT).collect(),
        },
    };
    let outcomes = bootstrap.all_gather(phase, &serde_json::to_vec(&outcome).expect("plain data"))?;
    let own = own?;
    let rank = bootstrap.rank();
    for (peer, outcome) in bootstrap.world_size().ranks().zip(&outcomes) {
        let outcome: Outcome = serde_json::from_slice(outcome).map_err(|error| Error::Bootstrap {
            rank,
            phase,
            detail: format!("rank {peer} sent no outcome: {error}"),
        })?;
        if outcome.failed {
            return Err(Error::PeerFailed { rank, peer, environment: outcome.environment, detail: outcome.text });
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bootstrap::LocalBootstrap;
    use crate::types::{Rank, WorldSize};

    #[test]
    fn every_rank_hears_of_a_failure() {
        let group = LocalBootstrap::group(WorldSize::new(3).unwrap(), Duration::from_secs(10));
        let results: Vec<_> = std::thread::scope(|scope| {
            let ranks: Vec<_> = group
                .iter()
                .map(|bootstrap| {
                    scope.spawn(move || {
                        agree(bootstrap, "going well", Ok(())).unwrap();
                        let own = if bootstrap.rank() == Rank(1) { Err(Error::invalid("odd")) } else { Ok(7) };
                        agree(bootstrap, "going wrong", own)
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(matches!(results[1], Err(Error::InvalidArgument(_))));
        for result in [&results[0], &results[2]] {
            assert!(
                matches!(result, Err(Error::PeerFailed { peer: Rank(1), environment: false, detail, .. }) if detail == "odd")
            );
        }
    }
}
