//! Capturing a stream's work into graphs, and launching them.

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::driver::{Context, driver_call, log_failure};
use super::stream::raw;
use crate::device::{GraphHandle, StreamHandle};
use crate::error::{Error, Result};

fn raw_graph(graph: GraphHandle) -> CUgraphExec {
    graph.0 as usize as CUgraphExec
}

pub(super) fn capture_of(context: &Context, stream: StreamHandle) -> Result<Option<u64>> {
    context.bind()?;
    // SAFETY: the stream exists: the common contract of the device's handles.
    unsafe { context.driver.capture_of(raw(stream)) }
}

pub(super) fn begin(context: &Context, stream: StreamHandle) -> Result<()> {
    context.bind()?;
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream exists.
    unsafe { driver_call!(cuStreamBeginCapture_v2(raw(stream), mode)) }
}

pub(super) fn end(context: &Context, stream: StreamHandle) -> Result<GraphHandle> {
    context.bind()?;
    let mut template = Template(std::ptr::null_mut());
    // SAFETY: the stream exists; the graph goes to its owner, which destroys it also where the call fails half-way.
    unsafe { driver_call!(cuStreamEndCapture(raw(stream), &mut template.0)) }?;
    if template.0.is_null() {
        return Err(Error::invalid("the capture gave no graph: something that cannot be captured ran on the stream"));
    }
    let mut graph: CUgraphExec = std::ptr::null_mut();
    // SAFETY: the template is a graph of our own; the result goes to a local.
    unsafe { driver_call!(cuGraphInstantiateWithFlags(&mut graph, template.0, 0)) }?;
    // WHY: else the first launch uploads, late by milliseconds against the peers that spin for it.
    // SAFETY: both exist; a graph that fails here is given back below.
    let uploaded = unsafe { driver_call!(cuGraphUpload(graph, raw(stream))) };
    let graph = GraphHandle(graph as usize as u64);
    if let Err(error) = uploaded {
        // SAFETY: made above, never launched.
        unsafe { destroy(context, graph) };
        return Err(error);
    }
    Ok(graph)
}

pub(super) fn launch(context: &Context, graph: GraphHandle, stream: StreamHandle) -> Result<()> {
    context.bind()?;
    // SAFETY: both exist: the common contract of the device's handles.
    unsafe { driver_call!(cuGraphLaunch(raw_graph(graph), raw(stream))) }
}

/// # Safety
/// As [`crate::device::Device::destroy_graph`].
pub(super) unsafe fn destroy(context: &Context, graph: GraphHandle) {
    // SAFETY: made by `end` and not used again: the caller's promise.
    log_failure(context.bind().and_then(|()| unsafe { driver_call!(cuGraphExecDestroy(raw_graph(graph))) }));
}

/// What a capture recorded; an instantiated graph does not need it any more.
struct Template(CUgraph);

impl Drop for Template {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: from cuStreamEndCapture, destroyed once.
            log_failure(unsafe { driver_call!(cuGraphDestroy(self.0)) });
        }
    }
}
