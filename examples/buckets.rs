//! A step's gradients, many small tensors: reduced as one list of buckets, and as a batch of operations. Prints the times of both.
//!
//! `cargo run --release --example buckets -- 100 4096`: 100 tensors of 4096 `f32`, on all GPUs, or on four ranks of the CPU device.

use std::sync::Arc;

use myelon_ccl::device::Device;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::handles::{Buffer, Event, Stream};
use myelon_ccl::variant::Request;
use myelon_ccl::{Bucket, Communicator, DType, Error, Operation, Options, ReduceOp, Result};

const STEPS: u64 = 50;

fn main() -> Result<()> {
    let argument = |place, default| std::env::args().nth(place).map_or(Ok(default), |text| text.parse());
    let number =
        |place, default| argument(place, default).map_err(|_| Error::invalid("usage: buckets [TENSORS [ELEMENTS]]"));
    let (tensors, count) = (number(1, 100)?, number(2, 4096)?);
    let options = Options::from_env()?;
    let communicators = Communicator::all_gpus(&options).or_else(|_| {
        let cpu = |rank| CpuDevice::new(rank).map(|device| device as Arc<dyn Device>);
        Communicator::threads(&(0..4).map(cpu).collect::<Result<Vec<_>>>()?, &options)
    })?;
    std::thread::scope(|scope| {
        let run = |communicator| scope.spawn(move || run(communicator, tensors, count));
        let ranks: Vec<_> = communicators.into_iter().map(run).collect();
        ranks.into_iter().try_for_each(|rank| rank.join().expect("no rank panics"))
    })
}

fn run(communicator: Communicator, tensors: u64, count: u64) -> Result<()> {
    let device = communicator.device();
    let stream = Stream::new(device)?;
    let gradients = (0..tensors).map(|_| Buffer::new(device, 4 * count)).collect::<Result<Vec<_>>>()?;
    // Dropped before the stream of its last operation and before the gradients.
    let communicator = communicator;
    let ones: Vec<u8> = 1.0f32.to_ne_bytes().repeat(count as usize);
    gradients.iter().try_for_each(|gradient| gradient.upload(&ones, &stream))?;

    // Averages of ones stay ones, step after step.
    let (dtype, op) = (DType::F32, ReduceOp::Avg);
    let request = Request { count, dtype, op, registered: false };
    let bucket = |gradient: &Buffer| Bucket { input: gradient.address(), output: gradient.address(), count };
    let buckets: Vec<_> = gradients.iter().map(bucket).collect();
    let batch: Vec<_> =
        buckets.iter().map(|&Bucket { input, output, .. }| Operation::of(&request, input, output)).collect();
    communicator.prepare_types(&[(dtype, op)])?;
    communicator.prepare_buckets(&[(dtype, op)])?;
    // SAFETY: every gradient holds `count` elements, none overlap, and they outlive the communicator.
    let list = || unsafe { communicator.all_reduce_buckets(&buckets, dtype, op, stream.handle()) };
    let list_us = time(&communicator, &stream, &list)?;
    // SAFETY: as above.
    let batch_us = time(&communicator, &stream, &|| unsafe { communicator.all_reduce_batch(&batch, stream.handle()) })?;
    if communicator.rank().0 == 0 {
        println!("{tensors} tensors of {count} f32: {list_us:.1} us a step as a list, {batch_us:.1} as a batch");
    }
    let mut result = vec![0; ones.len()];
    gradients.iter().try_for_each(|gradient| {
        gradient.download(&mut result, &stream)?;
        assert!(result == ones, "rank {}: a gradient is wrong", communicator.rank());
        Ok(())
    })
}

/// Microseconds of a step on the device; ranks begin together.
fn time(communicator: &Communicator, stream: &Stream, step: &dyn Fn() -> Result<()>) -> Result<f64> {
    let [start, end] = [Event::new(communicator.device())?, Event::new(communicator.device())?];
    step()?;
    // SAFETY: the stream outlives the communicator.
    unsafe { communicator.barrier(stream.handle())? };
    start.record(stream.handle())?;
    (0..STEPS).try_for_each(|_| step())?;
    end.record(stream.handle())?;
    communicator.synchronize(stream.handle())?;
    Ok(end.elapsed_ns_since(&start)? as f64 / 1e3 / STEPS as f64)
}
