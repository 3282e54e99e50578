//! The GPUs of this process, how they reach each other, and what their memory can be shared by.

use myelon_ccl::MAX_WORLD_SIZE;
use myelon_ccl::device::DeviceProperties;
use myelon_ccl::device::cuda::{self, Link, Sharing};
use serde::Serialize;

use crate::finding::{Finding, Level};

const ABOUT: &str = "GPUs";

/// What the driver says.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Gpus {
    /// Why there is none.
    missing: Option<String>,
    gpus: Vec<Gpu>,
    /// How each reaches each, by ordinals.
    links: Vec<Vec<&'static str>>,
}

#[derive(Debug, Serialize)]
struct Gpu {
    #[serde(flatten)]
    properties: DeviceProperties,
    sharing: Sharing,
}

impl Gpus {
    /// Asks the driver, without a context on any GPU.
    pub(crate) fn look() -> Self {
        let found = cuda::devices().and_then(|all| {
            let gpus: Vec<_> = all
                .into_iter()
                .map(|properties| cuda::sharing(properties.ordinal).map(|sharing| Gpu { properties, sharing }))
                .collect::<Result<_, _>>()?;
            let ordinals = || 0..gpus.len() as u32;
            let link = |from, to| cuda::link(from, to).map(Link::name);
            let links =
                ordinals().map(|from| ordinals().map(|to| link(from, to)).collect()).collect::<Result<_, _>>()?;
            Ok(Self { missing: None, gpus, links })
        });
        match found {
            Ok(found) if found.gpus.is_empty() => {
                Self { missing: Some("the driver runs and this process sees no GPU".to_owned()), ..found }
            }
            Ok(found) => found,
            Err(error) => Self { missing: Some(error.to_string()), ..Self::default() },
        }
    }

    pub(crate) fn count(&self) -> u32 {
        self.gpus.len() as u32
    }

    /// Architecture of the first; those of a communicator are alike.
    pub(crate) fn arch(&self) -> Option<&str> {
        self.gpus.first().map(|gpu| gpu.properties.arch.as_str())
    }

    /// What is to be said of them. `asked` is whether they were asked for.
    pub(crate) fn judge(&self, asked: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut say = |level, what: String, fix: &str| findings.push(Finding::new(level, ABOUT, what, fix));
        if let Some(missing) = &self.missing {
            let level = if asked { Level::Wrong } else { Level::Note };
            say(level, missing.clone(), "check nvidia-smi and CUDA_VISIBLE_DEVICES, and in a container --gpus all");
        }
        let archs: Vec<_> = self.gpus.iter().map(|gpu| gpu.properties.arch.as_str()).collect();
        if let Some(other) = archs.iter().find(|arch| **arch != archs[0]) {
            let what =
                format!("of more than one architecture ({} and {other}), which a communicator refuses", archs[0]);
            say(Level::Wrong, what, "choose those of one kind with CUDA_VISIBLE_DEVICES");
        }
        for (from, row) in self.links.iter().enumerate() {
            for (to, link) in row.iter().enumerate().skip(from + 1) {
                if *link == Link::Unreachable.name() || self.links[to][from] == Link::Unreachable.name() {
                    let what = format!("{from} and {to} cannot reach each other's memory");
                    say(Level::Wrong, what, "leave one out, or take Fallback::Nccl; nvidia-smi topo -p2p r says why");
                }
            }
        }
        if self.links.iter().flatten().any(|link| *link == Link::Pcie.name()) {
            let what = "some are joined by PCIe, not by NVLink, which the kernels are built for".to_owned();
            say(Level::Warning, what, "measure before relying on it");
        }
        for gpu in self.gpus.iter().filter(|gpu| !gpu.sharing.virtual_memory || !gpu.sharing.file_descriptors) {
            let what = format!("memory of {} cannot be passed to other processes", gpu.properties.ordinal);
            say(Level::Wrong, what, "update the driver; some virtual machines do not have this");
        }
        match self.count() {
            1 => say(Level::Note, "only one: two ranks share it for the trial".into(), "measure with two or more"),
            count if count > MAX_WORLD_SIZE => {
                say(
                    Level::Note,
                    format!("{count}, of which a communicator takes {MAX_WORLD_SIZE}"),
                    "choose with CUDA_VISIBLE_DEVICES",
                );
            }
            _ => {}
        }
        findings
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let mut lines: Vec<_> = self.missing.iter().map(|_| "none".to_owned()).collect();
        for Gpu { properties, sharing } in &self.gpus {
            let DeviceProperties { ordinal, name, arch, multiprocessors, identity, driver, .. } = properties;
            lines.push(format!(
                "{ordinal}  {name}, {arch}, {multiprocessors} multiprocessors, driver {driver}, {identity}"
            ));
            lines.push(format!(
                "   memory by file descriptor: {}, by fabric handle: {}, multicast: {}",
                yes(sharing.virtual_memory && sharing.file_descriptors),
                yes(sharing.fabric_handles),
                yes(sharing.multicast)
            ));
        }
        for (from, row) in self.links.iter().enumerate().filter(|_| self.count() > 1) {
            lines.push(format!("links of {from}: {}", row.join(", ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use myelon_ccl::device::DeviceKind;

    use super::*;

    fn gpu(ordinal: u32, arch: &str) -> Gpu {
        let properties = DeviceProperties {
            kind: DeviceKind::Cuda,
            name: "NVIDIA H200".into(),
            ordinal,
            arch: arch.into(),
            multiprocessors: 132,
            identity: format!("GPU-{ordinal}"),
            driver: "13.0".into(),
        };
        let sharing = Sharing { virtual_memory: true, file_descriptors: true, fabric_handles: false, multicast: true };
        Gpu { properties, sharing }
    }

    fn two(link: Link) -> Gpus {
        let (own, other) = (Link::SameGpu.name(), link.name());
        Gpus {
            missing: None,
            gpus: vec![gpu(0, "sm_90a"), gpu(1, "sm_90a")],
            links: vec![vec![own, other], vec![other, own]],
        }
    }

    fn levels(gpus: &Gpus) -> Vec<Level> {
        gpus.judge(true).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_good_pair_has_nothing_to_be_said() {
        assert!(two(Link::NvLink).judge(true).is_empty());
        assert!(two(Link::NvLink).lines().iter().any(|line| line == "links of 0: same GPU, NVLink"));
    }

    #[test]
    fn what_keeps_ranks_apart_is_named() {
        assert_eq!(levels(&two(Link::Pcie)), [Level::Warning]);
        let unreachable = two(Link::Unreachable).judge(true);
        assert_eq!(unreachable.len(), 1, "once a pair");
        assert!(unreachable[0].what.contains("0 and 1 cannot reach"), "{}", unreachable[0]);
        let mut mixed = two(Link::NvLink);
        mixed.gpus[1] = gpu(1, "sm_80");
        mixed.gpus[0].sharing.file_descriptors = false;
        assert_eq!(levels(&mixed), [Level::Wrong, Level::Wrong]);
        assert!(mixed.judge(true)[0].to_string().contains("sm_90a and sm_80"));
    }

    #[test]
    fn none_is_wrong_only_where_it_was_asked_for() {
        let none = Gpus { missing: Some("no driver".into()), ..Gpus::default() };
        assert_eq!([true, false].map(|asked| none.judge(asked)[0].level), [Level::Wrong, Level::Note]);
        let one = Gpus { gpus: vec![gpu(0, "sm_90a")], links: vec![vec![Link::SameGpu.name()]], ..Gpus::default() };
        assert_eq!(levels(&one), [Level::Note]);
    }
}
