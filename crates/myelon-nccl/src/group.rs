//! Calls between `ncclGroupStart` and `ncclGroupEnd`.
//!
//! What Myelon takes inside a group is kept until the outermost end and launched there, before the real group ends. What is
//! forwarded goes into the real group as it comes. Both are in the order of their calls among themselves, and on every rank
//! Myelon's come first. So one group may hold both, and who runs a call does not depend on what else is in the group: a rank's groups
//! may hold sends and receives that other ranks' do not, and a choice by them would differ between ranks.
//!
//! Of a group in which a call failed NCCL launches nothing, and so does Myelon.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::sync::Arc;

use myelon_ccl::Call;
use myelon_ccl::device::StreamHandle;

use crate::abi::{Comm, IN_PROGRESS, SUCCESS, Stream};
use crate::communicators::Entry;
use crate::log::{self, Named};
use crate::real::call_real;
use crate::route::Reason;
use crate::{attach, failure};

/// What a thread has in its group.
struct Group {
    depth: u32,
    /// Myelon's operations.
    queued: Vec<Queued>,
    /// Communicators and streams that NCCL's operations of the group are on.
    touched: Vec<(Arc<Entry>, StreamHandle<'static>)>,
    /// Where the group's new communicators will be.
    made: Vec<*mut Comm>,
    /// The first failure of a call that was forwarded.
    failed: c_int,
}

impl Group {
    const fn new() -> Self {
        Self { depth: 0, queued: Vec::new(), touched: Vec::new(), made: Vec::new(), failed: SUCCESS }
    }
}

struct Queued {
    entry: Arc<Entry>,
    call: Call,
    stream: StreamHandle<'static>,
}

thread_local! {
    /// WHY: without a destructor, so that it is still there when objects with static storage are destroyed, which may end a communicator.
    static GROUP: RefCell<ManuallyDrop<Group>> = const { RefCell::new(ManuallyDrop::new(Group::new())) };
}

fn with<R>(work: impl FnOnce(&mut Group) -> R) -> R {
    GROUP.with(|group| work(&mut group.borrow_mut()))
}

/// Whether the thread is inside a group.
pub(crate) fn is_open() -> bool {
    with(|group| group.depth > 0)
}

pub(crate) fn handle(stream: Stream) -> StreamHandle<'static> {
    // SAFETY: who calls one of NCCL's functions promises that the stream is there until the call, or the group, has ended; it is not used
    // after that.
    unsafe { StreamHandle::from_raw(stream as u64) }
}

/// `ncclGroupStart`.
pub(crate) fn start() -> c_int {
    let code = call_real!(ncclGroupStart());
    if code == SUCCESS {
        with(|group| group.depth += 1);
    }
    code
}

/// `ncclGroupEnd`.
pub(crate) fn end() -> c_int {
    let outermost = with(|group| {
        group.depth = group.depth.saturating_sub(1);
        (group.depth == 0).then(|| std::mem::replace(group, Group::new()))
    });
    let Some(Group { queued, touched, made, failed, .. }) = outermost else { return call_real!(ncclGroupEnd()) };
    if failed != SUCCESS {
        let ended = call_real!(ncclGroupEnd());
        // Where NCCL never had the call, for it lacks the function, it has run the others.
        return if ended == SUCCESS { failed } else { ended };
    }
    let meetings = meetings(&queued, &touched);
    let met = meet(&meetings);
    let launched = if met == SUCCESS { launch(&queued) } else { met };
    for (entry, stream) in &touched {
        before_nccl(entry, *stream);
    }
    // Also after a failure: the real group is open.
    let ended = call_real!(ncclGroupEnd());
    for (entry, stream) in &touched {
        after_nccl(entry, *stream);
    }
    let met = meet(&meetings);
    let attached = if ended == SUCCESS && !made.is_empty() { attach::several(&made) } else { SUCCESS };
    [launched, ended, met, attached].into_iter().find(|&code| code != SUCCESS).unwrap_or(SUCCESS)
}

/// `ncclGroupSimulateEnd`: ends the group without anything of it. What Myelon would take is not in the estimate, which is NCCL's.
pub(crate) fn simulate_end(info: *mut c_void) -> c_int {
    with(|group| {
        group.depth = group.depth.saturating_sub(1);
        if group.depth == 0 {
            *group = Group::new();
        }
    });
    call_real!(ncclGroupSimulateEnd(info))
}

/// A communicator of which Myelon has operations in a group, and the group's streams that it is on.
type Meeting = (Arc<Entry>, Vec<StreamHandle<'static>>);

fn meetings(queued: &[Queued], touched: &[(Arc<Entry>, StreamHandle<'static>)]) -> Vec<Meeting> {
    let mut meetings: Vec<Meeting> = Vec::new();
    let taken = queued.iter().map(|queued| (&queued.entry, queued.stream, true));
    for (entry, stream, is_taken) in taken.chain(touched.iter().map(|(entry, stream)| (entry, *stream, false))) {
        match meetings.iter_mut().find(|(known, _)| Arc::ptr_eq(known, entry)) {
            Some((_, streams)) if streams.contains(&stream) => (),
            Some((_, streams)) => streams.push(stream),
            None if is_taken => meetings.push((Arc::clone(entry), vec![stream])),
            // NCCL lets the streams of its own operations meet.
            None => (),
        }
    }
    meetings
}

/// Lets the streams of a group meet, as NCCL does before a group's operations and behind them.
fn meet(meetings: &[Meeting]) -> c_int {
    let mut code = SUCCESS;
    for (entry, streams) in meetings.iter().filter(|(_, streams)| streams.len() > 1) {
        let Some(attached) = &entry.attached else { continue };
        if let Err(error) = attached.bound(|| attached.sequence.meet(streams)) {
            code = failure::of(&error);
        }
    }
    code
}

/// Keeps a call of Myelon's for the end of the group.
pub(crate) fn keep(entry: Arc<Entry>, call: Call, stream: StreamHandle<'static>) {
    with(|group| group.queued.push(Queued { entry, call, stream }));
}

/// Takes note of what NCCL answered to a call inside the group.
pub(crate) fn answered(code: c_int) {
    with(|group| {
        if group.failed == SUCCESS && code != IN_PROGRESS {
            group.failed = code;
        }
    });
}

/// Takes note of a communicator that the end of the group brings.
pub(crate) fn will_make(comm: *mut Comm) {
    with(|group| group.made.push(comm));
}

/// Launches in order; what follows each other on one communicator and stream, by one call.
fn launch(queued: &[Queued]) -> c_int {
    let same = |a: &Queued, b: &Queued| Arc::ptr_eq(&a.entry, &b.entry) && a.stream == b.stream;
    let mut code = SUCCESS;
    for run in queued.chunk_by(same) {
        let calls: Vec<_> = run.iter().map(|queued| queued.call).collect();
        let attached = run[0].entry.attached.as_ref().expect("only calls of attached communicators are kept");
        if let Err(error) = attached.issue(&calls, run[0].stream) {
            let failed = failure::of(&error);
            code = if code == SUCCESS { failed } else { code };
        }
    }
    code
}

/// A call that NCCL runs, of a function that Myelon never takes.
pub(crate) fn by_nccl(
    entry: Option<Arc<Entry>>,
    name: Named,
    bytes: u64,
    stream: Stream,
    call: impl FnOnce() -> c_int,
) -> c_int {
    forwarded(entry, name, Reason::OtherFunction, bytes, stream, call)
}

/// A call that NCCL runs, in order with Myelon's.
pub(crate) fn forwarded(
    entry: Option<Arc<Entry>>,
    name: Named,
    reason: Reason,
    bytes: u64,
    stream: Stream,
    call: impl FnOnce() -> c_int,
) -> c_int {
    log::count(name, Err(reason), bytes);
    let entry = entry.filter(|entry| entry.attached.is_some());
    if is_open() {
        let code = call();
        answered(code);
        let (Some(entry), stream) = (entry, handle(stream)) else { return code };
        with(|group| {
            let known = group.touched.iter().any(|(known, on)| Arc::ptr_eq(known, &entry) && *on == stream);
            if !known {
                group.touched.push((entry, stream));
            }
        });
        return code;
    }
    let (Some(entry), stream) = (entry, handle(stream)) else { return call() };
    before_nccl(&entry, stream);
    let code = call();
    after_nccl(&entry, stream);
    code
}

/// WHY: a failure is said and not returned: the call itself is NCCL's, and may succeed.
fn before_nccl(entry: &Entry, stream: StreamHandle) {
    let Some(attached) = &entry.attached else { return };
    if let Err(error) = attached.bound(|| attached.sequence.before_nccl(&attached.communicator, stream)) {
        log::warn(&format!("rank {}: NCCL's operation could not be put behind Myelon's: {error}", entry.rank));
    }
}

fn after_nccl(entry: &Entry, stream: StreamHandle) {
    let Some(attached) = &entry.attached else { return };
    if let Err(error) = attached.bound(|| attached.sequence.after_nccl(stream)) {
        log::warn(&format!("rank {}: Myelon's next operation is not put behind NCCL's: {error}", entry.rank));
    }
}
