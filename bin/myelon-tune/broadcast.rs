//! A text of rank 0's for all.

use myelon_ccl::bootstrap::{Bootstrap, MAX_CONTRIBUTION};
use myelon_ccl::{Error, Rank, Result};

use crate::exchange::sums;

/// Rank 0's text, on every rank. Collective.
pub(crate) fn broadcast(bootstrap: &dyn Bootstrap, phase: &'static str, own: &str) -> Result<String> {
    let own = if bootstrap.rank() == Rank(0) { own.as_bytes() } else { &[] };
    let length = sums(bootstrap, phase, &[own.len() as u64])?[0] as usize;
    let mut whole = Vec::with_capacity(length);
    while whole.len() < length {
        let part = own.get(whole.len()..own.len().min(whole.len() + MAX_CONTRIBUTION)).unwrap_or_default();
        let answer = bootstrap.all_gather(phase, part)?.swap_remove(0);
        if answer.is_empty() {
            return Err(Error::invalid(format!("rank 0 sent less than it had while {phase}")));
        }
        whole.extend(answer);
    }
    String::from_utf8(whole).map_err(|error| Error::invalid(format!("rank 0 sent no text while {phase}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use myelon_ccl::WorldSize;
    use myelon_ccl::bootstrap::LocalBootstrap;

    use super::*;

    #[test]
    fn a_long_text_of_rank_0_arrives_everywhere() {
        let long: String = (0..10_000).map(|number| format!("{number} ")).collect();
        for text in ["", "short", &long] {
            let group = LocalBootstrap::group(WorldSize::new(3).unwrap(), Duration::from_secs(60));
            std::thread::scope(|scope| {
                for rank in group {
                    scope.spawn(move || {
                        let own = if rank.rank() == Rank(0) { text } else { "no" };
                        assert_eq!(broadcast(&rank, "test", own).unwrap(), text);
                    });
                }
            });
        }
    }
}
