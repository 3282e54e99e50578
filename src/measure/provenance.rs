//! Where, when and with what a run was measured.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::WorldSize;

/// What stands in a [`Provenance`] for software that the machine lacks.
pub const NOT_FOUND: &str = "not found";

/// Everything a reader needs to know before comparing these numbers with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Start of the run in UTC, whole seconds; RFC 3339 in the file.
    pub date: Timestamp,
    /// Version of Myelon.
    pub version: String,
    /// Hash of the kernel sources.
    pub source_hash: String,
    /// Marketing name of the GPUs, or [`NOT_FOUND`].
    pub gpu: String,
    /// GPUs of the machine, used or not.
    pub gpus: u32,
    /// What connects the first two, as the driver tells it: `NVLink`, `PCIe`; [`NOT_FOUND`] with one GPU or none.
    pub link: String,
    /// Driver version.
    pub driver: String,
    /// CUDA version that compiled the kernels.
    pub cuda: String,
    /// NCCL version, or [`NOT_FOUND`].
    pub nccl: String,
    /// Whether NCCL could use NVLink multicast: `off` where `NCCL_NVLS_ENABLE=0` forbade it, `default` where NCCL chose, or
    /// [`NOT_FOUND`] without NCCL. Without multicast it is slower at large sizes.
    pub nvls: String,
    /// Name of the processor.
    pub cpu: String,
}

impl Provenance {
    /// What can be known without a GPU: now, this library's version and this processor; the rest says [`NOT_FOUND`].
    pub fn of_this_host(source_hash: &str) -> Self {
        let now = Timestamp::now();
        let missing = || NOT_FOUND.to_owned();
        Self {
            date: Timestamp::from_second(now.as_second()).unwrap_or(now),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source_hash: source_hash.to_owned(),
            gpu: missing(),
            gpus: 0,
            link: missing(),
            driver: missing(),
            cuda: missing(),
            nccl: missing(),
            nvls: missing(),
            cpu: processor_name().unwrap_or_else(missing),
        }
    }

    /// Whether both are of equal machines with equal drivers and libraries; day and version of Myelon can differ.
    pub(crate) fn is_same_machine(&self, other: &Self) -> bool {
        let Self { date, version, source_hash, .. } = self.clone();
        *self == Self { date, version, source_hash, ..other.clone() }
    }

    /// The machine as a heading names it: its GPUs and their link, or its processor where it has none.
    pub fn machine(&self) -> String {
        if self.gpus == 0 { self.cpu.clone() } else { format!("{}x {}, {}", self.gpus, self.gpu, self.link) }
    }

    /// What `ranks` ranks ran on, as a heading names it: `8 GPUs`, `2 CPU ranks`, `4 ranks on 1 GPU`.
    pub fn describe(&self, ranks: WorldSize) -> String {
        let count = |number: u32, unit: &str| format!("{number} {unit}{}", if number == 1 { "" } else { "s" });
        match (ranks.get(), self.gpus) {
            (ranks, 0) => count(ranks, "CPU rank"),
            (ranks, gpus) if ranks > gpus => format!("{} on {}", count(ranks, "rank"), count(gpus, "GPU")),
            (ranks, _) => count(ranks, "GPU"),
        }
    }

    /// NCCL's version and what it may use; every comparison with it shows this.
    pub fn nccl_state(&self) -> String {
        if self.nccl == NOT_FOUND {
            "NCCL not found".to_owned()
        } else {
            format!("NCCL {}, NVLS {}", self.nccl, self.nvls)
        }
    }
}

/// The processor by the name Linux gives it.
fn processor_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, name) = info.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A provenance whose every field differs from the others.
    pub(crate) fn provenance() -> Provenance {
        Provenance {
            date: "2026-11-20T10:00:00Z".parse().unwrap(),
            version: "0.1.0".into(),
            source_hash: "1a2b3c4d".into(),
            gpu: "NVIDIA H200".into(),
            gpus: 8,
            link: "NV18".into(),
            driver: "580.159".into(),
            cuda: "13.0".into(),
            nccl: "2.28.9".into(),
            nvls: "off".into(),
            cpu: "Test CPU".into(),
        }
    }

    #[test]
    fn ranks_that_share_a_gpu_are_not_called_gpus() {
        let describe = |ranks, gpus| Provenance { gpus, ..provenance() }.describe(WorldSize::new(ranks).unwrap());
        assert_eq!([describe(8, 8), describe(1, 8)], ["8 GPUs", "1 GPU"]);
        assert_eq!([describe(2, 0), describe(4, 1)], ["2 CPU ranks", "4 ranks on 1 GPU"]);
    }

    #[test]
    fn a_missing_nccl_is_said() {
        assert_eq!(provenance().nccl_state(), "NCCL 2.28.9, NVLS off");
        assert_eq!(Provenance::of_this_host("0").nccl_state(), "NCCL not found");
    }
}
