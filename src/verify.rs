//! Test data and checks on the device, so that every operation can be verified, replayed ones included, without a wait.
//!
//! The kernels are those of `cuda/verify`. The number of an operation lies in device memory, so a captured graph works on new
//! data at every replay.

use std::ops::Range;
use std::sync::Arc;

use crate::abi::{PACK_BYTES, VerifyArgs, bytes_of};
use crate::device::cache::compile_cached;
use crate::device::handles::{Buffer, Stream};
use crate::device::{Device, DeviceKind, DevicePtr, KernelHandle, LaunchShape};
use crate::error::Result;
use crate::types::{Collective, DType, Rank, ReduceOp, WorldSize};
use crate::variant::{Request, VerifyKernel, dtype_runs_on};

/// What a result holds before its operation: no test data looks like it all over.
const POISON: u8 = 0xa5;

/// A rank's count of verified operations and of what was wrong in them, in device memory. Of one stream: what is queued on
/// several would count at once.
///
/// The owner synchronises the stream before dropping it.
#[derive(Debug)]
pub struct Tally {
    /// Two `u64`: number of the operation, wrong elements so far.
    counters: Buffer,
    rank: Rank,
    world_size: WorldSize,
    seed: u64,
}

impl Tally {
    /// A tally of `rank`. It counts from [`Tally::restart`] on. All ranks pass one `seed`, which is mixed into all test data.
    pub fn new(device: &Arc<dyn Device>, rank: Rank, world_size: WorldSize, seed: u64) -> Result<Self> {
        Ok(Self { counters: Buffer::new(device, 16)?, rank, world_size, seed })
    }

    /// Waits, and starts counting at operation `first`, with nothing wrong. Every rank passes the same number.
    pub fn restart(&self, first: u64, stream: &Stream) -> Result<()> {
        let counters = [first, 0].map(u64::to_ne_bytes);
        self.counters.upload(counters.as_flattened(), stream)
    }

    /// Waits, and reads the number of the operation that comes next, and how many elements were wrong on this rank since
    /// [`Tally::restart`].
    pub fn read(&self, stream: &Stream) -> Result<(u64, u64)> {
        let mut counters = [[0; 8]; 2];
        self.counters.download(counters.as_flattened_mut(), stream)?;
        let [next, wrong] = counters.map(u64::from_ne_bytes);
        Ok((next, wrong))
    }

    fn args(&self, of: &Part, data: DevicePtr, count: u64) -> VerifyArgs {
        VerifyArgs {
            data: data.0,
            count,
            wrong: self.counters.address().offset(8).0,
            operation: self.counters.address().0,
            seed: self.seed,
            first: of.first,
            rank: of.ranks.start,
            world_size: of.ranks.end - of.ranks.start,
        }
    }
}

/// What a result is the reduction of.
struct Part {
    /// The ranks whose data is reduced; of one, its data itself.
    ranks: Range<u32>,
    /// Place of the first element in their data.
    first: u64,
}

/// The verifying kernels of one element type and operator on one device.
#[derive(Debug)]
pub struct Verifier {
    device: Arc<dyn Device>,
    fill: KernelHandle,
    check: KernelHandle,
    next: KernelHandle,
}

impl Verifier {
    /// Compiles and loads the kernels. Nothing may be running on any rank.
    ///
    /// Errors: [`crate::Error::Unsupported`] for a type that the device's architecture lacks; those of compiler and device.
    pub fn prepare(device: &Arc<dyn Device>, dtype: DType, op: ReduceOp) -> Result<Self> {
        dtype_runs_on(dtype, &device.properties().arch)?;
        let load = |kernel: VerifyKernel| device.load(&compile_cached(device.compiler(), &kernel.source(dtype, op))?);
        Ok(Self {
            fill: load(VerifyKernel::Fill)?,
            check: load(VerifyKernel::Check)?,
            next: load(VerifyKernel::Next)?,
            device: Arc::clone(device),
        })
    }

    /// Queues: writes this rank's data of the tally's operation.
    ///
    /// # Safety
    /// `data` holds the request's elements, and with `tally` lives until the stream has passed; so for all that is queued here.
    pub unsafe fn fill(&self, tally: &Tally, data: DevicePtr, request: &Request, stream: &Stream) -> Result<()> {
        let of = Part { ranks: tally.rank.0..tally.rank.0 + 1, first: 0 };
        // SAFETY: the caller's promise is this function's.
        unsafe { self.launch(self.fill, self.grid(request), tally.args(&of, data, request.count), stream) }
    }

    /// Queues: makes sure that a result left over from earlier is not taken for a new one.
    ///
    /// # Safety
    /// As [`Verifier::fill`].
    pub unsafe fn poison(&self, data: DevicePtr, request: &Request, stream: &Stream) -> Result<()> {
        if request.bytes() == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise is this function's.
        unsafe { self.device.fill(data, POISON, request.bytes(), stream.handle()) }
    }

    /// Queues: counts what is wrong in the result of the tally's operation, and goes on to the next.
    ///
    /// # Safety
    /// As [`Verifier::fill`].
    pub unsafe fn check(&self, tally: &Tally, data: DevicePtr, request: &Request, stream: &Stream) -> Result<()> {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.check_result(tally, (Collective::AllReduce, Rank(0)), data, request, stream) }
    }

    /// The same for the result of any collective on this rank. `part` is what a call is about; a broadcast is from `root`.
    ///
    /// # Safety
    /// As [`Verifier::fill`].
    pub unsafe fn check_result(
        &self,
        tally: &Tally,
        (collective, root): (Collective, Rank),
        data: DevicePtr,
        part: &Request,
        stream: &Stream,
    ) -> Result<()> {
        let ranks = tally.world_size.get();
        let check = |ranks: Range<u32>, first: u64, data| {
            // SAFETY: the caller's promise is this function's.
            unsafe { self.check_part(tally, &Part { ranks, first }, data, part, stream) }
        };
        match collective {
            Collective::AllReduce => check(0..ranks, 0, data)?,
            Collective::ReduceScatter => check(0..ranks, u64::from(tally.rank.0) * part.count, data)?,
            Collective::AllGather => {
                (0..ranks).try_for_each(|of| check(of..of + 1, 0, data.offset(u64::from(of) * part.bytes())))?
            }
            Collective::Broadcast => check(root.0..root.0 + 1, 0, data)?,
        }
        // SAFETY: as above.
        unsafe { self.next(tally, stream) }
    }

    /// Queues: counts what is wrong where `data` should hold the reduction of a part of the tally's operation.
    ///
    /// # Safety
    /// As [`Verifier::fill`].
    unsafe fn check_part(
        &self,
        tally: &Tally,
        of: &Part,
        data: DevicePtr,
        request: &Request,
        stream: &Stream,
    ) -> Result<()> {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.launch(self.check, self.grid(request), tally.args(of, data, request.count), stream) }
    }

    /// Queues: goes on to the tally's next operation.
    ///
    /// # Safety
    /// The tally lives until the stream has passed.
    pub unsafe fn next(&self, tally: &Tally, stream: &Stream) -> Result<()> {
        // SAFETY: the caller's promise is this function's; no element is touched.
        unsafe { self.launch(self.next, 1, tally.args(&Part { ranks: 0..0, first: 0 }, DevicePtr(0), 0), stream) }
    }

    fn grid(&self, request: &Request) -> u32 {
        match self.device.properties().kind {
            // A stride of CTAs covers any size: enough of them to fill a GPU.
            DeviceKind::Cuda => (request.bytes() / PACK_BYTES / u64::from(VerifyKernel::THREADS) + 1).min(512) as u32,
            DeviceKind::Cpu => 2,
        }
    }

    /// # Safety
    /// As [`Verifier::fill`], of what `args` names.
    unsafe fn launch(&self, kernel: KernelHandle, grid: u32, args: VerifyArgs, stream: &Stream) -> Result<()> {
        let shape = LaunchShape { grid, block: VerifyKernel::THREADS, shared_bytes: 0, dependent: false };
        // SAFETY: `VerifyArgs` is what the verifying kernels take; operand and counters live by the caller's promise.
        unsafe { self.device.launch(kernel, shape, bytes_of(&args), stream.handle()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;

    /// One rank: its input is the result of a sum, so the checks can be tried without an all-reduce.
    #[test]
    fn what_is_wrong_is_counted_and_every_operation_has_its_own_data() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (request, stream) = (
            Request { count: 1000, dtype: DType::I32, op: ReduceOp::Sum, registered: false },
            Stream::new(&device).unwrap(),
        );
        let data = Buffer::new(&device, request.bytes()).unwrap();
        let verifier = Verifier::prepare(&device, request.dtype, request.op).unwrap();
        let tally = Tally::new(&device, Rank(0), WorldSize::new(1).unwrap(), 5).unwrap();
        let at = data.address();
        // SAFETY: data and tally outlive the readings, which wait for the stream.
        let fill = || unsafe { verifier.fill(&tally, at, &request, &stream).unwrap() };
        let check = || {
            // SAFETY: as above.
            unsafe { verifier.check(&tally, at, &request, &stream).unwrap() };
            tally.read(&stream).unwrap()
        };

        tally.restart(7, &stream).unwrap();
        fill();
        assert_eq!(check(), (8, 0));
        // The data of operation 7 is as good as all wrong for operation 8.
        let (next, wrong) = check();
        assert!(next == 9 && wrong > 990, "{wrong}");

        tally.restart(7, &stream).unwrap();
        let mut bytes = vec![0; request.bytes() as usize];
        data.download(&mut bytes, &stream).unwrap();
        bytes[4 * 123] ^= 1;
        data.upload(&bytes, &stream).unwrap();
        assert_eq!(check(), (8, 1));

        // A part of one rank's data: what lies elsewhere is somebody else's.
        for (first, ranks, expected) in [(0, 0..1, 0), (200, 0..1, 0), (200, 1..2, 290), (0, 0..2, 290)] {
            tally.restart(7, &stream).unwrap();
            fill();
            let part = Request { count: 300, ..request };
            let at = at.offset(4 * first);
            // SAFETY: as above.
            unsafe { verifier.check_part(&tally, &Part { ranks, first }, at, &part, &stream).unwrap() };
            let (next, wrong) = tally.read(&stream).unwrap();
            assert!(next == 7 && wrong >= expected && (expected > 0 || wrong == 0), "{first}: {wrong}");
        }

        tally.restart(7, &stream).unwrap();
        // SAFETY: as above.
        unsafe { verifier.poison(at, &request, &stream).unwrap() };
        assert!(check().1 > 990);
    }
}
