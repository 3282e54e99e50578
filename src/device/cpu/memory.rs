//! Memory of the CPU device: plain allocations, and mappings that other processes can share.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

use crate::device::DevicePtr;
use crate::error::{Error, Result};

/// Alignment of [`Heap::allocate`]: what `cuMemAlloc` gives.
const ALIGNMENT: usize = 256;

/// Plain allocations by address. From the process's allocator, so that AddressSanitizer guards their ends.
#[derive(Debug, Default)]
pub(super) struct Heap {
    layouts: Mutex<HashMap<u64, Layout>>,
}

impl Heap {
    pub(super) fn allocate(&self, bytes: u64) -> Result<u64> {
        let layout = Layout::from_size_align(checked_length(bytes)?, ALIGNMENT)
            .map_err(|_| Error::invalid(format!("{bytes} bytes are more than an address space")))?;
        // SAFETY: the layout's size is not zero.
        let address = unsafe { alloc(layout) } as u64;
        if address == 0 {
            return Err(Error::io(format!("allocating {bytes} bytes"), io::ErrorKind::OutOfMemory));
        }
        self.layouts.lock().unwrap_or_else(PoisonError::into_inner).insert(address, layout);
        Ok(address)
    }

    /// Returns false for an address that is not allocated.
    ///
    /// # Safety
    /// Nobody uses the memory any more.
    pub(super) unsafe fn free(&self, address: u64) -> bool {
        let layout = self.layouts.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        let Some(layout) = layout else { return false };
        // SAFETY: the table says that `alloc` gave this address with this layout, and it has just left the table.
        unsafe { dealloc(address as *mut u8, layout) };
        true
    }
}

/// A zeroed, page-aligned mapping; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    address: *mut u8,
    length: usize,
    /// The memfd behind it, where other processes can map it too.
    file: Option<OwnedFd>,
}

// SAFETY: the mapping has no thread affinity; this type hands out its address and never dereferences it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory of this process alone.
    pub(super) fn private(bytes: u64) -> Result<Self> {
        let length = checked_length(bytes)?;
        Self::new(length, None)
    }

    /// Memory in a memfd of exactly this size.
    pub(super) fn shared(bytes: u64) -> Result<Self> {
        let made = memfd_create("myelon", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).and_then(|file| {
            ftruncate(&file, bytes)?;
            // A peer that shrank the file would turn every access into SIGBUS.
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(file)
        });
        let file = made.map_err(|e| Error::io(format!("making a memfd of {bytes} bytes"), io::Error::from(e)))?;
        Self::of_file(file, bytes)
    }

    /// The first `bytes` bytes of a file that a peer made with [`Mapping::shared`].
    pub(super) fn of_file(file: OwnedFd, bytes: u64) -> Result<Self> {
        let length = checked_length(bytes)?;
        let size = fstat(&file).map_err(|e| Error::io("asking for the size of a shared block", io::Error::from(e)))?;
        if (size.st_size as u64) < bytes {
            return Err(Error::invalid(format!("a shared block of {} bytes was announced as {bytes}", size.st_size)));
        }
        Self::new(length, Some(file))
    }

    pub(super) fn address(&self) -> *mut u8 {
        self.address
    }

    /// Bytes that are mapped.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// A new descriptor of the memfd; `None` for private memory.
    pub(super) fn duplicate_file(&self) -> Option<io::Result<OwnedFd>> {
        // `try_clone` sets CLOEXEC.
        self.file.as_ref().map(OwnedFd::try_clone)
    }

    // WHY: libc's functions and not rustix's, which are bare system calls: the sanitizers watch only the former,
    // and would take what a new mapping holds for what the last one at that address did.
    fn new(length: usize, file: Option<OwnedFd>) -> Result<Self> {
        let (flags, fd) = match &file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(Error::io(format!("mapping {length} bytes"), io::Error::last_os_error()));
        }
        Ok(Self { address: address.cast(), length, file })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in the constructor with this length; the owners of the address have let go of it.
        if unsafe { libc::munmap(self.address.cast(), self.length) } != 0 {
            tracing::warn!(error = %io::Error::last_os_error(), "a mapping was not given back");
        }
    }
}

/// Mappings that other processes can map too, by address.
#[derive(Debug, Default)]
pub(super) struct SharedMappings {
    mappings: Mutex<BTreeMap<u64, Weak<Mapping>>>,
}

impl SharedMappings {
    pub(super) fn insert(&self, mapping: &Arc<Mapping>) {
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.retain(|_, mapping| mapping.strong_count() > 0);
        mappings.insert(mapping.address() as u64, Arc::downgrade(mapping));
    }

    /// The mapping that holds all of a range, and where the range begins in it.
    pub(super) fn find(&self, address: u64, bytes: u64) -> Option<(Arc<Mapping>, u64)> {
        let mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        let (&start, mapping) = mappings.range(..=address).next_back()?;
        let (mapping, offset) = (mapping.upgrade()?, address - start);
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= mapping.length() as u64);
        fits.then_some((mapping, offset))
    }
}

fn checked_length(bytes: u64) -> Result<usize> {
    let length = isize::try_from(bytes).ok().filter(|&length| length > 0);
    length
        .map(isize::unsigned_abs)
        .ok_or_else(|| Error::invalid(format!("an allocation of {bytes} bytes: ask for 1 to {} bytes", isize::MAX)))
}

/// Refuses what cannot be a range.
pub(super) fn check_range(what: &str, start: DevicePtr, bytes: u64) -> Result<()> {
    if start.0 == 0 || start.0.checked_add(bytes).is_none() {
        return Err(Error::invalid(format!("{what} {:#x} of {bytes} bytes is no range of memory", start.0)));
    }
    Ok(())
}

/// Refuses what cannot be the address of a word that is accessed atomically.
pub(super) fn check_word(address: DevicePtr) -> Result<()> {
    if address.0 == 0 || !address.0.is_multiple_of(8) {
        return Err(Error::invalid(format!("{:#x} is no address of a word: a multiple of 8 is needed", address.0)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_aligned_and_freed_once() {
        let heap = Heap::default();
        let address = heap.allocate(1).unwrap();
        assert_eq!(address % 256, 0);
        // SAFETY: nobody uses the byte.
        assert!(unsafe { heap.free(address) });
        // SAFETY: as above.
        assert!(!unsafe { heap.free(address) });
    }

    #[test]
    fn senseless_sizes_are_errors() {
        for bytes in [0, u64::MAX, 1 << 62] {
            assert!(Heap::default().allocate(bytes).is_err(), "{bytes}");
            assert!(Mapping::private(bytes).is_err(), "{bytes}");
            assert!(Mapping::shared(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn a_block_cannot_be_imported_larger_than_it_is() {
        let block = Mapping::shared(100).unwrap();
        let message = Mapping::of_file(block.duplicate_file().unwrap().unwrap(), 101).unwrap_err().to_string();
        assert!(message.contains("100") && message.contains("101"), "{message}");
    }

    #[test]
    fn a_range_is_found_only_within_one_living_mapping() {
        let mappings = SharedMappings::default();
        let [first, second] = [(); 2].map(|()| Arc::new(Mapping::shared(8192).unwrap()));
        mappings.insert(&first);
        mappings.insert(&second);
        let start = first.address() as u64;
        let (found, offset) = mappings.find(start + 100, 8092).unwrap();
        assert_eq!((found.address(), offset), (first.address(), 100));
        for (address, bytes) in [(start + 100, 8093), (start, u64::MAX), (start - 1, 1), (16, 1)] {
            let found = mappings.find(address, bytes);
            assert!(found.is_none_or(|(found, _)| found.address() != first.address()), "{address:#x} {bytes}");
        }
        drop(found);
        drop(first);
        assert!(mappings.find(start, 1).is_none());
        assert!(mappings.find(second.address() as u64, 1).is_some());
    }

    #[test]
    fn two_mappings_of_a_file_are_the_same_memory() {
        let first = Mapping::shared(5000).unwrap();
        let second = Mapping::of_file(first.duplicate_file().unwrap().unwrap(), 5000).unwrap();
        assert_ne!(first.address(), second.address());
        // SAFETY: byte 4999 lies in both mappings, which live on; nobody else writes it.
        unsafe {
            assert_eq!(second.address().add(4999).read_volatile(), 0);
            first.address().add(4999).write_volatile(7);
            drop(first);
            assert_eq!(second.address().add(4999).read_volatile(), 7);
        }
        assert!(Mapping::private(1).unwrap().duplicate_file().is_none());
    }
}
