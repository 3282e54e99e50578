//! The control page: how the host stops a rank's kernels, and how they say why they stopped.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::abi::{ControlPage, FaultCode, FaultRecord, describe};
use crate::bootstrap::ControlEvent;
use crate::device::{Device, DevicePtr, HostBlock};
use crate::error::{Error, Result};
use crate::types::{DType, Rank, ReduceOp, WorldSize};

/// One rank's control page and what is known of why it stopped.
pub struct Watch {
    page: HostBlock,
    rank: Rank,
    world_size: WorldSize,
    reason: Mutex<Option<Reason>>,
}

/// Why the host stopped this rank's kernels. The first one counts.
#[derive(Clone, Debug)]
enum Reason {
    Own(String),
    Event(ControlEvent),
}

impl Watch {
    /// A fresh page.
    pub fn new(device: &Arc<dyn Device>, rank: Rank, world_size: WorldSize) -> Result<Self> {
        let page = device.allocate_host(size_of::<ControlPage>() as u64)?;
        Ok(Self { page, rank, world_size, reason: Mutex::new(None) })
    }

    /// The page as kernels see it.
    pub fn page(&self) -> DevicePtr {
        self.page.device
    }

    /// Ends every wait of this rank's kernels, now and in future launches.
    pub fn abort(&self, detail: &str) {
        self.stop(Reason::Own(detail.into()));
    }

    /// Takes note of what the control plane says of a peer, and stops: nothing can complete without it.
    pub fn hear(&self, event: ControlEvent) {
        tracing::warn!(rank = self.rank.0, ?event, "stopping");
        self.stop(Reason::Event(event));
    }

    fn stop(&self, reason: Reason) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        // ORDER: [abort] the reason is in place before the word; `check` reads the word first.
        self.word(std::mem::offset_of!(ControlPage, abort)).store(1, Ordering::Release);
    }

    /// What went wrong so far, if anything. Costs two loads when nothing did.
    pub fn check(&self) -> Result<()> {
        // ORDER: [fault] acquire end: the kernel releases the code after the rest of the record.
        let code = self.word(std::mem::offset_of!(ControlPage, fault)).load(Ordering::Acquire);
        let stopped = self.word(std::mem::offset_of!(ControlPage, abort)).load(Ordering::Acquire) != 0;
        if code == FaultCode::None as u32 && !stopped {
            return Ok(());
        }
        Err(self.explain(code))
    }

    fn explain(&self, code: u32) -> Error {
        let rank = self.rank;
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A peer that is known to be gone explains every fault; so does our own abort.
        match reason {
            Some(Reason::Event(ControlEvent::PeerLost { rank: peer, detail })) => {
                return Error::PeerLost { rank, peer, detail };
            }
            Some(Reason::Event(ControlEvent::PeerAborted { rank: peer, detail })) => {
                return Error::Aborted { rank, detail: format!("rank {peer} gave up: {detail}") };
            }
            Some(Reason::Own(detail)) if code != FaultCode::Stalled as u32 => return Error::Aborted { rank, detail },
            _ => {}
        }
        // SAFETY: the page holds a `ControlPage` at its start, and the record's fields no longer change once its code is set.
        let record: FaultRecord = unsafe { (&raw const (*self.page.host.cast::<ControlPage>()).fault).read_volatile() };
        let peer = Rank(record.peer);
        if code == FaultCode::Mismatch as u32 {
            return Error::PeerMismatch {
                rank,
                peer,
                what: format!("operation {}", record.operation),
                ours: operation_text(record.expected),
                theirs: operation_text(record.seen),
            };
        }
        let culprits: Vec<_> = self
            .world_size
            .ranks()
            .filter(|peer| record.started[peer.index()] < record.operation && *peer != rank)
            .collect();
        if code == FaultCode::PeerFault as u32 && culprits.is_empty() {
            return Error::Aborted { rank, detail: format!("the kernel of rank {peer} gave up") };
        }
        Error::Stalled {
            rank,
            lane: record.lane,
            peer,
            expected: record.expected,
            seen: record.seen,
            operation: record.operation,
            waited: Duration::from_nanos(record.waited_ns),
            culprits,
        }
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
    let (count, dtype, op) = describe(descriptor);
    let dtype = DType::ALL.iter().find(|value| **value as u8 == dtype).map_or("?", |value| value.name());
    let op = ReduceOp::ALL.iter().find(|value| **value as u8 == op).map_or("?", |value| value.name());
    format!("{op} of {count} {dtype}")
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
        // SAFETY: as in `explain`; no kernel runs in this test.
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
        let (ours, theirs) = (descriptor(5, DType::F32 as u8, 0), descriptor(6, DType::I8 as u8, 2));
        let code = FaultCode::Mismatch as u32;
        plant(&watch, FaultRecord { code, expected: ours, seen: theirs, ..Default::default() });
        let text = watch.check().unwrap_err().to_string();
        assert!(text.contains("sum of 5 f32") && text.contains("min of 6 i8"), "{text}");
    }

    #[test]
    fn the_first_reason_counts() {
        let watch = watch();
        watch.abort("enough");
        watch.hear(ControlEvent::PeerLost { rank: Rank(2), detail: "gone".into() });
        assert!(watch.check().unwrap_err().to_string().contains("enough"));
    }
}
