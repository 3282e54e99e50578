//! A loaded kernel, and the call into it.

use std::cell::RefCell;
use std::ffi::c_void;
use std::mem::{ManuallyDrop, offset_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::tsan;
use crate::device::{KernelImage, LaunchShape};
use crate::error::{Error, Result};

/// What a kernel is called with: mirror of `cuda/cpu/launch.cuh`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct CpuLaunch {
    /// The by-value argument struct, 16-byte aligned.
    args: *const c_void,
    /// An address of the device's own, through which ThreadSanitizer is told that its launches are ordered.
    order: *mut c_void,
    /// Stacks of the grid's fibers, `stack_bytes` each.
    stacks: *mut c_void,
    stack_bytes: u64,
    /// Seed of the delays to inject; zero for none.
    delay_seed: u64,
    grid: u32,
    block: u32,
    shared_bytes: u32,
    ordinal: u32,
}

const _: () = {
    assert!(size_of::<CpuLaunch>() == 56);
    assert!(offset_of!(CpuLaunch, delay_seed) == 32 && offset_of!(CpuLaunch, ordinal) == 52);
};

/// Argument bytes at the alignment that kernels expect.
#[derive(Debug)]
pub(super) struct Arguments(Box<[u128]>);

impl Arguments {
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| {
            let mut word = [0; size_of::<u128>()];
            word[..chunk.len()].copy_from_slice(chunk);
            u128::from_ne_bytes(word)
        };
        Self(bytes.chunks(size_of::<u128>()).map(word).collect())
    }
}

/// The entry point of a loaded shared object.
#[derive(Debug)]
pub(super) struct Kernel {
    entry: unsafe extern "C" fn(*const CpuLaunch),
    // WHY: never unloaded. The trait promises kernels for the life of the device, a worker that outlives the device
    // may still run inside, and sanitizer reports of an unloaded object have no lines.
    _library: ManuallyDrop<Library>,
}

impl Kernel {
    pub(super) fn load(image: &KernelImage) -> Result<Self> {
        let failed = |call, error: libloading::Error| Error::Driver {
            call,
            code: 0,
            detail: format!(
                "{} ({}): {error}; if the cache is mounted noexec, set MYELON_CACHE to another directory, \
                 and with MYELON_CPU_SANITIZE preload the sanitizer's library",
                image.name,
                image.path.display()
            ),
        };
        // SAFETY: the object was compiled from this library's own sources; its initialisers do no more than set up
        // its static data.
        let library = unsafe { Library::open(Some(&image.path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| failed("dlopen", error))?;
        // SAFETY: `myelon_kernel` has this signature in every kernel (cuda/cpu/launch.cuh).
        let symbol = unsafe { library.get(b"myelon_kernel\0") };
        let entry = *symbol.map_err(|error| failed("dlsym", error))?;
        Ok(Self { entry, _library: ManuallyDrop::new(library) })
    }

    /// Runs the whole grid on the calling thread.
    ///
    /// # Safety
    /// As [`crate::device::Device::launch`].
    pub(super) unsafe fn run(&self, arguments: &Arguments, shape: LaunchShape, site: &LaunchSite) {
        STACKS.with_borrow_mut(|stacks| {
            let launch = CpuLaunch {
                args: arguments.0.as_ptr().cast(),
                order: std::ptr::from_ref(&site.launches).cast_mut().cast(),
                stacks: stacks.at_least(u64::from(shape.grid) * u64::from(shape.block)),
                stack_bytes: STACK_BYTES,
                delay_seed: site.next_delay_seed(),
                grid: shape.grid,
                block: shape.block,
                shared_bytes: shape.shared_bytes,
                ordinal: site.ordinal,
            };
            // SAFETY: the entry point takes this struct, which outlives the call; the rest is the caller's promise.
            unsafe { (self.entry)(&raw const launch) }
        });
    }
}

/// Stack of one fiber. Kernels keep their arrays small; sanitizers add red zones.
const STACK_BYTES: u64 = 128 << 10;

thread_local! {
    static STACKS: RefCell<Stacks> = const { RefCell::new(Stacks { start: std::ptr::null_mut(), bytes: 0 }) };
}

/// Names the order between workers that have stacks at one address, one after the other. ThreadSanitizer does not see these
/// mappings go and come.
static ADDRESSES: u8 = 0;

/// The fiber stacks of one worker: one mapping, whose pages exist once touched.
struct Stacks {
    start: *mut c_void,
    bytes: usize,
}

impl Stacks {
    fn at_least(&mut self, fibers: u64) -> *mut c_void {
        let bytes = (fibers * STACK_BYTES) as usize;
        if bytes > self.bytes {
            self.unmap();
            let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
            // SAFETY: a new mapping at an address of the system's choosing.
            let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) };
            self.start = start.unwrap_or_else(|error| panic!("mapping {bytes} bytes of fiber stacks: {error}"));
            self.bytes = bytes;
            tsan::acquire(&ADDRESSES);
        }
        self.start
    }

    fn unmap(&mut self) {
        if self.bytes > 0 {
            tsan::release(&ADDRESSES);
            // SAFETY: mapped in `at_least` with this size; no fiber lives between launches. Failing leaks it.
            let _ = unsafe { munmap(self.start, self.bytes) };
            self.bytes = 0;
        }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// What all launches of one device share. Outlives the device where a worker does.
#[derive(Debug)]
pub(super) struct LaunchSite {
    ordinal: u32,
    delays: u64,
    /// Launches so far; its address is [`CpuLaunch::order`], which nobody writes through.
    launches: AtomicU64,
}

impl LaunchSite {
    pub(super) fn new(ordinal: u32, delays: u64) -> Arc<Self> {
        Arc::new(Self { ordinal, delays, launches: AtomicU64::new(0) })
    }

    /// Another seed for each launch of each device, the same ones in each run; zero without delays.
    fn next_delay_seed(&self) -> u64 {
        let launch = self.launches.fetch_add(1, Ordering::Relaxed);
        if self.delays == 0 {
            return 0;
        }
        mix(mix(mix(self.delays) ^ u64::from(self.ordinal)) ^ launch).max(1)
    }
}

/// Finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_their_bytes() {
        let bytes: Vec<u8> = (0..37).collect();
        let arguments = Arguments::copy_of(&bytes);
        let stored: Vec<u8> = arguments.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(stored[..37], bytes);
        assert_eq!(arguments.0.as_ptr() as usize % 16, 0);
    }

    #[test]
    fn delay_seeds_differ_by_launch_and_device_and_repeat_by_run() {
        let seeds = |ordinal, delays| {
            let site = LaunchSite::new(ordinal, delays);
            [site.next_delay_seed(), site.next_delay_seed()]
        };
        let [first, second] = seeds(0, 5);
        assert_ne!(first, second);
        assert_ne!(first, seeds(1, 5)[0]);
        assert_eq!([first, second], seeds(0, 5));
        assert_eq!(seeds(0, 0), [0, 0]);
    }
}
