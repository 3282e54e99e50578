//! What a rank tells the others before descriptors are exchanged: where it listens, or why it cannot.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::Token;

/// What a rank tells the others before an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Open { offers: bool, token: Token, path: PathBuf },
    Failed(String),
}

impl Notice {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Open { offers, token, path } => {
                [&[u8::from(*offers)], token.as_slice(), path.as_os_str().as_bytes()].concat()
            }
            Self::Failed(detail) => [&[2], detail.as_bytes()].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (2, detail) => Some(Self::Failed(String::from_utf8_lossy(detail).into_owned())),
            (&offers @ (0 | 1), rest) => {
                let (token, path) = rest.split_first_chunk()?;
                let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
                Some(Self::Open { offers: offers == 1, token: *token, path })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_round_trip() {
        for notice in [
            Notice::Open { offers: true, token: [7; 32], path: "/tmp/x/fds".into() },
            Notice::Open { offers: false, token: [0; 32], path: "".into() },
            Notice::Failed("no space".into()),
        ] {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[]), None);
        assert_eq!(Notice::decode(&[1, 2, 3]), None);
        assert_eq!(Notice::decode(&[9; 40]), None);
    }
}
