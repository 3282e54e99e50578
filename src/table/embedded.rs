//! The tables of this build, and which one is for a machine.

use std::sync::{Arc, OnceLock};

use include_dir::{Dir, include_dir};

use super::lane_table::LaneTable;
use crate::device::{DeviceKind, cuda};
use crate::error::Result;
use crate::measure::Provenance;
use crate::measure::provenance::NOT_FOUND;
use crate::types::WorldSize;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/configs/lanes");

/// Where a communicator runs, as far as tables are chosen by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Kind of its devices.
    pub device: DeviceKind,
    /// Their name.
    pub gpu: String,
    /// What connects them, as [`Provenance::link`]; `None` where this process cannot know.
    pub link: Option<String>,
}

impl Machine {
    /// A machine without GPUs.
    pub fn cpu() -> Self {
        Self { device: DeviceKind::Cpu, gpu: NOT_FOUND.to_owned(), link: None }
    }

    /// This one, whose GPUs have this name. Asks the driver how the first two are linked; a process that sees one GPU only cannot.
    pub fn of_gpus(gpu: &str) -> Self {
        let link = cuda::device_count().is_ok_and(|count| count > 1).then(|| cuda::link(0, 1).ok()).flatten();
        Self { device: DeviceKind::Cuda, gpu: gpu.to_owned(), link: link.map(|link| link.to_string()) }
    }
}

impl LaneTable {
    /// The tables of this build, by name.
    ///
    /// # Panics
    /// If an embedded file is wrong, which a unit test rules out.
    pub fn all_embedded() -> &'static [Arc<Self>] {
        static TABLES: OnceLock<Vec<Arc<LaneTable>>> = OnceLock::new();
        TABLES.get_or_init(|| {
            embedded().expect("embedded tables are checked by a test").into_iter().map(Arc::new).collect()
        })
    }

    /// The one of this build for a machine and a world size, if there is one. Where the link is not known, one over NVLink comes
    /// before others.
    pub fn embedded(machine: &Machine, ranks: WorldSize) -> Option<Arc<Self>> {
        best_of(Self::all_embedded(), machine, ranks).cloned()
    }

    /// Whether it was measured on such a machine. A link that either side does not know is no difference.
    fn is_for(&self, machine: &Machine) -> bool {
        let Provenance { gpu, link, .. } = &self.provenance;
        let same_link = machine.link.as_ref().is_none_or(|own| own == link || link == NOT_FOUND);
        self.device == machine.device && (self.device == DeviceKind::Cpu || (*gpu == machine.gpu && same_link))
    }
}

fn embedded() -> Result<Vec<LaneTable>> {
    let mut files: Vec<_> =
        EMBEDDED.files().filter(|file| file.path().extension().is_some_and(|ending| ending == "toml")).collect();
    files.sort_by_key(|file| file.path());
    let parse = |file: &include_dir::File<'_>| {
        let name = format!("configs/lanes/{}", file.path().display());
        LaneTable::parse(&name, file.contents_utf8().unwrap_or("not UTF-8"))
    };
    files.into_iter().map(parse).collect()
}

fn best_of<'a>(tables: &'a [Arc<LaneTable>], machine: &Machine, ranks: WorldSize) -> Option<&'a Arc<LaneTable>> {
    let fitting = tables.iter().filter(|table| table.is_for(machine) && table.has(ranks));
    fitting.min_by_key(|table| table.provenance.link != "NVLink")
}

#[cfg(test)]
mod tests {
    use super::super::class::{Buffers, DTypeClass};
    use super::super::lane_table::tests::{row, section};
    use super::*;
    use crate::measure::provenance::tests::provenance;

    #[test]
    fn embedded_tables_are_right() {
        embedded().unwrap();
    }

    #[test]
    fn a_machine_has_its_own_table() {
        let sections = || vec![section(2, DTypeClass::Float, Buffers::Plain, vec![row(0, "ring", 1)])];
        let of = |gpu: &str, link: &str| {
            let provenance = Provenance { gpu: gpu.into(), link: link.into(), ..provenance() };
            Arc::new(LaneTable::new(DeviceKind::Cuda, gpu, true, provenance, sections()).unwrap())
        };
        let tables = [
            of("NVIDIA H200", "PCIe"),
            of("NVIDIA H200", "NVLink"),
            of("NVIDIA H100", "NVLink"),
            of("NVIDIA B200", NOT_FOUND),
        ];
        let two = WorldSize::new(2).unwrap();
        let best = |gpu: &str, link: Option<&str>, ranks| {
            let machine = Machine { device: DeviceKind::Cuda, gpu: gpu.into(), link: link.map(str::to_owned) };
            best_of(&tables, &machine, ranks).map(|table| (table.commit.clone(), table.provenance.link.clone()))
        };
        let found = |gpu: &str, link: &str| Some((gpu.to_owned(), link.to_owned()));
        assert_eq!(best("NVIDIA H200", Some("PCIe"), two), found("NVIDIA H200", "PCIe"));
        assert_eq!(best("NVIDIA H200", None, two), found("NVIDIA H200", "NVLink"));
        assert_eq!(best("NVIDIA H100", Some("PCIe"), two), None);
        assert_eq!(best("NVIDIA H100", None, WorldSize::new(4).unwrap()), None);
        assert_eq!(best("NVIDIA B200", Some("NVLink"), two), found("NVIDIA B200", NOT_FOUND));
        assert!(best_of(&tables, &Machine::cpu(), two).is_none());
    }
}
