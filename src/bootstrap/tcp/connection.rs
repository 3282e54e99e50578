//! What a rank knows of its group, and the thread that hears it from the server.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::bootstrap::connect::Connection;
use crate::bootstrap::events::Events;
use crate::bootstrap::frames::{FrameError, read_message};
use crate::bootstrap::handshake::Session;
use crate::bootstrap::peers::Peers;
use crate::bootstrap::rounds::Failure;
use crate::bootstrap::server::write_all;
use crate::bootstrap::tcp_options::TcpOptions;
use crate::bootstrap::wire::Message;
use crate::types::{Rank, WorldSize};

/// What the connection's thread and the callers share.
pub(super) struct Shared {
    pub(super) rank: Rank,
    pub(super) world: WorldSize,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    pub(super) events: Events,
}

pub(super) struct State {
    pub(super) peers: Peers,
    /// Answer to the running all-gather, or the failure of all rounds.
    pub(super) outcome: Option<Result<Vec<Vec<u8>>, Failure>>,
    /// Rank whose process the server lives in.
    pub(super) host: Rank,
    /// The connection's thread is done.
    pub(super) finished: bool,
}

impl Shared {
    pub(super) fn new(rank: Rank, world: WorldSize) -> Self {
        Self {
            rank,
            world,
            state: Mutex::new(State { peers: Peers::new(world), outcome: None, host: Rank(0), finished: false }),
            changed: Condvar::new(),
            events: Events::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // WHY: nothing under this lock panics half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the server says. False: it broke the protocol.
    fn receive(&self, message: Message) -> bool {
        let mut state = self.lock();
        let named = match &message {
            Message::Lost { rank, .. }
            | Message::Aborted { rank, .. }
            | Message::Left { rank }
            | Message::HostedBy { rank } => rank.0 < self.world.get(),
            Message::Gathered { parts } => parts.len() == self.world.get() as usize,
            _ => true,
        };
        if !named {
            return false;
        }
        let mut event = None;
        match message {
            Message::Ping => {}
            Message::Gathered { parts } => state.outcome = Some(Ok(parts)),
            Message::RoundFailed { failure } => state.outcome = Some(Err(failure)),
            Message::Lost { rank, detail } => event = state.peers.lost(rank, &detail),
            Message::Aborted { rank, detail } => event = Some(state.peers.aborted(rank, &detail)),
            Message::Left { rank } => event = state.peers.left(rank),
            Message::HostedBy { rank } => state.host = rank,
            _ => return false,
        }
        drop(state);
        self.changed.notify_all();
        if let Some(event) = event {
            self.events.emit(event);
        }
        true
    }

    /// The connection ended: the host is lost, unless it said goodbye.
    fn server_gone(&self, detail: &str) {
        let mut state = self.lock();
        let host = state.host;
        let event =
            if host == self.rank || state.peers.has_left(self.rank) { None } else { state.peers.lost(host, detail) };
        state.peers.closed("the rendezvous server has ended");
        drop(state);
        self.changed.notify_all();
        if let Some(event) = event {
            self.events.emit(event);
        }
    }
}

/// Carries messages both ways until the connection or the bootstrap ends.
pub(super) async fn drive(connection: Connection, shared: &Shared, messages: mpsc::UnboundedReceiver<Message>) {
    let Connection { stream, session: Session { mut send, mut receive }, silence } = connection;
    let silence = silence.max(TcpOptions::SHORTEST_SILENCE);
    let (mut reader, mut writer) = TcpStream::into_split(stream);
    let reading = async {
        loop {
            match timeout(silence, read_message(&mut reader, Some(&mut receive))).await {
                Ok(Ok(message)) => {
                    if !shared.receive(message) {
                        return "the rendezvous server broke the protocol".to_owned();
                    }
                }
                Ok(Err(FrameError::Closed)) => return "its process, which hosts the rendezvous, has ended".into(),
                Ok(Err(error)) => return format!("the connection to the rendezvous in its process failed: {error}"),
                Err(_) => {
                    return format!(
                        "not responding: the rendezvous in its process was silent for {:.1} s",
                        silence.as_secs_f64()
                    );
                }
            }
        }
    };
    tokio::select! {
        detail = reading => shared.server_gone(&detail),
        () = write_all(&mut writer, &mut send, messages, silence) => {}
    }
}
