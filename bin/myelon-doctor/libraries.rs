//! What is loaded or run beside the driver: compilers, NCCL, MSCCL++ where it is named, MPI.

use myelon_ccl::baseline;
use myelon_ccl::device::cpu::{CpuCompiler, version_line};
use myelon_ccl::device::cuda::{Nvrtc, locate};
use serde::Serialize;

use crate::finding::{Finding, Level};

const ABOUT: &str = "libraries";
/// For a look at NVRTC where there is no GPU to compile for.
const ANY_ARCH: &str = "sm_90a";

/// One of them.
#[derive(Debug, Serialize)]
pub(crate) struct Library {
    name: &'static str,
    version: Option<String>,
    /// Name or path it was found by.
    found: Option<String>,
    /// Why it is not there, and what brings it.
    missing: Option<String>,
    #[serde(skip)]
    need: Need,
    /// What is to be done where it is missing.
    #[serde(skip)]
    fix: String,
}

/// Who cannot do without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Gpu,
    Cpu,
    Nobody,
}

impl Library {
    fn new(name: &'static str, need: Need, fix: &str, found: myelon_ccl::Result<(String, Option<String>)>) -> Self {
        match found {
            Ok((version, found)) => Self { name, need, version: Some(version), found, missing: None, fix: fix.into() },
            Err(error) => {
                let Finding { what, fix, .. } = Finding::of_error(Level::Note, ABOUT, &error, fix);
                Self { name, need, version: None, found: None, missing: Some(what), fix: fix.unwrap_or_default() }
            }
        }
    }

    /// Looks for all of them. `arch` is that of the GPUs.
    pub(crate) fn look(arch: Option<&str>) -> Vec<Self> {
        let nvrtc = Nvrtc::new(arch.unwrap_or(ANY_ARCH));
        let nvrtc = nvrtc.map(|nvrtc| (nvrtc.version().to_string(), Some(nvrtc.origin().to_owned())));
        let nccl = baseline::version().and_then(|version| {
            let found = locate::open(&locate::NCCL, &|_| Ok(()))?;
            Ok((format!("{version}, NVLS {}", baseline::nvls()), Some(found.origin)))
        });
        let cpp = CpuCompiler::from_environment()
            .map(|compiler| (compiler.version().to_owned(), Some(compiler.program().to_owned())));
        let mpi = version_line("mpirun").map(|version| (version, Some("mpirun".to_owned())));
        let mpi = mpi.ok_or_else(|| myelon_ccl::Error::unsupported("there is no mpirun on PATH (Debian: openmpi-bin)"));
        let mut libraries = vec![
            Self::new("NVRTC", Need::Gpu, "install it, or name its file with MYELON_NVRTC_LIB", nvrtc),
            Self::new("NCCL", Need::Nobody, "install it for comparisons, or name its file with MYELON_NCCL_LIB", nccl),
            Self::new("C++ compiler", Need::Cpu, "install one, or name one with MYELON_CXX", cpp),
            Self::new("MPI", Need::Nobody, "install it where mpirun is to start ranks", mpi),
        ];
        // Nobody misses it who has not named it.
        if let Some(file) = std::env::var_os(locate::MSCCLPP.variable).filter(|file| !file.is_empty()) {
            let found = baseline::mscclpp_version().map(|version| {
                let version = format!("{version}, {}", baseline::mscclpp_settings());
                (version, Some(file.to_string_lossy().into_owned()))
            });
            libraries.push(Self::new("MSCCL++", Need::Nobody, "correct MYELON_MSCCLPP_LIB, or unset it", found));
        }
        libraries
    }

    /// What is to be said of one that is missing, where kernels run on GPUs or on the CPU.
    pub(crate) fn judge(&self, on_gpus: bool) -> Option<Finding> {
        let missing = self.missing.as_ref()?;
        let level = match self.need {
            Need::Gpu if on_gpus => Level::Wrong,
            Need::Cpu if !on_gpus => Level::Wrong,
            _ => Level::Note,
        };
        Some(Finding::new(level, ABOUT, format!("{}: {missing}", self.name), &*self.fix))
    }

    pub(crate) fn line(&self) -> String {
        let state = match (&self.version, &self.found) {
            (Some(version), Some(found)) => format!("{version} ({found})"),
            (Some(version), None) => version.clone(),
            _ => "not found".to_owned(),
        };
        format!("{:<13} {state}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use myelon_ccl::Error;

    use super::*;

    #[test]
    fn what_is_missing_matters_to_those_who_need_it() {
        let missing = |need| Library::new("X", need, "bring it", Err(Error::unsupported("it is not there")));
        let level = |need, on_gpus| missing(need).judge(on_gpus).unwrap().level;
        assert_eq!([level(Need::Gpu, true), level(Need::Gpu, false)], [Level::Wrong, Level::Note]);
        assert_eq!([level(Need::Cpu, true), level(Need::Cpu, false)], [Level::Note, Level::Wrong]);
        assert_eq!(level(Need::Nobody, true), Level::Note);
        assert_eq!(missing(Need::Gpu).judge(true).unwrap().fix.unwrap(), "bring it");
        let there = Library::new("X", Need::Gpu, "bring it", Ok(("1.0".into(), None)));
        assert!(there.judge(true).is_none() && there.line().ends_with(" 1.0"));
    }
}
