//! Test data and checks on the device, so that every operation can be verified, replayed ones included.

use std::sync::Arc;

use myelon_ccl::abi::{PACK_BYTES, VerifyArgs, bytes_of};
use myelon_ccl::device::cache::compile_cached;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{Device, DeviceKind, DevicePtr, KernelHandle, LaunchShape};
use myelon_ccl::variant::{Request, VerifyKernel};
use myelon_ccl::{Communicator, DType, ReduceOp, Result};

/// Mixed into all test data. Any number does.
const SEED: u64 = 0x6d79_656c_6f6e;
/// What a result holds before its operation: no test data looks like it all over.
const POISON: u8 = 0xa5;

/// The verifying kernels of one element type and operator, and this rank's counters.
pub(crate) struct Verifier {
    device: Arc<dyn Device>,
    rank: u32,
    world_size: u32,
    fill: KernelHandle,
    check: KernelHandle,
    next: KernelHandle,
    /// Two `u64`: number of the operation, wrong elements so far.
    counters: Buffer,
}

impl Verifier {
    /// Compiles and loads the kernels. Nothing may be running on any rank.
    pub(crate) fn prepare(communicator: &Communicator, dtype: DType, op: ReduceOp) -> Result<Self> {
        let device = communicator.device();
        let load = |kernel: VerifyKernel| device.load(&compile_cached(device.compiler(), &kernel.source(dtype, op))?);
        Ok(Self {
            fill: load(VerifyKernel::Fill)?,
            check: load(VerifyKernel::Check)?,
            next: load(VerifyKernel::Next)?,
            counters: Buffer::new(device, 16)?,
            device: Arc::clone(device),
            rank: communicator.rank().0,
            world_size: communicator.world_size().get(),
        })
    }

    /// Starts counting at operation `first`, with nothing wrong. Every rank passes the same number.
    pub(crate) fn restart(&self, first: u64, stream: &Stream) -> Result<()> {
        let mut counters = [0; 16];
        counters[..8].copy_from_slice(&first.to_ne_bytes());
        self.counters.upload(&counters, stream)
    }

    /// Queues: writes this rank's data of the current operation.
    pub(crate) fn fill(&self, data: DevicePtr, request: &Request, stream: &Stream) -> Result<()> {
        self.launch(self.fill, self.grid(request), data, request.count, stream)
    }

    /// Queues: makes sure that a result left over from earlier is not taken for a new one.
    pub(crate) fn poison(&self, data: DevicePtr, request: &Request, stream: &Stream) -> Result<()> {
        if request.bytes() == 0 {
            return Ok(());
        }
        // SAFETY: the caller's operand has room for the request, and lives until the stream has passed.
        unsafe { self.device.fill(data, POISON, request.bytes(), stream.handle()) }
    }

    /// Queues: counts what is wrong in the result of the current operation, and goes on to the next.
    pub(crate) fn check(&self, data: DevicePtr, request: &Request, stream: &Stream) -> Result<()> {
        self.launch(self.check, self.grid(request), data, request.count, stream)?;
        self.launch(self.next, 1, data, 0, stream)
    }

    /// Waits, and reads how many elements were wrong on this rank since [`Verifier::restart`].
    pub(crate) fn wrong(&self, stream: &Stream) -> Result<u64> {
        let mut counters = [0; 16];
        self.counters.download(&mut counters, stream)?;
        let [_, _, _, _, _, _, _, _, wrong @ ..] = counters;
        Ok(u64::from_ne_bytes(wrong))
    }

    fn grid(&self, request: &Request) -> u32 {
        match self.device.properties().kind {
            // A stride of CTAs covers any size: enough of them to fill a GPU.
            DeviceKind::Cuda => (request.bytes() / PACK_BYTES / u64::from(VerifyKernel::THREADS) + 1).min(512) as u32,
            DeviceKind::Cpu => 2,
        }
    }

    fn launch(&self, kernel: KernelHandle, grid: u32, data: DevicePtr, count: u64, stream: &Stream) -> Result<()> {
        let args = VerifyArgs {
            data: data.0,
            count,
            wrong: self.counters.address().offset(8).0,
            operation: self.counters.address().0,
            seed: SEED,
            rank: self.rank,
            world_size: self.world_size,
        };
        let shape = LaunchShape { grid, block: VerifyKernel::THREADS, shared_bytes: 0, dependent: false };
        // SAFETY: `VerifyArgs` is what the verifying kernels take; the counters live as long as `self`, which the caller
        // keeps, as it does the operand, until it has synchronised the stream.
        unsafe { self.device.launch(kernel, shape, bytes_of(&args), stream.handle()) }
    }
}

#[cfg(test)]
mod tests {
    use myelon_ccl::Options;
    use myelon_ccl::device::cpu::CpuDevice;

    use super::*;

    /// One rank: its input is the result of a sum, so the checks can be tried without an all-reduce.
    #[test]
    fn what_is_wrong_is_counted_and_every_operation_has_its_own_data() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let [communicator] = Communicator::threads(&[device], &Options::default()).unwrap().try_into().unwrap();
        let device = communicator.device();
        let (request, stream) =
            (Request { count: 1000, dtype: DType::I32, op: ReduceOp::Sum }, Stream::new(device).unwrap());
        let data = Buffer::new(device, request.bytes()).unwrap();
        let verifier = Verifier::prepare(&communicator, request.dtype, request.op).unwrap();
        let at = data.address();

        verifier.restart(7, &stream).unwrap();
        verifier.fill(at, &request, &stream).unwrap();
        verifier.check(at, &request, &stream).unwrap();
        assert_eq!(verifier.wrong(&stream).unwrap(), 0);
        // The data of operation 7 is as good as all wrong for operation 8.
        verifier.check(at, &request, &stream).unwrap();
        assert!(verifier.wrong(&stream).unwrap() > 990);

        verifier.restart(7, &stream).unwrap();
        let mut bytes = vec![0; request.bytes() as usize];
        data.download(&mut bytes, &stream).unwrap();
        bytes[4 * 123] ^= 1;
        data.upload(&bytes, &stream).unwrap();
        verifier.check(at, &request, &stream).unwrap();
        assert_eq!(verifier.wrong(&stream).unwrap(), 1);

        verifier.restart(7, &stream).unwrap();
        verifier.poison(at, &request, &stream).unwrap();
        verifier.check(at, &request, &stream).unwrap();
        assert!(verifier.wrong(&stream).unwrap() > 990);
    }
}
