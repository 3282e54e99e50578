//! What the candidates run on, and what finds room there. Pure.

use myelon_ccl::device::DeviceKind;
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::variant::{Choice, Lanes, Shape};
use myelon_ccl::{Result, WorldSize};

/// What the candidates run on.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) device: DeviceKind,
    pub(crate) arch: String,
    pub(crate) ranks: WorldSize,
    /// Several ranks use one device.
    pub(crate) shared: bool,
    /// Most bytes of a heap; the default heap's if absent.
    pub(crate) footprint: Option<u64>,
    /// Of the smallest GPU; none on the CPU.
    pub(crate) multiprocessors: Option<u32>,
}

impl Ground {
    /// A heap with room for all of them, and as many lanes as a communicator's.
    pub(crate) fn limits<'a>(&self, choices: impl IntoIterator<Item = &'a Choice>) -> HeapLimits {
        let shapes = choices.into_iter().map(|choice| &choice.shape);
        let limits = HeapLimits::for_shapes(self.device, self.ranks, self.shared, shapes);
        self.multiprocessors.map_or(limits, |most| limits.resident_on(self.device, most))
    }

    /// Most lanes of a shape: those beyond it may not be resident, and a communicator's heap has no room for them.
    pub(crate) fn most_lanes(&self) -> u32 {
        self.multiprocessors.unwrap_or(u32::MAX)
    }

    /// A shape with no more lanes than that.
    pub(crate) fn resident(&self, shape: Shape) -> Shape {
        let lanes = shape.lanes.map(|lanes| match lanes {
            Lanes::UpTo(lanes) => Lanes::UpTo(lanes.min(self.most_lanes())),
            Lanes::BySize => Lanes::BySize,
        });
        Shape { lanes, ..shape }
    }

    /// Whether a heap with room for `kept` and `choice` stays within the footprint; the reason if not.
    pub(crate) fn fits(&self, kept: &[Choice], choice: &Choice) -> Result<Result<(), String>> {
        let bytes = |limits: HeapLimits| limits.layout(self.ranks).map(|(_, bytes)| bytes);
        let allowed = match self.footprint {
            Some(bytes) => bytes,
            None => bytes(self.limits([]))?,
        };
        let needed = bytes(self.limits(kept.iter().chain([choice])))?;
        let why = || format!("over the footprint, {} MiB of {}", needed >> 20, allowed >> 20);
        Ok(if needed <= allowed { Ok(()) } else { Err(why()) })
    }
}
