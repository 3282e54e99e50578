//! The CUDA device on a real GPU. Each test prints why it is skipped where there is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use myelon_ccl::baseline::{self, MatrixProduct};
use myelon_ccl::device::cuda::{self, CudaDevice, Link};
use myelon_ccl::device::handles::Stream;
use myelon_ccl::device::{Device, DeviceKind, DevicePtr, KernelHandle, KernelImage, KernelSource, LaunchShape};
use myelon_ccl::device::{EventHandle, StreamHandle};

/// The GPU, or `None` with the reason printed. A machine with a GPU on which the device does not open is a failure.
fn gpu(ordinal: u32) -> Option<Arc<CudaDevice>> {
    match cuda::device_count() {
        Ok(count) if count > ordinal => Some(CudaDevice::new(ordinal).expect("this machine has the GPU")),
        Ok(count) => {
            println!("skipped: needs GPU {ordinal}, this process sees {count}");
            None
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Adds to each of `count` floats, and can wait before.
const ADD: &str = r#"
struct Add { float* data; unsigned long long spin_ns; float addend; unsigned count; };
extern __shared__ float scratch[];
extern "C" __global__ void myelon_kernel(const Add args) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do { asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); } while (now - start < args.spin_ns);
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    scratch[threadIdx.x] = args.addend;
    __syncthreads();
    if (i < args.count) args.data[i] += scratch[blockDim.x - 1 - threadIdx.x];
}
"#;

#[repr(C)]
struct Add {
    data: u64,
    spin_ns: u64,
    addend: f32,
    count: u32,
}

impl Add {
    fn bytes(&self) -> &[u8] {
        // SAFETY: repr(C) without padding: two u64 and two 32-bit values.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// A device with the kernel loaded, a stream, and a buffer of floats.
struct Bench {
    device: Arc<CudaDevice>,
    kernel: KernelHandle,
    stream: StreamHandle,
    data: DevicePtr,
}

const COUNT: u32 = 1000;
const BYTES: u64 = COUNT as u64 * 4;
const SHAPE: LaunchShape = LaunchShape { grid: 8, block: 128, shared_bytes: 512, dependent: false };

impl Bench {
    fn new() -> Option<Self> {
        let device = gpu(0)?;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("add.{}", device.compiler().extension()));
        let source = KernelSource { name: "add".into(), entry: ADD.into() };
        device.compiler().compile(&source, &path).unwrap();
        let kernel = device.load(&KernelImage { name: source.name, path }).unwrap();
        let stream = device.create_stream().unwrap();
        let data = device.allocate(BYTES).unwrap();
        assert_eq!(data.0 % 256, 0);
        Some(Self { device, kernel, stream, data })
    }

    fn add(&self, addend: f32, spin: Duration, shape: LaunchShape) {
        let args = Add { data: self.data.0, spin_ns: spin.as_nanos() as u64, addend, count: COUNT };
        // SAFETY: the bytes are the kernel's struct; the buffer lives until `Bench` drops, after the stream is idle.
        unsafe { self.device.launch(self.kernel, shape, args.bytes(), self.stream) }.unwrap();
    }

    fn clear(&self) {
        // SAFETY: the buffer has this size and lives.
        unsafe { self.device.fill(self.data, 0, BYTES, self.stream) }.unwrap();
    }

    fn values(&self) -> Vec<f32> {
        read(&self.device, self.data, self.stream)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.device.synchronize_stream(self.stream).unwrap();
        // SAFETY: both are of this device, and nothing uses them after this.
        unsafe {
            self.device.free(self.data);
            self.device.destroy_stream(self.stream);
        }
    }
}

fn read(device: &CudaDevice, address: DevicePtr, stream: StreamHandle) -> Vec<f32> {
    let mut values = vec![f32::NAN; COUNT as usize];
    // SAFETY: both sides hold COUNT floats until the stream is synchronised below.
    unsafe { device.copy(DevicePtr(values.as_mut_ptr() as u64), address, BYTES, stream) }.unwrap();
    device.synchronize_stream(stream).unwrap();
    values
}

fn event_after(bench: &Bench) -> EventHandle {
    let event = bench.device.create_event().unwrap();
    bench.device.record_event(event, bench.stream).unwrap();
    event
}

#[test]
fn a_kernel_is_loaded_once_for_all_devices_of_a_gpu_and_again_after_the_last() {
    let Some(bench) = Bench::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("add.cubin");
    let source = KernelSource { name: "add".into(), entry: ADD.into() };
    bench.device.compiler().compile(&source, &path).unwrap();
    let image = KernelImage { name: source.name, path };
    let kernel = bench.device.load(&image).unwrap();
    assert_ne!(kernel, bench.kernel, "of another file");
    let other = gpu(0).unwrap();
    assert_eq!(other.load(&image).unwrap(), kernel);
    drop(bench);
    assert_eq!(other.load(&image).unwrap(), kernel);
    drop(other);
    // Whatever its handle is now: it runs.
    let mut bench = Bench::new().unwrap();
    bench.kernel = bench.device.load(&image).unwrap();
    bench.clear();
    bench.add(2.0, Duration::ZERO, SHAPE);
    assert_eq!(bench.values(), vec![2.0; COUNT as usize]);
}

#[test]
fn properties_say_what_the_gpu_is() {
    let Some(device) = gpu(0) else { return };
    let properties = device.properties();
    assert_eq!(properties.kind, DeviceKind::Cuda);
    assert!(properties.arch.starts_with("sm_") && properties.multiprocessors > 0, "{properties:?}");
    assert!(properties.identity.starts_with("GPU-") && properties.identity.len() == 40, "{properties:?}");
    assert_eq!(cuda::devices().unwrap()[0], *properties);
    assert_eq!(device.context().ordinal(), 0);
    assert!(cuda::can_access_peer(0, 0).unwrap());
    assert_eq!(cuda::link(0, 0).unwrap(), Link::SameGpu);
    println!("{properties:?}, {}", device.compiler().identity());
}

#[test]
fn a_kernel_runs_with_its_arguments() {
    let Some(bench) = Bench::new() else { return };
    bench.clear();
    bench.add(1.5, Duration::ZERO, SHAPE);
    bench.add(2.0, Duration::ZERO, LaunchShape { dependent: true, ..SHAPE });
    bench.add(0.25, Duration::ZERO, LaunchShape { dependent: true, ..SHAPE });
    assert_eq!(bench.values(), vec![3.75; COUNT as usize]);
}

#[test]
fn any_thread_may_launch() {
    let Some(bench) = Bench::new() else { return };
    bench.clear();
    std::thread::scope(|scope| {
        scope.spawn(|| bench.add(1.0, Duration::ZERO, SHAPE)).join().unwrap();
    });
    assert_eq!(bench.values(), vec![1.0; COUNT as usize]);
}

#[test]
fn more_than_the_default_shared_memory_works_and_lowers_residency() {
    let Some(bench) = Bench::new() else { return };
    let small = bench.device.resident_limit(bench.kernel, 128, 512).unwrap();
    let large = bench.device.resident_limit(bench.kernel, 128, 60 << 10).unwrap();
    let per_multiprocessor = bench.device.properties().multiprocessors;
    assert!(large >= per_multiprocessor && large < small, "{small} CTAs with 512 B, {large} with 60 KiB");
    bench.clear();
    bench.add(4.0, Duration::ZERO, LaunchShape { shared_bytes: 60 << 10, ..SHAPE });
    assert_eq!(bench.values(), vec![4.0; COUNT as usize]);
}

#[test]
fn an_impossible_launch_is_an_error_and_the_next_one_works() {
    let Some(bench) = Bench::new() else { return };
    let args = Add { data: bench.data.0, spin_ns: 0, addend: 1.0, count: COUNT };
    let shape = LaunchShape { block: 4096, ..SHAPE };
    // SAFETY: as in `Bench::add`; the launch is refused.
    let error = unsafe { bench.device.launch(bench.kernel, shape, args.bytes(), bench.stream) }.unwrap_err();
    assert!(error.to_string().contains("cuLaunchKernelEx failed: CUDA_ERROR_"), "{error}");
    bench.clear();
    bench.add(1.0, Duration::ZERO, SHAPE);
    assert_eq!(bench.values(), vec![1.0; COUNT as usize]);
}

#[test]
fn events_tell_time_and_queries_do_not_block() {
    let Some(bench) = Bench::new() else { return };
    let start = event_after(&bench);
    bench.add(1.0, Duration::from_millis(200), SHAPE);
    let end = event_after(&bench);
    assert!(!bench.device.event_is_reached(end).unwrap(), "the kernel takes 200 ms");
    assert!(!bench.device.stream_is_idle(bench.stream).unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.device.event_is_reached(end).unwrap() {
        assert!(Instant::now() < deadline, "the event was not reached within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(bench.device.stream_is_idle(bench.stream).unwrap());
    let elapsed = bench.device.elapsed_ns(start, end).unwrap();
    assert!(elapsed >= 190_000_000, "{elapsed} ns");
    for event in [start, end] {
        // SAFETY: of this device, and not used after this.
        unsafe { bench.device.destroy_event(event) };
    }
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    let Some(bench) = Bench::new() else { return };
    bench.clear();
    bench.add(1.0, Duration::from_millis(50), SHAPE);
    let event = event_after(&bench);
    let other = bench.device.create_stream().unwrap();
    bench.device.wait_event(other, event).unwrap();
    assert_eq!(read(&bench.device, bench.data, other), vec![1.0; COUNT as usize]);
    // SAFETY: both are of this device and idle.
    unsafe {
        bench.device.destroy_event(event);
        bench.device.destroy_stream(other);
    }
}

#[test]
fn a_graph_replays_what_was_captured() {
    let Some(bench) = Bench::new() else { return };
    bench.clear();
    bench.device.synchronize_stream(bench.stream).unwrap();
    assert!(!bench.device.is_capturing(bench.stream).unwrap());
    bench.device.begin_capture(bench.stream).unwrap();
    assert!(bench.device.is_capturing(bench.stream).unwrap());
    bench.add(1.0, Duration::ZERO, SHAPE);
    bench.add(2.0, Duration::ZERO, LaunchShape { dependent: true, ..SHAPE });
    // Loads, allocations and new streams of the same thread must not spoil a capture.
    let block = bench.device.allocate_shared(1).unwrap();
    let (stream, event) = (bench.device.create_stream().unwrap(), bench.device.create_event().unwrap());
    let graph = bench.device.end_capture(bench.stream).unwrap();
    drop(block);
    // SAFETY: of this device, and never used.
    unsafe {
        bench.device.destroy_event(event);
        bench.device.destroy_stream(stream);
    }
    assert_eq!(bench.values(), vec![0.0; COUNT as usize], "capturing runs nothing");
    for _ in 0..3 {
        bench.device.launch_graph(graph, bench.stream).unwrap();
    }
    assert_eq!(bench.values(), vec![9.0; COUNT as usize]);
    // SAFETY: all launches are over.
    unsafe { bench.device.destroy_graph(graph) };
}

/// The word is written behind a slow kernel of the other stream, at once and in a graph whose branches meet nowhere else.
#[test]
fn a_stream_waits_for_a_word_that_another_writes() {
    let Some(bench) = Bench::new() else { return };
    let device = &bench.device;
    assert!(device.has_value_operations());
    let (word, side) = (device.allocate(8).unwrap(), device.create_stream().unwrap());
    let [fork, join] = [(); 2].map(|()| device.create_event().unwrap());
    let block = device.allocate_shared(BYTES).unwrap();
    let issue = || {
        // SAFETY: word, block and data live until the streams are idle.
        unsafe {
            device.fill(word, 0, 8, bench.stream).unwrap();
            device.record_event(fork, bench.stream).unwrap();
            device.wait_event(side, fork).unwrap();
            bench.add(1.0, Duration::from_millis(20), SHAPE);
            device.write_value(word, 3, bench.stream).unwrap();
            device.wait_value(word, 2, side).unwrap();
            device.copy(block.address, bench.data, BYTES, side).unwrap();
        }
        device.record_event(join, side).unwrap();
        device.wait_event(bench.stream, join).unwrap();
    };
    bench.clear();
    issue();
    assert_eq!(read(device, block.address, bench.stream), vec![1.0; COUNT as usize]);
    device.begin_capture(bench.stream).unwrap();
    issue();
    let graph = device.end_capture(bench.stream).unwrap();
    for sum in [2.0, 3.0] {
        device.launch_graph(graph, bench.stream).unwrap();
        assert_eq!(read(device, block.address, bench.stream), vec![sum; COUNT as usize]);
    }
    // SAFETY: all of this device, and idle.
    unsafe {
        device.destroy_graph(graph);
        device.destroy_event(fork);
        device.destroy_event(join);
        device.destroy_stream(side);
        device.free(word);
    }
}

#[test]
fn a_shared_block_is_zeroed_and_an_import_sees_what_the_exporter_writes() {
    let Some(bench) = Bench::new() else { return };
    let block = bench.device.allocate_shared(BYTES).unwrap();
    assert_eq!(read(&bench.device, block.address, bench.stream), vec![0.0; COUNT as usize]);
    let fd = bench.device.export_shared(&block).unwrap();
    let imported = bench.device.import_shared(fd, BYTES).unwrap();
    assert_ne!(imported.address, block.address);
    bench.clear();
    bench.add(6.0, Duration::ZERO, SHAPE);
    // SAFETY: both ranges hold BYTES and live until `read` has synchronised the stream.
    unsafe { bench.device.copy(block.address, bench.data, BYTES, bench.stream) }.unwrap();
    assert_eq!(read(&bench.device, imported.address, bench.stream), vec![6.0; COUNT as usize]);
    // The import holds the memory after the exporter has let go of it.
    drop(block);
    assert_eq!(read(&bench.device, imported.address, bench.stream), vec![6.0; COUNT as usize]);
}

#[test]
fn a_second_gpu_reaches_a_block_after_it_was_granted_access() {
    let (Some(bench), Some(second)) = (Bench::new(), gpu(1)) else { return };
    if !cuda::can_access_peer(1, 0).unwrap() {
        println!("skipped: GPU 1 cannot reach GPU 0");
        return;
    }
    println!("GPU 1 reaches GPU 0 over {}", cuda::link(1, 0).unwrap());
    let block = bench.device.allocate_shared(BYTES).unwrap();
    second.grant_access(&block).unwrap();
    let stream = second.create_stream().unwrap();
    // SAFETY: the range holds BYTES and lives until `read` has synchronised the stream.
    unsafe { second.fill(block.address, 0x40, BYTES, stream) }.unwrap();
    assert_eq!(read(&second, block.address, stream), vec![f32::from_bits(0x4040_4040); COUNT as usize]);
    let imported = second.import_shared(bench.device.export_shared(&block).unwrap(), BYTES).unwrap();
    assert_eq!(read(&second, imported.address, stream), vec![f32::from_bits(0x4040_4040); COUNT as usize]);
    // SAFETY: idle after `read`.
    unsafe { second.destroy_stream(stream) };
}

#[test]
fn memory_is_exported_by_its_kind() {
    let Some(bench) = Bench::new() else { return };
    let device = &bench.device;
    let export = device.export(bench.data.offset(16), BYTES - 16).unwrap();
    assert!(export.fd.is_none() && export.card.ipc_handle.is_some(), "{export:?}");
    let message = device.export(bench.data, 1 << 40).unwrap_err().to_string();
    assert!(message.contains("not within one allocation"), "{message}");
    let host = device.allocate_host(BYTES).unwrap();
    assert!(device.export(host.device, BYTES).is_err());

    let block = device.allocate_shared(2 * BYTES).unwrap();
    let export = device.export(block.address.offset(BYTES), BYTES).unwrap();
    assert!(export.fd.is_some() && export.card.ipc_handle.is_none() && export.card.offset == BYTES, "{export:?}");
    let imported = device.import(export, BYTES).unwrap();
    bench.clear();
    bench.add(7.0, Duration::ZERO, SHAPE);
    // SAFETY: both ranges hold BYTES and live until `read` has synchronised the stream.
    unsafe { device.copy(block.address.offset(BYTES), bench.data, BYTES, bench.stream) }.unwrap();
    assert_eq!(read(device, imported.address, bench.stream), vec![7.0; COUNT as usize]);
}

#[test]
fn a_second_gpu_reaches_memory_of_either_kind() {
    let (Some(bench), Some(second)) = (Bench::new(), gpu(1)) else { return };
    if !cuda::can_access_peer(1, 0).unwrap() {
        println!("skipped: GPU 1 cannot reach GPU 0");
        return;
    }
    let block = bench.device.allocate_shared(BYTES).unwrap();
    let stream = second.create_stream().unwrap();
    for address in [bench.data, block.address] {
        // Again, and from its own GPU: no harm.
        for device in [&second, &second, &bench.device] {
            device.reach(address, BYTES).unwrap();
        }
        // SAFETY: the range holds BYTES and lives until `read` has synchronised the stream.
        unsafe { second.fill(address, 0x40, BYTES, stream) }.unwrap();
        assert_eq!(read(&second, address, stream), vec![f32::from_bits(0x4040_4040); COUNT as usize]);
    }
    assert!(second.reach(bench.device.allocate_host(BYTES).unwrap().device, BYTES).is_err());
    // SAFETY: idle after `read`.
    unsafe { second.destroy_stream(stream) };
}

#[test]
fn kernels_and_host_share_a_host_block() {
    let Some(bench) = Bench::new() else { return };
    let block = bench.device.allocate_host(BYTES).unwrap();
    assert_eq!(block.host as usize % 4096, 0);
    let value = |index: usize| {
        // SAFETY: inside the block, and the stream is idle whenever this is called.
        unsafe { block.host.cast::<f32>().add(index).read_volatile() }
    };
    assert_eq!((value(0), value(COUNT as usize - 1)), (0.0, 0.0));
    let args = Add { data: block.device.0, spin_ns: 0, addend: 2.5, count: COUNT };
    // SAFETY: as in `Bench::add`; the block lives until the stream is synchronised.
    unsafe { bench.device.launch(bench.kernel, SHAPE, args.bytes(), bench.stream) }.unwrap();
    bench.device.synchronize_stream(bench.stream).unwrap();
    assert_eq!((value(0), value(COUNT as usize - 1)), (2.5, 2.5));
}

#[test]
fn a_file_that_is_no_kernel_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("torn.cubin");
    std::fs::write(&path, "").unwrap();
    let error = bench.device.load(&KernelImage { name: "torn".into(), path }).unwrap_err();
    assert!(error.to_string().contains("torn.cubin is no machine code"), "{error}");
}

/// cuBLAS on a device's stream, held against a product in `f32`: the sums are exact to a `bf16`'s 8 bits.
#[test]
fn a_product_of_matrices_is_that_of_its_operands() {
    let Some(device) = gpu(0) else { return };
    if let Err(error) = baseline::cublas_version() {
        println!("skipped: {error}");
        return;
    }
    let device: Arc<dyn Device> = device;
    let stream = Stream::new(&device).unwrap();
    let order = 96usize;
    let product = MatrixProduct::new(&device, &stream, order as u32).unwrap();
    println!("{}", product.describe());
    product.queue().unwrap();
    let [left, right, result] = product.matrices().each_ref().map(|matrix| {
        let mut bytes = vec![0u8; matrix.bytes() as usize];
        matrix.download(&mut bytes, &stream).unwrap();
        let (numbers, _) = bytes.as_chunks::<2>();
        numbers.iter().map(|&number| half::bf16::from_ne_bytes(number).to_f32()).collect::<Vec<_>>()
    });
    assert_ne!(left, right);
    for (at, &seen) in result.iter().enumerate() {
        let (row, column) = (at % order, at / order);
        let expected: f32 = (0..order).map(|k| left[k * order + row] * right[column * order + k]).sum();
        assert!(
            (seen - expected).abs() <= expected.abs() / 128.0 + 1e-4,
            "row {row}, column {column}: {seen}, not {expected}"
        );
    }
}
