//! All-reduce of a slice across all GPUs of this process, a thread each.
//!
//! `cargo run --release --example threads`

use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::{Communicator, Options, ReduceOp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let communicators = Communicator::all_gpus(&Options::from_env()?)?;
    std::thread::scope(|scope| {
        for communicator in communicators {
            scope.spawn(move || {
                run(&communicator).unwrap_or_else(|error| panic!("rank {}: {error}", communicator.rank()))
            });
        }
    });
    Ok(())
}

fn run(communicator: &Communicator) -> Result<(), Box<dyn std::error::Error>> {
    let gpu = CudaDevice::new(communicator.device().properties().ordinal)?;
    let stream = gpu.context().new_stream()?;
    let input = stream.clone_htod(&vec![communicator.rank().0 as f32; 1 << 20])?;
    let mut output = stream.alloc_zeros::<f32>(1 << 20)?;
    communicator.all_reduce_slice(&input, &mut output, ReduceOp::Sum, &stream)?;
    communicator.status()?;
    println!("rank {}: sum of the ranks is {}", communicator.rank(), stream.clone_dtoh(&output)?[0]);
    Ok(())
}
