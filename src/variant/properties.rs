//! What the manifest says of how a variant works.

use serde::Deserialize;

/// Mailboxes a variant uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mailbox {
    /// None.
    None,
    /// Sentinel for floats, LL for the rest and where sentinels are switched off.
    Sentinel,
    /// LL for every type: what it moves is any pattern of bits.
    Ll,
}

/// What bounds the message of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// One mailbox.
    Mailbox,
    /// Half of each mailbox: a peer's part of this rank's shard goes into one half, its reduced shard into the other.
    MailboxShards,
    /// Lanes times a staging half.
    Staging,
    /// Nothing: the kernel loops.
    Unbounded,
    /// Nothing: the kernel goes through staging in steps.
    Steps,
    /// The copies of one launch.
    Copies,
}

/// Who moves the bytes between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transfer {
    /// The kernel, by loads and stores.
    #[default]
    Kernel,
    /// The device's copy engines: the host issues copies beside the kernel, which lets each of them go.
    CopyEngine,
    /// Both at once, each a part of a message.
    Both,
}

impl Transfer {
    /// Whether copies are issued beside the kernel.
    pub fn has_copies(self) -> bool {
        self != Self::Kernel
    }
}

/// How often 16- and 8-bit floats are rounded to their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Once, at the end.
    Once,
    /// At every hop.
    PerHop,
}

/// In which order ranks are reduced; floats depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// 0, 1, 2, ...
    Rank,
    /// Shard s starts at rank s and goes up, wrapping around.
    Rotated,
}

/// All values of a kind, all but the 8-bit floats among them, or some.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Selection<T> {
    Named(SelectionName),
    Some(Vec<T>),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SelectionName {
    All,
    AllButFp8,
}

impl<T: PartialEq + Copy> Selection<T> {
    /// Whether a value is one of them; `is_wide` says whether it is no 8-bit float.
    pub(super) fn has(&self, value: T, is_wide: impl FnOnce(T) -> bool) -> bool {
        match self {
            Self::Named(SelectionName::All) => true,
            Self::Named(SelectionName::AllButFp8) => is_wide(value),
            Self::Some(list) => list.contains(&value),
        }
    }
}
