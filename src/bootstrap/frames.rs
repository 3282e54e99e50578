//! Frames over a byte stream, before and after the handshake.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::handshake::{HandshakeError, Sealer, TAG_BYTES};
use super::header::{HEADER_BYTES, Header, WireError};
use super::wire::Message;

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the connection was closed")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("a message with a wrong tag")]
    Forged,
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Reads one message; with a sealer its tag is checked before its payload is looked at.
///
/// Not cancel-safe: a caller that gives up drops the connection.
pub(super) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    sealer: Option<&mut Sealer>,
) -> Result<Message, FrameError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let Header { kind, length } = Header::parse(header)?;
    let mut frame = vec![0; HEADER_BYTES + length];
    frame[..HEADER_BYTES].copy_from_slice(&header);
    stream.read_exact(&mut frame[HEADER_BYTES..]).await?;
    if let Some(sealer) = sealer {
        let mut tag = [0; TAG_BYTES];
        stream.read_exact(&mut tag).await?;
        if !sealer.check(&frame, &tag) {
            return Err(FrameError::Forged);
        }
    }
    Ok(Message::decode(kind, &frame[HEADER_BYTES..])?)
}

/// Writes one message, tagged if there is a sealer.
pub(super) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    sealer: Option<&mut Sealer>,
    message: &Message,
) -> Result<(), FrameError> {
    let mut frame = message.encode();
    if let Some(sealer) = sealer {
        let tag = sealer.tag(&frame);
        frame.extend_from_slice(&tag);
    }
    stream.write_all(&frame).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::handshake::{Claim, ClientHandshake, ServerHandshake, Session};
    use crate::types::Rank;

    fn sessions() -> (Session, Session) {
        let claim = Claim { rank: 0, world: 2, process: 1 };
        let (client, hello) = ClientHandshake::start([9; 32], [1; 32], claim);
        let (server, reply) = ServerHandshake::answer([9; 32], [2; 32], &hello).unwrap();
        let (proof, ours) = client.finish(&reply).unwrap();
        (ours, server.finish(&proof).unwrap().1)
    }

    fn run<T>(body: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(body)
    }

    #[test]
    fn sealed_messages_come_through_and_changed_ones_do_not() {
        let message = Message::Lost { rank: Rank(1), detail: "closed".into() };
        let (mut ours, mut theirs) = sessions();
        let mut bytes = Vec::new();
        run(write_message(&mut bytes, Some(&mut ours.send), &message)).unwrap();
        let read = run(read_message(&mut bytes.as_slice(), Some(&mut theirs.receive)));
        assert_eq!(read.unwrap(), message);
        for at in [HEADER_BYTES, bytes.len() - 1] {
            let (_, mut fresh) = sessions();
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = run(read_message(&mut changed.as_slice(), Some(&mut fresh.receive)));
            assert!(matches!(read, Err(FrameError::Forged)), "{read:?}");
        }
        // The very frame again: its number is over.
        let read = run(read_message(&mut bytes.as_slice(), Some(&mut theirs.receive)));
        assert!(matches!(read, Err(FrameError::Forged)), "{read:?}");
    }

    #[test]
    fn a_cut_frame_is_an_end() {
        let bytes = Message::Left { rank: Rank(1) }.encode();
        for length in 0..bytes.len() {
            let read = run(read_message(&mut &bytes[..length], None));
            assert!(matches!(read, Err(FrameError::Closed)), "{length}: {read:?}");
        }
    }
}
