//! Bytes from every rank to every rank through the real communicator, while it is being made.

use std::ffi::c_int;
use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use super::hello::FRAME;
use crate::abi::{Comm, IN_PROGRESS, SUCCESS, Stream, UINT8};
use crate::cuda::Gathering;
use crate::log;
use crate::real::call_real;
use crate::settings::Place;

/// This thread's part of a new communicator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) comm: Comm,
    pub(super) rank: u32,
    pub(super) world: u32,
    /// GPU, as this process counts them.
    pub(super) ordinal: u32,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: rank {}", self.comm as usize, self.rank)
    }
}

/// What NCCL is to gather, and how it gets at the bytes.
enum Operands {
    Gpu(Gathering),
    Host { own: Vec<u8>, all: Vec<u8> },
}

impl Operands {
    fn addresses(&mut self) -> (u64, u64, Stream) {
        match self {
            Self::Gpu(gathering) => gathering.operands(),
            Self::Host { own, all } => (own.as_ptr() as u64, all.as_mut_ptr() as u64, std::ptr::null_mut()),
        }
    }
}

/// Gathers one frame of each rank, for every member of this thread at once: a thread that drives several ranks of a communicator
/// would wait for itself otherwise.
///
/// Collective over all ranks of all members. Gives the frames in rank order.
pub(super) fn all_gather(members: &[Member], place: Place, frames: &[Vec<u8>]) -> Result<Vec<Vec<Vec<u8>>>, String> {
    let _hint = Hint::start();
    let mut operands = Vec::with_capacity(members.len());
    for (member, frame) in members.iter().zip(frames) {
        operands.push(match place {
            Place::Gpu => Operands::Gpu(Gathering::new(member.ordinal as usize, frame, member.world as usize)?),
            Place::Cpu => Operands::Host { own: frame.clone(), all: vec![0; FRAME * member.world as usize] },
        });
    }
    let in_words =
        |what: &str, code: i32| format!("{what} failed with code {code} while the ranks agreed on using Myelon");
    let mut first = call_real!(ncclGroupStart());
    if first != SUCCESS {
        return Err(in_words("ncclGroupStart", first));
    }
    for (member, operands) in members.iter().zip(&mut operands) {
        let (own, all, stream) = operands.addresses();
        let (own, all) = (own as usize as *const _, all as usize as *mut _);
        let code = call_real!(ncclAllGather(own, all, FRAME, UINT8, member.comm, stream));
        first = if matches!(first, SUCCESS | IN_PROGRESS) { code } else { first };
    }
    let mut ended = call_real!(ncclGroupEnd());
    // A file of NCCL's settings may make communicators that do not block, and nobody here knows it. NCCL's thread reads the operands
    // until it has launched.
    if first == IN_PROGRESS || ended == IN_PROGRESS {
        let codes: Vec<_> = members.iter().map(|member| launched(member.comm)).collect();
        first = if first == IN_PROGRESS { SUCCESS } else { first };
        ended = codes.into_iter().find(|&code| code != SUCCESS).unwrap_or(SUCCESS);
    }
    if first != SUCCESS || ended != SUCCESS {
        return Err(in_words("ncclAllGather", if first == SUCCESS { ended } else { first }));
    }
    operands
        .into_iter()
        .map(|operands| {
            let all = match operands {
                Operands::Gpu(gathering) => gathering.finish()?,
                Operands::Host { all, .. } => all,
            };
            Ok(all.chunks_exact(FRAME).map(<[u8]>::to_vec).collect())
        })
        .collect()
}

/// What NCCL's thread came to, waited for as NCCL waits: without a bound.
fn launched(comm: Comm) -> c_int {
    loop {
        let mut state = SUCCESS;
        let code = call_real!(ncclCommGetAsyncError(comm, &mut state));
        match if code == SUCCESS { state } else { code } {
            IN_PROGRESS => std::thread::sleep(Duration::from_micros(200)),
            code => return code,
        }
    }
}

/// Says what is wrong when the other ranks do not come. NCCL waits for them for ever, as it does wherever ranks differ.
struct Hint(#[allow(dead_code, reason = "its end ends the thread")] mpsc::Sender<()>);

const HINT_AFTER: Duration = Duration::from_secs(30);

impl Hint {
    fn start() -> Self {
        let (ended, waiting) = mpsc::channel::<()>();
        let watch = move || {
            if waiting.recv_timeout(HINT_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
                log::warn(
                    "still waiting for the other ranks to agree on using Myelon: all ranks of a communicator need this library, \
                     the same MYELON_NCCL_DISABLE, and all or none a blocking communicator",
                );
            }
        };
        let _ = std::thread::Builder::new().name("myelon-nccl-hint".into()).spawn(watch);
        Self(ended)
    }
}
