//! What a launcher says about this process, read from its variables. Pure: the environment is a parameter.
//!
//! Tried in this order; the first whose rank variable is set decides, and its other variables must be right:
//!
//! | launcher | rank | world size | local rank | meeting place | job identity |
//! |---|---|---|---|---|---|
//! | Myelon | `MYELON_RANK` | `MYELON_WORLD_SIZE` | `MYELON_LOCAL_RANK` | file | |
//! | torchrun | `RANK` with `MASTER_ADDR` | `WORLD_SIZE` | `LOCAL_RANK` | `MASTER_ADDR`, `MASTER_PORT` + 1 | `TORCHELASTIC_RUN_ID`, `TORCHELASTIC_RESTART_COUNT` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK` | `OMPI_COMM_WORLD_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK` | file | `PMIX_NAMESPACE` or `OMPI_MCA_ess_base_jobid` |
//! | MPICH | `PMI_RANK` | `PMI_SIZE` | `MPI_LOCALRANKID` | file | `PMI_JOBID` |
//! | Slurm | `SLURM_PROCID` | `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS` | `SLURM_LOCALID` | file | `SLURM_JOB_ID` and `SLURM_STEP_ID` |
//!
//! `MYELON_ROOT=host:port` replaces the meeting place of any of them. Slurm counts only inside a step (`srun`): the
//! batch script itself has a rank, too, but is alone.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// Who started this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Whoever set `MYELON_RANK`.
    Myelon,
    /// PyTorch's torchrun.
    Torchrun,
    /// Open MPI's mpirun.
    OpenMpi,
    /// MPICH's mpiexec and others that speak PMI.
    Mpich,
    /// Slurm's srun.
    Slurm,
}

/// A process's place in its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchInfo {
    /// Rank in the job.
    pub rank: Rank,
    /// Ranks in the job.
    pub world_size: WorldSize,
    /// Index among the job's processes on this host; the rank where the launcher does not say.
    pub local_rank: u32,
    /// Whose variables these are.
    pub source: Launcher,
    /// Where to meet.
    pub root: Root,
    /// What the launcher calls the job, equal on all its ranks; `None` where it has no name.
    pub job: Option<String>,
}

/// Where the ranks of a job meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Rank 0 listens at this address.
    Address {
        /// Name or IP address of rank 0's host.
        host: String,
        /// TCP port, not 0.
        port: u16,
    },
    /// Rank 0 chooses an address and writes it to a file of the job.
    File,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Myelon => "Myelon",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
            Self::Slurm => "Slurm",
        })
    }
}

impl Launcher {
    /// The place of this process in its job; `None` when no launcher is known.
    ///
    /// `lookup` gives the value of an environment variable; an empty value counts as unset.
    ///
    /// Errors: [`Error::Config`] naming the variable that is missing, malformed or out of range.
    pub fn from_env(lookup: &impl Fn(&str) -> Option<String>) -> Result<Option<LaunchInfo>> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let Some(launcher) = Self::detect(&lookup) else { return Ok(None) };
        let names = launcher.names();
        let variables = Variables { launcher, lookup: &lookup };
        let size_name = names.size.iter().find(|name| lookup(name).is_some()).unwrap_or(&names.size[0]);
        let world_size = variables.required::<u32>(size_name)?;
        let world_size = WorldSize::new(world_size).map_err(|error| variables.wrong(size_name, error.to_string()))?;
        let rank = Rank(variables.required(names.rank)?);
        if rank.0 >= world_size.get() {
            let detail = format!("rank {rank} in a world of {world_size}: ranks are 0 to {}", world_size.get() - 1);
            return Err(variables.wrong(names.rank, detail));
        }
        let local_rank = variables.optional(names.local_rank)?.unwrap_or(rank.0);
        let root = match variables.text("MYELON_ROOT") {
            Some(text) => parse_root(&text).map_err(|detail| variables.wrong("MYELON_ROOT", detail))?,
            None if launcher == Self::Torchrun => variables.torchrun_root()?,
            None => Root::File,
        };
        let parts: Vec<String> = names.job.iter().filter_map(|name| lookup(name)).collect();
        let parts = if names.one_job_name { &parts[..parts.len().min(1)] } else { &parts[..] };
        let job = (!parts.is_empty()).then(|| parts.join("."));
        Ok(Some(LaunchInfo { rank, world_size, local_rank, source: launcher, root, job }))
    }

    fn detect(lookup: &impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name: &str| lookup(name).is_some();
        if set("MYELON_RANK") {
            Some(Self::Myelon)
        } else if set("RANK") && set("WORLD_SIZE") && set("MASTER_ADDR") {
            // WHY: all three, because their names are so common that other programs set one of them.
            Some(Self::Torchrun)
        } else if set("OMPI_COMM_WORLD_RANK") {
            Some(Self::OpenMpi)
        } else if set("PMI_RANK") {
            Some(Self::Mpich)
        } else if set("SLURM_PROCID") && (set("SLURM_STEP_ID") || !set("SLURM_JOB_ID")) {
            Some(Self::Slurm)
        } else {
            None
        }
    }

    fn names(self) -> Names {
        match self {
            Self::Myelon => Names {
                rank: "MYELON_RANK",
                size: &["MYELON_WORLD_SIZE"],
                local_rank: "MYELON_LOCAL_RANK",
                job: &[],
                one_job_name: true,
            },
            Self::Torchrun => Names {
                rank: "RANK",
                size: &["WORLD_SIZE"],
                local_rank: "LOCAL_RANK",
                job: &["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"],
                one_job_name: false,
            },
            Self::OpenMpi => Names {
                rank: "OMPI_COMM_WORLD_RANK",
                size: &["OMPI_COMM_WORLD_SIZE"],
                local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
                job: &["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
                one_job_name: true,
            },
            Self::Mpich => Names {
                rank: "PMI_RANK",
                size: &["PMI_SIZE"],
                local_rank: "MPI_LOCALRANKID",
                job: &["PMI_JOBID"],
                one_job_name: true,
            },
            Self::Slurm => Names {
                rank: "SLURM_PROCID",
                size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
                local_rank: "SLURM_LOCALID",
                job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
                one_job_name: false,
            },
        }
    }
}

/// Variables of one launcher.
struct Names {
    rank: &'static str,
    /// The first that is set counts.
    size: &'static [&'static str],
    local_rank: &'static str,
    job: &'static [&'static str],
    /// The first of `job` that is set names the job; else all that are set together.
    one_job_name: bool,
}

struct Variables<'a> {
    launcher: Launcher,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |text: String| {
            text.trim().parse().map_err(|_| self.wrong(name, format!("'{text}' is not a number in range")))
        };
        self.text(name).map(parse).transpose()
    }

    fn required<T: FromStr>(&self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| {
            self.wrong(name, format!("is not set although {} is: set both or neither", self.launcher.names().rank))
        })
    }

    fn torchrun_root(&self) -> Result<Root> {
        let host = self.text("MASTER_ADDR").ok_or_else(|| self.wrong("MASTER_ADDR", "is not set".into()))?;
        // WHY: the port itself is taken by torchrun's own store.
        let port = self.required::<u16>("MASTER_PORT")?.checked_add(1).ok_or_else(|| {
            self.wrong("MASTER_PORT", "Myelon meets one port above, and 65535 is the last: set MYELON_ROOT".into())
        })?;
        Ok(Root::Address { host, port })
    }

    fn wrong(&self, name: &str, detail: String) -> Error {
        Error::Config { source_name: format!("environment of {}", self.launcher), key: name.into(), detail }
    }
}

/// Reads `host:port` or `[ipv6]:port`.
fn parse_root(text: &str) -> Result<Root, String> {
    let form = || format!("'{text}' is not host:port");
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(form)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(form)?,
        None if host.contains(':') => return Err(format!("{}; write an IPv6 address as [address]:port", form())),
        None => host,
    };
    match port.parse() {
        Ok(port) if port != 0 && !host.is_empty() => Ok(Root::Address { host: host.into(), port }),
        _ => Err(format!("{} with a port of 1 to 65535", form())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<LaunchInfo>> {
        Launcher::from_env(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn found(variables: &[(&str, &str)]) -> LaunchInfo {
        read(variables).unwrap().unwrap()
    }

    fn at(host: &str, port: u16) -> Root {
        Root::Address { host: host.into(), port }
    }

    const OPEN_MPI: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "2"),
        ("PMIX_NAMESPACE", "prterun-1@1"),
    ];

    const TORCHRUN: [(&str, &str); 7] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_RUN_ID", "run"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ];

    #[test]
    fn each_launcher_is_understood() {
        assert_eq!(read(&[]).unwrap(), None);
        let info = found(&OPEN_MPI);
        assert_eq!((info.rank, info.world_size.get(), info.local_rank), (Rank(3), 4, 2));
        assert_eq!((info.source, info.root, info.job.as_deref()), (Launcher::OpenMpi, Root::File, Some("prterun-1@1")));
        let info = found(&TORCHRUN);
        assert_eq!((info.rank, info.source, info.root), (Rank(1), Launcher::Torchrun, at("localhost", 29501)));
        assert_eq!(info.job.as_deref(), Some("run.2"));
        let info = found(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]);
        assert_eq!((info.source, info.local_rank, info.job), (Launcher::Mpich, 0, None));
        let step = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0")];
        assert_eq!(found(&step).job.as_deref(), Some("7.0"));
        assert_eq!(read(&step[..3]).unwrap(), None, "a batch script is no rank");
    }

    #[test]
    fn own_variables_win_and_the_root_replaces_any() {
        let own = [("MYELON_RANK", "0"), ("MYELON_WORLD_SIZE", "2"), ("MYELON_ROOT", "node:4000")];
        let info = found(&[OPEN_MPI.as_slice(), &own].concat());
        assert_eq!((info.source, info.rank, info.root), (Launcher::Myelon, Rank(0), at("node", 4000)));
        let info = found(&[OPEN_MPI.as_slice(), &[("MYELON_ROOT", "[::1]:4000")]].concat());
        assert_eq!((info.source, info.root), (Launcher::OpenMpi, at("::1", 4000)));
    }

    #[test]
    fn torchrun_inside_another_launcher_wins() {
        assert_eq!(found(&[OPEN_MPI.as_slice(), &TORCHRUN].concat()).source, Launcher::Torchrun);
        assert_eq!(read(&TORCHRUN[..3]).unwrap(), None, "RANK alone says little");
    }

    #[test]
    fn bad_values_name_the_variable() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[("MYELON_RANK", "0")], "MYELON_WORLD_SIZE: is not set although MYELON_RANK is"),
            (&[("MYELON_RANK", "x"), ("MYELON_WORLD_SIZE", "2")], "MYELON_RANK: 'x'"),
            (&[("MYELON_RANK", "-1"), ("MYELON_WORLD_SIZE", "2")], "MYELON_RANK: '-1'"),
            (&[("MYELON_RANK", "2"), ("MYELON_WORLD_SIZE", "2")], "ranks are 0 to 1"),
            (&[("PMI_RANK", "0"), ("PMI_SIZE", "9")], "PMI_SIZE: a world of 9"),
            (&[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MYELON_ROOT", "host")], "MYELON_ROOT: 'host'"),
            (&[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MYELON_ROOT", "host:0")], "1 to 65535"),
            (&[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MYELON_ROOT", "::1:5")], "[address]:port"),
            (&TORCHRUN[..4], "MASTER_PORT: is not set"),
        ];
        for (variables, expected) in cases {
            let error = read(variables).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(value in ".{0,40}", at in 0..TORCHRUN.len()) {
            let mut variables = TORCHRUN;
            variables[at].1 = &value;
            let _ = read(&variables);
            let _ = read(&[TORCHRUN.as_slice(), &[("MYELON_ROOT", value.as_str())]].concat());
        }
    }
}
