//! The NCCL baseline on real GPUs: a thread a rank, one rank a GPU. Skipped with the reason where something is missing.

use std::sync::{Barrier, Mutex};
use std::time::Duration;

use myelon_ccl::baseline::{self, NcclCommunicator, Provider};
use myelon_ccl::device::cuda::{self, CudaDevice};
use myelon_ccl::device::{Device, DevicePtr, StreamHandle};
use myelon_ccl::{DType, Error, Rank, ReduceOp, Result, WorldSize};

const COUNT: u64 = 10_000;
const BYTES: u64 = COUNT * 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `body` as every rank of a world over all GPUs.
fn in_world(body: impl Fn(&NcclCommunicator, &CudaDevice, WorldSize) + Sync) {
    let ready = baseline::version().and_then(|version| Ok((version, cuda::device_count()?)));
    let (version, gpus) = match ready {
        Ok((version, gpus)) if gpus > 0 => (version, gpus),
        Ok(_) => {
            println!("skipped: no GPU is visible");
            return;
        }
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let world = WorldSize::new(gpus.min(8)).unwrap();
    println!("NCCL {version}, {world} GPUs, NVLS {}", baseline::nvls());
    let board = Mutex::new(vec![Vec::new(); world.get() as usize]);
    let devices: Vec<_> = world.ranks().map(|rank| CudaDevice::new(rank.0).unwrap()).collect();
    let barrier = Barrier::new(world.get() as usize);
    std::thread::scope(|scope| {
        for rank in world.ranks() {
            let (board, barrier, body, device) = (&board, &barrier, &body, &devices[rank.index()]);
            scope.spawn(move || {
                let all_gather = |bytes: &[u8]| -> Result<Vec<Vec<u8>>> {
                    board.lock().unwrap()[rank.index()] = bytes.to_vec();
                    barrier.wait();
                    Ok(board.lock().unwrap().clone())
                };
                let communicator =
                    NcclCommunicator::connect(Provider::Nccl, &all_gather, rank, world, rank.0, PATIENCE).unwrap();
                assert_eq!(communicator.version(), version);
                body(&communicator, device, world);
                communicator.check().unwrap();
                communicator.finalize().unwrap();
                let error = run(&communicator, DevicePtr(0), StreamHandle::DEFAULT).unwrap_err();
                assert!(error.to_string().contains("this communicator is closed: it was finalized"), "{error}");
            });
        }
    });
}

fn run(communicator: &NcclCommunicator, buffer: DevicePtr, stream: StreamHandle) -> Result<()> {
    // SAFETY: the callers' buffers hold COUNT floats until the stream is synchronised, or the call is refused.
    unsafe { communicator.all_reduce(buffer, buffer, COUNT, DType::F32, ReduceOp::Sum, stream) }
}

/// Fills with ones, reduces in place, and checks that each element counts the ranks.
fn reduce_ones(communicator: &NcclCommunicator, device: &CudaDevice, buffer: DevicePtr, world: WorldSize) {
    let stream = device.create_stream().unwrap();
    let mut values = vec![1.0f32; COUNT as usize];
    let host = DevicePtr(values.as_mut_ptr() as u64);
    // SAFETY: both sides hold COUNT floats until the stream is synchronised.
    unsafe { device.copy(buffer, host, BYTES, stream) }.unwrap();
    run(communicator, buffer, stream).unwrap();
    // SAFETY: as above.
    unsafe { device.copy(host, buffer, BYTES, stream) }.unwrap();
    device.synchronize_stream(stream).unwrap();
    assert_eq!(values, vec![world.get() as f32; COUNT as usize]);
    // SAFETY: idle, and not used after this.
    unsafe { device.destroy_stream(stream) };
}

#[test]
fn plain_buffers_are_reduced() {
    in_world(|communicator, device, world| {
        let buffer = device.allocate(BYTES).unwrap();
        reduce_ones(communicator, device, buffer, world);
        // SAFETY: `reduce_ones` synchronised.
        unsafe { device.free(buffer) };
    });
}

#[test]
fn symmetric_buffers_are_reduced() {
    in_world(|communicator, device, world| match communicator.symmetric_buffer(BYTES) {
        Ok(buffer) => {
            assert!(buffer.bytes() == BYTES && buffer.address().0 % 4096 == 0);
            let message = communicator.finalize().unwrap_err().to_string();
            assert!(message.contains("drop them first"), "{message}");
            reduce_ones(communicator, device, buffer.address(), world);
        }
        Err(error @ Error::Unsupported(_)) => println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    });
}

#[test]
fn an_aborted_communicator_refuses_calls_and_drops_quietly() {
    let Ok(gpus) = cuda::device_count() else {
        println!("skipped: no CUDA driver");
        return;
    };
    if gpus == 0 || baseline::version().is_err() {
        println!("skipped: needs a GPU and NCCL");
        return;
    }
    let alone = |bytes: &[u8]| Ok(vec![bytes.to_vec()]);
    let world = WorldSize::new(1).unwrap();
    let communicator = NcclCommunicator::connect(Provider::Nccl, &alone, Rank(0), world, 0, PATIENCE).unwrap();
    communicator.abort().unwrap();
    communicator.abort().unwrap();
    let error = run(&communicator, DevicePtr(0), StreamHandle::DEFAULT).unwrap_err().to_string();
    assert!(error.contains("it was aborted"), "{error}");
}
