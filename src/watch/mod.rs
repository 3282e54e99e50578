//! The control page: how the host stops a rank's kernels, and how they say why they stopped.

mod departures;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::abi::{
    BARRIER, BUCKETS_CODE, ControlPage, Description, FaultCode, FaultRecord, SHAPE_BITS, WINDOW_CODE, describe,
};
use crate::bootstrap::ControlEvent;
use crate::device::{Device, DevicePtr, HostBlock};
use crate::error::{Error, Result};
use crate::types::{Collective, DType, Rank, ReduceOp, WorldSize};

pub use departures::{Departures, Goodbyes};

/// One rank's control page and what is known of why it stopped.
pub struct Watch {
    page: HostBlock,
    rank: Rank,
    world_size: WorldSize,
    known: Mutex<Known>,
    learned: Condvar,
}

/// Longest wait for the control plane to say why a peer's kernel was told to stop: its word goes another way than the
/// kernel's, and may come later.
const EXPLANATION_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Known {
    reason: Option<Reason>,
    /// Whether the explanation was waited for in vain.
    in_vain: bool,
}

/// Why the host stopped this rank's kernels. The first one counts.
#[derive(Clone, Debug)]
enum Reason {
    Own(String),
    Lost(Rank, String),
    GaveUp(Rank, String),
}

impl Watch {
    /// A fresh page.
    pub fn new(device: &Arc<dyn Device>, rank: Rank, world_size: WorldSize) -> Result<Self> {
        let page = device.allocate_host(size_of::<ControlPage>() as u64)?;
        Ok(Self { page, rank, world_size, known: Mutex::default(), learned: Condvar::new() })
    }

    /// The page as kernels see it.
    pub fn page(&self) -> DevicePtr {
        self.page.device
    }

    /// Ends every wait of this rank's kernels, now and in future launches.
    pub fn abort(&self, detail: &str) {
        self.stop(Reason::Own(detail.into()));
    }

    /// Takes note of what the control plane says of a peer, and stops: nothing can complete without it. Goodbyes are no reason; what
    /// follows from one is found by [`Departures`].
    pub fn hear(&self, event: ControlEvent) {
        let (rank, what) = (self.rank, event.to_string());
        let reason = match event {
            ControlEvent::PeerLost { rank, detail } => Reason::Lost(rank, detail),
            ControlEvent::PeerAborted { rank, detail } => Reason::GaveUp(rank, detail),
            ControlEvent::PeerLeft { .. } => return,
        };
        // What comes later mostly follows from the first.
        if self.stop(reason) {
            tracing::warn!("rank {rank} stops: {what}");
        } else {
            tracing::debug!("rank {rank} has stopped, and hears: {what}");
        }
    }

    /// Returns whether this is the first reason.
    fn stop(&self, reason: Reason) -> bool {
        let is_first = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = known.reason.is_none();
            known.reason.get_or_insert(reason);
            is_first
        };
        self.learned.notify_all();
        // ORDER: [abort] publish: the reason is in place before the word; `check` reads the word first.
        self.word(std::mem::offset_of!(ControlPage, abort)).store(1, Ordering::Release);
        is_first
    }

    /// Whether a kernel of this rank has ended without its data.
    pub fn has_fault(&self) -> bool {
        // ORDER: [fault] consume: as in `check`.
        self.word(std::mem::offset_of!(ControlPage, fault)).load(Ordering::Acquire) != FaultCode::None as u32
    }

    /// What went wrong so far, if anything. Costs two loads when nothing did. Waits only where a peer's kernel was told to
    /// stop and nobody has said why yet, a second at most and once.
    pub fn check(&self) -> Result<()> {
        // ORDER: [abort] [fault] consume: the kernel releases the code after the rest of the record.
        let code = self.word(std::mem::offset_of!(ControlPage, fault)).load(Ordering::Acquire);
        let stopped = self.word(std::mem::offset_of!(ControlPage, abort)).load(Ordering::Acquire) != 0;
        if code == FaultCode::None as u32 && !stopped {
            return Ok(());
        }
        Err(self.explain(code))
    }

    fn explain(&self, code: u32) -> Error {
        let rank = self.rank;
        let reason = self.reason(code);
        // A peer that is known to be gone explains every fault.
        if let Some(Reason::Lost(peer, detail)) = reason {
            return Error::PeerLost { rank, peer, detail };
        }
        // What this rank's own kernel found comes next, and then what it was told.
        self.found(code).unwrap_or_else(|| Error::Aborted { rank, detail: self.told(reason) })
    }

    /// Why the host stopped this rank, or a peer stopped its own kernels.
    fn reason(&self, code: u32) -> Option<Reason> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if code != FaultCode::PeerFault as u32 || self.record().peer_code != FaultCode::Aborted as u32 {
            return known.reason.clone();
        }
        let waiting = |known: &mut Known| known.reason.is_none() && !known.in_vain;
        let waited = self.learned.wait_timeout_while(known, EXPLANATION_PATIENCE, waiting);
        let (mut known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        known.in_vain = known.reason.is_none();
        known.reason.clone()
    }

    /// The fault that this rank's kernel found out for itself.
    fn found(&self, code: u32) -> Option<Error> {
        let (rank, record) = (self.rank, self.record());
        let peer = Rank(record.peer);
        if code == FaultCode::Mismatch as u32 {
            return Some(Error::PeerMismatch {
                rank,
                peer,
                what: format!("operation {}", record.operation),
                ours: operation_text(record.expected),
                theirs: operation_text(record.seen),
            });
        }
        let late = |peer: &Rank| record.started[peer.index()] < record.operation && *peer != rank;
        let culprits: Vec<_> = self.world_size.ranks().filter(late).collect();
        // A peer whose deadline passed first waited for the same ranks as this one, unless it waited for this one.
        let peer_stalled = code == FaultCode::PeerFault as u32 && record.peer_code == FaultCode::Stalled as u32;
        let stalled = code == FaultCode::Stalled as u32 || peer_stalled && !culprits.is_empty();
        stalled.then(|| Error::Stalled {
            rank,
            lane: record.lane,
            peer,
            expected: record.expected,
            seen: record.seen,
            operation: record.operation,
            waited: Duration::from_nanos(record.waited_ns),
            culprits,
        })
    }

    /// Who told this rank to stop, and why.
    fn told(&self, reason: Option<Reason>) -> String {
        match reason {
            Some(Reason::Own(detail)) => detail,
            Some(Reason::Lost(rank, detail) | Reason::GaveUp(rank, detail)) => format!("rank {rank} gave up: {detail}"),
            None => {
                let record = self.record();
                let why = match record.peer_code {
                    code if code == FaultCode::Stalled as u32 => "waited too long",
                    code if code == FaultCode::Mismatch as u32 => "found that the ranks' operations differ",
                    code if code == FaultCode::Aborted as u32 => "was told to stop",
                    _ => "gave up",
                };
                format!("the kernel of rank {} {why}", record.peer)
            }
        }
    }

    fn record(&self) -> FaultRecord {
        // SAFETY: the page holds a `ControlPage` at its start, and the record's fields no longer change once its code is
        // set; before, whoever reads them does not use them.
        unsafe { (&raw const (*self.page.host.cast::<ControlPage>()).fault).read_volatile() }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: both words lie inside the page, are aligned, and are accessed atomically by host and kernels alike.
        unsafe { AtomicU32::from_ptr(self.page.host.add(offset).cast()) }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("rank", &self.rank).field("state", &self.check().err()).finish_non_exhaustive()
    }
}

fn operation_text(descriptor: u64) -> String {
    if descriptor == BARRIER {
        return "a barrier".into();
    }
    let Description { count, collective, detail, dtype } = describe(descriptor);
    let op = ReduceOp::ALL.iter().find(|value| **value as u8 == detail).map_or("?", |value| value.name());
    if dtype == BUCKETS_CODE {
        let (buckets, shape) = (count >> SHAPE_BITS, count & ((1 << SHAPE_BITS) - 1));
        return format!("{op} of {buckets} buckets, whose type and counts have the hash {shape:#x}");
    }
    if dtype == WINDOW_CODE {
        return format!("{op} into a window, whose type, count, window and offset in it have the hash {count:#x}");
    }
    let dtype = DType::ALL.iter().find(|value| **value as u8 == dtype).map_or("?", |value| value.name());
    match Collective::ALL.iter().find(|value| **value as u8 == collective) {
        Some(Collective::AllReduce) | None => format!("{op} of {count} {dtype}"),
        Some(Collective::ReduceScatter) => format!("reduce_scatter {op} of {count} {dtype} a rank"),
        Some(Collective::AllGather) => format!("all_gather of {count} {dtype} a rank"),
        Some(Collective::Broadcast) => format!("broadcast from rank {detail} of {count} {dtype}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::descriptor;
    use crate::device::cpu::CpuDevice;

    fn watch() -> Watch {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        Watch::new(&device, Rank(1), WorldSize::new(3).unwrap()).unwrap()
    }

    fn plant(watch: &Watch, record: FaultRecord) {
        // SAFETY: as in `record`; no kernel runs in this test.
        unsafe { (*watch.page.host.cast::<ControlPage>()).fault = record };
    }

    #[test]
    fn a_fresh_page_is_well() {
        watch().check().unwrap();
    }

    #[test]
    fn a_stall_names_the_rank_that_never_came() {
        let watch = watch();
        let record = FaultRecord { code: FaultCode::Stalled as u32, peer: 0, operation: 7, ..Default::default() };
        plant(&watch, FaultRecord { started: [7, 7, 6, 0, 0, 0, 0, 0], ..record });
        match watch.check().unwrap_err() {
            Error::Stalled { culprits, operation: 7, .. } => assert_eq!(culprits, [Rank(2)]),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_mismatch_shows_both_sides() {
        let watch = watch();
        let said = |count, collective: Collective, detail, dtype: DType| {
            descriptor(Description { count, collective: collective as u8, detail, dtype: dtype as u8 })
        };
        let (ours, theirs) =
            (said(5, Collective::AllReduce, 0, DType::F32), said(6, Collective::AllReduce, 2, DType::I8));
        let code = FaultCode::Mismatch as u32;
        plant(&watch, FaultRecord { code, expected: ours, seen: theirs, ..Default::default() });
        let text = watch.check().unwrap_err().to_string();
        assert!(text.contains("sum of 5 f32") && text.contains("min of 6 i8"), "{text}");
        let texts = Collective::ALL.iter().map(|&collective| operation_text(said(7, collective, 3, DType::U64)));
        let expected = [
            "max of 7 u64",
            "reduce_scatter max of 7 u64 a rank",
            "all_gather of 7 u64 a rank",
            "broadcast from rank 3 of 7 u64",
        ];
        assert!(texts.eq(expected.map(str::to_owned)));
    }

    #[test]
    fn a_peers_stall_is_ours_too_unless_it_waited_for_us() {
        let watch = watch();
        let (code, peer_code) = (FaultCode::PeerFault as u32, FaultCode::Stalled as u32);
        let record = FaultRecord { code, peer_code, peer: 0, operation: 7, ..Default::default() };
        plant(&watch, FaultRecord { started: [7, 7, 6, 0, 0, 0, 0, 0], ..record });
        // The host of rank 0 reports the same, less exactly.
        watch.hear(ControlEvent::PeerAborted { rank: Rank(0), detail: "stalled".into() });
        let Error::Stalled { rank: Rank(1), culprits, .. } = watch.check().unwrap_err() else { panic!("no stall") };
        assert_eq!(culprits, [Rank(2)]);
        plant(&watch, FaultRecord { started: [7, 6, 7, 0, 0, 0, 0, 0], ..record });
        assert!(watch.check().unwrap_err().to_string().contains("rank 0 gave up: stalled"));
    }

    #[test]
    fn a_peers_abort_is_no_stall_however_it_is_heard_of() {
        let watch = watch();
        let (code, peer_code) = (FaultCode::PeerFault as u32, FaultCode::Aborted as u32);
        // Rank 2 has not started, but that is not why rank 0 stopped.
        let record = FaultRecord { code, peer_code, peer: 0, operation: 7, ..Default::default() };
        plant(&watch, FaultRecord { started: [7, 7, 6, 0, 0, 0, 0, 0], ..record });
        let error = watch.check().unwrap_err();
        assert!(error.is_aborted() && error.to_string().contains("rank 0 was told to stop"), "{error}");
    }

    #[test]
    fn the_explanation_of_a_peers_abort_may_come_later_than_its_kernels_word() {
        let watch = watch();
        let (code, peer_code) = (FaultCode::PeerFault as u32, FaultCode::Aborted as u32);
        plant(&watch, FaultRecord { code, peer_code, peer: 0, operation: 7, ..Default::default() });
        std::thread::scope(|scope| {
            let checking = scope.spawn(|| watch.check().unwrap_err());
            std::thread::sleep(Duration::from_millis(20));
            watch.hear(ControlEvent::PeerLost { rank: Rank(2), detail: "gone".into() });
            let error = checking.join().unwrap();
            assert!(matches!(error, Error::PeerLost { peer: Rank(2), .. }), "{error}");
        });
    }

    #[test]
    fn the_first_reason_counts() {
        let watch = watch();
        let lost = ControlEvent::PeerLost { rank: Rank(2), detail: "gone".into() };
        assert_eq!(lost.to_string(), "rank 2 is lost: gone");
        assert!(watch.stop(Reason::Own("enough".into())));
        watch.hear(lost);
        assert!(!watch.stop(Reason::Lost(Rank(2), "gone".into())), "said once");
        assert!(watch.check().unwrap_err().to_string().contains("enough"));
    }
}
