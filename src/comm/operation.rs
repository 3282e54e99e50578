//! [`Operation`]: one all-reduce with its operands, and the checks that need nothing but these.

use super::Call;
use crate::abi::window_descriptor;
use crate::device::DevicePtr;
use crate::error::{Error, Result};
use crate::memory::Window;
use crate::types::{DType, Output, ReduceOp};
use crate::variant::Request;

/// One all-reduce as a value: every rank's `input` into every rank's `output`.
///
/// Shape: as [`Communicator::all_reduce`](super::Communicator::all_reduce).
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// First element of this rank's operand.
    pub input: DevicePtr,
    /// First element of this rank's result; equals `input` to work in place.
    pub output: DevicePtr,
    /// Elements. Equal on all ranks, as are the type and the operator.
    pub count: u64,
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// The window that `output` lies in, if it is to be used. On all ranks the same window, and the same offset in it: what one
    /// rank says is where the others store. Where they differ, it is an [`Error::PeerMismatch`] before anything is stored there.
    pub window: Option<&'a Window>,
}

impl Operation<'_> {
    /// A request with its operands, in no window.
    pub fn of(request: &Request, input: DevicePtr, output: DevicePtr) -> Self {
        let &Request { count, dtype, op, .. } = request;
        Self { input, output, count, dtype, op, window: None }
    }

    /// What is to be reduced, wherever it lies.
    pub fn request(&self) -> Request {
        let &Self { count, dtype, op, window, .. } = self;
        Request { count, dtype, op, registered: window.is_some_and(Window::is_zero_copy) }
    }

    /// The word that ranks compare.
    pub(super) fn descriptor(&self) -> u64 {
        let &Self { output, count, dtype, op, .. } = self;
        match self.window.filter(|window| window.is_zero_copy()) {
            Some(window) => {
                window_descriptor(window.identity(), window.offset_of(output), count, dtype as u8, op as u8)
            }
            None => Call::all_reduce(self).descriptor(),
        }
    }

    /// Whether results can get into the output in this way.
    pub(super) fn check_output(&self, output: Output) -> Result<()> {
        if output == Output::Landing && self.input == self.output && self.count > 0 {
            return Err(Error::invalid(
                "output=landing: sums on their way land in the output, so it lies apart from the input on every rank; ask for \
                 output=direct to work in place",
            ));
        }
        Ok(())
    }

    /// Whether the operands can be what they are said to be.
    pub(super) fn check(&self) -> Result<()> {
        let &Self { input, output, count, dtype, .. } = self;
        let element_bytes = dtype.size_bytes() as u64;
        let bytes = count.checked_mul(element_bytes).filter(|&bytes| bytes < 1 << 47);
        let Some(bytes) = bytes else {
            return Err(Error::invalid(format!("{count} elements of {dtype} exceed any memory")));
        };
        if bytes == 0 {
            return Ok(());
        }
        for (name, pointer) in [("input", input), ("output", output)] {
            if pointer.0 == 0 || pointer.0 % element_bytes != 0 {
                return Err(Error::invalid(format!(
                    "{name} is {:#x}: an address aligned to the {element_bytes} bytes of {dtype} is needed",
                    pointer.0
                )));
            }
        }
        let apart = input.0.abs_diff(output.0);
        if apart != 0 && apart < bytes {
            return Err(Error::invalid(format!(
                "input and output overlap: {apart} bytes apart for {bytes} bytes; pass the same address to work in place"
            )));
        }
        match self.window {
            Some(window) if !window.holds(output, bytes) => Err(Error::invalid(format!(
                "output is {:#x} with {bytes} bytes, which do not lie in the window of {} bytes at {:#x}",
                output.0,
                window.bytes(),
                window.address().0
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_checked() {
        let check = |count, input, output| {
            let (input, output) = (DevicePtr(input), DevicePtr(output));
            Operation { input, output, count, dtype: DType::F32, op: ReduceOp::Sum, window: None }.check()
        };
        check(4, 0x1000, 0x1000).unwrap();
        check(4, 0x1000, 0x1010).unwrap();
        check(0, 0, 0).unwrap();
        assert!(check(4, 0x1000, 0x1008).unwrap_err().to_string().contains("overlap"));
        assert!(check(4, 0x1002, 0x2000).unwrap_err().to_string().contains("aligned"));
        assert!(check(4, 0, 0x2000).is_err());
        assert!(check(u64::MAX / 2, 16, 16).is_err());
    }
}
