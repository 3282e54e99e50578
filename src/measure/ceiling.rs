//! What the hardware allows: the nominal rate of a GPU's link, and the floor under the time of any all-reduce.
//!
//! Nothing here was measured by the run that it is drawn beside, so each has its source with it.

use serde::Serialize;

use crate::measure::bandwidth::bus_factor;
use crate::measure::provenance::Provenance;
use crate::measure::size::Bytes;
use crate::types::WorldSize;

/// What the links of one GPU carry in one direction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkRate {
    /// GB/s of 10^9 bytes.
    pub gbps: f64,
    /// Where the figure comes from.
    pub source: String,
}

/// Names of GPUs with NVLink, as the driver gives them, with what NVIDIA's data sheets say for both directions together.
/// The longest that a name begins with counts: cards with a bridge or none are other products.
const LINKS: [(&str, f64, &str); 6] = [
    ("NVIDIA A100-SXM4", 600.0, "A100 data sheet, SXM"),
    ("NVIDIA H100 80GB HBM3", 900.0, "H100 data sheet, SXM"),
    ("NVIDIA H100 PCIe", 600.0, "H100 PCIe product brief, NVLink bridges"),
    ("NVIDIA H200", 900.0, "H200 data sheet, SXM"),
    ("NVIDIA H200 NVL", 900.0, "H200 data sheet, NVL, NVLink bridges"),
    ("NVIDIA B200", 1800.0, "HGX B200 data sheet"),
];

/// The nominal rate of this machine's NVLink; none where its GPUs are of another kind, or joined by something else.
pub fn link_rate(provenance: &Provenance) -> Option<LinkRate> {
    if !provenance.link.starts_with("NV") {
        return None;
    }
    let known = LINKS.into_iter().filter(|(gpu, ..)| provenance.gpu.starts_with(gpu)).max_by_key(|(gpu, ..)| gpu.len());
    known.map(|(_, both, source)| LinkRate {
        gbps: both / 2.0,
        source: format!("NVIDIA {source}: NVLink {both} GB/s, half of it a direction"),
    })
}

/// The model of `docs/PERFORMANCE.md`: a launch in a chain of graph nodes, a flag over the link a hop, and the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    launch_us: f64,
    hop_us: f64,
    stored_gbps: f64,
}

impl Floor {
    /// Constants of 8x H200 with NVSwitch.
    pub const HOPPER: Self = Self { launch_us: 0.5, hop_us: 0.66, stored_gbps: 365.0 };

    /// Where the model and its constants come from.
    pub const SOURCE: &str = "docs/PERFORMANCE.md: 0.5 us + 0.66 us a hop + bytes a rank sends at 365 GB/s; constants of 8x H200 with NVSwitch";

    /// The floor for this machine; none where nobody has read its constants.
    pub fn of(provenance: &Provenance) -> Option<Self> {
        let is_hopper = ["NVIDIA H100 80GB HBM3", "NVIDIA H200"].iter().any(|gpu| provenance.gpu == *gpu);
        (is_hopper && provenance.link.starts_with("NV")).then_some(Self::HOPPER)
    }

    /// Microseconds that no all-reduce of this size can beat: one hop with every byte to every peer, or two hops with shards.
    pub fn time_us(&self, ranks: WorldSize, bytes: Bytes) -> f64 {
        let peers = f64::from(ranks.get() - 1);
        let of = |hops: f64, sent: f64| {
            self.launch_us + self.hop_us * hops + sent * bytes.0 as f64 / (self.stored_gbps * 1e3)
        };
        of(1.0, peers).min(of(2.0, bus_factor(ranks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;

    #[test]
    fn the_longest_name_counts_and_pcie_has_no_rate() {
        let rate = |gpu: &str, link: &str| {
            let provenance = Provenance { gpu: gpu.into(), link: link.into(), ..provenance() };
            link_rate(&provenance).map(|rate| rate.gbps)
        };
        assert_eq!(rate("NVIDIA H200", "NVLink"), Some(450.0));
        assert_eq!(rate("NVIDIA H100 NVL", "NVLink"), None);
        assert_eq!(rate("NVIDIA A100-SXM4-80GB", "NV12"), Some(300.0));
        assert_eq!([rate("NVIDIA H200", "PCIe"), rate("NVIDIA L40S", "NVLink")], [None, None]);
    }

    #[test]
    fn the_floor_is_that_of_the_page() {
        let page = include_str!("../../docs/PERFORMANCE.md");
        let ranks = WorldSize::new(8).unwrap();
        for (size, bytes) in [("4 KiB", 4 << 10), ("256 KiB", 256 << 10), ("1 MiB", 1 << 20), ("4 MiB", 4 << 20)] {
            let floor = Floor::HOPPER.time_us(ranks, Bytes(bytes));
            let words = if floor < 10.0 { format!("{size}: {floor:.1} us") } else { format!("{size}: {floor:.0} us") };
            // 256 KiB is given for one hop; two hops are less for eight ranks.
            assert!(page.contains(&words) || size == "256 KiB" && floor < 6.2, "{words}");
        }
        for constant in ["t = 0.5 us + 0.66 us x hops + bytes a rank sends / link rate", "365 GB/s"] {
            assert!(page.contains(constant), "{constant}");
        }
    }

    #[test]
    fn two_ranks_need_one_hop() {
        let time = |bytes| Floor::HOPPER.time_us(WorldSize::new(2).unwrap(), Bytes(bytes));
        assert!((time(0) - 1.16).abs() < 1e-9 && (time(365_000) - 2.16).abs() < 1e-9);
    }
}
