//! The rendezvous server: accepts, authenticates and connects ranks to the [`Hub`], on a thread of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::UniqueId;
use super::frames::{FrameError, read_message, write_message};
use super::handshake::{Claim, Secret, ServerHandshake, Session};
use super::hub::Hub;
use super::process::process_token;
use super::tcp_options::TcpOptions;
use super::unique_id::random_bytes;
use super::wire::{Message, Refusal};
use crate::error::{Error, Result};
use crate::types::{MAX_WORLD_SIZE, Rank};

/// Longest handshake of one connection.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Connections that may be in their handshake at once; more wait in the listener's queue.
const MAX_UNAUTHENTICATED: usize = 64;
/// How long a connection may take to write what is left when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a detached server waits for its first rank.
const DETACHED_PATIENCE: Duration = Duration::from_secs(600);

/// Where the ranks of one group meet. Runs on its own thread until every rank has left or is lost.
///
/// Dropping this handle does not cut anyone off: the server goes on while a rank is connected. It dies with its
/// process, so keep that process until [`leave`](super::Bootstrap::leave) has returned.
#[derive(Debug)]
pub struct RendezvousServer {
    id: UniqueId,
    owner: Option<oneshot::Sender<()>>,
}

impl RendezvousServer {
    /// Listens on a free port of `options.bind` and makes the id that leads there.
    ///
    /// An unspecified address (`0.0.0.0`, `::`) listens on every interface; the id then names the loopback one.
    ///
    /// Errors: [`Error::Io`] when the address cannot be listened on; [`Error::InvalidArgument`] for bad options.
    pub fn start(options: &TcpOptions) -> Result<Self> {
        let (listener, port) = listen(SocketAddr::new(options.bind, 0))?;
        let reachable = match options.bind {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self::run(listener, UniqueId::random(SocketAddr::new(reachable, port))?, options)
    }

    /// Listens on the very address of `id`; for ids that every rank derives by itself.
    ///
    /// Errors: [`Error::Io`] when that address is taken or is not of this machine.
    pub fn start_at(id: &UniqueId, options: &TcpOptions) -> Result<Self> {
        let (listener, _) = listen(id.address())?;
        Self::run(listener, *id, options)
    }

    /// The id to pass to the other ranks.
    pub fn id(&self) -> UniqueId {
        self.id
    }

    /// Lets the server live without a handle; it ends by itself if no rank comes for 10 minutes.
    pub fn detach(mut self) {
        if let Some(owner) = self.owner.take() {
            let _ = owner.send(());
        }
    }

    fn run(listener: TcpListener, id: UniqueId, options: &TcpOptions) -> Result<Self> {
        let (owner, owner_gone) = oneshot::channel();
        let (secret, silence) = (*id.secret(), options.checked()?.silence);
        let process = process_token();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::io("starting the rendezvous server", source))?;
        std::thread::Builder::new()
            .name("myelon-rendezvous".into())
            .spawn(move || runtime.block_on(serve(listener, secret, Hub::new(process, silence), silence, owner_gone)))
            .map_err(|source| Error::io("starting the thread of the rendezvous server", source))?;
        Ok(Self { id, owner: Some(owner) })
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, u16)> {
    let fail = |source| {
        Error::io(format!("listening on {address} (MYELON_SOCKET_ADDR or MYELON_ROOT chooses another)"), source)
    };
    let listener = TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let port = listener.local_addr().map_err(fail)?.port();
    Ok((listener, port))
}

/// The hub's end of one connection.
struct Link {
    sender: mpsc::UnboundedSender<Message>,
    /// Ends when the connection has written everything and closed.
    closed: oneshot::Receiver<()>,
}

enum Input {
    Joining { claim: Claim, link: Link, admitted: oneshot::Sender<Result<Rank, Refusal>> },
    Received { rank: Rank, message: Message },
    Gone { rank: Rank, detail: String },
}

async fn serve(
    listener: TcpListener,
    secret: Secret,
    mut hub: Hub,
    silence: Duration,
    mut owner: oneshot::Receiver<()>,
) {
    let (inputs, mut inbox) = mpsc::channel(256);
    let acceptor = tokio::spawn(accept(listener, secret, silence, inputs));
    let mut links: Vec<Option<Link>> = (0..MAX_WORLD_SIZE).map(|_| None).collect();
    let mut has_owner = true;
    let mut first_rank_by: Option<Instant> = None;
    loop {
        let wake = hub.next_deadline().into_iter().chain(first_rank_by).min();
        tokio::select! {
            input = inbox.recv() => match input {
                None => break,
                Some(Input::Joining { claim, link, admitted }) => {
                    let verdict = hub.join(claim.rank, claim.world, claim.process);
                    if let Ok(rank) = verdict {
                        links[rank.index()] = Some(link);
                        first_rank_by = None;
                    }
                    let _ = admitted.send(verdict);
                }
                Some(Input::Received { rank, message }) => {
                    if !hub.receive(rank, message, Instant::now()) {
                        tracing::warn!("rank {rank} sent a message out of turn; cutting it off");
                        hub.gone(rank, "it broke the bootstrap protocol");
                        deliver(&mut hub, &links);
                        links[rank.index()] = None;
                    }
                }
                Some(Input::Gone { rank, detail }) => {
                    hub.gone(rank, &detail);
                    deliver(&mut hub, &links);
                    links[rank.index()] = None;
                }
            },
            () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => hub.expire(Instant::now()),
            kept = &mut owner, if has_owner => {
                has_owner = false;
                if kept.is_ok() && links.iter().all(Option::is_none) {
                    first_rank_by = Some(Instant::now() + DETACHED_PATIENCE);
                }
            }
        }
        deliver(&mut hub, &links);
        let waiting = first_rank_by.is_some_and(|by| by > Instant::now());
        let deserted = !has_owner && !waiting && links.iter().all(Option::is_none);
        if hub.is_finished() || deserted {
            break;
        }
    }
    acceptor.abort();
    // WHY: the host's connection closes last, because its process, and this server with it, may end right after.
    let host = hub.host().and_then(|host| links[host.index()].take());
    let mut closing: Vec<_> = links.into_iter().flatten().map(|link| link.closed).collect();
    let all_closed = async {
        for closed in &mut closing {
            let _ = closed.await;
        }
    };
    let _ = timeout(LAST_WORDS, all_closed).await;
    if let Some(Link { sender, closed }) = host {
        drop(sender);
        let _ = timeout(LAST_WORDS, closed).await;
    }
}

fn deliver(hub: &mut Hub, links: &[Option<Link>]) {
    for (rank, message) in hub.take_messages() {
        if let Some(link) = &links[rank.index()] {
            let _ = link.sender.send(message);
        }
    }
}

async fn accept(listener: TcpListener, secret: Secret, silence: Duration, inputs: mpsc::Sender<Input>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the rendezvous server cannot listen: {error}"),
    };
    let unauthenticated = Arc::new(Semaphore::new(MAX_UNAUTHENTICATED));
    while let Ok(permit) = Arc::clone(&unauthenticated).acquire_owned().await {
        match listener.accept().await {
            Ok((mut stream, from)) => {
                let inputs = inputs.clone();
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let outcome = timeout(HANDSHAKE_DEADLINE, authenticate(&mut stream, secret)).await;
                    drop(permit);
                    match outcome {
                        Ok(Ok((claim, session))) => serve_rank(stream, claim, session, silence, &inputs).await,
                        Ok(Err(error)) => tracing::warn!("dropped a connection from {from}: {error}"),
                        Err(_) => tracing::warn!("dropped a connection from {from}: no handshake within 2 s"),
                    }
                });
            }
            Err(error) => {
                // WHY: out of descriptors or a connection reset in the queue: neither may end the rendezvous.
                tracing::warn!("accepting a connection failed: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn authenticate(stream: &mut TcpStream, secret: Secret) -> Result<(Claim, Session), FrameError> {
    let hello = read_message(stream, None).await?;
    let nonce = random_bytes().map_err(|error| FrameError::Io(std::io::Error::other(error)))?;
    let (handshake, reply) = ServerHandshake::answer(secret, nonce, &hello)?;
    write_message(stream, None, &reply).await?;
    let proof = read_message(stream, None).await?;
    Ok(handshake.finish(&proof)?)
}

/// Carries messages between one authenticated connection and the hub until either ends it.
async fn serve_rank(
    stream: TcpStream,
    claim: Claim,
    session: Session,
    silence: Duration,
    inputs: &mpsc::Sender<Input>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let Session { mut send, mut receive } = session;
    let (sender, messages) = mpsc::unbounded_channel();
    let (admitted, verdict) = oneshot::channel();
    let (_closing, closed) = oneshot::channel();
    let link = Link { sender, closed };
    if inputs.send(Input::Joining { claim, link, admitted }).await.is_err() {
        return;
    }
    let rank = match verdict.await {
        Ok(Ok(rank)) => rank,
        Ok(Err(refusal)) => {
            tracing::warn!("refused rank {} of {}: {refusal:?}", claim.rank, claim.world);
            let refused = Message::Refused { refusal };
            let _ = timeout(HANDSHAKE_DEADLINE, write_message(&mut writer, Some(&mut send), &refused)).await;
            return;
        }
        Err(_) => return,
    };
    let reading = async {
        loop {
            match timeout(silence, read_message(&mut reader, Some(&mut receive))).await {
                Ok(Ok(message)) => {
                    if inputs.send(Input::Received { rank, message }).await.is_err() {
                        return "the rendezvous server ended".to_owned();
                    }
                }
                Ok(Err(FrameError::Closed)) => return "its process ended or closed the connection".into(),
                Ok(Err(error)) => return format!("its connection failed: {error}"),
                Err(_) => return format!("not responding: silent for {:.1} s", silence.as_secs_f64()),
            }
        }
    };
    let writing = write_all(&mut writer, &mut send, messages, silence);
    tokio::pin!(writing);
    let detail = tokio::select! {
        detail = reading => Some(detail),
        () = &mut writing => None,
    };
    if let Some(detail) = detail {
        let _ = inputs.send(Input::Gone { rank, detail }).await;
        // The hub drops its sender in answer: what it still had to say to this rank is written, then the connection ends.
        let _ = timeout(Duration::from_millis(500), writing).await;
    }
}

/// Writes messages until their senders are gone, and a ping whenever the line was idle for a fifth of `silence`.
pub(super) async fn write_all(
    writer: &mut tokio::net::tcp::OwnedWriteHalf,
    sealer: &mut super::handshake::Sealer,
    mut messages: mpsc::UnboundedReceiver<Message>,
    silence: Duration,
) {
    use tokio::io::AsyncWriteExt;
    loop {
        let message = match timeout(silence / 5, messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(_) => Message::Ping,
        };
        if let Err(error) = write_message(writer, Some(sealer), &message).await {
            // The reading side sees the same end and says whose it was.
            tracing::debug!("writing to a peer failed: {error}");
            std::future::pending::<()>().await;
        }
    }
    let _ = writer.shutdown().await;
}
