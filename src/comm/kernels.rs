//! The kernels of a communicator: compiled, loaded, and found without a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::bootstrap::{Bootstrap, agree};
use crate::device::cache::compile_cached;
use crate::device::{Device, KernelHandle};
use crate::error::{Error, Result};
use crate::variant::{KernelKey, Plan};

/// A kernel ready to launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) handle: KernelHandle,
    /// Lanes that are resident together, with everyone who shares the device counted.
    most_lanes: u32,
}

impl Loaded {
    /// Whether the grid fits beside another of its kind: the next launch, coming up early.
    pub(super) fn fits_twice(&self, plan: &Plan) -> bool {
        plan.lanes <= self.most_lanes / 2
    }

    /// A grid that is not resident as a whole would wait for CTAs that never start.
    pub(super) fn check_resident(&self, plan: &Plan) -> Result<()> {
        if plan.lanes <= self.most_lanes {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} lanes of {} do not fit on the device together, {} do: use fewer lanes, threads or stages",
            plan.lanes, plan.kernel, self.most_lanes
        )))
    }
}

/// Loaded kernels. Read on every call, written when something new is prepared.
pub(super) struct KernelTable {
    kernels: ArcSwap<HashMap<KernelKey, Loaded>>,
    /// Ranks of this communicator that use the same device.
    sharers: u32,
}

impl KernelTable {
    pub(super) fn new(sharers: u32) -> Self {
        Self { kernels: ArcSwap::default(), sharers }
    }

    pub(super) fn get(&self, key: &KernelKey) -> Option<Loaded> {
        self.kernels.load().get(key).copied()
    }

    /// Compiles and loads the keys that are missing, between two barriers: nobody loads while a peer spins.
    pub(super) fn prepare<'a>(
        &self,
        bootstrap: &dyn Bootstrap,
        device: &Arc<dyn Device>,
        keys: impl Iterator<Item = (&'a KernelKey, u32)>,
    ) -> Result<()> {
        let mut missing: Vec<(&KernelKey, u32)> = Vec::new();
        for (key, shared_bytes) in keys {
            if self.get(key).is_none() && !missing.iter().any(|(known, _)| *known == key) {
                missing.push((key, shared_bytes));
            }
        }
        bootstrap.barrier("preparing kernels")?;
        let mut loaded = agree(bootstrap, "kernels prepared", load_all(device, &missing, self.sharers))?;
        // What one device has no room for is refused on all ranks. All load the same kernels in the same order.
        let lanes: Vec<u8> = loaded.iter().flat_map(|(_, own)| own.most_lanes.to_le_bytes()).collect();
        for theirs in bootstrap.all_gather("lanes that fit", &lanes)? {
            for ((_, own), theirs) in loaded.iter_mut().zip(theirs.chunks_exact(4)) {
                own.most_lanes = own.most_lanes.min(u32::from_le_bytes(theirs.try_into().expect("four bytes")));
            }
        }
        if !loaded.is_empty() {
            self.kernels.rcu(|before| {
                let mut after = HashMap::clone(before);
                after.extend(loaded.iter().cloned());
                after
            });
        }
        Ok(())
    }
}

/// Compiles on every core, loads in order.
fn load_all(device: &Arc<dyn Device>, keys: &[(&KernelKey, u32)], sharers: u32) -> Result<Vec<(KernelKey, Loaded)>> {
    let next = AtomicUsize::new(0);
    let compile = || {
        let mut images = Vec::new();
        while let Some((key, _)) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
            images.push(compile_cached(device.compiler(), &key.source()));
        }
        images
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(keys.len());
    // What each worker compiled is in the cache afterwards; only failures matter here.
    let failures: Vec<Error> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..workers).map(|_| scope.spawn(compile)).collect();
        let mut images = compile();
        for worker in workers {
            images.extend(worker.join().expect("a compile worker does not panic"));
        }
        images.into_iter().filter_map(Result::err).collect()
    });
    if let Some(first) = failures.into_iter().next() {
        return Err(first);
    }
    let mut loaded = Vec::with_capacity(keys.len());
    for &(key, shared_bytes) in keys {
        let handle = device.load(&compile_cached(device.compiler(), &key.source())?)?;
        let resident = device.resident_limit(handle, key.threads, shared_bytes)?;
        loaded.push((key.clone(), Loaded { handle, most_lanes: resident / sharers }));
    }
    Ok(loaded)
}
