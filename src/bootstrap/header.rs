//! The header of a frame: what kind of message follows, how long it is, and what can be wrong with it.
//!
//! ```text
//! 0      4        6     8         12
//! | MYLN | version | type | length | payload ...
//! ```

use super::{MAX_CONTRIBUTION, MAX_PHASE};
use crate::types::MAX_WORLD_SIZE;

/// Version of all messages and of the handshake.
pub(super) const VERSION: u16 = 1;
/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 12;
/// Most bytes of a text that explains something.
pub(super) const MAX_DETAIL: usize = 512;

pub(super) const MAGIC: [u8; 4] = *b"MYLN";
pub(super) const MAX_RANKS: usize = MAX_WORLD_SIZE as usize;

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("not a myelon peer: the first bytes are {0:02x?}")]
    Magic([u8; 4]),
    #[error("protocol version {theirs} there, {VERSION} here: run the same release everywhere")]
    Version { theirs: u16 },
    #[error("unknown message type {0}")]
    Type(u16),
    #[error("a {kind:?} of {length} bytes: the limit is {limit}")]
    Length { kind: Kind, length: u32, limit: u32 },
    #[error("malformed {kind:?}: {what}")]
    Malformed { kind: Kind, what: &'static str },
}

macro_rules! kinds {
    ($($kind:ident = $code:literal limit $limit:expr;)+) => {
        /// Type of a message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind { $($kind),+ }

        impl Kind {
            pub(super) fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$kind),)+ _ => None }
            }

            pub(super) fn code(self) -> u16 {
                match self { $(Self::$kind => $code),+ }
            }

            /// Most payload bytes of this type.
            pub(super) const fn limit(self) -> usize {
                match self { $(Self::$kind => $limit),+ }
            }
        }
    };
}

kinds! {
    ClientHello = 1 limit 32 + 4 + 4 + 8;
    ServerHello = 2 limit 64;
    ClientProof = 3 limit 32;
    Welcome = 4 limit 4;
    Refused = 5 limit 5;
    Contribute = 6 limit 4 + 4 + MAX_PHASE + 4 + MAX_CONTRIBUTION;
    Gathered = 7 limit 4 + MAX_RANKS * (4 + MAX_CONTRIBUTION);
    RoundFailed = 8 limit 1 + 3 * 4 + 2 * (4 + MAX_PHASE);
    Ping = 9 limit 0;
    Lost = 10 limit 4 + 4 + MAX_DETAIL;
    Aborted = 11 limit 4 + 4 + MAX_DETAIL;
    Left = 12 limit 4;
    HostedBy = 13 limit 4;
}

/// A checked header: the type is known and the length within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) length: usize,
}

impl Header {
    /// Checks everything a header can be wrong in.
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, v0, v1, t0, t1, length @ ..] = bytes;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(WireError::Magic(magic));
        }
        let theirs = u16::from_le_bytes([v0, v1]);
        if theirs != VERSION {
            return Err(WireError::Version { theirs });
        }
        let code = u16::from_le_bytes([t0, t1]);
        let kind = Kind::from_code(code).ok_or(WireError::Type(code))?;
        let length = u32::from_le_bytes(length);
        if length as usize > kind.limit() {
            return Err(WireError::Length { kind, length, limit: kind.limit() as u32 });
        }
        Ok(Self { kind, length: length as usize })
    }
}
