//! Little-endian fields of a payload.

use std::time::Duration;

use super::header::{Kind, WireError};
use crate::types::{MAX_WORLD_SIZE, Rank};

/// A payload being written.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A duration in whole milliseconds, cut to 49 days.
    pub(super) fn millis(&mut self, duration: Duration) -> &mut Self {
        self.u32(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
    }

    /// A length and that many bytes.
    pub(super) fn block(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }
}

/// A payload being read; everything it takes is checked against what is left.
pub(super) struct Reader<'a> {
    pub(super) kind: Kind,
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn wrong(&self, what: &'static str) -> WireError {
        WireError::Malformed { kind: self.kind, what }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (&array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.wrong("too short"))?;
        self.rest = rest;
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn millis(&mut self) -> Result<Duration, WireError> {
        self.u32().map(|millis| Duration::from_millis(millis.into()))
    }

    pub(super) fn rank(&mut self) -> Result<Rank, WireError> {
        let rank = self.u32()?;
        if rank < MAX_WORLD_SIZE { Ok(Rank(rank)) } else { Err(self.wrong("rank out of range")) }
    }

    /// A length of at most `limit` and that many bytes.
    pub(super) fn block(&mut self, limit: usize) -> Result<&'a [u8], WireError> {
        let length = self.u32()? as usize;
        if length > limit {
            return Err(self.wrong("a part over its limit"));
        }
        let (block, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.wrong("too short"))?;
        self.rest = rest;
        Ok(block)
    }

    /// A block that is UTF-8.
    pub(super) fn text(&mut self, limit: usize) -> Result<String, WireError> {
        let bytes = self.block(limit)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.wrong("text that is not UTF-8"))
    }
}
