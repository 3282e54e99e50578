//! How the ranks of a new communicator agree on using Myelon beside it.
//!
//! Every rank of every blocking communicator takes part, however it was made: each says what it is through the real communicator
//! ([`exchange`]), all come to one verdict from the same answers ([`hello`]), those that may connect ([`connect`]), and all say whether
//! it went well, again through the real communicator. So no rank uses Myelon alone. A rank that is lost meanwhile ends the second
//! exchange ([`watch`]), by what the control plane says of it ([`control`]).

mod connect;
mod control;
mod exchange;
mod hello;
mod watch;

use std::ffi::c_int;
use std::slice;

use myelon_ccl::device::cuda::device_count;

use crate::abi::{Comm, REMOTE_ERROR, SUCCESS, SYSTEM_ERROR};
use crate::communicators::{self, Attached};
use crate::cuda::{CurrentContext, Gathering};
use crate::real::call_real;
use crate::settings::{Place, Settings, settings};
use crate::{failure, log};

pub(crate) use control::Control;

use connect::{Joining, Offer};
use exchange::{Failed, Member, Operands};
use hello::{Meeting, Reply};

/// Attaches Myelon to new communicators of this thread, where their ranks agree; else they are forwarded.
///
/// Fails only where the exchange itself does: then this rank's communicator cannot be trusted to be where its peers are. One that was
/// aborted, for a rank is lost, the caller does not get.
pub(crate) fn several(places: &[*mut Comm]) -> c_int {
    let settings = match settings() {
        Ok(settings) if settings.disabled => return SUCCESS,
        Ok(settings) => Ok(settings),
        Err(why) => Err(why.as_str()),
    };
    let members = places.iter().filter_map(|&place| Member::at(place).transpose());
    let outcome = members.collect::<Result<Vec<_>, _>>().and_then(|members| agree(members, settings));
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
        device_count().map_err(|error| failed(SYSTEM_ERROR, &error.to_string()))?;
    }
    let _kept = (place == Place::Gpu).then(CurrentContext::keep);
    let together = members.len();
    let offers: Vec<Offer> = members.iter().map(|member| Offer::of(member, settings, together)).collect();
    let operands: Result<Vec<_>, _> = members.iter().map(|member| Operands::new(member, place)).collect();
    let mut operands = operands.map_err(|why| failed(SYSTEM_ERROR, &why))?;
    let hellos: Vec<_> = offers.iter().map(|offer| offer.hello.encode()).collect();
    let answers = exchange::all_gather(&members, &mut operands, &hellos, || None);
    let answers = answers.map_err(|why| not_exchanged(&members, why))?;

    for (((member, operands), offer), answers) in members.iter().zip(&mut operands).zip(offers).zip(&answers) {
        let attached = match hello::verdict(answers) {
            // INVARIANT: the same on every rank, so all of them or none come to the second exchange; and none that makes several
            // communicators, which would wait for each other here.
            Ok(meeting) => {
                let met = meet(member, operands, place, offer, &meeting);
                met.map_err(|why| not_exchanged(slice::from_ref(member), why))?
            }
            Err(why) => Err(why),
        };
        finish(member, attached);
    }
    Ok(())
}

/// Brings Myelon up on all ranks, and says whether it did: the outer error is that of the exchange.
fn meet(
    member: &Member,
    operands: &mut Operands,
    place: Place,
    offer: Offer,
    meeting: &Meeting,
) -> Result<Result<Attached, String>, Failed> {
    let (joining, connected) = Joining::begin(member, offer, meeting);
    let reply = Reply::of(connected.as_ref().err()).encode();
    let replies = exchange::all_gather(slice::from_ref(member), slice::from_mut(operands), &[reply], joining.losses());
    let replies = match replies {
        Ok(replies) => replies,
        Err(why) => {
            joining.give_up();
            return Err(why);
        }
    };
    let well = replies.iter().try_for_each(|replies| hello::all_well(replies));
    if place == Place::Gpu && connected.is_ok() {
        round_off_streams(member);
    }
    Ok(joining.end(connected.and_then(|parts| well.map(|()| parts))))
}

/// Makes the streams that attaching was the first to use eight.
///
/// The driver deals streams to eight queues in turn, and where the stream of a program's collectives gets one of three of them, each
/// kernel of the default stream starts later (docs/PERFORMANCE.md, "A training step"). So the program's next stream is to get the one
/// that it would without Myelon. Seven were counted, over two ranks, by what the next streams got, when each exchange had a stream of its
/// own: the memory's, its poison's, the pair check's two, the exchanges' two, and one that must be NCCL's, for its first collective. Both
/// exchanges are on one now.
fn round_off_streams(member: &Member) {
    for _ in 0..2 {
        if let Err(why) = Gathering::new(member.ordinal as usize, 1, 1) {
            log::communicator(format!("{member}: no stream to round off with: {why}"));
        }
    }
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

/// What the caller of an exchange that came to nothing hears.
fn not_exchanged(members: &[Member], why: Failed) -> c_int {
    match why {
        Failed::Here(why) => failed(SYSTEM_ERROR, &why),
        Failed::Lost(why) => {
            for member in members {
                // SAFETY: NCCL has just written there, so the place is the caller's to be written.
                unsafe { *member.place = std::ptr::null_mut() };
            }
            failed(
                REMOTE_ERROR,
                &format!("Myelon: {why}, while the ranks agreed on using it; the communicator is aborted"),
            )
        }
    }
}

fn failed(code: c_int, why: &str) -> c_int {
    log::warn(why);
    failure::own(code, why)
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
    /// None where this rank got no communicator.
    fn at(place: *mut Comm) -> Result<Option<Self>, c_int> {
        // SAFETY: NCCL has just written a handle to each place, or null.
        let comm = unsafe { *place };
        if comm.is_null() {
            return Ok(None);
        }
        Ok(Some(Self {
            comm,
            place,
            rank: ask(|answer| call_real!(ncclCommUserRank(comm, answer)))? as u32,
            world: ask(|answer| call_real!(ncclCommCount(comm, answer)))? as u32,
            ordinal: ask(|answer| call_real!(ncclCommCuDevice(comm, answer)))? as u32,
        }))
    }

    /// Known to every rank without asking.
    fn may_attach(&self) -> bool {
        (2..=myelon_ccl::MAX_WORLD_SIZE).contains(&self.world)
    }
}
