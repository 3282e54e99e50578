//! Operations of collectives other than an all-reduce, against what they must give, bit for bit.

use std::hash::{DefaultHasher, Hasher};

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::Buffer;
use myelon_ccl::variant::Request;
use myelon_ccl::{Call, Collective, Rank};

use super::{Bench, GUARD, GUARD_BYTE, Operation, reference};

impl Bench {
    /// As [`Bench::run`], where the choice is a variant of another collective; `request` is about one rank's part, and is cut to
    /// what the operands have room for. The seed says which rank is the root. A hash of what all ranks have in common.
    pub(super) fn run_call(&self, operation: &Operation, skew: u64, stream: usize) -> u64 {
        let Operation { choice, request, in_place, seed } = operation;
        let (rank, world_size) = (self.communicator.rank(), self.communicator.world_size());
        let (collective, ranks) = (choice.variant.collective, u64::from(world_size.get()));
        let parts = if collective == Collective::Broadcast { 1 } else { ranks };
        let request = Request { count: request.count / parts, ..*request };
        let whole = Request { count: request.count * parts, ..request };
        let root = Rank((seed % ranks) as u32);
        let (part_bytes, whole_bytes) = (request.bytes() as usize, whole.bytes() as usize);
        let own = rank.index() * part_bytes..(rank.index() + 1) * part_bytes;

        let of_input = if collective == Collective::ReduceScatter { whole } else { request };
        let inputs: Vec<_> = world_size.ranks().map(|rank| reference::input(&of_input, *seed, rank)).collect();
        let (input_bytes, expected) = match collective {
            Collective::AllReduce => unreachable!("Bench::run does these"),
            Collective::ReduceScatter => {
                let plan = self.communicator.plan(choice, &request).unwrap();
                (whole_bytes, reference::reduced(&choice.variant, &request, &inputs, &plan)[own.clone()].to_vec())
            }
            Collective::AllGather => (part_bytes, inputs.concat()),
            Collective::Broadcast => (part_bytes, inputs[root.index()].clone()),
        };
        let output_bytes = expected.len();

        let size = request.dtype.size_bytes() as u64;
        let skew = (GUARD + skew * size) as usize;
        // Where each operand begins in its buffer, and which buffer the output is in.
        let (input_at, output_at) = match (in_place, collective) {
            (true, Collective::ReduceScatter) => (skew, skew + own.start),
            (true, Collective::AllGather) => (skew + own.start, skew),
            _ => (skew, skew),
        };
        let stream = &self.streams[stream];
        let has_input = collective != Collective::Broadcast || rank == root;
        let around = |at: usize, content: &[u8], bytes: usize| {
            let mut whole = vec![GUARD_BYTE; skew + whole_bytes.max(bytes) + GUARD as usize];
            whole[at..at + content.len()].copy_from_slice(content);
            whole
        };
        let mut input = around(input_at, &inputs[rank.index()], input_bytes);
        if !has_input {
            input.fill(GUARD_BYTE);
        }
        self.input.upload(&input, stream).unwrap();
        self.output.upload(&around(output_at, &vec![0x5a; output_bytes], output_bytes), stream).unwrap();
        let target = if *in_place { &self.input } else { &self.output };
        let at = |buffer: &Buffer, offset: usize| buffer.address().offset(offset as u64);
        // What ignores its input takes none.
        let input_address = if has_input { at(&self.input, input_at) } else { DevicePtr(0) };
        let call = Call {
            collective,
            input: input_address,
            output: at(target, output_at),
            count: request.count,
            dtype: request.dtype,
            op: request.op,
            root,
        };
        // SAFETY: both buffers hold the operands behind the guard and outlive the synchronisation.
        unsafe { self.communicator.call_as(choice, &call, stream.handle()).unwrap() };
        self.communicator.synchronize(stream.handle()).unwrap();

        let mut seen = vec![0; skew + whole_bytes.max(output_bytes) + GUARD as usize];
        target.download(&mut seen, stream).unwrap();
        let result = seen[output_at..output_at + output_bytes].to_vec();
        // What was there before, but for the output: guards, and the parts of an input in place.
        let mut others = if *in_place { input } else { around(output_at, &[], output_bytes) };
        others[output_at..output_at + output_bytes].copy_from_slice(&result);
        assert!(seen == others, "rank {rank}: {operation:?} wrote past its output");
        let difference = match collective {
            Collective::ReduceScatter => reference::first_difference(request.dtype, &result, &expected),
            _ => {
                result.iter().zip(&expected).position(|(seen, expected)| seen != expected).map(|at| at / size as usize)
            }
        };
        if let Some(element) = difference {
            let range = element * size as usize..(element + 1) * size as usize;
            panic!(
                "rank {rank}: {operation:?}: element {element} of {} is {:02x?}, expected {:02x?}",
                output_bytes / size as usize,
                &result[range.clone()],
                &expected[range]
            );
        }
        let mut hasher = DefaultHasher::new();
        if collective != Collective::ReduceScatter {
            hasher.write(&result);
        }
        hasher.finish()
    }
}
