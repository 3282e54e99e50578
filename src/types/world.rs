//! Ranks, and how many there are.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Most ranks one communicator can have: the GPUs of one NVLink node.
pub const MAX_WORLD_SIZE: u32 = 8;

/// One process-and-GPU identity inside a communicator, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u32);

impl Rank {
    /// The rank as an index into per-rank arrays.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number of ranks in a communicator: 1 to [`MAX_WORLD_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WorldSize(u32);

impl WorldSize {
    /// Checks the range once, so that nothing below has to.
    ///
    /// Errors: [`Error::InvalidArgument`] outside 1 to 8.
    pub fn new(size: u32) -> Result<Self, Error> {
        if (1..=MAX_WORLD_SIZE).contains(&size) {
            Ok(Self(size))
        } else {
            Err(Error::invalid(format!("a world of {size} ranks: Myelon runs 1 to {MAX_WORLD_SIZE} ranks of one node")))
        }
    }

    /// The count itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Every rank of this world, in order.
    pub fn ranks(self) -> impl DoubleEndedIterator<Item = Rank> + ExactSizeIterator {
        (0..self.0).map(Rank)
    }

    /// Every rank but `me`, in order.
    pub fn peers(self, me: Rank) -> impl DoubleEndedIterator<Item = Rank> {
        self.ranks().filter(move |&rank| rank != me)
    }
}

impl TryFrom<u32> for WorldSize {
    type Error = Error;
    fn try_from(size: u32) -> Result<Self, Error> {
        Self::new(size)
    }
}

impl From<WorldSize> for u32 {
    fn from(size: WorldSize) -> u32 {
        size.0
    }
}

impl fmt::Display for WorldSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn world_size_is_one_to_eight() {
        assert!(WorldSize::new(0).is_err());
        assert!(WorldSize::new(9).is_err());
        assert_eq!(WorldSize::new(8).unwrap().peers(Rank(3)).count(), 7);
    }
}
