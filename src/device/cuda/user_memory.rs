//! Memory that the user allocated: what peers need to map it, in this process and in others.
//!
//! Two kinds can be mapped. What `cuMemMap` mapped is exported as a file descriptor, if it was made for that; access is granted
//! GPU by GPU. What `cudaMalloc` allocated has a legacy handle for other processes, and is reached within a process once peer
//! access is on. Ranges over several mappings, managed memory and memory of pools are neither, and refused.

use std::any::Any;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{
    CUcontext, CUdeviceptr, CUipcMem_flags, CUipcMemHandle, CUmemAccess_flags, CUmemAccessDesc, CUpointer_attribute,
    CUresult,
};

use super::driver::{Context, driver_call, log_failure};
use super::memory::{self, Physical};
use crate::device::{DevicePtr, Export, ExportCard, SharedBlock};
use crate::error::{Error, Result};

const IPC_HANDLE_BYTES: usize = 64;

pub(super) fn export(context: &Context, address: DevicePtr, bytes: u64) -> Result<Export> {
    let _relaxed = context.bind_relaxed()?;
    let allocation = Allocation::around(address, bytes)?;
    let card = |ipc_handle| ExportCard {
        allocation_bytes: allocation.bytes as u64,
        offset: address.0 - allocation.address,
        ipc_handle,
    };
    if allocation.has_legacy_handle()? {
        let mut handle = CUipcMemHandle { reserved: [0; IPC_HANDLE_BYTES] };
        // SAFETY: the address is that of a live allocation of this kind; the handle goes to a local.
        unsafe { driver_call!(cuIpcGetMemHandle(&mut handle, allocation.address)) }?;
        let bytes = handle.reserved.map(|byte| byte as u8);
        return Ok(Export { card: card(Some(bytes.to_vec())), fd: None });
    }
    let fd = Physical::mapped_at(allocation.address)?.export()?;
    Ok(Export { card: card(None), fd: Some(fd) })
}

pub(super) fn import(context: &Context, export: Export, bytes: u64) -> Result<SharedBlock> {
    let Export { card: ExportCard { allocation_bytes, offset, ipc_handle }, fd } = export;
    let (start, owner): (u64, Arc<dyn Any + Send + Sync>) = match (fd, ipc_handle) {
        (Some(fd), None) => {
            let block = memory::import_shared(context, fd, allocation_bytes)?;
            (block.address.0, block.owner)
        }
        (None, Some(handle)) => {
            let opened = Opened::new(context, &handle)?;
            (opened.address, Arc::new(opened))
        }
        _ => return Err(Error::invalid("memory of a GPU comes as a descriptor or as a legacy handle, one of the two")),
    };
    Ok(SharedBlock { address: DevicePtr(start).offset(offset), bytes, owner })
}

pub(super) fn reach(context: &Context, address: DevicePtr, bytes: u64) -> Result<()> {
    let _relaxed = context.bind_relaxed()?;
    let allocation = Allocation::around(address, bytes)?;
    if allocation.has_legacy_handle()? { allocation.enable_peer_access(context) } else { allocation.grant(context) }
}

/// The one allocation, or mapping, that a range lies in.
struct Allocation {
    address: CUdeviceptr,
    bytes: usize,
}

impl Allocation {
    /// The context is current, as for all that follow.
    fn around(address: DevicePtr, bytes: u64) -> Result<Self> {
        let mut around = Self { address: 0, bytes: 0 };
        // SAFETY: the driver looks the address up and reads nothing there; both results go to locals.
        unsafe { driver_call!(cuMemGetAddressRange_v2(&mut around.address, &mut around.bytes, address.0)) }?;
        let offset = address.0 - around.address;
        if offset.checked_add(bytes).is_none_or(|end| end > around.bytes as u64) {
            return Err(Error::unsupported(format!(
                "{bytes} bytes at {:#x} are not within one allocation: it ends after {}",
                address.0,
                around.bytes as u64 - offset
            )));
        }
        Ok(around)
    }

    /// Whether it is `cudaMalloc`'s.
    fn has_legacy_handle(&self) -> Result<bool> {
        // WHY: wider than the boolean that the driver writes, of a width that its documentation does not tell.
        let mut capable = 0u64;
        let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE;
        // SAFETY: the driver writes a boolean, which fits.
        unsafe { driver_call!(cuPointerGetAttribute((&raw mut capable).cast::<c_void>(), attribute, self.address)) }?;
        Ok(capable != 0)
    }

    /// Lets the context reach all that `cudaMalloc` ever allocates on the GPU of this allocation.
    fn enable_peer_access(&self, context: &Context) -> Result<()> {
        let mut owner: CUcontext = std::ptr::null_mut();
        let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT;
        // SAFETY: for this attribute the driver writes a context.
        unsafe { driver_call!(cuPointerGetAttribute((&raw mut owner).cast::<c_void>(), attribute, self.address)) }?;
        if owner == context.inner().cu_ctx() {
            return Ok(());
        }
        // SAFETY: the owner of live memory is a live context.
        match unsafe { driver_call!(cuCtxEnablePeerAccess(owner, 0)) } {
            Err(Error::Driver { code, .. }) if code == CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED as i32 => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Adds the context's GPU to those that reach the mapping.
    fn grant(&self, context: &Context) -> Result<()> {
        // WHY: one at a time, for the driver answers the second of two such calls at once with an error (driver 580).
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        // What is no mapping at all is told so, and not by a refusal of access.
        let _held = Physical::mapped_at(self.address)?;
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (location, flags) = (memory::location(context), CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        let mut reached = 0;
        // SAFETY: the location lives through the call; the flags go to a local.
        unsafe { driver_call!(cuMemGetAccess(&mut reached, &location, self.address)) }?;
        if reached == flags as u64 {
            return Ok(());
        }
        let access = CUmemAccessDesc { location, flags };
        // SAFETY: the whole mapping, which is live; the description lives through the call.
        unsafe { driver_call!(cuMemSetAccess(self.address, self.bytes, &access, 1)) }
    }
}

/// An allocation of another process, opened by its legacy handle.
#[derive(Debug)]
struct Opened {
    context: Context,
    address: CUdeviceptr,
}

impl Opened {
    fn new(context: &Context, bytes: &[u8]) -> Result<Self> {
        let Ok(bytes) = <[u8; IPC_HANDLE_BYTES]>::try_from(bytes) else {
            let length = bytes.len();
            return Err(Error::invalid(format!("a memory handle of {length} bytes: they have {IPC_HANDLE_BYTES}")));
        };
        let handle = CUipcMemHandle { reserved: bytes.map(|byte| byte as _) };
        let _relaxed = context.bind_relaxed()?;
        let mut opened = Self { context: context.clone(), address: 0 };
        let flags = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        // SAFETY: the context is current; the address goes to a local.
        unsafe { driver_call!(cuIpcOpenMemHandle_v2(&mut opened.address, handle, flags)) }?;
        Ok(opened)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.address != 0 {
            // SAFETY: opened once, closed once; the owner's promise is that no kernel uses it any more.
            log_failure(
                self.context
                    .bind_relaxed()
                    .and_then(|_relaxed| unsafe { driver_call!(cuIpcCloseMemHandle(self.address)) }),
            );
        }
    }
}
