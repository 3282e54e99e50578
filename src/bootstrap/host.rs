//! Whether all ranks run on one host.

use super::Bootstrap;
use crate::error::{Error, Result};

/// Most bytes of a host's identity.
const MAX_IDENTITY: usize = 256;

/// Checks that every rank runs on the same host, by boot id and host name. Collective.
///
/// Errors: [`Error::NoPeerAccess`] naming the first rank elsewhere and both hosts; those of
/// [`Bootstrap::all_gather`].
pub fn check_one_host(bootstrap: &dyn Bootstrap) -> Result<()> {
    check_identities(bootstrap, &identity())
}

fn check_identities(bootstrap: &dyn Bootstrap, own: &str) -> Result<()> {
    let own = own.as_bytes();
    let all = bootstrap.all_gather("host", &own[..own.len().min(MAX_IDENTITY)])?;
    let rank = bootstrap.rank();
    let here = &all[rank.index()];
    // WHY: every rank compares with its own, so each sees an error that is about itself.
    let Some((peer, there)) = bootstrap.world_size().ranks().zip(&all).find(|(_, there)| *there != here) else {
        return Ok(());
    };
    let name = |identity: &[u8]| String::from_utf8_lossy(identity).into_owned();
    Err(Error::NoPeerAccess {
        rank,
        peer,
        detail: format!(
            "it runs on another host ({} here, {} there): Myelon runs on one node; start all ranks on one",
            name(here),
            name(there)
        ),
    })
}

/// Host name and boot id: the name alone may repeat across machines, the boot id alone across containers.
fn identity() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let names = rustix::system::uname();
    format!("{}, boot {}", names.nodename().to_string_lossy(), boot.trim())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bootstrap::LocalBootstrap;
    use crate::types::{Rank, WorldSize};

    #[test]
    fn one_host_passes_and_another_is_named_by_every_rank() {
        for (second, same) in [("a", true), ("b", false)] {
            let group = LocalBootstrap::group(WorldSize::new(2).unwrap(), Duration::from_secs(10));
            let results: Vec<_> = std::thread::scope(|scope| {
                let started: Vec<_> = group
                    .iter()
                    .zip(["a", second])
                    .map(|(bootstrap, identity)| scope.spawn(move || check_identities(bootstrap, identity)))
                    .collect();
                started.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (me, result) in results.into_iter().enumerate() {
                match result {
                    Ok(()) => assert!(same),
                    Err(Error::NoPeerAccess { rank, peer, detail }) => {
                        assert!(!same);
                        assert_eq!((rank, peer), (Rank(me as u32), Rank(1 - me as u32)));
                        assert!(detail.contains("a here, b there") || detail.contains("b here, a there"), "{detail}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn the_identity_has_both_parts() {
        let identity = identity();
        assert!(identity.len() > ", boot ".len() + 8 && identity.contains(", boot "), "{identity}");
    }
}
