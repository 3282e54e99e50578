//! `MYELON_NCCL_LOG=1`: how many calls and bytes went where and why, said at exit. Warnings come with or without it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::route::Reason;
use crate::settings::settings;

macro_rules! collectives {
    ($($name:ident),*) => {
        /// A function that queues work.
        #[allow(non_camel_case_types, clippy::enum_variant_names, reason = "NCCL's names")]
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Named { $($name),* }

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}
collectives!(
    ncclAllReduce,
    ncclAllGather,
    ncclAlltoAll,
    ncclBcast,
    ncclBroadcast,
    ncclGather,
    ncclReduce,
    ncclReduceScatter,
    ncclScatter,
    ncclSend,
    ncclRecv,
    ncclPutSignal,
    ncclSignal,
    ncclWaitSignal
);

/// Calls and bytes.
struct Count {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    const fn new() -> Self {
        Self { calls: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

/// By function; first Myelon's, then NCCL's by reason.
static COUNTS: [[Count; 1 + Reason::ALL.len()]; NAMES.len()] =
    [const { [const { Count::new() }; 1 + Reason::ALL.len()] }; NAMES.len()];
/// What became of communicators.
static COMMUNICATORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn is_on() -> bool {
    settings().as_ref().is_ok_and(|settings| settings.log)
}

/// Counts a call, which Myelon took, or NCCL for a reason.
pub(crate) fn count(name: Named, by: Result<(), Reason>, bytes: u64) {
    if !is_on() {
        return;
    }
    let place = by.map_or_else(|reason| 1 + reason as usize, |()| 0);
    let count = &COUNTS[name as usize][place];
    count.calls.fetch_add(1, Ordering::Relaxed);
    count.bytes.fetch_add(bytes, Ordering::Relaxed);
}

/// Takes note of what became of a communicator.
pub(crate) fn communicator(line: String) {
    if is_on() {
        COMMUNICATORS.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// A line on the standard error.
pub(crate) fn warn(line: &str) {
    // WHY: where nobody reads, or nothing can be written, that is no reason to end the program.
    let _ = writeln!(std::io::stderr(), "myelon-nccl[{}]: {line}", std::process::id());
}

/// Lets the report be printed when the process ends, from the first communicator on.
pub(crate) fn report_at_exit() {
    static PROCESS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn print() {
        // A child that was forked has the counts of its parent.
        if PROCESS.load(Ordering::Relaxed) == std::process::id() {
            // WHY: a panic here would end the process another way.
            let _ = std::panic::catch_unwind(|| warn(&report()));
        }
    }
    static REGISTERED: Once = Once::new();
    if is_on() {
        REGISTERED.call_once(|| {
            PROCESS.store(std::process::id(), Ordering::Relaxed);
            // SAFETY: the function stays mapped: this library is linked to stay.
            unsafe { libc::atexit(print) };
        });
    }
}

fn report() -> String {
    let mut text = "who ran what".to_owned();
    for line in &*COMMUNICATORS.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = write!(text, "\n  communicator {line}");
    }
    for (name, counts) in NAMES.iter().zip(&COUNTS) {
        for (place, count) in counts.iter().enumerate() {
            let calls = count.calls.load(Ordering::Relaxed);
            if calls == 0 {
                continue;
            }
            let by = match place.checked_sub(1) {
                None => "Myelon".to_owned(),
                Some(reason) => format!("NCCL: {}", Reason::ALL[reason]),
            };
            let _ = write!(text, "\n  {name}: {calls} calls, {} bytes by {by}", count.bytes.load(Ordering::Relaxed));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_who_and_why() {
        let count = &COUNTS[Named::ncclReduce as usize][1 + Reason::NotAttached as usize];
        count.calls.store(3, Ordering::Relaxed);
        count.bytes.store(12, Ordering::Relaxed);
        COUNTS[Named::ncclAllReduce as usize][0].calls.store(2, Ordering::Relaxed);
        let report = report();
        assert!(report.contains("ncclReduce: 3 calls, 12 bytes by NCCL: the communicator is not attached"), "{report}");
        assert!(report.contains("ncclAllReduce: 2 calls, 0 bytes by Myelon"), "{report}");
        assert!(!report.contains("ncclSend"), "{report}");
    }

    #[test]
    fn reasons_are_counted_where_they_are_named() {
        for (place, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
