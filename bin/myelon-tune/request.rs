//! From arguments to a search that can run: every mistake that can be known beforehand is found here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::device::DeviceKind;
use myelon_ccl::device::cuda::{devices, link};
use myelon_ccl::measure::{Baseline, Bytes, SizeSweep, Step, output};
use myelon_ccl::table::{Buffers, DTypeClass, LaneTable};
use myelon_ccl::variant::{Lanes, Shape, dtype_runs_on};
use myelon_ccl::{Error, Options, Output, Result, WorldSize};

use crate::args::Cli;
use crate::grid::Values;
use crate::ground::Ground;
use crate::here::{Here, Surroundings};
use crate::placement::{Asked, Placement, device};
use crate::space::{Class, Effort, Space};

/// Repeats of a candidate in the first pass.
const FIRST: u32 = 3;
/// Candidates of a size that go on from it.
const KEEP: usize = 8;
/// Above these sizes graphs have fewer operations, and one.
const LARGE: u64 = 1 << 20;
const LARGEST: u64 = 16 << 20;
/// Where a checkout has its tables.
const LANES: &str = "configs/lanes";
/// Longest wait inside a kernel unless `MYELON_TIMEOUT` says otherwise: a candidate that stalls should not take the budget.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A search that can run as it stands. Equal on all ranks, but for the clock.
pub(crate) struct TuneRequest {
    pub(crate) device: DeviceKind,
    pub(crate) ranks: WorldSize,
    pub(crate) placement: Placement,
    pub(crate) space: Space,
    pub(crate) rivals: Vec<Baseline>,
    pub(crate) budget: Duration,
    /// Operations in the graph of a small message; 0 without graphs.
    pub(crate) graph: u32,
    pub(crate) options: Options,
    /// Writable.
    pub(crate) output: PathBuf,
    pub(crate) resume: bool,
    pub(crate) judged: Option<Arc<LaneTable>>,
    /// Where the judgement goes. Writable.
    pub(crate) json: Option<PathBuf>,
    pub(crate) commit: Option<String>,
}

impl TuneRequest {
    /// Checks everything that can be known without launching anything.
    ///
    /// Errors: one that names the argument, what it asks for and what would be right.
    pub(crate) fn check(cli: &Cli, here: &Here) -> Result<Self> {
        let device = device(cli.place.device, here)?;
        let asked = Asked::of(&cli.place, false);
        let ranks = asked.ranks(device, here)?;
        if ranks.get() < 2 {
            return Err(Error::invalid("one rank reduces nothing: tuning needs 2 or more, on GPUs a GPU each"));
        }
        let from_env = Options::from_env()?;
        if !from_env.sentinel || from_env.choice.is_some() {
            return Err(Error::invalid(
                "MYELON_SENTINEL=0 or MYELON_VARIANT is set, and a table is for all: unset both (without sentinels, floats take \
                 the rows of integers)",
            ));
        }
        if from_env.max_lanes.is_some() || from_env.large_lanes.is_some() || from_env.mailbox.is_some() {
            return Err(Error::invalid(
                "MYELON_MAX_LANES, MYELON_LARGE_LANES or MYELON_MAILBOX is set, and a table is measured with the lanes and heap that its \
                 shapes need: unset them",
            ));
        }
        let is_set = std::env::var_os("MYELON_TIMEOUT").is_some_and(|text| !text.is_empty());
        let timeout = if is_set { from_env.timeout } else { TIMEOUT };
        let gpus = if device == DeviceKind::Cuda { devices()? } else { Vec::new() };
        let gpu = gpus.first();
        let multiprocessors = gpus.iter().map(|gpu| gpu.multiprocessors).min();
        let arch = gpu.map_or_else(|| "cpu".to_owned(), |gpu| gpu.arch.clone());
        let classes = classes(cli, &arch)?;
        let sizes = sizes(cli, device)?;
        let rivals = if device == DeviceKind::Cuda && here.has_nccl() { vec![Baseline::Nccl] } else { Vec::new() };
        let footprint = cli.footprint.map(|bytes| bytes.0);
        let ground = Ground { device, arch, ranks, shared: false, footprint, multiprocessors };
        let effort =
            Effort { first: FIRST.min(cli.repeats), last: cli.repeats, keep: KEEP, exhaustive: cli.exhaustive };
        let mut space = Space::new(ground, &cli.variants, &values(cli, device), classes, sizes, &rivals, effort)?;
        let judged = cli.judge.as_deref().map(LaneTable::read).transpose()?.map(Arc::new);
        if let Some(table) = &judged {
            space.judge(table)?;
        }
        let name = match gpu {
            Some(gpu) => file_name(&gpu.name, link(0, 1).map_or("unknown", |link| link.name()), ranks),
            None => format!("cpu-{ranks}.toml"),
        };
        let output = cli.output.clone().unwrap_or_else(|| Path::new(LANES).join(name));
        if cli.output.is_none() && !Path::new(LANES).is_dir() {
            return Err(Error::invalid(format!(
                "there is no directory {LANES} here, where a table goes unless told: name its file with -o FILE"
            )));
        }
        std::iter::once(&output).chain(&cli.json).try_for_each(|path| output::prove_writable(path))?;
        let request = Self {
            device,
            ranks,
            placement: asked.placement(device, here),
            options: Options { timeout, limits: Some(space.limits), prepare: Vec::new(), ..from_env },
            space,
            rivals,
            budget: Duration::from_secs(cli.budget),
            graph: cli.graph,
            output,
            resume: cli.resume,
            judged,
            json: cli.json.clone(),
            commit: cli.commit.clone(),
        };
        let journal = request.journal();
        let mut outputs = vec![("-o", request.output.as_path()), ("the journal", journal.as_path())];
        outputs.extend(request.json.as_deref().map(|path| ("--json", path)));
        let inputs: Vec<_> = cli.judge.iter().map(|path| ("--judge", path.as_path())).collect();
        output::prove_apart(&outputs, &inputs)?;
        if request.resume && !journal.is_file() {
            let journal = journal.display();
            return Err(Error::invalid(format!("--resume has no {journal} to go on from: leave --resume out")));
        }
        Ok(request)
    }

    /// Where the journal is.
    pub(crate) fn journal(&self) -> PathBuf {
        let mut name = self.output.file_name().unwrap_or_default().to_owned();
        name.push(".journal.json");
        self.output.with_file_name(name)
    }

    /// Operations in the graph of a message, so that a replay of a large one takes no longer than needed.
    pub(crate) fn graph_of(&self, bytes: u64) -> u32 {
        let most = if bytes > LARGEST { 1 } else { 4 };
        if bytes > LARGE { self.graph.min(most) } else { self.graph }
    }
}

fn classes(cli: &Cli, arch: &str) -> Result<Vec<Class>> {
    let mut classes: Vec<Class> = Vec::new();
    for &dtype in &cli.dtypes {
        dtype_runs_on(dtype, arch)?;
        let dtypes = DTypeClass::of(dtype, true);
        if let Some(other) = classes.iter().find(|class| class.dtypes == dtypes) {
            let other = other.dtype;
            return Err(Error::invalid(format!(
                "-d {other},{dtype}: both are of the class {dtypes}, name one of them"
            )));
        }
        classes.push(Class { dtypes, dtype, buffers: Buffers::Plain });
    }
    let of = |&buffers: &Buffers| classes.iter().map(move |class| Class { buffers, ..*class });
    Ok(Buffers::ALL.iter().filter(|buffers| cli.buffers.contains(buffers)).flat_map(of).collect())
}

fn sizes(cli: &Cli, device: DeviceKind) -> Result<Vec<u64>> {
    // A message of the first size has an element of every type.
    if cli.begin.0 < 8 {
        return Err(Error::invalid(format!("-b {} is less than an element: use 8 or more", cli.begin)));
    }
    let (end, factor) = match device {
        DeviceKind::Cuda => (Bytes(1 << 30), 2),
        DeviceKind::Cpu => (Bytes(64 << 10), 4),
    };
    let sweep =
        SizeSweep::new(cli.begin, cli.end.unwrap_or(end.max(cli.begin)), Step::Factor(cli.factor.unwrap_or(factor)))?;
    Ok(sweep.map(|size| size.0).collect())
}

/// What was named, and for what was not, what the device kind is searched with.
fn values(cli: &Cli, device: DeviceKind) -> Values {
    fn named<T: Clone>(named: &[T], otherwise: Vec<T>) -> Vec<T> {
        if named.is_empty() { otherwise } else { named.to_vec() }
    }
    let Values { lanes, threads, chunk, stages, copied, wait, sync, mut output, .. } = Values::of(device);
    output.retain(|&output| output == Output::Staged || cli.buffers.contains(&Buffers::Registered));
    Values {
        lanes: named(&cli.lanes, lanes),
        threads: named(&cli.lane_threads, threads),
        chunk: named(&cli.chunk, chunk),
        stages: named(&cli.stages, stages),
        copied,
        wait,
        sync: named(&cli.sync, sync),
        output,
        named: named_parts(cli),
    }
}

/// Each value that was named, alone.
fn named_parts(cli: &Cli) -> Vec<Shape> {
    fn each<T: Copy>(values: &[T], set: impl Fn(&mut Shape, T)) -> Vec<Shape> {
        if values.is_empty() { Vec::new() } else { Shape::with_each(vec![Shape::default()], values, set) }
    }
    [
        each(&cli.lanes, |shape, lanes| shape.lanes = Some(Lanes::UpTo(lanes))),
        each(&cli.lane_threads, |shape, threads| shape.threads = Some(threads)),
        each(&cli.chunk, |shape, chunk| shape.chunk = Some(chunk)),
        each(&cli.stages, |shape, stages| shape.stages = Some(stages)),
        each(&cli.sync, |shape, sync| shape.sync = Some(sync)),
    ]
    .concat()
}

/// `NVIDIA H100 80GB HBM3` over `NVLink` becomes `h100-80gb-hbm3-nvlink-8.toml`.
fn file_name(gpu: &str, link: &str, ranks: WorldSize) -> String {
    let text = format!("{gpu} {link} {ranks}").to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty() && *word != "nvidia");
    words.collect::<Vec<_>>().join("-") + ".toml"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_machine() {
        let eight = WorldSize::new(8).unwrap();
        assert_eq!(file_name("NVIDIA H100 80GB HBM3", "NVLink", eight), "h100-80gb-hbm3-nvlink-8.toml");
    }
}
