//! What a TCP rendezvous can be told.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::error::{Error, Result};

/// Limits and places of a TCP rendezvous.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Longest wait of each collective; more than a day counts as a day.
    pub deadline: Duration,
    /// Longest wait of connecting, until all ranks have joined; `deadline` if absent.
    pub join: Option<Duration>,
    /// Silence after which a rank counts as lost: 100 ms to a day. The server's value holds for the whole group.
    pub silence: Duration,
    /// Address that a new rendezvous server listens on.
    pub bind: IpAddr,
}

impl Default for TcpOptions {
    /// 30 s for both, 5 s, loopback.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            join: None,
            silence: Duration::from_secs(5),
            bind: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl TcpOptions {
    /// Least silence that is taken.
    pub const SHORTEST_SILENCE: Duration = Duration::from_millis(100);
    /// What longer deadlines count as, and the most silence that is taken.
    pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

    /// INVARIANT: with what this gives, sums of time cannot overflow and heartbeats leave room to work.
    pub(super) fn checked(&self) -> Result<Self> {
        if !(Self::SHORTEST_SILENCE..=Self::LONGEST).contains(&self.silence) {
            return Err(Error::invalid(format!(
                "a silence of {:?}: use 100 ms to a day, 5 s by default",
                self.silence
            )));
        }
        Ok(Self {
            deadline: self.deadline.min(Self::LONGEST),
            join: Some(self.joining().min(Self::LONGEST)),
            ..self.clone()
        })
    }

    pub(super) fn joining(&self) -> Duration {
        self.join.unwrap_or(self.deadline)
    }
}
