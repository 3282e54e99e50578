//! Streams and events.

use cudarc::driver::sys::{
    CUevent, CUevent_flags, CUresult, CUstream, CUstream_flags, CUstreamWaitValue_flags, CUstreamWriteValue_flags,
};

use super::driver::{Context, check, driver_call, log_failure};
use crate::device::{DevicePtr, EventHandle, StreamHandle};
use crate::error::{Error, Result};

/// The driver's pointer behind a handle.
pub(super) fn raw(stream: StreamHandle) -> CUstream {
    stream.raw() as usize as CUstream
}

fn raw_event(event: EventHandle) -> CUevent {
    event.0 as usize as CUevent
}

pub(super) fn create(context: &Context) -> Result<StreamHandle<'static>> {
    // Also while another stream of this thread is being captured.
    let _relaxed = context.bind_relaxed()?;
    let mut stream: CUstream = std::ptr::null_mut();
    // SAFETY: the context is current; the handle goes to a local.
    unsafe { driver_call!(cuStreamCreate(&mut stream, CUstream_flags::CU_STREAM_NON_BLOCKING as u32)) }?;
    // SAFETY: just made, and destroyed by `destroy` alone.
    Ok(unsafe { StreamHandle::from_raw(stream as usize as u64) })
}

/// # Safety
/// As [`crate::device::Device::destroy_stream`].
pub(super) unsafe fn destroy(context: &Context, stream: StreamHandle) {
    // SAFETY: made by `create` and not used again: the caller's promise.
    log_failure(context.bind().and_then(|()| unsafe { driver_call!(cuStreamDestroy_v2(raw(stream))) }));
}

/// Runs `work` on a stream of its own and waits for it, so that nothing on the default stream is waited for.
pub(super) fn with_temporary(context: &Context, work: impl FnOnce(CUstream) -> Result<()>) -> Result<()> {
    let stream = create(context)?;
    let outcome = work(raw(stream)).and_then(|()| synchronize(context, stream));
    // SAFETY: made above; nobody else knows it.
    unsafe { destroy(context, stream) };
    outcome
}

/// The default stream's handles, CU_STREAM_LEGACY the second: they are no other's ever, and it cannot be asked while a stream that it waits for
/// is captured.
const DEFAULT: [u64; 2] = [0, 1];

pub(super) fn number(context: &Context, stream: StreamHandle) -> Result<u64> {
    if DEFAULT.contains(&stream.raw()) {
        return Ok(u64::MAX);
    }
    context.bind()?;
    let mut number = 0;
    // SAFETY: the stream exists: the common contract of the device's handles; the number goes to a local.
    unsafe { driver_call!(cuStreamGetId(raw(stream), &mut number)) }?;
    Ok(number)
}

pub(super) fn is_idle(context: &Context, stream: StreamHandle) -> Result<bool> {
    let _relaxed = context.bind_relaxed()?;
    // SAFETY: the stream exists: the common contract of the device's handles.
    ready("cuStreamQuery", unsafe { cudarc::driver::sys::cuStreamQuery(raw(stream)) })
}

pub(super) fn synchronize(context: &Context, stream: StreamHandle) -> Result<()> {
    let _relaxed = context.bind_relaxed()?;
    // SAFETY: as above.
    unsafe { driver_call!(cuStreamSynchronize(raw(stream))) }
}

/// # Safety
/// As [`crate::device::Device::copy`].
pub(super) unsafe fn copy(
    context: &Context,
    destination: DevicePtr,
    source: DevicePtr,
    bytes: u64,
    stream: StreamHandle,
) -> Result<()> {
    context.bind()?;
    // SAFETY: both ranges are valid until the stream passes the copy: the caller's promise.
    unsafe { driver_call!(cuMemcpyAsync(destination.0, source.0, length(bytes)?, raw(stream))) }
}

/// # Safety
/// As [`crate::device::Device::fill`].
pub(super) unsafe fn fill(
    context: &Context,
    destination: DevicePtr,
    byte: u8,
    bytes: u64,
    stream: StreamHandle,
) -> Result<()> {
    context.bind()?;
    // SAFETY: the range is valid until the stream passes the fill: the caller's promise.
    unsafe { driver_call!(cuMemsetD8Async(destination.0, byte, length(bytes)?, raw(stream))) }
}

/// # Safety
/// As [`crate::device::Device::wait_value`].
pub(super) unsafe fn wait_value(context: &Context, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
    context.bind()?;
    let at_least = CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
    // SAFETY: the word is valid until the stream passes the wait: the caller's promise.
    unsafe { driver_call!(cuStreamWaitValue64_v2(raw(stream), address.0, value, at_least)) }
}

/// # Safety
/// As [`crate::device::Device::write_value`].
pub(super) unsafe fn write_value(
    context: &Context,
    address: DevicePtr,
    value: u64,
    stream: StreamHandle,
) -> Result<()> {
    context.bind()?;
    // ORDER: by default the write stands behind a fence of the whole system (CUDA driver API, CUstreamWriteValue_flags).
    let behind_a_fence = CUstreamWriteValue_flags::CU_STREAM_WRITE_VALUE_DEFAULT as u32;
    // SAFETY: the word is valid until the stream passes the write: the caller's promise.
    unsafe { driver_call!(cuStreamWriteValue64_v2(raw(stream), address.0, value, behind_a_fence)) }
}

fn length(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::invalid(format!("{bytes} bytes do not fit the address space")))
}

pub(super) fn create_event(context: &Context) -> Result<EventHandle> {
    // As in `create`.
    let _relaxed = context.bind_relaxed()?;
    let mut event: CUevent = std::ptr::null_mut();
    // SAFETY: the context is current; the handle goes to a local.
    unsafe { driver_call!(cuEventCreate(&mut event, CUevent_flags::CU_EVENT_DEFAULT as u32)) }?;
    Ok(EventHandle(event as usize as u64))
}

/// # Safety
/// As [`crate::device::Device::destroy_event`].
pub(super) unsafe fn destroy_event(context: &Context, event: EventHandle) {
    // SAFETY: made by `create_event` and not used again: the caller's promise.
    log_failure(context.bind().and_then(|()| unsafe { driver_call!(cuEventDestroy_v2(raw_event(event))) }));
}

pub(super) fn record(context: &Context, event: EventHandle, stream: StreamHandle) -> Result<()> {
    context.bind()?;
    // SAFETY: both exist: the common contract of the device's handles.
    unsafe { driver_call!(cuEventRecord(raw_event(event), raw(stream))) }
}

pub(super) fn record_everything(context: &Context, event: EventHandle) -> Result<bool> {
    let _relaxed = context.bind_relaxed()?;
    // SAFETY: the event exists, of this context: the common contract of the device's handles.
    unsafe { context.driver.record_everything(context.inner().cu_ctx(), raw_event(event)) }
}

pub(super) fn wait(context: &Context, stream: StreamHandle, event: EventHandle) -> Result<()> {
    context.bind()?;
    // SAFETY: as above.
    unsafe { driver_call!(cuStreamWaitEvent(raw(stream), raw_event(event), 0)) }
}

pub(super) fn is_reached(context: &Context, event: EventHandle) -> Result<bool> {
    let _relaxed = context.bind_relaxed()?;
    // SAFETY: as above.
    ready("cuEventQuery", unsafe { cudarc::driver::sys::cuEventQuery(raw_event(event)) })
}

pub(super) fn elapsed_ns(context: &Context, start: EventHandle, end: EventHandle) -> Result<u64> {
    let _relaxed = context.bind_relaxed()?;
    // SAFETY: as above.
    let milliseconds = unsafe { context.driver.elapsed_ms(raw_event(start), raw_event(end)) }?;
    Ok((f64::from(milliseconds) * 1e6).round() as u64)
}

/// A query's answer: "not ready" is no error.
fn ready(call: &'static str, code: CUresult) -> Result<bool> {
    match code {
        CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        // What a capture keeps from being asked is not known to be over.
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
        | CUresult::CUDA_ERROR_CAPTURED_EVENT => Ok(false),
        code => check(call, code).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_is_not_ready_is_an_answer() {
        assert!(!ready("cuEventQuery", CUresult::CUDA_ERROR_NOT_READY).unwrap());
        assert!(ready("cuEventQuery", CUresult::CUDA_SUCCESS).unwrap());
        assert!(!ready("cuStreamQuery", CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT).unwrap());
    }
}
