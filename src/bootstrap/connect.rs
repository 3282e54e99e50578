//! Finding the rendezvous server and getting past its handshake, as often as the deadline allows.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::UniqueId;
use super::frames::{FrameError, read_message, write_message};
use super::handshake::{Claim, ClientHandshake, HandshakeError, Session};
use super::header::WireError;
use super::process::process_token;
use super::server::HANDSHAKE_DEADLINE;
use super::unique_id::random_bytes;
use super::wire::{Message, Refusal};
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// Covers an own earlier attempt that the server has not seen end.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Where to meet.
pub(super) struct Meeting {
    /// Asked before every attempt; `None`: not known yet.
    pub(super) locate: Box<dyn FnMut() -> Result<Option<UniqueId>> + Send>,
    /// How long a refusal that a server of an earlier group may have caused is worth trying again.
    pub(super) patience: Duration,
}

impl Meeting {
    /// At an id that was passed on, so that its server runs already.
    pub(super) fn at(id: UniqueId) -> Self {
        Self { locate: Box::new(move || Ok(Some(id))), patience: PATIENCE }
    }
}

/// An authenticated connection that the server has admitted.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) session: Session,
    /// Both sides give the other up after this.
    pub(super) silence: Duration,
}

/// Why one attempt failed.
enum Attempt {
    /// Nobody there, or somebody else: try until the deadline.
    Again(String),
    /// Probably final: try for [`Meeting::patience`].
    Doubtful(String),
    /// Final.
    Never(Error),
}

/// Connects before `deadline`.
pub(super) async fn connect(
    mut meeting: Meeting,
    rank: Rank,
    world: WorldSize,
    deadline: Duration,
) -> Result<Connection> {
    let entered = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut doubtful_since: Option<(Instant, UniqueId)> = None;
    loop {
        let remaining = deadline.saturating_sub(entered.elapsed());
        let last = match (meeting.locate)()? {
            None => "the rendezvous is not announced yet: check that rank 0 runs".to_owned(),
            Some(id) => {
                let limit = HANDSHAKE_DEADLINE.min(remaining);
                match timeout(limit, attempt(&id, rank, world)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(Attempt::Never(error))) => return Err(error),
                    Ok(Err(Attempt::Again(why))) => format!("{why} at {}", id.address()),
                    Ok(Err(Attempt::Doubtful(why))) => {
                        // A different id is a different server: patience starts anew.
                        let since = doubtful_since.filter(|(_, doubted)| *doubted == id).map(|(since, _)| since);
                        let since = since.unwrap_or_else(Instant::now);
                        doubtful_since = Some((since, id));
                        if since.elapsed() >= meeting.patience {
                            return Err(failed(rank, format!("{why} at {}", id.address())));
                        }
                        format!("{why} at {}", id.address())
                    }
                    Err(_) => format!("no answer at {} within {:.1} s", id.address(), limit.as_secs_f64()),
                }
            }
        };
        if entered.elapsed() + pause >= deadline {
            return Err(failed(rank, format!("{last}, for {:.1} s", deadline.as_secs_f64())));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(id: &UniqueId, rank: Rank, world: WorldSize) -> Result<Connection, Attempt> {
    let again = |error: FrameError| match error {
        FrameError::Handshake(HandshakeError::WrongSecret) => {
            Attempt::Doubtful("a rendezvous server of another group (it does not know this group's secret)".into())
        }
        FrameError::Wire(WireError::Version { .. }) => Attempt::Doubtful(error.to_string()),
        other => Attempt::Again(format!("the handshake failed ({other})")),
    };
    let mut stream = TcpStream::connect(id.address())
        .await
        .map_err(|error| Attempt::Again(format!("no rendezvous server ({error}); check that rank 0 runs")))?;
    let _ = stream.set_nodelay(true);
    let nonce = random_bytes().map_err(Attempt::Never)?;
    let process = process_token();
    let claim = Claim { rank: rank.0, world: world.get(), process };
    let (handshake, hello) = ClientHandshake::start(*id.secret(), nonce, claim);
    write_message(&mut stream, None, &hello).await.map_err(again)?;
    let reply = read_message(&mut stream, None).await.map_err(again)?;
    let (proof, mut session) = handshake.finish(&reply).map_err(|error| again(error.into()))?;
    write_message(&mut stream, None, &proof).await.map_err(again)?;
    match read_message(&mut stream, Some(&mut session.receive)).await.map_err(again)? {
        Message::Welcome { silence } => Ok(Connection { stream, session, silence }),
        Message::Refused { refusal } => Err(refused(&refusal, rank, world)),
        _ => Err(Attempt::Again("the server answered out of turn".into())),
    }
}

fn refused(refusal: &Refusal, rank: Rank, world: WorldSize) -> Attempt {
    match refusal {
        Refusal::WorldSize { here } => Attempt::Never(Error::PeerMismatch {
            rank,
            peer: Rank(0),
            what: "the world size".into(),
            ours: world.to_string(),
            theirs: here.to_string(),
        }),
        Refusal::DuplicateRank => Attempt::Doubtful(format!(
            "another process has already joined as rank {rank}: give each process a rank of its own and each group a \
             new id; the rendezvous is"
        )),
        Refusal::OutOfRange => {
            Attempt::Never(Error::invalid(format!("the server refused rank {rank} of {world} as out of range")))
        }
    }
}

fn failed(rank: Rank, detail: String) -> Error {
    Error::Bootstrap { rank, phase: "connecting", detail }
}
