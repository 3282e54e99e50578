//! What the conformance tests share: ranks as threads, seeded choices, and the reference model.

#![allow(dead_code)]

mod calls;
pub(crate) mod child;
pub(crate) mod endings;
pub(crate) mod group;
pub(crate) mod reference;
pub(crate) mod runs;

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::device::Device;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{DeviceKind, DevicePtr, cuda, source};
use myelon_ccl::measure::{Bytes, Provenance};
use myelon_ccl::memory::{HeapLimits, Window};
use myelon_ccl::variant::{Choice, Lanes, Manifest, Request, Shape, Transfer, VariantSpec};
use myelon_ccl::{self as ccl, Collective, Communicator, DType, Options, Output, Rank, ReduceOp};

/// SplitMix64: the same decisions on every rank from one seed.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// The devices of a test: `MYELON_TEST_DEVICE=cuda` takes the visible GPUs (several ranks share one if there are fewer),
/// anything else the CPU device.
pub(crate) fn devices(ranks: u32) -> Vec<Arc<dyn Device>> {
    if device_kind() == DeviceKind::Cpu {
        return (0..ranks).map(|rank| CpuDevice::new(rank).unwrap() as Arc<dyn Device>).collect();
    }
    let gpus = myelon_ccl::device::cuda::device_count().unwrap();
    let opened: Vec<_> = (0..gpus.min(ranks)).map(|gpu| CudaDevice::new(gpu).unwrap()).collect();
    (0..ranks).map(|rank| Arc::clone(&opened[(rank % gpus) as usize]) as Arc<dyn Device>).collect()
}

/// The device of one rank, in a process that has no other.
pub(crate) fn device(rank: Rank) -> Arc<dyn Device> {
    if device_kind() == DeviceKind::Cpu {
        return CpuDevice::new(rank.0).unwrap();
    }
    CudaDevice::new(rank.0 % myelon_ccl::device::cuda::device_count().unwrap()).unwrap()
}

pub(crate) fn device_kind() -> DeviceKind {
    match std::env::var("MYELON_TEST_DEVICE").as_deref() {
        Ok("cuda") => DeviceKind::Cuda,
        _ => DeviceKind::Cpu,
    }
}

/// Where a test with counts worth keeping ran.
pub(crate) fn provenance(device: &Arc<dyn Device>) -> Provenance {
    let mut provenance = Provenance::of_this_host(source::tree_hash().unwrap());
    let properties = device.properties();
    if properties.kind == DeviceKind::Cuda {
        provenance.gpu = properties.name.clone();
        provenance.driver = properties.driver.clone();
        provenance.gpus = cuda::device_count().unwrap();
        if let Ok(link) = cuda::link(0, 1) {
            provenance.link = link.to_string();
        }
    }
    provenance
}

/// What kernels of these devices are compiled for.
pub(crate) fn arch() -> String {
    match device_kind() {
        DeviceKind::Cpu => "cpu".to_owned(),
        DeviceKind::Cuda => cuda::devices().unwrap()[0].arch.clone(),
    }
}

/// Every enabled variant of all-reduce that these devices run.
pub(crate) fn variants() -> Vec<Arc<VariantSpec>> {
    variants_of(Collective::AllReduce)
}

/// Every enabled variant of a collective that these devices run.
pub(crate) fn variants_of(collective: Collective) -> Vec<Arc<VariantSpec>> {
    let arch = arch();
    Manifest::embedded().enabled_of(collective).filter(|variant| variant.runs_on(&arch).is_ok()).cloned().collect()
}

/// Those of all collectives.
pub(crate) fn variants_of_all() -> Vec<Arc<VariantSpec>> {
    Collective::ALL.iter().flat_map(|&collective| variants_of(collective)).collect()
}

/// `ranks`, or as many as have a device each. Memory is freed, and communicators are made, once a device is idle: a rank that does so
/// while peers are in operations must not share its device with one of them.
pub(crate) fn with_own_devices(ranks: u32) -> u32 {
    match device_kind() {
        DeviceKind::Cuda => ranks.min(myelon_ccl::device::cuda::device_count().unwrap()),
        DeviceKind::Cpu => ranks,
    }
}

/// How many ranks a test that leaves it open is asked to have: `MYELON_TEST_RANKS`.
pub(crate) fn asked_ranks() -> Option<u32> {
    std::env::var("MYELON_TEST_RANKS").ok().map(|ranks| ranks.parse().unwrap())
}

/// Cells so small that ordinary messages take several pieces, wrap rings and change buffers. A staging cell is eight packs
/// for each thread that the CPU device has: more than there are stages of a pipeline.
pub(crate) fn small_limits() -> HeapLimits {
    HeapLimits {
        lanes: 4,
        sentinel_bytes: 16 << 10,
        ll_bytes: 8 << 10,
        staging_bytes: 4096,
        slot_bytes: 512,
        ring_slots: 16,
        copy_bytes: 1024,
        copies: 64,
    }
}

/// A shape at random that fits [`small_limits`]: lanes, one of the points of the manifest, and a chunk for who takes one.
/// What is compiled in is drawn for sums of floats only: it has nothing to do with types, and each point is a compilation. But for
/// the output: how a pack is stored into it depends on the type.
pub(crate) fn shape(random: &mut Random, variant: &VariantSpec, request: &Request) -> Shape {
    let point = *random.pick(&variant.parameters.points());
    let lanes = Some(Lanes::UpTo(1 + random.below(4) as u32));
    // Copies share the slots of all lanes: of the larger ones a message takes more than there is room for.
    let chunks = if variant.transfer == Transfer::CopyEngine { 5 } else { 3 };
    let chunk = Some(Bytes(128 << random.below(chunks))).filter(|_| variant.parameters.has_chunk());
    let Shape { slots, launch, output, .. } = point;
    if (request.dtype, request.op) == (DType::F32, ReduceOp::Sum) {
        Shape { lanes, chunk, ..point }
    } else {
        Shape { lanes, chunk, slots, launch, output, ..Shape::default() }
    }
}

pub(crate) fn options() -> Options {
    Options {
        timeout: Duration::from_secs(60),
        limits: Some(small_limits()),
        share_devices: true,
        ..Options::default()
    }
}

/// Runs `body` on every rank of new devices, a thread each; a panic on one rank is the test's.
pub(crate) fn on_ranks<T: Send>(ranks: u32, options: &Options, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    on_devices(&devices(ranks), options, body)
}

/// As [`on_ranks`], on devices that are there already.
pub(crate) fn on_devices<T: Send>(
    devices: &[Arc<dyn Device>],
    options: &Options,
    body: impl Fn(Communicator) -> T + Sync,
) -> Vec<T> {
    let communicators = Communicator::threads(devices, options).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = communicators
            .into_iter()
            .map(|communicator| {
                let body = &body;
                scope.spawn(move || body(communicator))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// One operation of a test, as all ranks see it; of the collective that its variant is one of.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) choice: Choice,
    pub(crate) request: Request,
    pub(crate) in_place: bool,
    pub(crate) seed: u64,
}

impl Operation {
    /// The request as it is run: what goes straight into outputs needs them in windows.
    fn run_request(&self) -> Request {
        Request { registered: self.choice.shape.is_direct(), ..self.request }
    }
}

/// Guard bytes before and after every operand.
const GUARD: u64 = 64;
const GUARD_BYTE: u8 = 0xc3;

/// A rank's operands, reused from operation to operation, and registered.
pub(crate) struct Bench {
    pub(crate) communicator: Communicator,
    /// Of input and output.
    windows: [Window; 2],
    input: Buffer,
    output: Buffer,
    pub(crate) streams: Vec<Stream>,
}

impl Bench {
    /// Collective.
    pub(crate) fn new(communicator: Communicator, most_bytes: u64) -> Self {
        Self::with(communicator, most_bytes, Buffer::new)
    }

    /// As [`Bench::new`], in memory that other processes can map on every device. Collective.
    pub(crate) fn shared(communicator: Communicator, most_bytes: u64) -> Self {
        Self::with(communicator, most_bytes, Buffer::shared)
    }

    fn with(
        communicator: Communicator,
        most_bytes: u64,
        allocate: fn(&Arc<dyn Device>, u64) -> ccl::Result<Buffer>,
    ) -> Self {
        let device = communicator.device();
        let bytes = most_bytes + 2 * GUARD + 16;
        let (input, output) = (allocate(device, bytes).unwrap(), allocate(device, bytes).unwrap());
        let streams = (0..2).map(|_| Stream::new(device).unwrap()).collect();
        // SAFETY: the communicator is dropped first, with every operation, then the windows, then the buffers.
        let windows = [&input, &output].map(|it| unsafe { communicator.register(it.address(), bytes).unwrap() });
        assert!(windows.iter().all(Window::is_zero_copy), "rank {}: {windows:?}", communicator.rank());
        Self { communicator, windows, input, output, streams }
    }

    /// Compiles what these operations need, on all processors at once; their first uses would one after the other. Collective.
    pub(crate) fn prepare(&self, operations: &[Operation]) {
        let plan = |it: &Operation| self.communicator.plan(&it.choice, &it.run_request()).unwrap();
        self.communicator.prepare(&operations.iter().map(plan).collect::<Vec<_>>()).unwrap();
    }

    /// Runs one operation and compares every byte, guards included, with the reference. `skew` is this rank's own
    /// misalignment in elements, where the output need not be at one offset on all; `stream` its choice of stream. Returns a hash
    /// of the result.
    pub(crate) fn run(&self, operation: &Operation, skew: u64, stream: usize) -> u64 {
        let Operation { choice, in_place, seed, .. } = operation;
        if choice.variant.collective != Collective::AllReduce {
            return self.run_call(operation, skew, stream);
        }
        let rank = self.communicator.rank();
        let world_size = self.communicator.world_size();
        let stream = &self.streams[stream];
        let request = &operation.run_request();
        let registered = request.registered;
        let bytes = request.bytes() as usize;
        let in_place = &(*in_place && choice.shape.output != Some(Output::Landing));
        // Windows are stored into at one offset on all ranks.
        let skew = if registered { *seed % 5 } else { skew };
        let skew = GUARD + skew * request.dtype.size_bytes() as u64;
        let inputs: Vec<_> = world_size.ranks().map(|rank| reference::input(request, *seed, rank)).collect();

        let whole = |content: &[u8]| {
            let mut whole = vec![GUARD_BYTE; skew as usize + bytes + GUARD as usize];
            whole[skew as usize..skew as usize + bytes].copy_from_slice(content);
            whole
        };
        self.input.upload(&whole(&inputs[rank.index()]), stream).unwrap();
        self.output.upload(&whole(&vec![0x5a; bytes]), stream).unwrap();
        let target = if *in_place { &self.input } else { &self.output };
        let at = |buffer: &Buffer| DevicePtr(buffer.address().0 + skew);
        let window = registered.then(|| &self.windows[usize::from(!in_place)]);
        let operation_in = ccl::Operation { window, ..ccl::Operation::of(request, at(&self.input), at(target)) };
        // SAFETY: both buffers hold the operands behind the guard and outlive the synchronisation.
        unsafe { self.communicator.all_reduce_as(choice, &operation_in, stream.handle()).unwrap() };
        self.communicator.synchronize(stream.handle()).unwrap();

        let expected =
            reference::reduced(&choice.variant, request, &inputs, &self.communicator.plan(choice, request).unwrap());
        let mut seen = vec![0; skew as usize + bytes + GUARD as usize];
        target.download(&mut seen, stream).unwrap();
        let (before, rest) = seen.split_at(skew as usize);
        let (result, after) = rest.split_at(bytes);
        assert!(
            before.iter().chain(after).all(|&byte| byte == GUARD_BYTE),
            "rank {rank}: {operation:?} wrote past its output"
        );
        if let Some(element) = reference::first_difference(request.dtype, result, &expected) {
            let size = request.dtype.size_bytes();
            let range = element * size..(element + 1) * size;
            panic!(
                "rank {rank}: {operation:?}: element {element} of {} is {:02x?}, expected {:02x?}",
                request.count,
                &result[range.clone()],
                &expected[range]
            );
        }
        if !in_place {
            let mut untouched = vec![0; bytes];
            let mut all = vec![0; skew as usize + bytes];
            self.input.download(&mut all, stream).unwrap();
            untouched.copy_from_slice(&all[skew as usize..]);
            assert_eq!(untouched, inputs[rank.index()], "rank {rank}: {operation:?} changed its input");
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(result);
        hasher.finish()
    }
}

/// Results have the same bits on every rank, those of NaNs too, which the reference leaves open. `hashes` of every rank's
/// results, operation by operation.
pub(crate) fn expect_equal_on_all_ranks(hashes: &[Vec<u64>]) {
    for (rank, own) in hashes.iter().enumerate() {
        let other = own.iter().zip(&hashes[0]).position(|(own, first)| own != first);
        assert_eq!(other, None, "rank {rank}: that operation's result differs, expected [the bits of rank 0]");
    }
}

/// A rank's own misalignment: ranks differ on purpose.
pub(crate) fn skew(random: &mut Random, rank: Rank) -> u64 {
    let draw = random.next();
    if draw & 1 == 0 { 0 } else { (draw >> 8).wrapping_add(u64::from(rank.0)) % 5 }
}
