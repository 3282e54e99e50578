//! All-reduce of `cudarc` slices: safe, because the slices know their length, type, device and streams.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _, DevicePtrMut as _};

use super::{Communicator, Operation};
use crate::device::{DeviceKind, DevicePtr, StreamHandle};
use crate::error::{Error, Result};
use crate::types::{DType, ReduceOp};

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is an element type of a collective. Sealed: the length of a slice counts elements of [`Element::DTYPE`].
pub trait Element: cudarc::driver::DeviceRepr + sealed::Sealed {
    /// The same type under its name here.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),+ $(,)?) => {
        $(impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
        const _: () = assert!(size_of::<$rust>() == DType::$dtype.size_bytes());)+
    };
}

element! {
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => Bf16,
    i8 => I8, u8 => U8, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
}

impl Communicator {
    /// Reduces every rank's `input` into every rank's `output`, ordered by `stream` and by what the slices were last used for.
    ///
    /// Shape: equal lengths, on this rank's GPU.
    ///
    /// Ordering: as [`Communicator::all_reduce`].
    ///
    /// Errors: [`Error::InvalidArgument`] when they are not, and when the stream is being captured, for slices do not know of replays;
    /// otherwise as [`Communicator::all_reduce`].
    pub fn all_reduce_slice<T: Element>(
        &self,
        input: &CudaSlice<T>,
        output: &mut CudaSlice<T>,
        op: ReduceOp,
        stream: &Arc<CudaStream>,
    ) -> Result<()> {
        self.check_slice(output, stream)?;
        self.check_slice(input, stream)?;
        self.check_runs_now(stream)?;
        if input.len() != output.len() {
            return Err(Error::invalid(format!("input has {} elements and output {}", input.len(), output.len())));
        }
        let count = input.len() as u64;
        // The guards make later uses of the slices, their drop included, wait for this operation.
        let (input, _reading) = input.device_ptr(stream);
        let (output, _writing) = output.device_ptr_mut(stream);
        let (owner, stream) = (stream.clone(), handle_of(stream));
        let operation =
            Operation { input: DevicePtr(input), output: DevicePtr(output), count, dtype: T::DTYPE, op, window: None };
        // SAFETY: both slices hold `count` elements on this device, and their guards keep them until the stream has passed. The
        // communicator keeps the stream.
        unsafe { self.issue_one(&operation, stream, Some(owner)) }
    }

    /// As [`Communicator::all_reduce_slice`], in place.
    pub fn all_reduce_slice_in_place<T: Element>(
        &self,
        data: &mut CudaSlice<T>,
        op: ReduceOp,
        stream: &Arc<CudaStream>,
    ) -> Result<()> {
        self.check_slice(data, stream)?;
        self.check_runs_now(stream)?;
        let count = data.len() as u64;
        let (data, _writing) = data.device_ptr_mut(stream);
        let (owner, stream) = (stream.clone(), handle_of(stream));
        let data = DevicePtr(data);
        let operation = Operation { input: data, output: data, count, dtype: T::DTYPE, op, window: None };
        // SAFETY: as above.
        unsafe { self.issue_one(&operation, stream, Some(owner)) }
    }

    fn check_runs_now(&self, stream: &CudaStream) -> Result<()> {
        if self.device().is_capturing(handle_of(stream))? {
            return Err(Error::invalid(
                "the stream is being captured, and a slice could be freed before a replay: capture Communicator::all_reduce, \
                 which is unsafe, and keep the slices",
            ));
        }
        Ok(())
    }

    fn check_slice<T: Element>(&self, slice: &CudaSlice<T>, stream: &CudaStream) -> Result<()> {
        let properties = self.device().properties();
        let ordinals = [slice.context().ordinal(), stream.context().ordinal()];
        if properties.kind == DeviceKind::Cuda && ordinals.iter().all(|&ordinal| ordinal == properties.ordinal as usize)
        {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "rank {} runs on {} device {}, the slice is on GPU {} and the stream on GPU {}",
            self.rank(),
            properties.kind,
            properties.ordinal,
            ordinals[0],
            ordinals[1]
        )))
    }
}

fn handle_of(stream: &CudaStream) -> StreamHandle<'_> {
    // SAFETY: that of a stream that lives.
    unsafe { StreamHandle::from_raw(stream.cu_stream() as u64) }
}
