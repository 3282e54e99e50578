//! All-reduce across processes, one a GPU; on a machine without GPUs, the same over the CPU device.
//!
//! `cargo build --release --example processes && mpirun -np 2 target/release/examples/processes`, or torchrun, or srun

use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::{Communicator, DType, Options, ReduceOp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let communicator = Communicator::from_env(Options::from_env()?)?;
    let stream = Stream::new(communicator.device())?;
    let data = Buffer::new(communicator.device(), 4096)?;
    let ones: Vec<u8> = 1f32.to_le_bytes().repeat(1024);
    data.upload(&ones, &stream)?;
    // SAFETY: the buffer holds 1024 floats and lives until the stream has been waited for; so does the stream.
    unsafe {
        communicator.all_reduce(data.address(), data.address(), 1024, DType::F32, ReduceOp::Sum, stream.handle())?
    };
    communicator.synchronize(stream.handle())?;
    let mut first = [0; 4];
    data.download(&mut first, &stream)?;
    println!("rank {} of {}: {}", communicator.rank(), communicator.world_size(), f32::from_le_bytes(first));
    Ok(())
}
