//! Where, when and with what a run was measured.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::device::cpu::processor_name;
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
    /// What else was measured, by what its rows were requested as: its name, version and what it could use. Without an entry where
    /// nothing else was, and in files older than this field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<String, String>,
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
            peers: BTreeMap::new(),
        }
    }

    /// Whether both are of equal machines with equal drivers and libraries; day and version of Myelon can differ.
    ///
    /// What one of them did not find or measure does not tell them apart: PyTorch's rows are measured without Myelon and NCCL.
    pub(crate) fn is_same_machine(&self, other: &Self) -> bool {
        let fixed = |it: &Self| (it.gpu.clone(), it.gpus, it.driver.clone(), it.cpu.clone());
        fixed(self) == fixed(other)
            && self.software().into_iter().zip(other.software()).all(|(ours, theirs)| agree(ours, theirs))
            && self.has_peers_of(other)
    }

    /// Whether both are of as many equal GPUs, linked alike, or without GPUs of equal processors.
    pub(crate) fn is_same_hardware(&self, other: &Self) -> bool {
        let is_same_processor = self.gpus > 0 || self.cpu == other.cpu;
        (&self.gpu, self.gpus) == (&other.gpu, other.gpus) && agree(&self.link, &other.link) && is_same_processor
    }

    /// Whether what was measured in both was of equal versions and settings.
    pub(crate) fn has_peers_of(&self, other: &Self) -> bool {
        self.peers.iter().all(|(name, ours)| other.peers.get(name).is_none_or(|theirs| ours == theirs))
    }

    fn software(&self) -> [&str; 4] {
        [&self.link, &self.cuda, &self.nccl, &self.nvls]
    }

    /// Takes from an equal machine's what this one did not find or measure.
    pub(crate) fn complete(&mut self, other: Self) {
        let Self { version, source_hash, link, cuda, nccl, nvls, peers, .. } = other;
        let parts = [
            (&mut self.version, version),
            (&mut self.source_hash, source_hash),
            (&mut self.link, link),
            (&mut self.cuda, cuda),
            (&mut self.nccl, nccl),
            (&mut self.nvls, nvls),
        ];
        for (ours, theirs) in parts {
            if ours == NOT_FOUND {
                *ours = theirs;
            }
        }
        for (name, peer) in peers {
            self.peers.entry(name).or_insert(peer);
        }
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

    /// What Myelon was measured beside: NCCL, and what else there was.
    pub fn libraries(&self) -> String {
        match self.peers_state() {
            peers if peers.is_empty() => self.nccl_state(),
            peers if self.nccl == NOT_FOUND => peers,
            peers => format!("{}; {peers}", self.nccl_state()),
        }
    }

    /// What was measured besides NCCL; empty where nothing was.
    pub fn peers_state(&self) -> String {
        self.peers.values().map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

/// Whether two runs found the same, or one found nothing.
fn agree(ours: &str, theirs: &str) -> bool {
    ours == theirs || ours == NOT_FOUND || theirs == NOT_FOUND
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
            peers: BTreeMap::new(),
        }
    }

    #[test]
    fn what_else_was_measured_is_said_and_tells_machines_apart() {
        let peers = |version: &str| BTreeMap::from([("mscclpp".to_owned(), format!("MSCCL++ {version}, NVLS off"))]);
        let measured = Provenance { peers: peers("0.9.0"), ..provenance() };
        assert_eq!(measured.libraries(), "NCCL 2.28.9, NVLS off; MSCCL++ 0.9.0, NVLS off");
        assert_eq!(Provenance { nccl: NOT_FOUND.into(), ..measured.clone() }.libraries(), "MSCCL++ 0.9.0, NVLS off");
        assert!(measured.is_same_machine(&provenance()) && provenance().is_same_machine(&measured));
        assert!(!measured.is_same_machine(&Provenance { peers: peers("0.9.1"), ..provenance() }));
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
