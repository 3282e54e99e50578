//! What the ranks tell each other before NCCL starts: whether each can, its version, and rank 0's unique id.
//!
//! Every rank contributes, also one that cannot take part: so no rank enters NCCL and waits there for one that never comes.

use std::ffi::c_char;

use cudarc::nccl::sys::ncclUniqueId;

use super::library::{NcclVersion, Provider};
use crate::error::{Error, Result};
use crate::types::Rank;

const ID_BYTES: usize = 128;
/// Most characters of a reason: one that names every place searched is too much for an exchange.
const MAX_TEXT: usize = 1000;

/// What one rank contributes: its version, or 0 and the reason why it cannot take part; rank 0 adds the id.
pub(super) fn contribution(prepared: Result<(NcclVersion, Option<&ncclUniqueId>), &Error>) -> Vec<u8> {
    match prepared {
        Ok((version, id)) => {
            let id = id.map_or(&[][..], |id| &id.internal);
            version.code().to_le_bytes().into_iter().chain(id.iter().map(|&byte| byte as u8)).collect()
        }
        Err(error) => {
            let text: String = error.to_string().chars().take(MAX_TEXT).collect();
            [&0u32.to_le_bytes(), text.as_bytes()].concat()
        }
    }
}

/// Reads all contributions, in rank order; every rank comes to the same verdict.
///
/// Errors: [`Error::Nccl`] that names the first rank that cannot take part, [`Error::PeerMismatch`] where versions
/// differ, [`Error::Bootstrap`] where the contributions themselves are wrong.
pub(super) fn agree(provider: Provider, rank: Rank, ranks: u32, contributions: &[Vec<u8>]) -> Result<ncclUniqueId> {
    let malformed = |detail: String| Error::Bootstrap { rank, phase: "exchanging NCCL's unique id", detail };
    if contributions.len() != ranks as usize {
        return Err(malformed(format!("expected {ranks} contributions, got {}", contributions.len())));
    }
    let mut versions = Vec::new();
    for (peer, bytes) in (0..).map(Rank).zip(contributions) {
        let Some((version, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(malformed(format!("rank {peer} contributed {} bytes, expected at least 4", bytes.len())));
        };
        match u32::from_le_bytes(*version) {
            0 => {
                let detail = format!("rank {peer} cannot use {}: {}", provider.label(), String::from_utf8_lossy(rest));
                return Err(Error::Nccl { rank, call: "ncclCommInitRank", detail });
            }
            version => versions.push((peer, NcclVersion::from_code(version))),
        }
    }
    let ours = versions[rank.index()].1;
    if let Some((peer, theirs)) = versions.iter().find(|(_, theirs)| *theirs != ours) {
        return Err(Error::PeerMismatch {
            rank,
            peer: *peer,
            what: format!("{}'s version", provider.label()),
            ours: ours.to_string(),
            theirs: theirs.to_string(),
        });
    }
    let id = &contributions[0][4..];
    let id: [u8; ID_BYTES] = id
        .try_into()
        .map_err(|_| malformed(format!("rank 0 contributed an id of {} bytes, expected {ID_BYTES}", id.len())))?;
    Ok(ncclUniqueId { internal: id.map(|byte| byte as c_char) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seed: u8) -> ncclUniqueId {
        ncclUniqueId { internal: std::array::from_fn(|index| (index as u8).wrapping_mul(seed) as c_char) }
    }

    fn able(version: u32, id: Option<ncclUniqueId>) -> Vec<u8> {
        contribution(Ok((NcclVersion::from_code(version), id.as_ref())))
    }

    #[test]
    fn all_ranks_take_the_id_of_rank_0() {
        let contributions = [able(22_803, Some(id(7))), able(22_803, None), able(22_803, None)];
        for rank in 0..3 {
            assert_eq!(agree(Provider::Nccl, Rank(rank), 3, &contributions).unwrap().internal, id(7).internal);
        }
    }

    #[test]
    fn a_rank_that_cannot_stops_all_with_its_reason() {
        let unable = contribution(Err(&Error::unsupported("no library here")));
        for rank in 0..2 {
            let message = agree(Provider::Nccl, Rank(rank), 2, &[able(22_803, Some(id(1))), unable.clone()])
                .unwrap_err()
                .to_string();
            assert!(message.contains("rank 1 cannot use NCCL: no library here"), "{message}");
        }
    }

    #[test]
    fn different_versions_name_both_sides() {
        let error = agree(Provider::Nccl, Rank(1), 2, &[able(22_803, Some(id(1))), able(22_703, None)]).unwrap_err();
        assert_eq!(error.to_string(), "rank 1 and rank 0 disagree on NCCL's version: 2.27.3 here, 2.28.3 there");
    }

    #[test]
    fn malformed_contributions_are_errors() {
        let good = able(22_803, Some(id(1)));
        let cases: [(&[Vec<u8>], &str); 3] = [
            (std::slice::from_ref(&good), "expected 2 contributions, got 1"),
            (&[good.clone(), vec![1, 2]], "rank 1 contributed 2 bytes"),
            (&[able(22_803, None), able(22_803, None)], "id of 0 bytes, expected 128"),
        ];
        for (contributions, part) in cases {
            let message = agree(Provider::Nccl, Rank(0), 2, contributions).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
