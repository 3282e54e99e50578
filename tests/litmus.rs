//! What the protocols rest on beyond the PTX memory model, tried: every pair of ranks passes messages and counts.
//!
//! On the CPU device this shows that the patterns are written as meant. On GPUs it is evidence for the machine at hand, and no
//! proof: `MYELON_TEST_DEVICE=cuda MYELON_LITMUS_TRIES=100000000 cargo test --release --test litmus -- --nocapture`, messages
//! a pair and pattern. `MYELON_LITMUS_JSON` names a file for the counts, `MYELON_TEST_RANKS` the ranks.

mod support;

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::abi::{Plain, bytes_of};
use myelon_ccl::bootstrap::{Bootstrap, LocalBootstrap};
use myelon_ccl::device::cache::compile_cached;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{Device, DeviceKind, DevicePtr, KernelSource, LaunchShape, cuda};
use myelon_ccl::measure::Provenance;
use myelon_ccl::memory::{HeapLimits, SymmetricHeap};
use myelon_ccl::{Error, Rank, WorldSize};
use serde::Serialize;

/// Mirror of `cuda/verify/litmus.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LitmusArgs {
    own: u64,
    peer: u64,
    counts: u64,
    cell_bytes: u64,
    attempts: u64,
    deadline_ns: u64,
}
// SAFETY: repr(C), six fields of one type.
unsafe impl Plain for LitmusArgs {}

/// What may go wrong with a pattern.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Nothing,
    Anything,
    Something,
}

const PATTERNS: [(&str, Expected); 5] = [
    ("sentinel", Expected::Nothing),
    ("ll", Expected::Nothing),
    ("release_acquire", Expected::Nothing),
    ("relaxed", Expected::Anything),
    ("flag_first", Expected::Something),
];

/// Longest wait of a thread for a message that does not come.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest step of all ranks.
const PATIENCE: Duration = Duration::from_secs(300);

/// Sums of both ranks of a pair.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    pattern: &'static str,
    ranks: [u32; 2],
    /// Messages that came.
    received: u64,
    /// Polls that saw one half of 16 bytes without the other, which is allowed.
    halves_apart: u64,
    /// Polls that saw one half of 8 bytes without the other.
    torn: u64,
    /// Messages that were not the one that was due.
    wrong: u64,
    /// Threads that waited in vain.
    lost: u64,
}

#[derive(Serialize)]
struct Report {
    provenance: Provenance,
    rows: Vec<Row>,
}

fn kernel(pattern: &str, threads: u32) -> KernelSource {
    let entry = format!(
        "#include \"verify/litmus.cuh\"\nnamespace myelon {{\n\
         MYELON_KERNEL({threads}, LitmusArgs, args) {{ litmus<Litmus::{pattern}>(args); }}\n}}\n"
    );
    KernelSource { name: format!("litmus<{pattern}>"), entry }
}

/// One rank with its area of the heap.
struct Place<'a> {
    device: &'a Arc<dyn Device>,
    bootstrap: &'a dyn Bootstrap,
    heap: SymmetricHeap,
    stream: Stream,
    counts: Buffer,
    shape: LaunchShape,
    attempts: u64,
}

impl Place<'_> {
    fn threads(&self) -> u64 {
        u64::from(self.shape.grid * self.shape.block)
    }

    fn area(&self, rank: Rank) -> u64 {
        self.heap.bases()[rank.index()] + self.heap.layout().ring
    }

    /// One pattern between two ranks. Collective; the ranks of the pair return what they have counted.
    fn run(&self, pattern: &'static str, pair: [Rank; 2]) -> Option<Row> {
        let rank = self.bootstrap.rank();
        let image = compile_cached(self.device.compiler(), &kernel(pattern, self.shape.block)).unwrap();
        let kernel = self.device.load(&image).unwrap();
        // Poison for the sentinel, sequences that have not begun for the others.
        let (byte, cell_bytes) = (if pattern == "sentinel" { 0xff } else { 0 }, 16 * self.threads());
        let own = self.area(rank);
        // SAFETY: the area is this rank's and large enough; no kernel runs between the steps of all ranks.
        unsafe {
            self.device.fill(DevicePtr(own), byte, 3 * cell_bytes, self.stream.handle()).unwrap();
            let flags = DevicePtr(own + 3 * cell_bytes);
            self.device.fill(flags, 0, 8 * self.threads(), self.stream.handle()).unwrap();
        }
        self.counts.fill(0, &self.stream).unwrap();
        self.stream.synchronize().unwrap();
        self.bootstrap.barrier("readying a pattern").unwrap();

        let partner = if pair[0] == rank { pair[1] } else { pair[0] };
        let row = pair.contains(&rank).then(|| {
            let args = LitmusArgs {
                own,
                peer: self.area(partner),
                counts: self.counts.address().0,
                cell_bytes,
                attempts: self.attempts,
                deadline_ns: DEADLINE.as_nanos() as u64,
            };
            // SAFETY: the kernel takes `LitmusArgs`; heaps and counts live until all ranks are done.
            unsafe { self.device.launch(kernel, self.shape, bytes_of(&args), self.stream.handle()).unwrap() };
            let mut bytes = [0; 40];
            self.counts.download(&mut bytes, &self.stream).unwrap();
            let count = |at: usize| u64::from_le_bytes(bytes[8 * at..][..8].try_into().unwrap());
            let ranks = pair.map(|rank| rank.0);
            let (received, halves_apart, torn) = (count(0), count(1), count(2));
            Row { pattern, ranks, received, halves_apart, torn, wrong: count(3), lost: count(4) }
        });
        self.bootstrap.barrier("ending a pattern").unwrap();
        row
    }
}

/// Every pattern between every two ranks, as one rank sees it.
fn rank_rows(device: &Arc<dyn Device>, bootstrap: &dyn Bootstrap, tries: u64) -> Vec<Row> {
    let (grid, block) = if device.properties().kind == DeviceKind::Cuda { (64, 128) } else { (2, 32) };
    let threads = u64::from(grid * block);
    let small = 1024;
    // Three cells of 16 bytes and a flag of 8 for each thread.
    let slot_bytes = (threads * 56).div_ceil(2).next_multiple_of(128);
    let limits = HeapLimits {
        lanes: 1,
        sentinel_bytes: small,
        ll_bytes: small,
        staging_bytes: small,
        slot_bytes,
        ring_slots: 2,
        copy_bytes: 0,
        copies: 14,
    };
    let (layout, bytes) = limits.layout(bootstrap.world_size()).unwrap();
    let place = Place {
        device,
        bootstrap,
        heap: SymmetricHeap::create(device, bootstrap, layout, bytes).unwrap(),
        stream: Stream::new(device).unwrap(),
        counts: Buffer::new(device, 40).unwrap(),
        shape: LaunchShape { grid, block, shared_bytes: 0, dependent: false },
        attempts: tries.div_ceil(2 * threads),
    };
    let ranks: Vec<_> = bootstrap.world_size().ranks().collect();
    let mut rows = Vec::new();
    for (index, &first) in ranks.iter().enumerate() {
        for &second in &ranks[index + 1..] {
            rows.extend(PATTERNS.iter().filter_map(|(pattern, _)| place.run(pattern, [first, second])));
        }
    }
    rows
}

/// Adds what the two ranks of a pair have counted.
fn sums(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut sums: Vec<Row> = Vec::new();
    for row in rows {
        match sums.iter_mut().find(|sum| sum.pattern == row.pattern && sum.ranks == row.ranks) {
            None => sums.push(row),
            Some(sum) => {
                sum.received += row.received;
                sum.halves_apart += row.halves_apart;
                sum.torn += row.torn;
                sum.wrong += row.wrong;
                sum.lost += row.lost;
            }
        }
    }
    sums
}

#[test]
fn messages_come_whole_and_in_order_between_every_two_ranks() {
    let on_gpus = support::device_kind() == DeviceKind::Cuda;
    let gpus = if on_gpus { cuda::device_count().unwrap() } else { 0 };
    if on_gpus && gpus < 2 {
        println!("skipped: needs 2 GPUs, this process sees {gpus}");
        return;
    }
    let ranks = support::asked_ranks().unwrap_or(if on_gpus { gpus.min(8) } else { 2 }).max(2);
    let tries = std::env::var("MYELON_LITMUS_TRIES").map_or(20_000, |tries| tries.parse().unwrap());
    let devices = support::devices(ranks);
    let bootstraps = LocalBootstrap::group(WorldSize::new(ranks).unwrap(), PATIENCE);
    let rows = std::thread::scope(|scope| {
        let threads: Vec<_> = devices
            .iter()
            .zip(&bootstraps)
            .map(|(device, bootstrap)| scope.spawn(move || rank_rows(device, bootstrap, tries)))
            .collect();
        sums(threads.into_iter().flat_map(|thread| thread.join().unwrap()))
    });

    for row in &rows {
        println!("{}", serde_json::to_string(row).unwrap());
    }
    if let Ok(file) = std::env::var("MYELON_LITMUS_JSON") {
        let report = Report { provenance: support::provenance(&devices[0]), rows: rows.clone() };
        std::fs::write(file, serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
    }
    let pairs = (ranks * (ranks - 1) / 2) as usize;
    assert_eq!(rows.len(), pairs * PATTERNS.len());
    for row in &rows {
        let (_, expected) = PATTERNS.iter().find(|(pattern, _)| *pattern == row.pattern).unwrap();
        assert!(row.lost > 0 || row.received >= tries, "{row:?}: too few");
        match expected {
            Expected::Nothing => assert_eq!((row.torn, row.wrong, row.lost), (0, 0, 0), "{row:?}"),
            Expected::Anything => {}
            Expected::Something => assert!(row.wrong > 0, "{row:?}: the litmus sees nothing"),
        }
    }
}

#[test]
fn every_pattern_compiles_for_gpus() {
    for arch in ["sm_80", "sm_90a", "sm_100a"] {
        match cuda::Nvrtc::new(arch) {
            Ok(compiler) => {
                for (pattern, _) in PATTERNS {
                    let usage =
                        compiler.resources(&kernel(pattern, 128)).unwrap_or_else(|error| panic!("{arch}: {error}"));
                    assert_eq!(usage.spill_bytes, 0, "{arch}: {pattern}: {usage:?}");
                }
            }
            Err(error @ (Error::LibraryMissing { .. } | Error::Unsupported(_))) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
