//! Launches that fail, and a device that is lost, on one rank.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use myelon_ccl::device::{
    Compiler, Device, DeviceProperties, DevicePtr, EventHandle, Export, GraphHandle, HostBlock, KernelHandle,
    KernelImage, LaunchShape, SharedBlock, StreamHandle,
};
use myelon_ccl::{DType, Error, Rank, Result};

use crate::rig::{ELEMENTS, SOON, on_rigs, variants, with_timeout};
use crate::support::devices;

/// What is wrong with a device.
#[derive(Debug, Default)]
struct Wrong {
    /// Launches until one fails; 0 for none that does.
    launches: AtomicU32,
    is_lost: AtomicBool,
}

/// A device that fails where it is asked to.
#[derive(Debug)]
struct Failing {
    device: Arc<dyn Device>,
    wrong: Arc<Wrong>,
}

/// The devices of two ranks, and what is wrong with that of rank 1.
fn two() -> ([Arc<dyn Device>; 2], Arc<Wrong>) {
    let [first, second] = devices(2).try_into().unwrap();
    let wrong = Arc::new(Wrong::default());
    ([first, Arc::new(Failing { device: second, wrong: Arc::clone(&wrong) })], wrong)
}

fn failure(call: &'static str, code: i32) -> Error {
    Error::Driver { call, code, detail: "on purpose".into() }
}

#[test]
fn an_operation_that_was_launched_in_part_ends_the_communicator() {
    let (devices, wrong) = two();
    on_rigs(&devices, &with_timeout(10 * SOON), &variants()[0], |rig| {
        rig.works();
        if rig.rank() == Rank(0) {
            // Of more than one piece, of which the peer has the first.
            let ended = rig.sum(ELEMENTS).unwrap_err();
            assert!(ended.to_string().contains("launched in part"), "{ended}");
            return;
        }
        wrong.launches.store(2, Ordering::Relaxed);
        let error = rig.issue(ELEMENTS, DType::F32).unwrap_err();
        assert!(matches!(error, Error::Driver { .. }), "{error}");
        // Again it would be a piece ahead of the peer.
        let error = rig.issue(ELEMENTS, DType::F32).unwrap_err();
        assert!(error.is_aborted() && error.to_string().contains("launched in part"), "{error}");
    });
}

#[test]
fn an_operation_of_which_nothing_was_launched_can_be_repeated() {
    let (devices, wrong) = two();
    on_rigs(&devices, &with_timeout(10 * SOON), &variants()[0], |rig| {
        rig.works();
        if rig.rank() == Rank(1) {
            wrong.launches.store(1, Ordering::Relaxed);
            let error = rig.issue(ELEMENTS, DType::F32).unwrap_err();
            assert!(matches!(error, Error::Driver { .. }), "{error}");
        }
        rig.works();
    });
}

#[test]
fn a_rank_that_waits_hears_that_a_peers_device_is_lost() {
    let (devices, wrong) = two();
    on_rigs(&devices, &with_timeout(10 * SOON), &variants()[0], |rig| {
        rig.works();
        if rig.rank() == Rank(0) {
            let began = Instant::now();
            let told = rig.sum(ELEMENTS).unwrap_err();
            assert!(told.is_aborted() && told.to_string().contains("on purpose"), "{told}");
            assert!(began.elapsed() < SOON);
        } else {
            wrong.is_lost.store(true, Ordering::Relaxed);
            let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
            assert!(matches!(error, Error::Driver { code: 700, .. }), "{error}");
            wrong.is_lost.store(false, Ordering::Relaxed);
        }
    });
}

// SAFETY of all that is unsafe here: the caller's promise is that of the device behind.
#[allow(clippy::undocumented_unsafe_blocks, reason = "said once, above")]
impl Device for Failing {
    unsafe fn launch(&self, kernel: KernelHandle, shape: LaunchShape, args: &[u8], stream: StreamHandle) -> Result<()> {
        let left = self.wrong.launches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left == Ok(1) {
            return Err(failure("cuLaunchKernelEx", 2));
        }
        unsafe { self.device.launch(kernel, shape, args, stream) }
    }

    fn properties(&self) -> &DeviceProperties {
        self.device.properties()
    }
    fn compiler(&self) -> &dyn Compiler {
        self.device.compiler()
    }
    fn load(&self, image: &KernelImage) -> Result<KernelHandle> {
        self.device.load(image)
    }
    fn resident_limit(&self, kernel: KernelHandle, block: u32, shared_bytes: u32) -> Result<u32> {
        self.device.resident_limit(kernel, block, shared_bytes)
    }
    fn allocate(&self, bytes: u64) -> Result<DevicePtr> {
        self.device.allocate(bytes)
    }
    unsafe fn free(&self, address: DevicePtr) {
        unsafe { self.device.free(address) }
    }
    fn allocate_shared(&self, bytes: u64) -> Result<SharedBlock> {
        self.device.allocate_shared(bytes)
    }
    fn export_shared(&self, block: &SharedBlock) -> Result<OwnedFd> {
        self.device.export_shared(block)
    }
    fn import_shared(&self, fd: OwnedFd, bytes: u64) -> Result<SharedBlock> {
        self.device.import_shared(fd, bytes)
    }
    fn grant_access(&self, block: &SharedBlock) -> Result<()> {
        self.device.grant_access(block)
    }
    fn export(&self, address: DevicePtr, bytes: u64) -> Result<Export> {
        self.device.export(address, bytes)
    }
    fn import(&self, export: Export, bytes: u64) -> Result<SharedBlock> {
        self.device.import(export, bytes)
    }
    fn reach(&self, address: DevicePtr, bytes: u64) -> Result<()> {
        self.device.reach(address, bytes)
    }
    fn allocate_host(&self, bytes: u64) -> Result<HostBlock> {
        self.device.allocate_host(bytes)
    }
    unsafe fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: u64, stream: StreamHandle) -> Result<()> {
        unsafe { self.device.copy(to, from, bytes, stream) }
    }
    unsafe fn copy_words(&self, to: DevicePtr, from: DevicePtr, bytes: u64, stream: StreamHandle) -> Result<()> {
        unsafe { self.device.copy_words(to, from, bytes, stream) }
    }
    unsafe fn fill(&self, to: DevicePtr, byte: u8, bytes: u64, stream: StreamHandle) -> Result<()> {
        unsafe { self.device.fill(to, byte, bytes, stream) }
    }
    fn has_value_operations(&self) -> bool {
        self.device.has_value_operations()
    }
    unsafe fn wait_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
        unsafe { self.device.wait_value(address, value, stream) }
    }
    unsafe fn write_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
        unsafe { self.device.write_value(address, value, stream) }
    }
    fn create_stream(&self) -> Result<StreamHandle<'static>> {
        self.device.create_stream()
    }
    unsafe fn destroy_stream(&self, stream: StreamHandle) {
        unsafe { self.device.destroy_stream(stream) }
    }
    fn stream_number(&self, stream: StreamHandle) -> Result<u64> {
        self.device.stream_number(stream)
    }
    fn stream_is_idle(&self, stream: StreamHandle) -> Result<bool> {
        self.device.stream_is_idle(stream)
    }
    fn synchronize_stream(&self, stream: StreamHandle) -> Result<()> {
        if self.wrong.is_lost.load(Ordering::Relaxed) {
            return Err(failure("cuStreamSynchronize", 700));
        }
        self.device.synchronize_stream(stream)
    }
    fn create_event(&self) -> Result<EventHandle> {
        self.device.create_event()
    }
    unsafe fn destroy_event(&self, event: EventHandle) {
        unsafe { self.device.destroy_event(event) }
    }
    fn record_event(&self, event: EventHandle, stream: StreamHandle) -> Result<()> {
        self.device.record_event(event, stream)
    }
    fn record_everything(&self, event: EventHandle) -> Result<bool> {
        self.device.record_everything(event)
    }
    fn wait_event(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        self.device.wait_event(stream, event)
    }
    fn event_is_reached(&self, event: EventHandle) -> Result<bool> {
        self.device.event_is_reached(event)
    }
    fn elapsed_ns(&self, start: EventHandle, end: EventHandle) -> Result<u64> {
        self.device.elapsed_ns(start, end)
    }
    fn capture_of(&self, stream: StreamHandle) -> Result<Option<u64>> {
        self.device.capture_of(stream)
    }
    fn begin_capture(&self, stream: StreamHandle) -> Result<()> {
        self.device.begin_capture(stream)
    }
    fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle> {
        self.device.end_capture(stream)
    }
    fn launch_graph(&self, graph: GraphHandle, stream: StreamHandle) -> Result<()> {
        self.device.launch_graph(graph, stream)
    }
    unsafe fn destroy_graph(&self, graph: GraphHandle) {
        unsafe { self.device.destroy_graph(graph) }
    }
}
