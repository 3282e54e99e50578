//! Bringing a communicator up: agree on who runs what, map the heaps, load the kernels.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Engine, KernelEngine};
use super::nccl::NcclEngine;
use super::order::Order;
use super::{Communicator, Fallback, Options, tables};
use crate::baseline::{NcclCommunicator, Provider};
use crate::bootstrap::{Bootstrap, LocalBootstrap, check_one_host};
use crate::device::{Device, DeviceKind, source};
use crate::error::{Error, Result};
use crate::memory::HeapLimits;
use crate::table::Dispatcher;
use crate::types::{Rank, WorldSize};
use crate::variant::{Choice, Manifest};

/// What ranks tell each other first. Everything but `device` and `multiprocessors` must be equal.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Hello {
    version: String,
    kernels: String,
    tables: String,
    kind: DeviceKind,
    arch: String,
    limits: HeapLimits,
    /// Whether the caller gave them: others are cut to the devices.
    limits_are_given: bool,
    sentinel: bool,
    large_lanes: Option<u32>,
    choice: String,
    fallback: String,
    timeout_ms: u64,
    value_operations: bool,
    device: String,
    multiprocessors: u32,
}

/// What ranks found out of each other's devices.
struct Agreed {
    /// Ranks that use this rank's device.
    sharers: u32,
    /// For each rank: of all ranks the fewest.
    multiprocessors: u32,
}

impl Hello {
    /// The first thing on which two ranks differ: its name and both values.
    fn difference(&self, theirs: &Self) -> Option<(&'static str, String, String)> {
        let lanes = |lanes: Option<u32>| lanes.map_or_else(|| "any".into(), |lanes| lanes.to_string());
        let pairs = [
            ("the version of this library", self.version.clone(), theirs.version.clone()),
            ("the device kind", self.kind.to_string(), theirs.kind.to_string()),
            ("the GPU architecture", self.arch.clone(), theirs.arch.clone()),
            ("the kernels' sources", self.kernels.clone(), theirs.kernels.clone()),
            ("the lane tables", self.tables.clone(), theirs.tables.clone()),
            ("the heap limits", format!("{:?}", self.limits), format!("{:?}", theirs.limits)),
            (
                "whether the heap limits are given",
                self.limits_are_given.to_string(),
                theirs.limits_are_given.to_string(),
            ),
            ("the variant that is forced", self.choice.clone(), theirs.choice.clone()),
            ("the fallback", self.fallback.clone(), theirs.fallback.clone()),
            ("the timeout", format!("{} ms", self.timeout_ms), format!("{} ms", theirs.timeout_ms)),
            ("the lanes of large messages", lanes(self.large_lanes), lanes(theirs.large_lanes)),
            ("whether sentinels are used", self.sentinel.to_string(), theirs.sentinel.to_string()),
            (
                "whether streams can wait for words",
                self.value_operations.to_string(),
                theirs.value_operations.to_string(),
            ),
        ];
        pairs.into_iter().find(|(_, ours, theirs)| ours != theirs)
    }
}

impl Communicator {
    /// Brings up this rank of a communicator. Collective: every rank of the bootstrap calls it.
    ///
    /// Where GPUs cannot reach each other's memory, it runs on NCCL if [`Options::fallback`] says so, on all ranks.
    ///
    /// Errors: what [`Bootstrap`] says; [`Error::PeerMismatch`] naming what differs; [`Error::NoPeerAccess`]; what the compiler says.
    pub fn connect(device: Arc<dyn Device>, bootstrap: Arc<dyn Bootstrap>, options: Options) -> Result<Self> {
        // WHY: what fails on one rank alone, between steps that the ranks take together, is heard at once.
        Self::bring_up(device, Arc::clone(&bootstrap), options)
            .inspect_err(|error| bootstrap.announce_abort(&error.to_string()))
    }

    fn bring_up(device: Arc<dyn Device>, bootstrap: Arc<dyn Bootstrap>, options: Options) -> Result<Self> {
        let kind = device.properties().kind;
        let dispatcher = tables::dispatcher(&*device, bootstrap.rank(), bootstrap.world_size(), &options)?;
        let limits = options.limits.unwrap_or_else(|| {
            HeapLimits::for_shapes(kind, bootstrap.world_size(), options.share_devices, dispatcher.shapes())
        });
        let limits = options.adjusted(limits);
        let Agreed { sharers, multiprocessors } = agree(&device, &*bootstrap, &options, &dispatcher, limits)?;
        let limits = if options.limits.is_none() { limits.resident_on(kind, multiprocessors) } else { limits };

        let made = KernelEngine::create(&device, &bootstrap, &options, dispatcher, limits, sharers);
        let engine = match made {
            Ok(kernels) => Engine::Kernels(Box::new(kernels)),
            Err(error) if error.is_environment() && options.fallback == Fallback::Nccl && kind == DeviceKind::Cuda => {
                tracing::warn!(rank = bootstrap.rank().0, %error, "running on NCCL instead of Myelon's kernels");
                let nccl = connect_nccl(&device, &*bootstrap, &options)?;
                Engine::Nccl(NcclEngine::new(nccl, &device, &*bootstrap)?)
            }
            Err(error) => return Err(error),
        };
        bootstrap.listen(engine.listener());
        let order = Order::new(&device, options.transient_streams)?;
        let told = AtomicBool::new(false);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let communicator = Self { engine: ManuallyDrop::new(engine), device, bootstrap, order, id, told };
        communicator.prepare_types(&options.prepare)?;
        tracing::info!(
            rank = communicator.rank().0,
            world_size = communicator.world_size().get(),
            device = %communicator.device.properties().name,
            engine = communicator.engine(),
            heap_mib = communicator.footprint_bytes() >> 20,
            "communicator up"
        );
        Ok(communicator)
    }

    /// A communicator whose ranks are threads of this process, one a device, in the order of `devices`.
    ///
    /// Shape: 1 to 8 devices. Errors: those of [`Communicator::connect`], after 120 s where a rank does not come.
    ///
    /// Each element is for one thread: a rank that waits for another on the same thread waits for ever.
    pub fn threads(devices: &[Arc<dyn Device>], options: &Options) -> Result<Vec<Self>> {
        let world_size = WorldSize::new(devices.len() as u32)?;
        let group = LocalBootstrap::group(world_size, INIT_DEADLINE);
        std::thread::scope(|scope| {
            let ranks: Vec<_> = group
                .into_iter()
                .zip(devices)
                .map(|(bootstrap, device)| {
                    let (device, options) = (Arc::clone(device), options.clone());
                    scope.spawn(move || Self::connect(device, Arc::new(bootstrap), options))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().expect("init does not panic")).collect()
        })
    }
}

fn connect_nccl(device: &Arc<dyn Device>, bootstrap: &dyn Bootstrap, options: &Options) -> Result<NcclCommunicator> {
    let patience = if options.timeout.is_zero() { INIT_DEADLINE } else { options.timeout };
    NcclCommunicator::connect(
        Provider::Nccl,
        &|bytes| bootstrap.all_gather("connecting NCCL", bytes),
        bootstrap.rank(),
        bootstrap.world_size(),
        device.properties().ordinal,
        patience,
    )
}

/// The next [`Communicator::id`].
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Longest wait for a peer while a communicator comes up within one process: compiling is part of it.
pub(super) const INIT_DEADLINE: Duration = Duration::from_secs(120);

/// Compares what must be equal.
fn agree(
    device: &Arc<dyn Device>,
    bootstrap: &dyn Bootstrap,
    options: &Options,
    dispatcher: &Dispatcher,
    limits: HeapLimits,
) -> Result<Agreed> {
    check_one_host(bootstrap)?;
    let rank = bootstrap.rank();
    let properties = device.properties();
    let ours = Hello {
        version: env!("CARGO_PKG_VERSION").into(),
        kernels: source::tree_hash()?.into(),
        tables: source::hash_of([Manifest::source()].into_iter().chain(dispatcher.sources())),
        kind: properties.kind,
        arch: properties.arch.clone(),
        limits,
        limits_are_given: options.limits.is_some(),
        sentinel: options.sentinel,
        large_lanes: options.large_lanes,
        choice: options.choice.as_ref().map_or_else(|| "none".into(), Choice::to_string),
        fallback: format!("{:?}", options.fallback),
        timeout_ms: options.timeout.as_millis() as u64,
        value_operations: device.has_value_operations(),
        device: properties.identity.clone(),
        multiprocessors: properties.multiprocessors,
    };
    let hello = serde_json::to_vec(&ours).expect("plain data");
    let answers = bootstrap.all_gather("saying hello", &hello)?;
    let mut sharers = Vec::new();
    let mut devices = Vec::new();
    for (peer, answer) in bootstrap.world_size().ranks().zip(&answers) {
        let theirs: Hello = serde_json::from_slice(answer).map_err(|_| Error::PeerMismatch {
            rank,
            peer,
            what: "the version of this library".into(),
            ours: ours.version.clone(),
            theirs: "one that says hello in another way".into(),
        })?;
        if let Some((what, ours, theirs)) = ours.difference(&theirs) {
            return Err(Error::PeerMismatch { rank, peer, what: what.into(), ours, theirs });
        }
        if theirs.device == ours.device {
            sharers.push(peer);
        }
        devices.push((theirs.device, theirs.multiprocessors));
    }
    if sharers.len() > 1 && !options.share_devices && properties.kind == DeviceKind::Cuda {
        let names: Vec<_> = sharers.iter().map(Rank::to_string).collect();
        return Err(Error::invalid(format!(
            "ranks {} use the same GPU ({}): give each its own, or allow sharing for a test of correctness",
            names.join(" and "),
            properties.name
        )));
    }
    Ok(Agreed { sharers: sharers.len() as u32, multiprocessors: multiprocessors_of_a_rank(&devices) })
}

/// What each rank has of its device (identity, multiprocessors), of all ranks the fewest; one at least.
fn multiprocessors_of_a_rank(devices: &[(String, u32)]) -> u32 {
    let of_a_rank = devices.iter().map(|(device, multiprocessors)| {
        let ranks = devices.iter().filter(|(other, _)| other == device).count() as u32;
        multiprocessors / ranks
    });
    of_a_rank.min().unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_share_a_device_share_its_multiprocessors() {
        let on = |devices: &[(&str, u32)]| {
            let devices: Vec<_> = devices.iter().map(|&(device, has)| (device.to_owned(), has)).collect();
            multiprocessors_of_a_rank(&devices)
        };
        assert_eq!(on(&[("a", 132), ("b", 114)]), 114);
        assert_eq!(on(&[("a", 132), ("b", 132), ("a", 132), ("a", 132)]), 44);
        assert_eq!(on(&[("cpu", 0)]), 1);
    }
}
