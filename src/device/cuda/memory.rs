//! Memory: plain, shared with peers (the driver's virtual memory calls), and of the host.
//!
//! A shared block is physical memory with a handle, an address range of its own, and a mapping of one into the other
//! with access granted GPU by GPU. Another process gets the handle as a file descriptor and maps it at an address of its own.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{
    self, CUdevice, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation,
    CUmemLocationType,
};

use super::driver::{Context, driver_call, log_failure};
use super::stream;
use crate::device::{DevicePtr, HostBlock, SharedBlock};
use crate::error::{Error, Result};

const SHAREABLE: CUmemAllocationHandleType = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

pub(super) fn allocate(context: &Context, bytes: u64) -> Result<DevicePtr> {
    let _relaxed = context.bind_relaxed()?;
    let mut address: CUdeviceptr = 0;
    // SAFETY: the context is current; the address goes to a local.
    unsafe { driver_call!(cuMemAlloc_v2(&mut address, at_least_one(bytes)?)) }?;
    Ok(DevicePtr(address))
}

/// # Safety
/// As [`crate::device::Device::free`].
pub(super) unsafe fn free(context: &Context, address: DevicePtr) {
    // SAFETY: allocated by `allocate` and no longer in use: the caller's promise.
    log_failure(context.bind_relaxed().and_then(|_relaxed| unsafe { driver_call!(cuMemFree_v2(address.0)) }));
}

/// Owner of a [`SharedBlock`] of this device: the mapping, the address range and the memory, given back in that order.
#[derive(Debug)]
pub(crate) struct CudaAllocation {
    mapping: Mapping,
    physical: Physical,
    // Last: the others need it.
    context: Context,
}

impl Drop for CudaAllocation {
    fn drop(&mut self) {
        // The fields below give themselves back after this, in declaration order, and need the context current.
        log_failure(self.context.bind());
    }
}

pub(super) fn allocate_shared(context: &Context, bytes: u64) -> Result<SharedBlock> {
    let _relaxed = context.bind_relaxed()?;
    let properties = allocation_properties(context);
    let mapped = round_up(at_least_one(bytes)?, granularity(&properties)?)?;
    let mut handle: CUmemGenericAllocationHandle = 0;
    // SAFETY: the properties live through the call; the handle goes to a local.
    unsafe { driver_call!(cuMemCreate(&mut handle, mapped, &properties, 0)) }?;
    let allocation = map(context, Physical(handle), mapped)?;
    let address = allocation.mapping.range.address;
    stream::with_temporary(context, |stream| {
        // SAFETY: the range was just mapped with write access, and nobody else knows it.
        unsafe { driver_call!(cuMemsetD8Async(address, 0, mapped, stream)) }
    })?;
    Ok(shared_block(allocation, bytes))
}

pub(super) fn export_shared(context: &Context, block: &SharedBlock) -> Result<OwnedFd> {
    let allocation = allocation_of(block)?;
    let _relaxed = context.bind_relaxed()?;
    allocation.physical.export()
}

pub(super) fn import_shared(context: &Context, fd: OwnedFd, bytes: u64) -> Result<SharedBlock> {
    let _relaxed = context.bind_relaxed()?;
    // WHY: the exporter rounded by the same rule on its GPU; the GPUs of a world are of one kind.
    let mapped = round_up(at_least_one(bytes)?, granularity(&allocation_properties(context))?)?;
    let mut handle: CUmemGenericAllocationHandle = 0;
    // SAFETY: for this handle type the driver takes the descriptor's number in place of a pointer;
    // ours is closed when `fd` drops.
    unsafe {
        let number = fd.as_raw_fd() as usize as *mut c_void;
        driver_call!(cuMemImportFromShareableHandle(&mut handle, number, SHAREABLE))?;
    }
    Ok(shared_block(map(context, Physical(handle), mapped)?, bytes))
}

pub(super) fn grant_access(context: &Context, block: &SharedBlock) -> Result<()> {
    let allocation = allocation_of(block)?;
    let _relaxed = context.bind_relaxed()?;
    allocation.mapping.grant(context)
}

/// Maps physical memory at a new address and lets the context's GPU reach it.
fn map(context: &Context, physical: Physical, bytes: usize) -> Result<CudaAllocation> {
    let mut range = Range { address: 0, bytes };
    // SAFETY: the address goes to a local; a refused reservation leaves it 0, which `Range` knows not to free.
    unsafe { driver_call!(cuMemAddressReserve(&mut range.address, bytes, 0, 0, 0)) }?;
    // SAFETY: the range was just reserved with this size, and the handle is live with at least this size.
    unsafe { driver_call!(cuMemMap(range.address, bytes, 0, physical.0, 0)) }?;
    let mapping = Mapping { range, reached_by: Mutex::default() };
    mapping.grant(context)?;
    Ok(CudaAllocation { mapping, physical, context: context.clone() })
}

fn shared_block(allocation: CudaAllocation, bytes: u64) -> SharedBlock {
    SharedBlock { address: DevicePtr(allocation.mapping.range.address), bytes, owner: Arc::new(allocation) }
}

fn allocation_of(block: &SharedBlock) -> Result<&CudaAllocation> {
    (&*block.owner as &dyn Any)
        .downcast_ref()
        .ok_or_else(|| Error::invalid("this block of shared memory was not made by a CUDA device"))
}

pub(super) fn location(context: &Context) -> CUmemLocation {
    CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: context.inner().cu_device() }
}

fn allocation_properties(context: &Context) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: SHAREABLE,
        location: location(context),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

fn granularity(properties: &CUmemAllocationProp) -> Result<usize> {
    let mut bytes: usize = 0;
    let option = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
    // SAFETY: the properties live through the call; the result goes to a local.
    unsafe { driver_call!(cuMemGetAllocationGranularity(&mut bytes, properties, option)) }?;
    Ok(bytes)
}

fn at_least_one(bytes: u64) -> Result<usize> {
    match usize::try_from(bytes) {
        Ok(0) | Err(_) => Err(Error::invalid(format!("cannot allocate {bytes} bytes: at least 1 is needed"))),
        Ok(bytes) => Ok(bytes),
    }
}

fn round_up(bytes: usize, granularity: usize) -> Result<usize> {
    bytes
        .checked_next_multiple_of(granularity)
        .ok_or_else(|| Error::invalid(format!("cannot allocate {bytes} bytes: the address space is smaller")))
}

/// Physical memory; freed by the driver once nothing maps it either, here or in another process.
#[derive(Debug)]
pub(super) struct Physical(CUmemGenericAllocationHandle);

impl Physical {
    /// What is mapped at an address, whoever mapped it. The context is current.
    ///
    /// Errors: [`Error::Driver`] for memory that is not mapped by `cuMemMap`.
    pub(super) fn mapped_at(address: CUdeviceptr) -> Result<Self> {
        let mut handle: CUmemGenericAllocationHandle = 0;
        // SAFETY: the driver looks the address up and reads nothing there; the handle goes to a local.
        unsafe { driver_call!(cuMemRetainAllocationHandle(&mut handle, address as usize as *mut c_void)) }?;
        Ok(Self(handle))
    }

    /// A descriptor of it; the memory was made with that type of handle. The context is current.
    pub(super) fn export(&self) -> Result<OwnedFd> {
        let mut fd: c_int = -1;
        // SAFETY: for this handle type the driver writes an int; the handle is ours.
        unsafe { driver_call!(cuMemExportToShareableHandle((&raw mut fd).cast(), self.0, SHAREABLE, 0)) }?;
        // SAFETY: on success the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|error| Error::io("keeping an exported memory handle out of child processes", error))?;
        Ok(fd)
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        // SAFETY: the handle came from a create or an import, is released once, and mappings keep the memory alive.
        log_failure(unsafe { driver_call!(cuMemRelease(self.0)) });
    }
}

/// Reserved addresses.
#[derive(Debug)]
struct Range {
    address: CUdeviceptr,
    bytes: usize,
}

impl Drop for Range {
    fn drop(&mut self) {
        if self.address != 0 {
            // SAFETY: reserved with this size, and unmapped by now: `Mapping` unmaps before its field drops.
            log_failure(unsafe { driver_call!(cuMemAddressFree(self.address, self.bytes)) });
        }
    }
}

/// A range with memory behind all of it.
#[derive(Debug)]
struct Mapping {
    range: Range,
    /// The GPUs that have access.
    reached_by: Mutex<Vec<CUdevice>>,
}

impl Mapping {
    /// Adds the context's GPU to those that reach the range; the others keep their access.
    fn grant(&self, context: &Context) -> Result<()> {
        let location = location(context);
        // WHY: one at a time, and once a GPU. Two ranks that share a GPU ask for the same access, and the driver answers the
        // second of two such calls at once with CUDA_ERROR_ALREADY_MAPPED (driver 580).
        let mut reached_by = self.reached_by.lock().unwrap_or_else(PoisonError::into_inner);
        if reached_by.contains(&location.id) {
            return Ok(());
        }
        let access = CUmemAccessDesc { location, flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
        // SAFETY: the whole range is mapped; the description lives through the call.
        unsafe { driver_call!(cuMemSetAccess(self.range.address, self.range.bytes, &access, 1)) }?;
        reached_by.push(access.location.id);
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped as a whole; the owner's promise is that no kernel uses it any more.
        log_failure(unsafe { driver_call!(cuMemUnmap(self.range.address, self.range.bytes)) });
    }
}

/// Owner of a [`HostBlock`].
struct HostAllocation {
    context: Context,
    address: *mut c_void,
}

// SAFETY: plain memory without thread affinity; freeing makes the context current first.
unsafe impl Send for HostAllocation {}
// SAFETY: as above.
unsafe impl Sync for HostAllocation {}

impl Drop for HostAllocation {
    fn drop(&mut self) {
        // SAFETY: from cuMemHostAlloc, freed once.
        log_failure(
            self.context.bind_relaxed().and_then(|_relaxed| unsafe { driver_call!(cuMemFreeHost(self.address)) }),
        );
    }
}

pub(super) fn allocate_host(context: &Context, bytes: u64) -> Result<HostBlock> {
    let _relaxed = context.bind_relaxed()?;
    let size = at_least_one(bytes)?;
    let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
    let mut owner = HostAllocation { context: context.clone(), address: std::ptr::null_mut() };
    let mut address = std::ptr::null_mut();
    // SAFETY: the context is current; the address goes to a local.
    unsafe { driver_call!(cuMemHostAlloc(&mut address, size, flags)) }?;
    owner.address = address;
    // SAFETY: `size` bytes were just allocated, and nobody else knows them.
    unsafe { address.cast::<u8>().write_bytes(0, size) };
    let mut device: CUdeviceptr = 0;
    // SAFETY: allocated with DEVICEMAP; the address goes to a local.
    unsafe { driver_call!(cuMemHostGetDevicePointer_v2(&mut device, address, 0)) }?;
    Ok(HostBlock { host: address.cast(), device: DevicePtr(device), owner: Arc::new(owner) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_to_the_granularity() {
        assert_eq!(round_up(1, 2 << 20).unwrap(), 2 << 20);
        assert_eq!(round_up(2 << 20, 2 << 20).unwrap(), 2 << 20);
        assert_eq!(round_up((2 << 20) + 1, 2 << 20).unwrap(), 4 << 20);
        assert!(round_up(usize::MAX, 2 << 20).is_err());
    }

    #[test]
    fn nothing_is_not_an_allocation() {
        assert!(at_least_one(0).unwrap_err().to_string().contains("at least 1"));
        assert_eq!(at_least_one(5).unwrap(), 5);
    }

    #[test]
    fn a_block_of_another_kind_of_device_is_refused() {
        let block = SharedBlock { address: DevicePtr(0), bytes: 1, owner: Arc::new(()) };
        assert!(allocation_of(&block).unwrap_err().to_string().contains("not made by a CUDA device"));
    }
}
