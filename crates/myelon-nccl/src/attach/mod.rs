//! How the ranks of a new communicator agree on using Myelon beside it.
//!
//! Every rank of every blocking communicator takes part, however it was made: each says what it is through the real communicator
//! ([`exchange`]), all come to one verdict from the same answers ([`hello`]), those that may connect, and all say whether it went
//! well, again through the real communicator. So no rank uses Myelon alone.

mod exchange;
mod hello;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::bootstrap::{RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::device::Device;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::{CudaDevice, device_count};
use myelon_ccl::{Communicator, Options, Rank, WorldSize};

use crate::abi::{Comm, SUCCESS, SYSTEM_ERROR};
use crate::communicators::{self, Attached};
use crate::cuda::{CurrentContext, Gathering};
use crate::real::call_real;
use crate::route::Prepared;
use crate::sequence::Sequence;
use crate::settings::{Place, Settings, settings};
use crate::{failure, log, route};

use exchange::Member;
use hello::{Hello, Meeting, Reply};

/// Longest wait for the other ranks while Myelon comes up, compiling included.
const PATIENCE: Duration = Duration::from_secs(180);
/// Silence after which a rank counts as lost. A process that ends is noticed at once; this is for one that is stopped, or that left its
/// connection to a child.
const SILENCE: Duration = Duration::from_secs(60);

/// Attaches Myelon to new communicators of this thread, where their ranks agree; else they are forwarded.
///
/// Fails only where the exchange itself does: then this rank's communicator cannot be trusted to be where its peers are.
pub(crate) fn several(comms: &[*mut Comm]) -> c_int {
    let settings = match settings() {
        Ok(settings) if settings.disabled => return SUCCESS,
        Ok(settings) => Ok(settings),
        Err(why) => Err(why.as_str()),
    };
    // SAFETY: NCCL has just written a handle to each place, or null where this rank got none.
    let comms = comms.iter().map(|&place| unsafe { *place }).filter(|comm| !comm.is_null());
    let outcome = comms.map(Member::of).collect::<Result<Vec<_>, _>>().and_then(|members| agree(members, settings));
    outcome.map_or_else(|code_and_words| code_and_words, |()| SUCCESS)
}

/// Both exchanges of all members of this thread, and what lies between.
fn agree(members: Vec<Member>, settings: Result<&'static Settings, &str>) -> Result<(), c_int> {
    let place = settings.map_or(Place::Gpu, |settings| settings.place);
    let (members, others): (Vec<_>, Vec<_>) = members.into_iter().partition(Member::may_attach);
    for other in others {
        log::communicator(format!("{other} of {} ranks: forwarded: Myelon is for 2 to 8", other.world));
        communicators::insert(other.comm, other.rank, None);
    }
    if members.is_empty() {
        return Ok(());
    }
    if place == Place::Gpu {
        // Opens the driver, which the calls of `cuda` need.
        device_count().map_err(|error| failed(&error.to_string()))?;
    }
    let _kept = (place == Place::Gpu).then(CurrentContext::keep);
    let together = members.len();
    let offers: Vec<Offer> = members.iter().map(|member| Offer::of(member, settings, together)).collect();
    let hellos: Vec<_> = offers.iter().map(|offer| offer.hello.encode()).collect();
    let answers = exchange::all_gather(&members, place, &hellos).map_err(|why| failed(&why))?;

    for ((member, offer), answers) in members.iter().zip(offers).zip(&answers) {
        let attached = match hello::verdict(answers) {
            // INVARIANT: the same on every rank, so all of them or none come to the second exchange; and none that makes several
            // communicators, which would wait for each other here.
            Ok(meeting) => meet(member, place, offer, &meeting).map_err(|why| failed(&why))?,
            Err(why) => Err(why),
        };
        finish(member, attached);
    }
    Ok(())
}

/// Brings Myelon up on all ranks, and says whether it did: the outer error is that of the exchange.
fn meet(member: &Member, place: Place, offer: Offer, meeting: &Meeting) -> Result<Result<Attached, String>, String> {
    // WHY: a rank that panicked would leave the others in the exchange.
    let connected = catch_unwind(AssertUnwindSafe(|| connect(member, offer, meeting)));
    let connected = connected.unwrap_or_else(|_| Err("a bug in Myelon, told above".into()));
    let reply = Reply::of(connected.as_ref().err()).encode();
    let replies = exchange::all_gather(std::slice::from_ref(member), place, &[reply])?;
    let well = replies.iter().try_for_each(|replies| hello::all_well(replies));
    if place == Place::Gpu && connected.is_ok() {
        round_off_streams(member);
    }
    Ok(connected.and_then(|attached| well.map(|()| attached)))
}

/// Makes the streams that attaching was the first to use eight.
///
/// The driver deals streams to eight queues in turn, and where the stream of a program's collectives gets one of three of them, each
/// kernel of the default stream starts later (docs/PERFORMANCE.md, "A training step"). So the program's next stream is to get the one
/// that it would without Myelon. Seven were counted, over two ranks, by what the next streams got: the memory's, its poison's, the pair
/// check's two, the exchanges' two, and one that must be NCCL's, for its first collective.
fn round_off_streams(member: &Member) {
    let used = Gathering::new(member.ordinal as usize, &[0], 1).and_then(Gathering::finish);
    if let Err(why) = used {
        log::communicator(format!("{member}: no stream to round off with: {why}"));
    }
}

/// What this rank brings to the agreement on one communicator.
struct Offer {
    hello: Hello,
    able: Option<(Arc<dyn Device>, &'static Settings)>,
    /// Kept until all ranks are connected.
    _server: Option<RendezvousServer>,
}

impl Offer {
    fn of(member: &Member, settings: Result<&'static Settings, &str>, together: usize) -> Self {
        let in_words = |error: myelon_ccl::Error| error.to_string();
        let made = settings.map_err(str::to_owned).and_then(|settings| {
            let device: Arc<dyn Device> = match settings.place {
                Place::Gpu => CudaDevice::new(member.ordinal).map_err(in_words)?,
                Place::Cpu => CpuDevice::new(member.rank).map_err(in_words)?,
            };
            let server = (member.rank == 0).then(|| RendezvousServer::start(&tcp())).transpose();
            Ok((settings, device, server.map_err(in_words)?))
        });
        match made {
            Err(why) => Self { hello: Hello::unable(why, together), able: None, _server: None },
            Ok((settings, device, server)) => {
                let id = server.as_ref().map(|server| server.id().to_text());
                let hello = Hello::able(&device.properties().identity, settings, id, together, member.world);
                Self { hello, able: Some((device, settings)), _server: server }
            }
        }
    }
}

fn tcp() -> TcpOptions {
    TcpOptions { deadline: PATIENCE, silence: SILENCE, ..TcpOptions::default() }
}

fn connect(member: &Member, offer: Offer, meeting: &Meeting) -> Result<Attached, String> {
    let (device, settings) = offer.able.ok_or("this rank said that it cannot")?;
    let in_words = |error: myelon_ccl::Error| error.to_string();
    let id: UniqueId = meeting.id.parse().map_err(in_words)?;
    let world = WorldSize::new(member.world).map_err(in_words)?;
    let bootstrap = TcpBootstrap::connect(&id, Rank(member.rank), world, &tcp()).map_err(in_words)?;
    let mut options = Options::from_env().map_err(in_words)?;
    if std::env::var_os("MYELON_TIMEOUT").is_none() {
        // WHY: NCCL waits for as long as it takes: a rank may be writing a checkpoint.
        options.timeout = Duration::ZERO;
    }
    if options.max_lanes.is_none() {
        options.large_lanes.get_or_insert(Options::LARGE_LANES_OF_TRAINING);
    }
    options.transient_streams = true;
    options.prepare.clear();
    let communicator = Communicator::connect(Arc::clone(&device), Arc::new(bootstrap), options).map_err(in_words)?;
    let taken = settings.taken(member.world);
    for taken in &taken {
        let kernels = route::kernels(taken.collective, &settings.prepare);
        communicator.prepare_collective(taken.collective, &kernels).map_err(in_words)?;
    }
    let sequence = Sequence::new(&device).map_err(in_words)?;
    Ok(Attached {
        communicator,
        prepared: Prepared::of(&taken, &settings.prepare),
        sequence,
        are_processes: meeting.are_processes,
    })
}

/// Puts what came of a communicator into the table.
fn finish(member: &Member, attached: Result<Attached, String>) {
    match &attached {
        Ok(attached) => {
            let mib = attached.communicator.footprint_bytes() >> 20;
            log::communicator(format!("{member} of {} ranks: attached, {mib} MiB", member.world));
        }
        Err(why) => {
            log::communicator(format!("{member} of {} ranks: forwarded: {why}", member.world));
            // One rank speaks for all.
            if member.rank == 0 {
                log::warn(&format!("NCCL runs everything of a communicator of {} ranks: {why}", member.world));
            }
        }
    }
    communicators::insert(member.comm, member.rank, attached.ok());
}

fn failed(why: &str) -> c_int {
    log::warn(why);
    failure::own(SYSTEM_ERROR, why)
}

/// A question to the real NCCL about a communicator.
fn ask(question: impl Fn(*mut c_int) -> c_int) -> Result<c_int, c_int> {
    let mut answer = 0;
    match question(&mut answer) {
        SUCCESS => Ok(answer),
        code => Err(code),
    }
}

impl Member {
    fn of(comm: Comm) -> Result<Self, c_int> {
        Ok(Self {
            comm,
            rank: ask(|answer| call_real!(ncclCommUserRank(comm, answer)))? as u32,
            world: ask(|answer| call_real!(ncclCommCount(comm, answer)))? as u32,
            ordinal: ask(|answer| call_real!(ncclCommCuDevice(comm, answer)))? as u32,
        })
    }

    /// Known to every rank without asking.
    fn may_attach(&self) -> bool {
        (2..=myelon_ccl::MAX_WORLD_SIZE).contains(&self.world)
    }
}
