//! Bytes from every rank to every rank through the real communicator, while it is being made.

use std::ffi::c_int;
use std::fmt;
use std::time::Duration;

use super::hello::FRAME;
use super::watch::Watch;
use crate::abi::{Comm, IN_PROGRESS, SUCCESS, Stream, UINT8};
use crate::cuda::Gathering;
use crate::real::call_real;
use crate::settings::Place;

/// This thread's part of a new communicator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) comm: Comm,
    /// Where the caller gets it.
    pub(super) place: *mut Comm,
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

/// What NCCL is to gather, and how it gets at the bytes, for every exchange of a member.
///
/// INVARIANT: there before the first one: a rank that found no memory for a later one would leave its peers in it.
pub(super) enum Operands {
    Gpu(Gathering),
    Host { own: Vec<u8>, all: Vec<u8> },
}

impl Operands {
    pub(super) fn new(member: &Member, place: Place) -> Result<Self, String> {
        let ranks = member.world as usize;
        Ok(match place {
            Place::Gpu => Self::Gpu(Gathering::new(member.ordinal as usize, FRAME, ranks)?),
            Place::Cpu => Self::Host { own: vec![0; FRAME], all: vec![0; FRAME * ranks] },
        })
    }

    fn put(&mut self, frame: &[u8]) -> Result<(), String> {
        match self {
            Self::Gpu(gathering) => gathering.put(frame),
            Self::Host { own, .. } => {
                own.copy_from_slice(frame);
                Ok(())
            }
        }
    }

    fn addresses(&mut self) -> (u64, u64, Stream) {
        match self {
            Self::Gpu(gathering) => gathering.operands(),
            Self::Host { own, all } => (own.as_ptr() as u64, all.as_mut_ptr() as u64, std::ptr::null_mut()),
        }
    }

    fn fetch(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Gpu(gathering) => gathering.fetch(),
            Self::Host { all, .. } => Ok(all.clone()),
        }
    }
}

/// Why an exchange came to nothing.
pub(super) enum Failed {
    /// A rank will not come; the communicators of the exchange are aborted, and are not used again.
    Lost(String),
    /// Something of this rank's.
    Here(String),
}

/// Gathers one frame of each rank, for every member of this thread at once: a thread that drives several ranks of a communicator
/// would wait for itself otherwise.
///
/// Collective over all ranks of all members. Gives the frames in rank order. `lost` says why a rank will not come, if so; that ends it.
pub(super) fn all_gather(
    members: &[Member],
    operands: &mut [Operands],
    frames: &[Vec<u8>],
    lost: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> Result<Vec<Vec<Vec<u8>>>, Failed> {
    let comms: Vec<_> = members.iter().map(|member| member.comm).collect();
    let watch = Watch::start(&comms, lost);
    let gathered = if watch.may_begin() { gather(&comms, operands, frames, &watch) } else { Ok(Vec::new()) };
    // INVARIANT: what came of an exchange that was ended is undefined, whatever NCCL and the GPU say of it.
    watch.end().map_or_else(|| gathered.map_err(Failed::Here), |why| Err(Failed::Lost(why)))
}

fn gather(
    comms: &[Comm],
    operands: &mut [Operands],
    frames: &[Vec<u8>],
    watch: &Watch,
) -> Result<Vec<Vec<Vec<u8>>>, String> {
    operands.iter_mut().zip(frames).try_for_each(|(operands, frame)| operands.put(frame))?;
    let in_words =
        |what: &str, code: i32| format!("{what} failed with code {code} while the ranks agreed on using Myelon");
    let mut first = call_real!(ncclGroupStart());
    if first != SUCCESS {
        return Err(in_words("ncclGroupStart", first));
    }
    for (&comm, operands) in comms.iter().zip(operands.iter_mut()) {
        let (own, all, stream) = operands.addresses();
        let (own, all) = (own as usize as *const _, all as usize as *mut _);
        let code = call_real!(ncclAllGather(own, all, FRAME, UINT8, comm, stream));
        first = if matches!(first, SUCCESS | IN_PROGRESS) { code } else { first };
    }
    watch.waits();
    let mut ended = call_real!(ncclGroupEnd());
    // A file of NCCL's settings may make communicators that do not block, and nobody here knows it. NCCL's thread reads the operands
    // until it has launched.
    if first == IN_PROGRESS || ended == IN_PROGRESS {
        let codes: Vec<_> = comms.iter().map(|&comm| launched(comm, watch)).collect();
        first = if first == IN_PROGRESS { SUCCESS } else { first };
        ended = codes.into_iter().find(|&code| code != SUCCESS).unwrap_or(SUCCESS);
    }
    if first != SUCCESS || ended != SUCCESS {
        return Err(in_words("ncclAllGather", if first == SUCCESS { ended } else { first }));
    }
    let frames = |operands: &Operands| Ok(operands.fetch()?.chunks_exact(FRAME).map(<[u8]>::to_vec).collect());
    operands.iter().map(frames).collect()
}

/// What NCCL's thread came to, waited for as NCCL waits: without a bound.
fn launched(comm: Comm, watch: &Watch) -> c_int {
    loop {
        let mut state = SUCCESS;
        match watch.ask(|| call_real!(ncclCommGetAsyncError(comm, &mut state))) {
            None => return SUCCESS,
            Some(SUCCESS) => (),
            Some(code) => state = code,
        }
        match state {
            IN_PROGRESS => std::thread::sleep(Duration::from_micros(200)),
            code => return code,
        }
    }
}
