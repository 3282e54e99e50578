//! The one error type. Variants are sorted by who has to act: the caller, the machine, a peer.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::types::Rank;

/// Result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the rank, lane and values that a person needs to act on it.
///
/// Messages are lower case, without a full stop, and say the fix where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call itself was wrong; nothing was launched and nothing is lost.
    #[error("{0}")]
    InvalidArgument(String),

    /// The request is valid, but this variant, device or build cannot serve it.
    #[error("{0}")]
    Unsupported(String),

    /// A configuration value that cannot be used, with the place it stands.
    #[error("{source_name}: {key}: {detail}")]
    Config {
        /// File name or environment variable.
        source_name: String,
        /// Key inside it, with its line where known.
        key: String,
        /// What is wrong and what would be right.
        detail: String,
    },

    /// A shared library that this machine lacks.
    #[error("{library} not found ({purpose}); looked for {}", searched.join(", "))]
    LibraryMissing {
        /// Library by its usual name, `libnvrtc`.
        library: &'static str,
        /// What it is needed for, and the variable that overrides the search.
        purpose: &'static str,
        /// Every path or name that was tried.
        searched: Vec<String>,
    },

    /// A call into the CUDA driver failed.
    #[error("{call} failed: {detail}")]
    Driver {
        /// Name of the driver function.
        call: &'static str,
        /// Error code as the driver numbers it.
        code: i32,
        /// The driver's own name and text for the code.
        detail: String,
    },

    /// A call into NCCL failed.
    #[error("{call} failed on rank {rank}: {detail}")]
    Nccl {
        /// Rank that made the call.
        rank: Rank,
        /// Name of the NCCL function.
        call: &'static str,
        /// NCCL's own words, with its last error.
        detail: String,
    },

    /// A kernel did not compile.
    #[error("compiling {kernel} failed: {log}")]
    Compile {
        /// Kernel, as variant and template arguments.
        kernel: String,
        /// The compiler's log.
        log: String,
    },

    /// An operating-system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },

    /// The ranks could not find each other.
    #[error("bootstrap of rank {rank} failed while {phase}: {detail}")]
    Bootstrap {
        /// Rank that gave up.
        rank: Rank,
        /// What it was doing.
        phase: &'static str,
        /// Why it stopped, with the missing ranks where known.
        detail: String,
    },

    /// Two ranks disagree on something that must be equal.
    #[error("rank {rank} and rank {peer} disagree on {what}: {ours} here, {theirs} there")]
    PeerMismatch {
        /// Rank that noticed.
        rank: Rank,
        /// Rank it disagrees with.
        peer: Rank,
        /// What differs: the kernels' hash, the lane table, an operation.
        what: String,
        /// Value on `rank`.
        ours: String,
        /// Value on `peer`.
        theirs: String,
    },

    /// Memory of a peer cannot be reached.
    #[error("rank {rank} cannot reach the memory of rank {peer}: {detail}")]
    NoPeerAccess {
        /// Rank that needs the access.
        rank: Rank,
        /// Rank whose memory it is.
        peer: Rank,
        /// Which check failed, and what to do.
        detail: String,
    },

    /// A step that every rank takes by itself failed on another one.
    #[error("rank {rank} stops because rank {peer} failed: {detail}")]
    PeerFailed {
        /// Rank that heard of it.
        rank: Rank,
        /// Rank that failed.
        peer: Rank,
        /// What [`Error::is_environment`] says of its error.
        environment: bool,
        /// Its error.
        detail: String,
    },

    /// A wait inside a kernel passed its deadline. The output is undefined; build a new communicator.
    #[error(
        "stalled: rank {rank} lane {lane} waited {} ms for rank {peer}: expected {expected}, seen {seen} (operation {operation}); {}",
        waited.as_millis(),
        describe_culprits(culprits)
    )]
    Stalled {
        /// Rank whose kernel gave up.
        rank: Rank,
        /// Lane it was on.
        lane: u32,
        /// Neighbour it was waiting for.
        peer: Rank,
        /// Value it waited for.
        expected: u64,
        /// Value it saw last.
        seen: u64,
        /// Number of the operation.
        operation: u64,
        /// How long the wait lasted.
        waited: Duration,
        /// Ranks that had not started this operation when the wait ended.
        culprits: Vec<Rank>,
    },

    /// The communicator was told to stop.
    #[error("aborted: rank {rank} was told to stop ({detail})")]
    Aborted {
        /// Rank that stopped.
        rank: Rank,
        /// Who told it, and why.
        detail: String,
    },

    /// A peer's process ended or stopped answering, or it left while an operation still waited for it.
    #[error("rank {rank} lost rank {peer}: {detail}")]
    PeerLost {
        /// Rank that noticed.
        rank: Rank,
        /// Rank that is gone.
        peer: Rank,
        /// How it was noticed.
        detail: String,
    },
}

fn describe_culprits(culprits: &[Rank]) -> String {
    if culprits.is_empty() {
        return "every rank had started this operation".into();
    }
    let names: Vec<_> = culprits.iter().map(Rank::to_string).collect();
    format!("rank {} had not started this operation", names.join(", "))
}

impl Error {
    /// An [`Error::InvalidArgument`] with this text.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::InvalidArgument(detail.into())
    }

    /// An [`Error::Unsupported`] with this text.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self::Unsupported(detail.into())
    }

    /// An [`Error::Io`] that says what was being done to which path.
    pub fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// As [`Error::io`], for a path.
    pub fn at_path(what: &str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::io(format!("{what} {}", path.into().display()), source)
    }

    /// The same error with `part` before its text, where that is all it has: which part of a call was wrong.
    pub(crate) fn in_part(self, part: impl fmt::Display) -> Self {
        match self {
            Self::InvalidArgument(detail) => Self::InvalidArgument(format!("{part}: {detail}")),
            Self::Unsupported(detail) => Self::Unsupported(format!("{part}: {detail}")),
            other => other,
        }
    }

    /// Whether a deadline passed inside a kernel.
    pub fn is_stalled(&self) -> bool {
        matches!(self, Self::Stalled { .. })
    }

    /// Whether the communicator was told to stop.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Aborted { .. })
    }

    /// Whether there was not enough memory, of the host or of a device.
    pub fn is_out_of_memory(&self) -> bool {
        // What `cuda.h` calls CUDA_ERROR_OUT_OF_MEMORY.
        const OF_DEVICE: i32 = 2;
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::OutOfMemory,
            Self::Driver { code, .. } => *code == OF_DEVICE,
            _ => false,
        }
    }

    /// Whether the device is of no more use to this process, which every later call would say too.
    pub(crate) fn is_of_lost_device(&self) -> bool {
        // As `cuda.h` numbers them: uncorrectable errors of memory and of NVLink, and what a kernel did that ends its context.
        const LOST: [i32; 13] = [214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719];
        matches!(self, Self::Driver { code, .. } if LOST.contains(code))
    }

    /// Whether another communicator may work where this one failed (the fallback to NCCL asks).
    pub fn is_environment(&self) -> bool {
        matches!(
            self,
            Self::LibraryMissing { .. }
                | Self::NoPeerAccess { .. }
                | Self::Driver { .. }
                | Self::PeerFailed { environment: true, .. }
        )
    }
}
