//! Children of a communicator: who is in which, and bringing this rank's own up.

use std::sync::Arc;

use super::{Communicator, Options};
use crate::error::{Error, Result};
use crate::types::Rank;

impl Communicator {
    /// A communicator of the ranks that give the same `color`, beside this one, on the same device; `None` for a rank without a
    /// color. Collective: every rank of this communicator calls it, those without a color included.
    ///
    /// Shape: any colors and keys. The ranks of a color are ordered by key, and by their rank here where keys are equal.
    ///
    /// Ordering: not on any stream. The child has a heap, kernels and a sequence of operations of its own, and lives on when this
    /// communicator is dropped. Operations of the two have no order but that of their streams; on all ranks that they share, they
    /// are issued in the same order. On streams of their own the kernels of both need room on the GPU at the same time; on one
    /// stream they never do. While several communicators of a process use a device, no launch comes up early: split before
    /// capturing graphs.
    ///
    /// Errors: those of operations before; [`Error::Bootstrap`] naming the ranks that did not come; those of
    /// [`Communicator::connect`], on the ranks of the child that failed, while other children come up. `options` are those of the
    /// child, equal on its ranks.
    pub fn split(&self, color: Option<u32>, key: u32, options: Options) -> Result<Option<Self>> {
        self.status()?;
        let rank = self.rank();
        let bids = self.bootstrap.all_gather("choosing colors", &Bid { color, key }.encode())?;
        let bid = |(peer, bytes): (Rank, &Vec<u8>)| {
            Bid::decode(bytes).ok_or_else(|| Error::PeerMismatch {
                rank,
                peer,
                what: "the version of this library".into(),
                ours: env!("CARGO_PKG_VERSION").into(),
                theirs: "one that says colors in another way".into(),
            })
        };
        let bids: Vec<_> = self.world_size().ranks().zip(&bids).map(bid).collect::<Result<_>>()?;
        let members = color.map(|color| members(&bids, color));
        let Some(bootstrap) = self.bootstrap.split(members.as_deref())? else { return Ok(None) };
        Self::connect(Arc::clone(&self.device), bootstrap, options).map(Some)
    }
}

/// What a rank says when it splits off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bid {
    color: Option<u32>,
    key: u32,
}

impl Bid {
    /// Shape: the key, then the color if there is one, little-endian.
    fn encode(self) -> Vec<u8> {
        let words = std::iter::once(self.key).chain(self.color);
        words.flat_map(u32::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (key, color) = bytes.split_first_chunk()?;
        let color = if color.is_empty() { None } else { Some(u32::from_le_bytes(color.try_into().ok()?)) };
        Some(Self { color, key: u32::from_le_bytes(*key) })
    }
}

/// The ranks of a color, in the order of their ranks in the child.
fn members(bids: &[Bid], color: u32) -> Vec<Rank> {
    let ranks = (0..).map(Rank).zip(bids);
    let mut members: Vec<_> =
        ranks.filter(|(_, bid)| bid.color == Some(color)).map(|(rank, bid)| (bid.key, rank)).collect();
    members.sort_unstable();
    members.into_iter().map(|(_, rank)| rank).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bids() -> impl Strategy<Value = Vec<Bid>> {
        // Few values, so that colors and keys meet; and the ends of their range.
        let number = || prop_oneof![0..3_u32, Just(u32::MAX)];
        let bid = (prop::option::weighted(0.8, number()), number()).prop_map(|(color, key)| Bid { color, key });
        prop::collection::vec(bid, 1..=8)
    }

    proptest! {
        #[test]
        fn every_rank_with_a_color_is_in_one_child_and_in_order(bids in bids()) {
            let mut colors: Vec<_> = bids.iter().filter_map(|bid| bid.color).collect();
            colors.sort_unstable();
            colors.dedup();
            let mut seen = vec![0; bids.len()];
            for color in colors {
                let members = members(&bids, color);
                prop_assert!(!members.is_empty());
                for &member in &members {
                    prop_assert_eq!(bids[member.index()].color, Some(color));
                    seen[member.index()] += 1;
                }
                for pair in members.windows(2) {
                    let [first, second] = [pair[0], pair[1]].map(|rank| (bids[rank.index()].key, rank));
                    prop_assert!(first < second);
                }
            }
            for (bid, seen) in bids.iter().zip(seen) {
                prop_assert_eq!(seen, u32::from(bid.color.is_some()));
            }
        }

        #[test]
        fn bids_round_trip_and_other_bytes_are_none(bids in bids(), bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            for bid in bids {
                prop_assert_eq!(Bid::decode(&bid.encode()), Some(bid));
            }
            prop_assert_eq!(Bid::decode(&bytes).is_some(), matches!(bytes.len(), 4 | 8));
        }
    }
}
