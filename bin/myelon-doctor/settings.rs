//! Environment variables that change what Myelon does, and what is wrong with their values.

use std::collections::BTreeMap;

use myelon_ccl::bootstrap::{self, launcher::Launcher};
use myelon_ccl::device::{cpu, cuda};
use myelon_ccl::{Error, LogFilter, MAX_WORLD_SIZE, Options, baseline};
use serde::Serialize;

use crate::finding::{Finding, Level};

const ABOUT: &str = "settings";
/// What every variable of Myelon begins with.
const OWN: &str = "MYELON_";

/// The variables that README.md lists; a test compares.
const KNOWN: [&str; 38] = [
    "MYELON_TIMEOUT",
    "MYELON_LANE_TABLE",
    "MYELON_VARIANT",
    "MYELON_LANES",
    "MYELON_SENTINEL",
    "MYELON_MAILBOX",
    "MYELON_MAX_LANES",
    "MYELON_LARGE_LANES",
    "MYELON_CACHE",
    "MYELON_LOG",
    "MYELON_RANK",
    "MYELON_WORLD_SIZE",
    "MYELON_LOCAL_RANK",
    "MYELON_ROOT",
    "MYELON_SECRET",
    "MYELON_SOCKET_ADDR",
    "MYELON_CUDA_LIB",
    "MYELON_NVRTC_LIB",
    "MYELON_NCCL_LIB",
    "MYELON_MSCCLPP_LIB",
    "MYELON_NCCL_DISABLE",
    "MYELON_NCCL_LOG",
    "MYELON_NCCL_COLLECTIVES",
    "MYELON_NCCL_PREPARE",
    "MYELON_NCCL_DEVICE",
    "MYELON_CCL_LIB",
    "MYELON_TORCH_COLLECTIVES",
    "MYELON_TORCH_DEVICE",
    "MYELON_TORCH_STRICT",
    "MYELON_TORCH_STEP_CHECK",
    "MYELON_TORCH_BLOCKING_WAIT",
    "MYELON_CUBLAS_LIB",
    "MYELON_CUBLASLT_LIB",
    "MYELON_KERNEL_TREE",
    "MYELON_CXX",
    "MYELON_CPU_DELAYS",
    "MYELON_CPU_SANITIZE",
    "MYELON_CPU_DEFINES",
];

/// What tests, CI and `myelon-perf` set for their own processes.
const INTERNAL: [&str; 8] = [
    "MYELON_TEST_",
    "MYELON_CI_",
    "MYELON_LITMUS_",
    "MYELON_SOAK_",
    "MYELON_GROUP_",
    "MYELON_DOCTOR_",
    "MYELON_BLESS",
    "MYELON_BROWSER",
];

/// Variables of others that matter here.
const OTHERS: [&str; 9] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_HOME",
    "CXX",
    "MSCCLPP_FORCE_DISABLE_NVLS",
    "MSCCLPP_NCCL_SYMMETRIC_MEMORY",
    "NCCL_NVLS_ENABLE",
    "XDG_CACHE_HOME",
];

/// One variable that is set.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    name: String,
    value: String,
}

impl Setting {
    /// Those that are set, in order of their names. A secret is not shown.
    pub(crate) fn look() -> Vec<Self> {
        Self::of(
            std::env::vars_os()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())),
        )
    }

    fn of(variables: impl Iterator<Item = (String, String)>) -> Vec<Self> {
        let wanted = |name: &str| name.starts_with(OWN) || OTHERS.contains(&name);
        let is_secret = |name: &str| ["SECRET", "_ID"].iter().any(|part| name.contains(part));
        let mut settings: Vec<_> = variables
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| Self { value: if is_secret(&name) { "(not shown)".to_owned() } else { value }, name })
            .collect();
        settings.sort_by(|one, other| one.name.cmp(&other.name));
        settings
    }

    pub(crate) fn line(&self) -> String {
        format!("{}={}", self.name, self.value)
    }
}

/// What is to be said of them, where kernels run on GPUs or on the CPU.
pub(crate) fn judge(settings: &[Setting], on_gpus: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let level = if on_gpus { Level::Wrong } else { Level::Note };
    let blocking = cuda::check_environment().err();
    findings.extend(blocking.map(|error| Finding::of_error(level, ABOUT, &error, "unset CUDA_LAUNCH_BLOCKING")));
    let (_, own) = Options::heard_from_env();
    let own = own.into_iter().chain(LogFilter::from_env("warn").err()).chain(bootstrap::check_socket_address().err());
    let own = own.chain(of_launcher(&|name: &str| std::env::var(name).ok()));
    let fix = "set a rank's variables right, or none of them";
    findings.extend(own.map(|error| Finding::of_error(Level::Wrong, ABOUT, &error, fix)));
    let level = if on_gpus { Level::Note } else { Level::Wrong };
    let of_cpu = cpu::wrong_variables();
    findings.extend(of_cpu.iter().map(|error| Finding::of_error(level, ABOUT, error, "README.md lists the variables")));
    let is_known = |name: &str| KNOWN.contains(&name) || INTERNAL.iter().any(|start| name.starts_with(start));
    for Setting { name, .. } in
        settings.iter().filter(|setting| setting.name.starts_with(OWN) && !is_known(&setting.name))
    {
        findings.push(Finding::new(
            Level::Warning,
            ABOUT,
            format!("nothing reads {name}"),
            "README.md lists the variables",
        ));
    }
    if on_gpus {
        let connections = settings.iter().find(|setting| setting.name == "CUDA_DEVICE_MAX_CONNECTIONS");
        if !connections.is_some_and(|setting| setting.value.parse().is_ok_and(|count: u32| count >= 32)) {
            let what = "CUDA_DEVICE_MAX_CONNECTIONS is not 32: several communicators or streams on a GPU may wait for each other";
            findings.push(Finding::new(Level::Note, ABOUT, what, "set it where there are several"));
        }
        if baseline::nvls() == "off" {
            let what = "NCCL_NVLS_ENABLE=0: NCCL has no multicast, and comparisons with it say nothing of machines that have it on";
            findings.push(Finding::new(Level::Note, ABOUT, what, "unset it unless the machine needs it"));
        }
    }
    findings
}

/// What is wrong with a launcher's variables. One that is wrong is taken for a right one from then on, so that it hides no other.
fn of_launcher(lookup: &dyn Fn(&str) -> Option<String>) -> Vec<Error> {
    let mut wrong: BTreeMap<String, Error> = BTreeMap::new();
    loop {
        let right = |name: &str| {
            let value = if name.contains("ROOT") {
                "localhost:1".to_owned()
            } else if name.contains("SIZE") || name.contains("TASKS") {
                MAX_WORLD_SIZE.to_string()
            } else {
                "0".to_owned()
            };
            if wrong.contains_key(name) { Some(value) } else { lookup(name) }
        };
        match Launcher::from_env(&right) {
            Err(Error::Config { source_name, key, detail }) if !wrong.contains_key(&key) => {
                wrong.insert(key.clone(), Error::Config { source_name, key, detail });
            }
            _ => return wrong.into_values().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_known_variables_are_those_of_the_readme() {
        let readme = include_str!("../../README.md");
        let rows = readme.lines().filter(|line| line.starts_with("| `MYELON_"));
        let names =
            rows.flat_map(|row| row.split('|').nth(1).unwrap().split(',')).map(|name| name.trim().trim_matches('`'));
        let known: BTreeSet<&str> = KNOWN.into_iter().collect();
        assert_eq!(names.collect::<BTreeSet<_>>(), known);
    }

    #[test]
    fn secrets_are_not_shown_and_typos_are_found() {
        let pairs = [
            ("MYELON_SECRET", "hush"),
            ("MYELON_TIMEOT", "3"),
            ("PATH", "/bin"),
            ("CXX", "g++"),
            ("MYELON_TEST_RANKS", "2"),
        ];
        let settings = Setting::of(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let lines: Vec<_> = settings.iter().map(Setting::line).collect();
        assert_eq!(lines, ["CXX=g++", "MYELON_SECRET=(not shown)", "MYELON_TEST_RANKS=2", "MYELON_TIMEOT=3"]);
        let findings = judge(&settings, false);
        let about: Vec<_> = findings.iter().filter(|finding| finding.what.contains("nothing reads")).collect();
        assert!(about.len() == 1 && about[0].what.ends_with("MYELON_TIMEOT"), "{about:?}");
    }

    #[test]
    fn a_launchers_variables_are_each_looked_at() {
        let keys = |pairs: &[(&str, &str)]| -> Vec<String> {
            let value = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let key = |error| match error {
                Error::Config { key, .. } => key,
                other => panic!("{other}"),
            };
            of_launcher(&value).into_iter().map(key).collect()
        };
        let (rank, size, root) = ("MYELON_RANK", "MYELON_WORLD_SIZE", "MYELON_ROOT");
        assert_eq!(keys(&[(rank, "x"), (size, "y"), (root, "z")]), [rank, root, size]);
        assert_eq!(keys(&[(rank, "3"), (size, "y")]), [size]);
        assert_eq!(keys(&[(rank, "3")]), [size]);
        assert_eq!(keys(&[(rank, "3"), (size, "2")]), [rank]);
        assert!(keys(&[(rank, "1"), (size, "2")]).is_empty() && keys(&[]).is_empty());
    }

    #[test]
    fn too_few_connections_are_a_note_on_gpus() {
        let of = |value: &str| Setting::of([("CUDA_DEVICE_MAX_CONNECTIONS".to_owned(), value.to_owned())].into_iter());
        let says =
            |value, on_gpus| judge(&of(value), on_gpus).iter().any(|finding| finding.what.contains("MAX_CONNECTIONS"));
        assert_eq!([says("8", true), says("32", true), says("8", false)], [true, false, false]);
    }
}
