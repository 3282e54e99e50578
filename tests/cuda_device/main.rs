//! The CUDA device on a real GPU. Each test prints why it is skipped where there is none.

mod memory;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::baseline::{self, MatrixProduct};
use myelon_ccl::device::cuda::{self, CudaDevice, Link};
use myelon_ccl::device::handles::Stream;
use myelon_ccl::device::{
    Device, DeviceKind, DevicePtr, KernelHandle, KernelImage, KernelSource, LaunchShape, StreamHandle,
};

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
    stream: StreamHandle<'static>,
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
