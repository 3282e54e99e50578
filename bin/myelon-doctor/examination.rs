//! Everything that is looked at, in order, and what comes of it.

use std::fmt;

use myelon_ccl::device::{DeviceKind, source};
use myelon_ccl::{MAX_WORLD_SIZE, Options, Result, WorldSize};
use serde::Serialize;

use crate::choices::Choices;
use crate::finding::{Finding, Level};
use crate::gpus::Gpus;
use crate::kernel_cache::KernelCache;
use crate::libraries::Library;
use crate::settings::{self, Setting};
use crate::trial::{Ranks, Trial};

/// Ranks of the trial where there are not several GPUs.
const FEW: u32 = 2;

/// What is asked of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// The kind of device that has to work; none for GPUs where there are any, else the CPU.
    pub(crate) device: Option<DeviceKind>,
    /// Whether to bring a communicator up and reduce.
    pub(crate) trial: bool,
}

/// The state of this machine.
#[derive(Debug, Serialize)]
pub(crate) struct Examination {
    /// Number of this form.
    schema: u32,
    version: &'static str,
    /// Hash of the kernels' sources.
    source_hash: Option<String>,
    /// Whether nothing is wrong; notes and warnings may be there.
    ok: bool,
    /// Where kernels would run.
    device: DeviceKind,
    findings: Vec<Finding>,
    gpus: Gpus,
    libraries: Vec<Library>,
    environment: Vec<Setting>,
    cache: Option<KernelCache>,
    table: Option<Choices>,
    trials: Vec<Trial>,
}

impl Examination {
    /// Looks at everything. What fails becomes a finding.
    pub(crate) fn make(wish: Wish) -> Self {
        let gpus = Gpus::look();
        let device = wish.device.unwrap_or(if gpus.count() > 0 { DeviceKind::Cuda } else { DeviceKind::Cpu });
        let on_gpus = device == DeviceKind::Cuda;
        let mut findings = gpus.judge(wish.device == Some(DeviceKind::Cuda));
        // What is wrong with GPUs keeps nobody from the CPU.
        findings.retain(|finding| on_gpus || finding.level == Level::Note);

        let libraries = Library::look(gpus.arch());
        findings.extend(libraries.iter().filter_map(|library| library.judge(on_gpus)));
        let environment = Setting::look();
        findings.extend(settings::judge(&environment, on_gpus));
        let source_hash =
            keep(source::tree_hash(), "kernels", "correct MYELON_KERNEL_TREE, or unset it", &mut findings)
                .map(str::to_owned);
        let fix = "name a directory that can be written to with MYELON_CACHE";
        let cache = keep(KernelCache::look(), "kernel cache", fix, &mut findings);

        let shared = on_gpus && gpus.count() == 1;
        let count = if on_gpus && !shared { gpus.count().min(MAX_WORLD_SIZE) } else { FEW };
        let ranks = WorldSize::new(count.max(1)).expect("between 1 and the most");
        let arch = if on_gpus { gpus.arch().unwrap_or_default() } else { "cpu" };
        // A variable that cannot be understood is a finding of its own.
        let (options, misunderstood) = Options::heard_from_env();
        let fix = "correct MYELON_LANE_TABLE and MYELON_VARIANT, or unset them";
        let table = keep(Choices::look(device, arch, ranks, &options), "lane table", fix, &mut findings);
        findings.extend(table.as_ref().and_then(|table| table.judge(arch)).filter(|_| gpus.count() > 0 && on_gpus));

        let mut trials = Vec::new();
        // It would fail of what is told already, and one cause is one finding.
        let lacks = libraries.iter().any(|library| library.judge(on_gpus).is_some_and(|it| it.level == Level::Wrong));
        let doomed = lacks || !misunderstood.is_empty() || source_hash.is_none() || cache.is_none() || table.is_none();
        if wish.trial && (!on_gpus || gpus.count() > 0) && !doomed {
            let fix = "report it with this examination where the error does not say what is in the way";
            let mut attempt =
                |ranks_are| keep(Trial::run(device, ranks, ranks_are, shared), "trial", fix, &mut findings);
            trials.extend(attempt(Ranks::Threads));
            // Kernels of two processes take turns on one GPU: they cannot wait for each other. What threads cannot, processes
            // cannot either.
            if !shared && !trials.is_empty() {
                trials.extend(attempt(Ranks::Processes));
            }
        }
        let wrong: u64 = trials.iter().map(Trial::wrong).sum();
        if wrong > 0 {
            let fix = "report it with this examination, and take another variant with MYELON_VARIANT meanwhile";
            findings.push(Finding::new(Level::Wrong, "trial", format!("{wrong} elements are wrong"), fix));
        }
        let mut findings = once(findings);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        Self {
            schema: 1,
            version: env!("CARGO_PKG_VERSION"),
            source_hash,
            ok: findings.iter().all(|finding| finding.level != Level::Wrong),
            device,
            findings,
            gpus,
            libraries,
            environment,
            cache,
            table,
            trials,
        }
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }
}

/// Each of them once: what a library or a trial fails of may be told of a variable already.
fn once(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        if let Some(told) =
            kept.iter_mut().find(|told| told.what.ends_with(&finding.what) || finding.what.ends_with(&told.what))
        {
            if finding.level > told.level {
                *told = finding;
            }
        } else {
            kept.push(finding);
        }
    }
    kept
}

/// The value, or a finding of what went wrong.
fn keep<T>(outcome: Result<T>, about: &'static str, fix: &str, findings: &mut Vec<Finding>) -> Option<T> {
    outcome.map_err(|error| findings.push(Finding::of_error(Level::Wrong, about, &error, fix))).ok()
}

impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.source_hash.as_ref().map_or("unknown", |hash| &hash[..8.min(hash.len())]);
        writeln!(f, "myelon-doctor {} (sources {sources}); kernels run on: {}", self.version, self.device)?;
        let mut section = |title: &str, lines: Vec<String>| -> fmt::Result {
            if lines.is_empty() {
                return Ok(());
            }
            writeln!(f, "\n{title}")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
        };
        section("GPUs", self.gpus.lines())?;
        section("libraries", self.libraries.iter().map(Library::line).collect())?;
        section("environment", self.environment.iter().map(Setting::line).collect())?;
        section("kernel cache", self.cache.iter().map(KernelCache::line).collect())?;
        section("what auto takes", self.table.as_ref().map(Choices::lines).unwrap_or_default())?;
        section("trial", self.trials.iter().flat_map(Trial::lines).collect())?;
        section("findings", self.findings.iter().map(Finding::to_string).collect())?;
        let wrong = self.findings.iter().filter(|finding| finding.level == Level::Wrong).count();
        match (wrong, self.trials.is_empty()) {
            (0, false) => writeln!(f, "\nall-reduce works here"),
            (0, true) => writeln!(f, "\nnothing is wrong; no operation was tried"),
            (wrong, _) => {
                writeln!(f, "\n{wrong} of {} findings keep all-reduce from working here", self.findings.len())
            }
        }
    }
}
