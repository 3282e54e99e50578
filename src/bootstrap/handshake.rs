//! Mutual challenge and response, and the tags of every message after it. Pure: nonces come from the caller.
//!
//! ```text
//! rank                                       server
//!   ClientHello: nonce c, rank, world, process  ->
//!   <- ServerHello: nonce s, HMAC(secret, "server" c s rank world process)
//!   ClientProof: HMAC(secret, "client" c s rank world process)  ->
//!   <- Welcome or Refused, tagged
//! ```
//!
//! Each side proves that it knows the secret for this very pair of nonces, so a recorded handshake is worth nothing.
//! Both derive one key per direction; each later frame carries a tag over its number, header and payload, so frames
//! cannot be forged, changed, repeated or swapped. Nothing is encrypted.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::header::VERSION;
use super::wire::{Mac, Message, Nonce};

/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// 32 bytes that only the members of one group know.
pub(super) type Secret = [u8; 32];

/// The other side is not one of us.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("it does not know this group's secret")]
    WrongSecret,
    #[error("a {0} came out of turn")]
    OutOfTurn(&'static str),
}

/// Who is talking, bound into every proof and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) rank: u32,
    pub(super) world: u32,
    /// Random per process: tells the server which rank shares its process.
    pub(super) process: u64,
}

/// A rank that has said hello.
pub(super) struct ClientHandshake {
    secret: Secret,
    nonce: Nonce,
    claim: Claim,
}

impl ClientHandshake {
    /// The state to keep and the message to send.
    pub(super) fn start(secret: Secret, nonce: Nonce, claim: Claim) -> (Self, Message) {
        let Claim { rank, world, process } = claim;
        (Self { secret, nonce, claim }, Message::ClientHello { nonce, rank, world, process })
    }

    /// Checks the server's proof; gives the own proof to send and the session's keys.
    pub(super) fn finish(self, reply: &Message) -> Result<(Message, Session), HandshakeError> {
        let Message::ServerHello { nonce, mac } = reply else {
            return Err(HandshakeError::OutOfTurn("message other than a server hello"));
        };
        let transcript = Transcript { secret: self.secret, client: self.nonce, server: *nonce, claim: self.claim };
        transcript.check(b"server", mac)?;
        let session = Session { send: transcript.sealer(b"from client"), receive: transcript.sealer(b"from server") };
        Ok((Message::ClientProof { mac: transcript.mac(b"client") }, session))
    }
}

/// A server that has answered a hello.
pub(super) struct ServerHandshake {
    transcript: Transcript,
}

impl ServerHandshake {
    /// The state to keep and the message to send in answer to a hello.
    pub(super) fn answer(secret: Secret, nonce: Nonce, hello: &Message) -> Result<(Self, Message), HandshakeError> {
        let &Message::ClientHello { nonce: client, rank, world, process } = hello else {
            return Err(HandshakeError::OutOfTurn("message other than a client hello"));
        };
        let transcript = Transcript { secret, client, server: nonce, claim: Claim { rank, world, process } };
        let mac = transcript.mac(b"server");
        Ok((Self { transcript }, Message::ServerHello { nonce, mac }))
    }

    /// Checks the rank's proof; gives who it is and the session's keys.
    pub(super) fn finish(self, proof: &Message) -> Result<(Claim, Session), HandshakeError> {
        let Message::ClientProof { mac } = proof else {
            return Err(HandshakeError::OutOfTurn("message other than a proof"));
        };
        let transcript = self.transcript;
        transcript.check(b"client", mac)?;
        let session = Session { send: transcript.sealer(b"from server"), receive: transcript.sealer(b"from client") };
        Ok((transcript.claim, session))
    }
}

/// Keys of one authenticated connection, as one side holds them.
pub(super) struct Session {
    pub(super) send: Sealer,
    pub(super) receive: Sealer,
}

/// Tags the frames of one direction, in order.
pub(super) struct Sealer {
    key: Mac,
    /// Frames tagged or checked so far.
    count: u64,
}

impl Sealer {
    /// The tag of the next frame.
    pub(super) fn tag(&mut self, frame: &[u8]) -> [u8; TAG_BYTES] {
        let mut hmac = keyed(&self.key);
        hmac.update(&self.count.to_le_bytes());
        hmac.update(frame);
        self.count += 1;
        let full: Mac = hmac.finalize().into_bytes().into();
        *full.first_chunk().expect("an HMAC is longer than a tag")
    }

    /// Whether `tag` is the tag of the next frame.
    pub(super) fn check(&mut self, frame: &[u8], tag: &[u8; TAG_BYTES]) -> bool {
        self.tag(frame).ct_eq(tag).into()
    }
}

struct Transcript {
    secret: Secret,
    client: Nonce,
    server: Nonce,
    claim: Claim,
}

impl Transcript {
    /// INVARIANT: every field has a fixed width and the label is hashed first, so no two transcripts collide.
    fn mac(&self, label: &[u8]) -> Mac {
        let mut hmac = keyed(&self.secret);
        hmac.update(&[label.len() as u8]);
        hmac.update(label);
        hmac.update(&VERSION.to_le_bytes());
        hmac.update(&self.client);
        hmac.update(&self.server);
        hmac.update(&self.claim.rank.to_le_bytes());
        hmac.update(&self.claim.world.to_le_bytes());
        hmac.update(&self.claim.process.to_le_bytes());
        hmac.finalize().into_bytes().into()
    }

    fn check(&self, label: &[u8], mac: &Mac) -> Result<(), HandshakeError> {
        if self.mac(label).ct_eq(mac).into() { Ok(()) } else { Err(HandshakeError::WrongSecret) }
    }

    fn sealer(&self, direction: &[u8]) -> Sealer {
        Sealer { key: self.mac(direction), count: 0 }
    }
}

/// HMAC-SHA256 with this key.
pub(super) fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim = Claim { rank: 3, world: 8, process: 77 };

    fn meet(client_secret: Secret, server_secret: Secret) -> Result<(Claim, Session, Session), HandshakeError> {
        let (client, hello) = ClientHandshake::start(client_secret, [1; 32], CLAIM);
        let (server, reply) = ServerHandshake::answer(server_secret, [2; 32], &hello)?;
        let (proof, ours) = client.finish(&reply)?;
        let (claim, theirs) = server.finish(&proof)?;
        Ok((claim, ours, theirs))
    }

    #[test]
    fn equal_secrets_meet_and_frames_check_in_order() {
        let (claim, mut client, mut server) = meet([9; 32], [9; 32]).unwrap();
        assert_eq!(claim, CLAIM);
        let (first, second) = (client.send.tag(b"one"), client.send.tag(b"two"));
        assert!(server.receive.check(b"one", &first));
        assert!(!server.receive.check(b"one", &first), "a repeated frame");
        let reply = server.send.tag(b"two");
        assert_ne!(reply, second, "directions have keys of their own");
        assert!(!client.receive.check(b"twO", &reply), "a changed frame");
    }

    #[test]
    fn another_secret_fails_on_both_sides() {
        assert_eq!(meet([9; 32], [8; 32]).err(), Some(HandshakeError::WrongSecret));
        let (_, hello) = ClientHandshake::start([8; 32], [1; 32], CLAIM);
        let (server, _) = ServerHandshake::answer([9; 32], [2; 32], &hello).unwrap();
        let forged = Message::ClientProof { mac: [0; 32] };
        assert_eq!(server.finish(&forged).err(), Some(HandshakeError::WrongSecret));
    }

    #[test]
    fn a_replayed_proof_fails_against_a_new_nonce() {
        let (client, hello) = ClientHandshake::start([9; 32], [1; 32], CLAIM);
        let (_, reply) = ServerHandshake::answer([9; 32], [2; 32], &hello).unwrap();
        let (proof, _) = client.finish(&reply).unwrap();
        let (fresh, _) = ServerHandshake::answer([9; 32], [3; 32], &hello).unwrap();
        assert_eq!(fresh.finish(&proof).err(), Some(HandshakeError::WrongSecret));
    }

    #[test]
    fn a_proof_holds_for_one_rank_only() {
        let (client, hello) = ClientHandshake::start([9; 32], [1; 32], CLAIM);
        let Message::ClientHello { nonce, world, process, .. } = hello else { panic!("no hello") };
        let other = Message::ClientHello { nonce, rank: 4, world, process };
        let (_, reply) = ServerHandshake::answer([9; 32], [2; 32], &other).unwrap();
        assert_eq!(client.finish(&reply).err(), Some(HandshakeError::WrongSecret));
    }

    #[test]
    fn messages_out_of_turn_are_named() {
        assert!(matches!(ServerHandshake::answer([9; 32], [2; 32], &Message::Ping), Err(HandshakeError::OutOfTurn(_))));
    }
}
