//! Small kernels through the whole path: cache, compiler, loader, streams, events, graphs.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::host::parse_delays;
use super::*;
use crate::device::KernelSource;
use crate::device::cache::Cache;
use crate::device::handles::{Buffer, Stream};

/// What every kernel below starts with: the launch struct, spelt out so that these tests need no file of `cuda/`.
const PROLOGUE: &str = "
    typedef unsigned long long u64;
    struct CpuLaunch {
        const void* args; void* order; void* stacks; u64 stack_bytes, delay_seed;
        unsigned grid, block, shared_bytes, ordinal;
    };
    extern \"C\" int sched_yield();
    #define KERNEL extern \"C\" void myelon_kernel(const CpuLaunch* launch)
";

/// `word = word * factor + term`: the result tells the order of the launches.
pub(super) const APPEND: &str = "
    struct Args { u64* word; u64 factor, term; };
    KERNEL { const Args* a = (const Args*)launch->args; *a->word = *a->word * a->factor + a->term; }
";

/// Writes 1 to `mine` and spins until `theirs` is 1; gives up after a while and leaves 2.
pub(super) const MEET: &str = "
    struct Args { u64 *mine, *theirs; u64 spins; };
    KERNEL {
        const Args* a = (const Args*)launch->args;
        __atomic_store_n(a->mine, 1, __ATOMIC_RELEASE);
        for (u64 spin = 0; spin < a->spins; ++spin) {
            if (__atomic_load_n(a->theirs, __ATOMIC_ACQUIRE) == 1) return;
            sched_yield();
        }
        __atomic_store_n(a->mine, 2, __ATOMIC_RELEASE);
    }
";

/// Copies the launch struct itself, without the address of the arguments, to where the arguments say.
const REPORT: &str = "
    struct Args { u64* report; };
    KERNEL {
        u64* r = ((const Args*)launch->args)->report;
        r[0] = (u64)launch->args % 16; r[1] = (u64)launch->order; r[2] = launch->delay_seed; r[3] = launch->grid;
        r[4] = launch->block; r[5] = launch->shared_bytes; r[6] = launch->ordinal;
    }
";

pub(super) const SPINS: u64 = 100_000_000;
pub(super) const ONE: LaunchShape = LaunchShape { grid: 1, block: 1, shared_bytes: 0, dependent: false };

/// A device with a cache of its own.
pub(super) struct Bench {
    pub(super) device: Arc<dyn Device>,
    cache: Cache,
    _directory: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_delays(0)
    }

    fn with_delays(delays: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = CpuDevice::with_compiler(3, CpuCompiler::from_environment().unwrap(), delays);
        Self { device, cache: Cache::at(directory.path()).unwrap(), _directory: directory }
    }

    pub(super) fn load(&self, body: &str) -> KernelHandle {
        let source = KernelSource { name: "probe".into(), entry: format!("{PROLOGUE}{body}") };
        self.device.load(&self.cache.compile(self.device.compiler(), &source).unwrap()).unwrap()
    }

    pub(super) fn stream(&self) -> Stream {
        Stream::new(&self.device).unwrap()
    }

    /// Zeroed words.
    pub(super) fn words(&self, count: usize, stream: &Stream) -> Buffer {
        let buffer = Buffer::new(&self.device, 8 * count as u64).unwrap();
        buffer.upload(&vec![0; 8 * count], stream).unwrap();
        buffer
    }

    pub(super) fn launch(&self, kernel: KernelHandle, shape: LaunchShape, args: &[u64], stream: &Stream) {
        let bytes: Vec<u8> = args.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // SAFETY: the arguments are what the kernel of the test takes; the buffers outlive the synchronisation.
        unsafe { self.device.launch(kernel, shape, &bytes, stream.handle()) }.unwrap();
    }
}

pub(super) fn read(buffer: &Buffer, stream: &Stream) -> Vec<u64> {
    let mut bytes = vec![0; buffer.bytes() as usize];
    buffer.download(&mut bytes, stream).unwrap();
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// Far longer than anything here takes, so that what hangs fails.
fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
}

#[test]
fn launches_of_a_stream_run_in_order() {
    let bench = Bench::new();
    let (kernel, stream) = (bench.load(APPEND), bench.stream());
    let word = bench.words(1, &stream);
    for digit in 1..=9 {
        bench.launch(kernel, ONE, &[word.address().0, 10, digit], &stream);
    }
    assert_eq!(read(&word, &stream), [123_456_789]);
    assert!(bench.device.stream_is_idle(stream.handle()).unwrap());
}

#[test]
fn a_kernel_sees_its_launch() {
    let bench = Bench::with_delays(11);
    let (kernel, stream) = (bench.load(REPORT), bench.stream());
    let report = bench.words(7, &stream);
    let shape = LaunchShape { grid: 5, block: 64, shared_bytes: 4096, dependent: true };
    bench.launch(kernel, shape, &[report.address().0], &stream);
    let first = read(&report, &stream);
    assert_eq!([first[0], first[3], first[4], first[5], first[6]], [0, 5, 64, 4096, 3]);
    let other = bench.stream();
    bench.launch(kernel, shape, &[report.address().0], &other);
    let second = read(&report, &other);
    assert_eq!(first[1], second[1], "one order address a device");
    assert_ne!(first[2], second[2], "one delay seed a launch");
    assert!(first[1] != 0 && first[2] != 0);
}

#[test]
fn kernels_of_two_streams_run_at_the_same_time() {
    let bench = Bench::new();
    let (kernel, first, second) = (bench.load(MEET), bench.stream(), bench.stream());
    let words = bench.words(2, &first);
    let (left, right) = (words.address().0, words.address().offset(8).0);
    bench.launch(kernel, ONE, &[left, right, SPINS], &first);
    bench.launch(kernel, ONE, &[right, left, SPINS], &second);
    second.synchronize().unwrap();
    assert_eq!(read(&words, &first), [1, 1]);
}

#[test]
fn an_event_behind_everything_waits_for_every_stream() {
    let bench = Bench::new();
    let (append, meet) = (bench.load(APPEND), bench.load(MEET));
    let (first, second, third) = (bench.stream(), bench.stream(), bench.stream());
    let (device, words) = (&bench.device, bench.words(2, &first));
    let (mine, go) = (words.address().0, words.address().offset(8).0);
    let event = device.create_event().unwrap();
    let graph = first
        .capture(|| {
            bench.launch(meet, ONE, &[mine, go, SPINS], &first);
            Ok(())
        })
        .unwrap();
    graph.launch(&first).unwrap();
    assert!(device.record_everything(event).unwrap());
    // Behind it.
    device.wait_event(second.handle(), event).unwrap();
    bench.launch(append, ONE, &[mine, 10, 5], &second);
    third.synchronize().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!device.event_is_reached(event).unwrap());
    // SAFETY: the words live in `words`; the kernel accesses them atomically.
    unsafe { AtomicU64::from_ptr(go as *mut u64) }.store(1, Ordering::Release);
    second.synchronize().unwrap();
    assert!(device.event_is_reached(event).unwrap());
    assert_eq!(read(&words, &first), [15, 1]);

    device.begin_capture(third.handle()).unwrap();
    assert!(device.record_everything(event).is_err());
    device.end_capture(third.handle()).unwrap();
    // SAFETY: of this device, and not used after this.
    unsafe { device.destroy_event(event) };
}

#[test]
fn events_order_streams_and_keep_time() {
    let bench = Bench::new();
    let (append, meet) = (bench.load(APPEND), bench.load(MEET));
    let (first, second) = (bench.stream(), bench.stream());
    let (device, words) = (&bench.device, bench.words(3, &first));
    let word = |index: u64| words.address().offset(8 * index).0;
    let [start, middle, end] = [(); 3].map(|()| device.create_event().unwrap());

    assert!(device.event_is_reached(end).unwrap(), "a never recorded event holds nothing up");
    device.wait_event(second.handle(), end).unwrap();
    assert!(device.elapsed_ns(start, end).is_err());

    // `first` spins until the test says go; `second` must not pass the event before that.
    device.record_event(start, first.handle()).unwrap();
    bench.launch(meet, ONE, &[word(0), word(1), SPINS], &first);
    bench.launch(append, ONE, &[word(2), 10, 1], &first);
    device.record_event(middle, first.handle()).unwrap();
    device.wait_event(second.handle(), middle).unwrap();
    // A later record does not change what the wait refers to.
    device.record_event(middle, second.handle()).unwrap();
    bench.launch(append, ONE, &[word(2), 10, 2], &second);
    device.record_event(end, second.handle()).unwrap();
    // SAFETY: the words live in `words`; the kernel accesses them atomically.
    let flag = |index| unsafe { AtomicU64::from_ptr(word(index) as *mut u64) };
    wait_until(|| flag(0).load(Ordering::Acquire) == 1);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!device.event_is_reached(end).unwrap());
    assert!(!device.stream_is_idle(second.handle()).unwrap());
    assert!(device.elapsed_ns(start, end).is_err());

    flag(1).store(1, Ordering::Release);
    second.synchronize().unwrap();
    assert!(device.event_is_reached(end).unwrap());
    assert_eq!(read(&words, &first)[2], 12);
    assert!(device.elapsed_ns(start, end).unwrap() >= 20_000_000);
    assert!(device.elapsed_ns(end, start).is_err());
}

#[test]
fn a_block_is_the_same_memory_for_importers() {
    let (bench, peer) = (Bench::new(), Bench::new());
    let block = bench.device.allocate_shared(10_000).unwrap();
    let imported = peer.device.import_shared(bench.device.export_shared(&block).unwrap(), 10_000).unwrap();
    peer.device.grant_access(&block).unwrap();
    let stream = bench.stream();
    // SAFETY: the block outlives the synchronisation.
    unsafe { bench.device.fill(block.address.offset(9_000), 0x5a, 1_000, stream.handle()) }.unwrap();
    stream.synchronize().unwrap();
    drop(block);
    // SAFETY: the import keeps all 10000 bytes mapped, and nobody writes any more.
    let seen = unsafe { std::slice::from_raw_parts(imported.address.0 as *const u8, 10_000) };
    assert!(seen[..9_000].iter().all(|&byte| byte == 0) && seen[9_000..].iter().all(|&byte| byte == 0x5a));
}

#[test]
fn host_memory_and_plain_memory_can_be_exported_by_nobody() {
    let device = Bench::new().device;
    let host = device.allocate_host(100).unwrap();
    assert_eq!((host.host as u64, host.host as u64 % 4096), (host.device.0, 0));
    let block = SharedBlock { address: host.device, bytes: 100, owner: host.owner };
    assert!(device.export_shared(&block).unwrap_err().to_string().contains("not shared"));
}

#[test]
fn wrong_handles_and_shapes_are_errors() {
    let (bench, other) = (Bench::new(), Bench::new());
    let (kernel, stream, foreign) = (bench.load(REPORT), bench.stream(), other.stream());
    let launch = |kernel, shape, stream| {
        // SAFETY: refused before the kernel could look at its arguments.
        unsafe { bench.device.launch(kernel, shape, &[0; 8], stream) }.unwrap_err().to_string()
    };
    assert!(launch(kernel, ONE, foreign.handle()).contains("stream"));
    assert!(launch(KernelHandle(stream.handle().raw()), ONE, stream.handle()).contains("kernel"));
    assert!(launch(kernel, LaunchShape { block: 1025, ..ONE }, stream.handle()).contains("1024"));
    assert!(launch(kernel, LaunchShape { grid: 0, ..ONE }, stream.handle()).contains("grid"));
    assert!(launch(kernel, LaunchShape { shared_bytes: 1 << 20, ..ONE }, stream.handle()).contains("shared"));
    assert!(bench.device.launch_graph(GraphHandle(77), stream.handle()).is_err());
    // SAFETY: refused, and nothing is copied.
    assert!(unsafe { bench.device.copy(DevicePtr(0), DevicePtr(64), 8, stream.handle()) }.is_err());
    assert!(bench.device.resident_limit(kernel, 64, 0).unwrap() >= 128);
}

#[test]
fn an_object_without_the_entry_point_is_refused() {
    let bench = Bench::new();
    let source = KernelSource { name: "empty".into(), entry: "int nothing;".into() };
    let image = bench.cache.compile(bench.device.compiler(), &source).unwrap();
    let message = bench.device.load(&image).unwrap_err().to_string();
    assert!(message.contains("myelon_kernel") && message.contains("empty"), "{message}");
}

#[test]
fn dropping_a_device_does_not_wait_for_a_spinning_kernel() {
    let bench = Bench::new();
    let (kernel, stream) = (bench.load(MEET), bench.device.create_stream().unwrap());
    // Leaked on purpose: the kernel spins on it beyond the device.
    let words: &'static [AtomicU64; 2] = Box::leak(Box::default());
    let args: Vec<u8> = [&raw const words[0] as u64, &raw const words[1] as u64, u64::MAX]
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .collect();
    // SAFETY: the words live for ever.
    unsafe { bench.device.launch(kernel, ONE, &args, stream) }.unwrap();
    wait_until(|| words[0].load(Ordering::Acquire) == 1);
    let dropping = std::thread::spawn(move || drop(bench));
    wait_until(|| dropping.is_finished());
    words[1].store(1, Ordering::Release);
}

#[test]
fn the_device_says_what_it_is() {
    let device = Bench::new().device;
    let properties = device.properties();
    assert_eq!((properties.kind, properties.ordinal, properties.arch.as_str()), (DeviceKind::Cpu, 3, "cpu"));
    assert_eq!(properties.identity, format!("cpu3@{}", std::process::id()));
    assert!(!properties.name.is_empty() && !properties.driver.is_empty() && properties.multiprocessors >= 1);
}

#[test]
fn the_seed_of_delays_is_a_number_or_an_error() {
    assert_eq!((parse_delays("").unwrap(), parse_delays(" 17 ").unwrap()), (0, 17));
    assert!(parse_delays("yes").unwrap_err().to_string().contains("MYELON_CPU_DELAYS"));
}
