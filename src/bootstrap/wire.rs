//! The messages between ranks and rendezvous server, and their bytes.
//!
//! A frame is a 12-byte header, the payload, and, after the handshake, a tag over both (see [`super::handshake`]).
//! All integers are little-endian. The length is checked against the message's own limit before anything is allocated.

use std::time::Duration;

use super::codec::{Reader, Writer};
use super::header::{HEADER_BYTES, Kind, MAGIC, MAX_DETAIL, VERSION, WireError};
use super::rounds::Failure;
use super::{MAX_CONTRIBUTION, MAX_PHASE};
use crate::types::{MAX_WORLD_SIZE, Rank};

/// 32 random bytes, used once.
pub(super) type Nonce = [u8; 32];
/// An HMAC-SHA256 value.
pub(super) type Mac = [u8; 32];

/// Everything that is ever sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Rank to server, first: who it claims to be. `process` is random per process.
    ClientHello { nonce: Nonce, rank: u32, world: u32, process: u64 },
    /// Server to rank: proof that it knows the secret.
    ServerHello { nonce: Nonce, mac: Mac },
    /// Rank to server: the same proof.
    ClientProof { mac: Mac },
    /// Server to rank: it is in. Both sides give the other up after `silence`.
    Welcome { silence: Duration },
    /// Server to rank: it is not.
    Refused { refusal: Refusal },
    /// Rank to server: its part of an all-gather, and how long it will wait.
    Contribute { deadline: Duration, phase: String, bytes: Vec<u8> },
    /// Server to rank: everyone's part.
    Gathered { parts: Vec<Vec<u8>> },
    /// Server to rank: there will be no more rounds.
    RoundFailed { failure: Failure },
    /// Both ways: still here.
    Ping,
    /// Server to rank: a rank is gone.
    Lost { rank: Rank, detail: String },
    /// Both ways: a rank gave up.
    Aborted { rank: Rank, detail: String },
    /// Both ways: a rank said goodbye.
    Left { rank: Rank },
    /// Server to rank: the rank in whose process the server runs.
    HostedBy { rank: Rank },
}

/// Why an authenticated rank may not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The world has another size.
    WorldSize { here: u32 },
    /// Somebody else is that rank, or was.
    DuplicateRank,
    /// Rank or world size out of range.
    OutOfRange,
}

impl Message {
    /// Header and payload. INVARIANT: the payload is within its limit; callers cut texts and check contributions.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let kind = match self {
            Self::ClientHello { nonce, rank, world, process } => {
                out.raw(nonce).u32(*rank).u32(*world).raw(&process.to_le_bytes());
                Kind::ClientHello
            }
            Self::ServerHello { nonce, mac } => {
                out.raw(nonce).raw(mac);
                Kind::ServerHello
            }
            Self::ClientProof { mac } => {
                out.raw(mac);
                Kind::ClientProof
            }
            Self::Welcome { silence } => {
                out.millis(*silence);
                Kind::Welcome
            }
            Self::Refused { refusal } => {
                match refusal {
                    Refusal::WorldSize { here } => out.raw(&[0]).u32(*here),
                    Refusal::DuplicateRank => out.raw(&[1]),
                    Refusal::OutOfRange => out.raw(&[2]),
                };
                Kind::Refused
            }
            Self::Contribute { deadline, phase, bytes } => {
                out.millis(*deadline).block(phase.as_bytes()).block(bytes);
                Kind::Contribute
            }
            Self::Gathered { parts } => {
                out.u32(parts.len() as u32);
                for part in parts {
                    out.block(part);
                }
                Kind::Gathered
            }
            Self::RoundFailed { failure } => {
                match failure {
                    Failure::Missing { phase, missing, waiter, waited } => {
                        let mask = missing.iter().fold(0, |mask, rank| mask | 1 << rank.0);
                        out.raw(&[0]).u32(mask).u32(waiter.0).millis(*waited).block(phase.as_bytes());
                    }
                    Failure::Mismatch { first, second } => {
                        out.raw(&[1]);
                        for (rank, phase) in [first, second] {
                            out.u32(rank.0).block(phase.as_bytes());
                        }
                    }
                }
                Kind::RoundFailed
            }
            Self::Ping => Kind::Ping,
            Self::Lost { rank, detail } => {
                out.u32(rank.0).block(detail.as_bytes());
                Kind::Lost
            }
            Self::Aborted { rank, detail } => {
                out.u32(rank.0).block(detail.as_bytes());
                Kind::Aborted
            }
            Self::Left { rank } => {
                out.u32(rank.0);
                Kind::Left
            }
            Self::HostedBy { rank } => {
                out.u32(rank.0);
                Kind::HostedBy
            }
        };
        debug_assert!(out.0.len() <= kind.limit(), "{kind:?} of {} bytes", out.0.len());
        let mut frame = Vec::with_capacity(HEADER_BYTES + out.0.len());
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&VERSION.to_le_bytes());
        frame.extend_from_slice(&kind.code().to_le_bytes());
        frame.extend_from_slice(&(out.0.len() as u32).to_le_bytes());
        frame.extend_from_slice(&out.0);
        frame
    }

    /// The message of type `kind` with this payload; every byte must be used.
    pub(super) fn decode(kind: Kind, payload: &[u8]) -> Result<Self, WireError> {
        let mut input = Reader { kind, rest: payload };
        let message = match kind {
            Kind::ClientHello => Self::ClientHello {
                nonce: input.array()?,
                rank: input.u32()?,
                world: input.u32()?,
                process: u64::from_le_bytes(input.array()?),
            },
            Kind::ServerHello => Self::ServerHello { nonce: input.array()?, mac: input.array()? },
            Kind::ClientProof => Self::ClientProof { mac: input.array()? },
            Kind::Welcome => Self::Welcome { silence: input.millis()? },
            Kind::Refused => {
                let refusal = match input.array()? {
                    [0] => Refusal::WorldSize { here: input.u32()? },
                    [1] => Refusal::DuplicateRank,
                    [2] => Refusal::OutOfRange,
                    _ => return Err(input.wrong("unknown reason")),
                };
                Self::Refused { refusal }
            }
            Kind::Contribute => Self::Contribute {
                deadline: input.millis()?,
                phase: input.text(MAX_PHASE)?,
                bytes: input.block(MAX_CONTRIBUTION)?.to_vec(),
            },
            Kind::Gathered => {
                let count = input.u32()?;
                if count > MAX_WORLD_SIZE {
                    return Err(input.wrong("more parts than ranks"));
                }
                let parts = (0..count).map(|_| input.block(MAX_CONTRIBUTION).map(<[u8]>::to_vec));
                Self::Gathered { parts: parts.collect::<Result<_, _>>()? }
            }
            Kind::RoundFailed => Self::RoundFailed { failure: read_failure(&mut input)? },
            Kind::Ping => Self::Ping,
            Kind::Lost => Self::Lost { rank: input.rank()?, detail: input.text(MAX_DETAIL)? },
            Kind::Aborted => Self::Aborted { rank: input.rank()?, detail: input.text(MAX_DETAIL)? },
            Kind::Left => Self::Left { rank: input.rank()? },
            Kind::HostedBy => Self::HostedBy { rank: input.rank()? },
        };
        if input.rest.is_empty() { Ok(message) } else { Err(input.wrong("bytes left over")) }
    }
}

fn read_failure(input: &mut Reader<'_>) -> Result<Failure, WireError> {
    match input.array()? {
        [0] => {
            let (mask, waiter, waited) = (input.u32()?, input.rank()?, input.millis()?);
            let missing = (0..MAX_WORLD_SIZE).filter(|rank| mask & 1 << rank != 0).map(Rank).collect();
            if mask >> MAX_WORLD_SIZE != 0 {
                return Err(input.wrong("rank out of range"));
            }
            Ok(Failure::Missing { missing, waiter, waited, phase: input.text(MAX_PHASE)? })
        }
        [1] => {
            let first = (input.rank()?, input.text(MAX_PHASE)?);
            let second = (input.rank()?, input.text(MAX_PHASE)?);
            Ok(Failure::Mismatch { first, second })
        }
        _ => Err(input.wrong("unknown failure")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::header::{Header, MAX_RANKS};
    use proptest::prelude::*;

    fn rank() -> impl Strategy<Value = Rank> {
        (0..MAX_WORLD_SIZE).prop_map(Rank)
    }

    fn millis() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|millis| Duration::from_millis(millis.into()))
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..64), Just(vec![7; MAX_CONTRIBUTION])]
    }

    fn message() -> impl Strategy<Value = Message> {
        let phase = || "[a-z ]{1,64}";
        let detail = || "[ -~]{0,512}";
        prop_oneof![
            (any::<Nonce>(), any::<u32>(), any::<u32>(), any::<u64>())
                .prop_map(|(nonce, rank, world, process)| Message::ClientHello { nonce, rank, world, process }),
            (any::<Nonce>(), any::<Mac>()).prop_map(|(nonce, mac)| Message::ServerHello { nonce, mac }),
            any::<Mac>().prop_map(|mac| Message::ClientProof { mac }),
            millis().prop_map(|silence| Message::Welcome { silence }),
            prop_oneof![
                any::<u32>().prop_map(|here| Refusal::WorldSize { here }),
                Just(Refusal::DuplicateRank),
                Just(Refusal::OutOfRange)
            ]
            .prop_map(|refusal| Message::Refused { refusal }),
            (millis(), phase(), bytes()).prop_map(|(deadline, phase, bytes)| Message::Contribute {
                deadline,
                phase,
                bytes
            }),
            proptest::collection::vec(bytes(), 0..=MAX_RANKS).prop_map(|parts| Message::Gathered { parts }),
            (phase(), proptest::collection::btree_set(rank(), 0..8), rank(), millis()).prop_map(
                |(phase, missing, waiter, waited)| Message::RoundFailed {
                    failure: Failure::Missing { phase, missing: missing.into_iter().collect(), waiter, waited }
                }
            ),
            ((rank(), phase()), (rank(), phase()))
                .prop_map(|(first, second)| Message::RoundFailed { failure: Failure::Mismatch { first, second } }),
            Just(Message::Ping),
            (rank(), detail()).prop_map(|(rank, detail)| Message::Lost { rank, detail }),
            (rank(), detail()).prop_map(|(rank, detail)| Message::Aborted { rank, detail }),
            rank().prop_map(|rank| Message::Left { rank }),
            rank().prop_map(|rank| Message::HostedBy { rank }),
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip(message in message()) {
            let frame = message.encode();
            let (header, payload) = frame.split_first_chunk().unwrap();
            let header = Header::parse(*header).unwrap();
            prop_assert_eq!(header.length, payload.len());
            prop_assert_eq!(Message::decode(header.kind, payload).unwrap(), message);
        }

        #[test]
        fn a_cut_or_longer_payload_is_refused(message in message(), extra in any::<u8>()) {
            let frame = message.encode();
            let (header, payload) = frame.split_first_chunk().unwrap();
            let kind = Header::parse(*header).unwrap().kind;
            let mut longer = payload.to_vec();
            longer.push(extra);
            prop_assert!(Message::decode(kind, &longer).is_err());
            if let Some((_, shorter)) = payload.split_last() {
                prop_assert!(Message::decode(kind, shorter).is_err());
            }
        }

        #[test]
        fn arbitrary_headers_never_allow_a_large_allocation(mut bytes in any::<[u8; HEADER_BYTES]>(), repair in any::<bool>()) {
            if repair {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
                bytes[6] %= 16;
                bytes[7] = 0;
            }
            if let Ok(header) = Header::parse(bytes) {
                prop_assert!(header.length <= 1 << 20);
            }
        }

        #[test]
        fn arbitrary_payloads_never_panic(code in 0..16_u16, payload in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Some(kind) = Kind::from_code(code)
                && let Ok(message) = Message::decode(kind, &payload)
            {
                prop_assert_eq!(&message.encode()[HEADER_BYTES..], &payload);
            }
        }
    }

    #[test]
    fn a_browser_and_another_version_are_told_apart() {
        assert_eq!(Header::parse(*b"GET / HTTP/1"), Err(WireError::Magic(*b"GET ")));
        let mut frame = Message::Ping.encode();
        frame[4] = 9;
        assert_eq!(Header::parse(frame.try_into().unwrap()), Err(WireError::Version { theirs: 9 }));
    }
}
