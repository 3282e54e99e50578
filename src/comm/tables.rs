//! Which lane table a communicator asks, and what is to be said of it.

use std::sync::{Arc, Once};

use super::Options;
use crate::baseline;
use crate::device::{Device, DeviceKind, source};
use crate::error::Result;
use crate::measure::provenance::NOT_FOUND;
use crate::table::{Dispatcher, LaneTable, Machine, Present};
use crate::types::{Rank, WorldSize};

/// What chooses for a rank: by [`Options::choice`], by [`Options::table`] or the table of this build for the machine, and by the
/// rule of the device kind.
///
/// Errors: those of [`LaneTable::serves`] and of [`source::tree_hash`].
pub(super) fn dispatcher(
    device: &dyn Device,
    rank: Rank,
    world_size: WorldSize,
    options: &Options,
) -> Result<Dispatcher> {
    let properties = device.properties();
    let machine = match properties.kind {
        DeviceKind::Cpu => Machine::cpu(),
        DeviceKind::Cuda => Machine::of_gpus(&properties.name),
    };
    options.table.iter().try_for_each(|table| table.serves(properties.kind))?;
    let table = options.table.clone().or_else(|| LaneTable::embedded(&machine, world_size));
    // One rank speaks for all, which have the same table or do not come up. Where a choice is forced there is little to say.
    if rank == Rank(0) && options.choice.is_none() {
        match &table {
            Some(table) => warn_of_changes(table, device, world_size)?,
            None => suggest_tuning(&machine, world_size),
        }
    }
    let (choice, arch) = (options.choice.clone(), &properties.arch);
    Ok(Dispatcher::new(choice, table, properties.kind, arch, world_size, options.sentinel))
}

fn warn_of_changes(table: &LaneTable, device: &dyn Device, world_size: WorldSize) -> Result<()> {
    if !table.has(world_size) {
        tracing::warn!(
            "the lane table {} has no section for {world_size} ranks, and a rule of size and ranks chooses: run \
             myelon-tune --ranks {world_size}",
            table.name()
        );
        return Ok(());
    }
    let properties = device.properties();
    // WHY: only where it matters, for loading NCCL takes time and memory.
    let nccl = (properties.kind == DeviceKind::Cuda && table.compares_with_nccl()).then(baseline::version);
    let present = Present {
        source_hash: source::tree_hash()?.to_owned(),
        gpu: properties.name.clone(),
        driver: properties.driver.clone(),
        nccl: nccl.and_then(Result::ok).map_or_else(|| NOT_FOUND.to_owned(), |version| version.to_string()),
    };
    let changes = table.changes(&present);
    if !changes.is_empty() {
        tracing::warn!("the lane table {} is stale ({}): run myelon-tune", table.name(), changes.join("; "));
    }
    Ok(())
}

/// Once a process. Times on the CPU mean nothing, and a rank alone copies.
fn suggest_tuning(machine: &Machine, world_size: WorldSize) {
    static SUGGESTED: Once = Once::new();
    if machine.device == DeviceKind::Cuda && world_size.get() > 1 {
        SUGGESTED.call_once(|| {
            let link = machine.link.as_deref().unwrap_or("an unknown link");
            tracing::warn!(
                "no lane table for {world_size} ranks on {} over {link}: a rule of size and ranks chooses. Run myelon-tune \
                 and name its file with MYELON_LANE_TABLE",
                machine.gpu
            );
        });
    }
}

/// The table that a file holds, for [`Options::table`].
///
/// Errors: those of [`LaneTable::read`].
pub(super) fn read(path: &str) -> Result<Arc<LaneTable>> {
    LaneTable::read(path.as_ref()).map(Arc::new)
}
