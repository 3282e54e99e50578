//! Symmetric windows: buffers that all ranks registered together, on which NCCL runs its fastest kernels.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::nccl::sys::ncclWindow_t;

use super::live::Shared;
use super::nccl::NcclCommunicator;
use crate::device::DevicePtr;
use crate::error::{Error, Result};

/// NCCL_WIN_COLL_SYMMETRIC of nccl.h: every rank passes the same offset of this window to a collective.
const COLLECTIVE_SYMMETRIC: i32 = 0x01;
/// NCCL_WIN_REQUIRED_ALIGNMENT of nccl.h.
const ALIGNMENT: u64 = 4096;

/// Device memory of one rank that is registered as a window on all ranks.
///
/// A collective runs in the symmetric form where input and output lie at equal offsets of windows on all ranks.
#[derive(Debug)]
pub struct SymmetricBuffer {
    shared: Arc<Shared>,
    address: DevicePtr,
    bytes: u64,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Window(ncclWindow_t);

// SAFETY: a token of NCCL's; any thread may pass it to a call on its communicator.
unsafe impl Send for Window {}
// SAFETY: nothing can be done with a shared reference to it but copying.
unsafe impl Sync for Window {}

impl Window {
    fn get(self) -> ncclWindow_t {
        self.0
    }
}

impl NcclCommunicator {
    /// A buffer of at least `bytes`, registered on all ranks: every rank calls it, with the same size, in the same order.
    ///
    /// Errors: [`Error::Unsupported`] before NCCL 2.27 and where the fabric has no symmetric memory;
    /// [`Error::Nccl`] where NCCL fails or the other ranks do not come, and the communicator is then given up.
    pub fn symmetric_buffer(&self, bytes: u64) -> Result<SymmetricBuffer> {
        let shared = self.shared();
        let functions = shared.nccl.functions;
        let (Some(allocate), Some(free), Some(register), Some(_)) = (
            functions.ncclMemAlloc,
            functions.ncclMemFree,
            functions.ncclCommWindowRegister,
            functions.ncclCommWindowDeregister,
        ) else {
            return Err(Error::unsupported(format!(
                "NCCL {} has no symmetric windows: 2.27 is the first that has",
                shared.nccl.version
            )));
        };
        let size = window_size(bytes)?;
        let (address, window) = shared.long_call("ncclCommWindowRegister", move |library, context, handle| {
            context.bind()?;
            let mut address: *mut c_void = std::ptr::null_mut();
            // SAFETY: the address goes to a local.
            library.check("ncclMemAlloc", unsafe { allocate(&mut address, size) })?;
            let mut window: ncclWindow_t = std::ptr::null_mut();
            // SAFETY: the communicator is live and locked; the memory was just allocated with this size.
            let code = unsafe { register(handle.get(), address, size, &mut window, COLLECTIVE_SYMMETRIC) };
            let outcome = library.check("ncclCommWindowRegister", code).and_then(|()| {
                // NCCL reports success without a window where the ranks cannot reach each other's memory.
                if window.is_null() {
                    return Err(Error::unsupported("NCCL has no symmetric memory on this machine: the GPUs need NVLink, and NCCL_CUMEM_ENABLE must not be 0"));
                }
                Ok(())
            });
            if let Err(error) = outcome {
                // SAFETY: from ncclMemAlloc, and registered nowhere.
                unsafe { free(address) };
                return Err(error);
            }
            Ok((DevicePtr(address as usize as u64), Window(window)))
        })?;
        Ok(SymmetricBuffer { shared: Arc::clone(shared), address, bytes, window })
    }
}

impl SymmetricBuffer {
    /// First byte; aligned to 4096. Contents are undefined at first.
    pub fn address(&self) -> DevicePtr {
        self.address
    }

    /// Size asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for SymmetricBuffer {
    fn drop(&mut self) {
        let functions = self.shared.nccl.functions;
        let (Some(deregister), Some(free)) = (functions.ncclCommWindowDeregister, functions.ncclMemFree) else {
            return;
        };
        let (window, address) = (self.window, self.address);
        // An aborted communicator took its windows along; the memory is ours in either case.
        let deregistered = if self.shared.is_live() {
            self.shared.long_call("ncclCommWindowDeregister", move |library, context, handle| {
                context.bind()?;
                // SAFETY: the window is of this live, locked communicator, and is not used afterwards.
                library.check("ncclCommWindowDeregister", unsafe { deregister(handle.get(), window.get()) })
            })
        } else {
            Ok(())
        };
        let patience = self.shared.patience;
        let freed = deregistered.and_then(|()| {
            self.shared.part("ncclMemFree", patience, move |library, context| {
                context.bind()?;
                // SAFETY: from ncclMemAlloc, no longer registered, and not used afterwards.
                library.check("ncclMemFree", unsafe { free(address.0 as usize as *mut c_void) })
            })
        });
        if let Err(error) = freed {
            tracing::warn!(%error, "a symmetric buffer of NCCL was left behind");
        }
    }
}

fn window_size(bytes: u64) -> Result<usize> {
    bytes
        .max(1)
        .checked_next_multiple_of(ALIGNMENT)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| Error::invalid(format!("a window of {bytes} bytes does not fit the address space")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_pages() {
        assert_eq!(window_size(0).unwrap(), 4096);
        assert_eq!(window_size(4096).unwrap(), 4096);
        assert_eq!(window_size(4097).unwrap(), 8192);
        assert!(window_size(u64::MAX).is_err());
    }
}
