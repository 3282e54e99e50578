//! The name of a group that does not exist yet: where to meet, and a secret to know each other by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hmac::Mac as _;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::handshake::{Secret, keyed};
use super::header::VERSION;
use crate::error::{Error, Result};

/// Bytes of a [`UniqueId`].
pub const UNIQUE_ID_BYTES: usize = 128;

const MAGIC: [u8; 4] = *b"MYID";
const CHECK_AT: usize = UNIQUE_ID_BYTES - 4;

/// Address of a rendezvous and the secret of its group: 128 bytes to pass from one rank to the others.
///
/// Whoever has these bytes can join the group: pass them over a channel that only its members read (MPI, a file with
/// mode 0600). `Debug` hides the secret; [`UniqueId::to_text`] does not.
///
/// Shape, little-endian: magic `MYID`, version u16, family u16 (4 or 6), address (16 bytes, an IPv4 address in the
/// first 4), port u16, zero u16, IPv6 scope u32, secret (32 bytes), zeros, and the first 4 bytes of the SHA-256 of all
/// before, so that a cut or mistyped id is noticed.
#[derive(Clone, Copy)]
pub struct UniqueId {
    address: SocketAddr,
    secret: Secret,
}

impl UniqueId {
    /// An id with a new secret from the operating system, for a rendezvous at `address`.
    ///
    /// Errors: [`Error::Io`] when the system has no randomness.
    pub(super) fn random(address: SocketAddr) -> Result<Self> {
        Ok(Self { address, secret: random_bytes()? })
    }

    /// The id that everyone who knows `address` and `shared` computes alike.
    ///
    /// The protection is that of `shared`. A real secret keeps everyone else out. A launcher's job identity keeps out
    /// other jobs, port scanners and strays; it does not keep out a local user who looks it up and means harm.
    pub fn derive(address: SocketAddr, shared: &[u8]) -> Self {
        let key: [u8; 32] = Sha256::digest(shared).into();
        let mut hmac = keyed(&key);
        hmac.update(b"myelon unique id 1");
        hmac.update(address.to_string().as_bytes());
        Self { address, secret: hmac.finalize().into_bytes().into() }
    }

    /// Where the rendezvous server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The bytes to pass on.
    pub fn to_bytes(&self) -> [u8; UNIQUE_ID_BYTES] {
        let mut bytes = [0; UNIQUE_ID_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        match self.address {
            SocketAddr::V4(v4) => {
                bytes[6] = 4;
                bytes[8..12].copy_from_slice(&v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                bytes[6] = 6;
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[28..32].copy_from_slice(&v6.scope_id().to_le_bytes());
            }
        }
        bytes[24..26].copy_from_slice(&self.address.port().to_le_bytes());
        bytes[32..64].copy_from_slice(&self.secret);
        let check = Sha256::digest(&bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check[..4]);
        bytes
    }

    /// The id in these bytes.
    ///
    /// Errors: [`Error::InvalidArgument`] when they are not an id of this version, whole and unchanged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::invalid(format!("not a unique id: {what}"));
        let bytes: &[u8; UNIQUE_ID_BYTES] =
            bytes.try_into().map_err(|_| bad(&format!("{} bytes instead of {UNIQUE_ID_BYTES}", bytes.len())))?;
        if bytes[..4] != MAGIC {
            return Err(bad("it does not start with MYID; pass on the bytes of UniqueId::to_bytes"));
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(bad(&format!("version {version} there, {VERSION} here: run the same release everywhere")));
        }
        if bytes[CHECK_AT..] != Sha256::digest(&bytes[..CHECK_AT])[..4] {
            return Err(bad("its checksum is wrong, so it was cut or changed on the way"));
        }
        let port = u16::from_le_bytes([bytes[24], bytes[25]]);
        let address = match bytes[6..8] {
            [4, 0] => SocketAddr::from((IpAddr::V4(Ipv4Addr::from(fixed::<4>(&bytes[8..]))), port)),
            [6, 0] => {
                let scope = u32::from_le_bytes(fixed(&bytes[28..]));
                std::net::SocketAddrV6::new(Ipv6Addr::from(fixed::<16>(&bytes[8..])), port, 0, scope).into()
            }
            _ => return Err(bad("unknown address family")),
        };
        Ok(Self { address, secret: fixed(&bytes[32..]) })
    }

    /// The id as 256 hexadecimal digits, secret included; [`str::parse`] reads it.
    pub fn to_text(&self) -> String {
        hex(&self.to_bytes())
    }
}

impl FromStr for UniqueId {
    type Err = Error;

    /// Reads [`UniqueId::to_text`]; surrounding white space is ignored.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim().as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pairs = text.chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        if text.len() != 2 * UNIQUE_ID_BYTES {
            return Err(Error::invalid(format!(
                "not a unique id: {} characters instead of {}",
                text.len(),
                2 * UNIQUE_ID_BYTES
            )));
        }
        let bytes: Option<Vec<u8>> = pairs.collect();
        Self::from_bytes(&bytes.ok_or_else(|| Error::invalid("not a unique id: not all hexadecimal digits"))?)
    }
}

impl PartialEq for UniqueId {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address && bool::from(self.secret.ct_eq(&other.secret))
    }
}

impl Eq for UniqueId {}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UniqueId").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Random bytes from the operating system.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::io("reading randomness of the system", std::io::Error::other(error.to_string())))?;
    Ok(bytes)
}

/// `bytes` in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// INVARIANT: called with at least `N` bytes left in a whole id.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("an id has all its fields")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(address: &str) -> UniqueId {
        UniqueId::random(address.parse().unwrap()).unwrap()
    }

    #[test]
    fn bytes_and_text_round_trip() {
        for address in ["127.0.0.1:4242", "[::1]:1", "[fe80::1%3]:65535"] {
            let id = id(address);
            assert_eq!(UniqueId::from_bytes(&id.to_bytes()).unwrap(), id);
            assert_eq!(format!(" {}\n", id.to_text()).parse::<UniqueId>().unwrap(), id);
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        let id = id("127.0.0.1:4242");
        let shown = format!("{id:?} {id:#?}");
        assert!(shown.contains("4242") && !shown.contains("secret") && shown.len() < 120, "{shown}");
    }

    #[test]
    fn derived_ids_agree_and_differ_where_they_should() {
        let address: SocketAddr = "127.0.0.1:4242".parse().unwrap();
        let elsewhere: SocketAddr = "127.0.0.1:4243".parse().unwrap();
        let derived = UniqueId::derive(address, b"job 1");
        assert_eq!(derived, UniqueId::derive(address, b"job 1"));
        assert_ne!(derived, UniqueId::derive(address, b"job 2"));
        assert_ne!(derived.secret(), UniqueId::derive(elsewhere, b"job 1").secret());
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_noticed(at in 0..UNIQUE_ID_BYTES, change in 1..=255_u8) {
            let mut bytes = id("127.0.0.1:4242").to_bytes();
            bytes[at] ^= change;
            prop_assert!(UniqueId::from_bytes(&bytes).is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}") {
            prop_assert!(text.parse::<UniqueId>().is_err());
        }
    }
}
