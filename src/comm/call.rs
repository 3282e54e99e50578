//! [`Call`]: one operation of any collective with its operands, and the checks that need nothing but these.

use super::Operation;
use crate::abi::{Description, descriptor};
use crate::device::DevicePtr;
use crate::error::{Error, Result};
use crate::types::{Collective, DType, Rank, ReduceOp, WorldSize};
use crate::variant::Request;

/// One operation of any collective as a value. What has an operator ignores the root, and the other way round.
///
/// Shape: as [`Communicator::all_reduce`](super::Communicator::all_reduce) and its siblings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the ranks do.
    pub collective: Collective,
    /// First element of this rank's operand.
    pub input: DevicePtr,
    /// First element of this rank's result.
    pub output: DevicePtr,
    /// Elements: of the message, or of one rank's part of it. Equal on all ranks, as is all that follows.
    pub count: u64,
    /// Element type.
    pub dtype: DType,
    /// Operator of an all-reduce or reduce-scatter.
    pub op: ReduceOp,
    /// The rank that a broadcast is from.
    pub root: Rank,
}

impl Call {
    /// An all-reduce, wherever its output lies.
    pub(super) fn all_reduce(operation: &Operation<'_>) -> Self {
        let &Operation { input, output, count, dtype, op, .. } = operation;
        Self { collective: Collective::AllReduce, input, output, count, dtype, op, root: Rank(0) }
    }

    /// What is to be reduced or moved, wherever it lies.
    pub fn request(&self) -> Request {
        let op = if self.collective.has_operator() { self.op } else { ReduceOp::Sum };
        Request { count: self.count, dtype: self.dtype, op, registered: false }
    }

    /// Elements of the input and of the output, on every rank that has them.
    ///
    /// Errors: [`Error::InvalidArgument`] for more than any memory has.
    pub fn elements(&self, world_size: WorldSize) -> Result<(u64, u64)> {
        let whole = self.count.checked_mul(world_size.get().into());
        let fits = |elements: &u64| elements.checked_mul(self.dtype.size_bytes() as u64).is_some_and(|it| it < 1 << 47);
        let Some(whole) = whole.filter(fits) else {
            return Err(Error::invalid(format!("{} elements of {} exceed any memory", self.count, self.dtype)));
        };
        Ok(match self.collective {
            Collective::AllReduce | Collective::Broadcast => (self.count, self.count),
            Collective::ReduceScatter => (whole, self.count),
            Collective::AllGather => (self.count, whole),
        })
    }

    /// The word that ranks compare.
    pub(super) fn descriptor(&self) -> u64 {
        let detail = match self.collective {
            Collective::AllReduce | Collective::ReduceScatter => self.op as u8,
            Collective::AllGather => 0,
            Collective::Broadcast => self.root.0 as u8,
        };
        let (count, collective, dtype) = (self.count, self.collective as u8, self.dtype as u8);
        descriptor(Description { count, collective, detail, dtype })
    }

    /// Whether the operands of `rank` can be what they are said to be.
    pub(super) fn check(&self, rank: Rank, world_size: WorldSize) -> Result<()> {
        if self.collective == Collective::Broadcast && self.root.0 >= world_size.get() {
            return Err(Error::invalid(format!(
                "broadcast from rank {} of {world_size} ranks, which are counted from 0",
                self.root
            )));
        }
        let element_bytes = self.dtype.size_bytes() as u64;
        let (inputs, outputs) = self.elements(world_size)?;
        if self.count == 0 {
            return Ok(());
        }
        let has_input = self.collective != Collective::Broadcast || rank == self.root;
        for (name, pointer, is_there) in [("input", self.input, has_input), ("output", self.output, true)] {
            if is_there && (pointer.0 == 0 || pointer.0 % element_bytes != 0) {
                return Err(Error::invalid(format!(
                    "{name} is {:#x}: an address aligned to the {element_bytes} bytes of {} is needed",
                    pointer.0, self.dtype
                )));
            }
        }
        if !has_input {
            return Ok(());
        }
        let own_part = u64::from(rank.0) * self.count * element_bytes;
        // Where the smaller operand begins in the larger one when both are one memory.
        let (input, output) = (self.input.0, self.output.0);
        let is_in_place = match self.collective {
            Collective::AllReduce | Collective::Broadcast => input == output,
            Collective::ReduceScatter => output.checked_sub(own_part) == Some(input),
            Collective::AllGather => input.checked_sub(own_part) == Some(output),
        };
        let (input_bytes, output_bytes) = (inputs * element_bytes, outputs * element_bytes);
        let apart = input.saturating_add(input_bytes) <= output || output.saturating_add(output_bytes) <= input;
        if is_in_place || apart {
            return Ok(());
        }
        let how = match self.collective {
            Collective::AllReduce | Collective::Broadcast => "pass the same address".to_owned(),
            Collective::ReduceScatter => format!("let output be input + {own_part} bytes, the part of rank {rank},"),
            Collective::AllGather => format!("let input be output + {own_part} bytes, the part of rank {rank},"),
        };
        Err(Error::invalid(format!(
            "input ({input:#x}, {input_bytes} bytes) and output ({output:#x}, {output_bytes} bytes) overlap: {how} to work in place"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On rank 1 of 3, with 4 floats.
    fn check(collective: Collective, input: u64, output: u64) -> Result<(), String> {
        let (input, output) = (DevicePtr(input), DevicePtr(output));
        let call = Call { collective, input, output, count: 4, dtype: DType::F32, op: ReduceOp::Sum, root: Rank(1) };
        call.check(Rank(1), WorldSize::new(3).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn operands_are_apart_or_in_place() {
        use Collective::*;
        for (collective, input, output, fits) in [
            (ReduceScatter, 0x1000, 0x1010, true),
            (ReduceScatter, 0x1000, 0x1000, false),
            (ReduceScatter, 0x1000, 0x1020, false),
            (ReduceScatter, 0x1000, 0x1030, true),
            (ReduceScatter, 0x1000, 0xff0, true),
            (ReduceScatter, 0x1000, 0xff4, false),
            (AllGather, 0x1010, 0x1000, true),
            (AllGather, 0x1000, 0x1000, false),
            (AllGather, 0x102c, 0x1000, false),
            (AllGather, 0x1030, 0x1000, true),
            (AllGather, 0xff0, 0x1000, true),
            (Broadcast, 0x1000, 0x1000, true),
            (Broadcast, 0x1000, 0x1004, false),
            (Broadcast, 0x1000, 0x1010, true),
        ] {
            let outcome = check(collective, input, output);
            assert_eq!(outcome.is_ok(), fits, "{collective} {input:#x} {output:#x}: {outcome:?}");
            assert!(outcome.is_ok() || outcome.unwrap_err().contains("overlap"));
        }
    }

    #[test]
    fn wrong_operands_are_named() {
        let alignment = "aligned to the 4 bytes of f32";
        for collective in [Collective::ReduceScatter, Collective::AllGather, Collective::Broadcast] {
            assert!(check(collective, 0, 0x1000).unwrap_err().contains("input is 0x0"));
            assert!(check(collective, 0x2000, 0x1002).unwrap_err().contains(alignment));
        }
        let (input, output) = (DevicePtr(0), DevicePtr(16));
        let call = Call {
            collective: Collective::Broadcast,
            input,
            output,
            count: 4,
            dtype: DType::F32,
            op: ReduceOp::Sum,
            root: Rank(2),
        };
        let three = WorldSize::new(3).unwrap();
        call.check(Rank(1), three).unwrap();
        call.check(Rank(2), three).unwrap_err();
        let message = Call { root: Rank(3), ..call }.check(Rank(1), three).unwrap_err().to_string();
        assert!(message.contains("rank 3 of 3 ranks"), "{message}");
        let much = Call { collective: Collective::AllGather, count: 1 << 45, ..call };
        assert!(much.check(Rank(1), three).unwrap_err().to_string().contains("exceed any memory"));
        Call { count: 0, output: DevicePtr(0), ..call }.check(Rank(1), three).unwrap();
    }

    #[test]
    fn calls_that_differ_have_different_words() {
        let (input, output) = (DevicePtr(16), DevicePtr(16));
        let base = Call {
            collective: Collective::AllReduce,
            input,
            output,
            count: 4,
            dtype: DType::F32,
            op: ReduceOp::Sum,
            root: Rank(0),
        };
        let mut words: Vec<_> =
            Collective::ALL.iter().map(|&collective| Call { collective, ..base }.descriptor()).collect();
        words.push(Call { collective: Collective::Broadcast, root: Rank(7), ..base }.descriptor());
        words.push(Call { collective: Collective::ReduceScatter, op: ReduceOp::Max, ..base }.descriptor());
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
        let gather = Call { collective: Collective::AllGather, ..base };
        assert_eq!(gather.descriptor(), Call { op: ReduceOp::Max, root: Rank(3), ..gather }.descriptor());
    }
}
