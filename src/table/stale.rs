//! What has changed since a table was measured.

use super::lane_table::LaneTable;
use crate::device::DeviceKind;
use crate::measure::provenance::NOT_FOUND;

/// What runs now, as far as it can make a table stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Hash of the kernels' sources.
    pub source_hash: String,
    /// Name of the GPUs.
    pub gpu: String,
    /// Driver version.
    pub driver: String,
    /// NCCL's version, or "not found".
    pub nccl: String,
}

impl LaneTable {
    /// What is not as it was when the table was measured, a phrase each: other kernels, another GPU, another major version of the
    /// driver or of NCCL. What either side does not know is not compared.
    pub fn changes(&self, now: &Present) -> Vec<String> {
        let then = &self.provenance;
        let mut changes = Vec::new();
        let mut compare = |what: &str, then: &str, now: &str, alike: bool| {
            if !alike && then != NOT_FOUND && now != NOT_FOUND {
                changes.push(format!("{what} {now}, measured with {then}"));
            }
        };
        let short = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
        let same = then.source_hash == now.source_hash;
        compare("kernels", &short(&then.source_hash), &short(&now.source_hash), same);
        if self.device == DeviceKind::Cuda {
            compare("GPU", &then.gpu, &now.gpu, then.gpu == now.gpu);
            compare("driver", &then.driver, &now.driver, major(&then.driver) == major(&now.driver));
            compare("NCCL", &then.nccl, &now.nccl, major(&then.nccl) == major(&now.nccl));
        }
        changes
    }

    /// Whether NCCL was measured beside anything.
    pub fn compares_with_nccl(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.rows).any(|row| row.measured.nccl_us.is_some())
    }
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::super::class::{Buffers, DTypeClass};
    use super::super::lane_table::tests::{row, section, table};
    use super::*;

    #[test]
    fn major_versions_and_sources_make_a_table_stale() {
        let table = table(vec![section(2, DTypeClass::Float, Buffers::Plain, vec![row(0, "ring", 1)])]);
        let same = Present {
            source_hash: "1a2b3c4d".into(),
            gpu: "NVIDIA H200".into(),
            driver: "580.20".into(),
            nccl: "2.30.1".into(),
        };
        assert_eq!(table.changes(&same), [""; 0]);
        let other = Present { source_hash: "ff".into(), driver: "590.1".into(), nccl: "3.0".into(), ..same.clone() };
        let expected = [
            "kernels ff, measured with 1a2b3c4d",
            "driver 590.1, measured with 580.159",
            "NCCL 3.0, measured with 2.28.9",
        ];
        assert_eq!(table.changes(&other), expected);
        let unknown = Present { nccl: NOT_FOUND.into(), gpu: "NVIDIA B200".into(), ..same };
        assert_eq!(table.changes(&unknown), ["GPU NVIDIA B200, measured with NVIDIA H200"]);
        assert!(!table.compares_with_nccl());
    }
}
