//! `myelon-perf neighbour`: from its arguments to ranks that measure, and what becomes of their rows.

use std::path::PathBuf;
use std::process::ExitCode;

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::neighbour::{Neighbours, SCHEMA, table};
use myelon_ccl::measure::text::preamble;
use myelon_ccl::measure::{Stored, output};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::variant::{self, Choice, Lanes, Manifest, Shape};
use myelon_ccl::{Communicator, DType, Error, MAX_WORLD_SIZE, Options, Rank, ReduceOp, Result, Wait, WorldSize};

use crate::args::NeighbourOptions;
use crate::beside::{self, Waiting};
use crate::here::Here;
use crate::here::Surroundings;
use crate::launch;
use crate::machine;
use crate::placement::device;
use crate::stdout::print;

/// CTAs that wait, and their threads, unless told otherwise on a GPU.
const LANES: u32 = 64;
const LANE_THREADS: u32 = 512;
/// Bytes of the message on the CPU, where fewer threads wait.
const CPU_BYTES: u64 = 64 << 10;

/// A run that can start as it stands.
pub(crate) struct Request {
    kind: DeviceKind,
    ranks: WorldSize,
    gpus: u32,
    waiting: Vec<Waiting>,
    repeats: u32,
    json: Option<PathBuf>,
    options: Options,
}

impl Request {
    /// Checks everything that can be known without launching anything.
    ///
    /// Errors: one that names the argument, what it asks for and what would be right.
    pub(crate) fn check(args: &NeighbourOptions) -> Result<Self> {
        launch::check_settings()?;
        let here = Here::look()?;
        if here.launched().is_some() {
            return Err(Error::invalid("neighbour starts a thread a rank itself: run it without a launcher"));
        }
        let kind = device(args.device, &here)?;
        let ranks = ranks(args.ranks, kind, here.gpus())?;
        let waiting = waiting(args, kind, ranks, &here)?;
        let limits = HeapLimits::for_shapes(kind, ranks, false, waiting.iter().map(|waiting| &waiting.choice.shape));
        if let Some(path) = &args.json {
            output::prove_writable(path)?;
        }
        let options = Options { limits: Some(limits), prepare: Vec::new(), ..Options::from_env()? };
        let (repeats, json) = (args.repeats, args.json.clone());
        Ok(Self { kind, ranks, gpus: here.gpus().max(1), waiting, repeats, json, options })
    }

    /// Measures, prints a table and stores the rows.
    ///
    /// Errors: those of bringing the communicators up. What fails on a rank later is said, and told by the exit status.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let devices = launch::devices(self.kind, self.ranks, self.gpus)?;
        let communicators = Communicator::threads(&devices, &self.options)?;
        let outcomes = launch::on_threads(communicators, |communicator| self.rank(&communicator).map(|()| 0));
        Ok(launch::conclude(&outcomes))
    }

    fn rank(&self, communicator: &Communicator) -> Result<()> {
        let seats = machine::seats(communicator)?;
        let rows = beside::measure(communicator, &self.waiting, self.repeats)?;
        if communicator.rank() != Rank(0) {
            return Ok(());
        }
        let neighbours = Neighbours { schema: SCHEMA, provenance: machine::provenance(communicator)?, rows };
        let mut settings = format!("{} {} ranks, medians of {}, microseconds", self.ranks, self.kind, self.repeats);
        if let Some(caution) = machine::caution(self.kind, &seats) {
            settings += &format!("\n# {caution}");
        }
        let text = preamble(&neighbours.provenance, &settings, &machine::lines(&seats)) + &table(&neighbours.rows);
        print(&text);
        self.json.as_ref().map_or(Ok(()), |path| neighbours.write(path))
    }
}

fn ranks(asked: Option<WorldSize>, kind: DeviceKind, gpus: u32) -> Result<WorldSize> {
    let most = if kind == DeviceKind::Cpu { MAX_WORLD_SIZE } else { gpus.min(MAX_WORLD_SIZE) };
    let default = if kind == DeviceKind::Cpu { 2 } else { most };
    let ranks = asked.map_or(default, WorldSize::get);
    if ranks > most {
        return Err(Error::invalid(format!("--ranks {ranks}, but there are {gpus} GPUs: ask for at most as many")));
    }
    if ranks < 2 {
        return Err(Error::invalid("a rank alone waits for nobody: 2 ranks or more are needed, on GPUs a GPU each"));
    }
    WorldSize::new(ranks)
}

/// Every variant with every wait policy, and a message that gives all its threads something to wait for.
fn waiting(args: &NeighbourOptions, kind: DeviceKind, ranks: WorldSize, here: &Here) -> Result<Vec<Waiting>> {
    let (dtype, op) = (DType::F32, ReduceOp::Sum);
    let on_gpu = |value: u32| (kind == DeviceKind::Cuda).then_some(value);
    let lanes = args.lanes.or(on_gpu(LANES));
    let threads = args.lane_threads.or(on_gpu(LANE_THREADS));
    // A policy that nobody named is left out where a variant has none.
    let waits = if args.wait.is_empty() { Wait::ALL } else { &args.wait[..] };
    let mut all = Vec::new();
    for name in &args.variants {
        let variant = Manifest::embedded().get(name)?;
        if let Some(why) = here.refusal(name, kind, ranks, dtype, op) {
            return Err(Error::unsupported(format!("variant '{name}' {why}")));
        }
        for &wait in waits {
            let shape = Shape { lanes: lanes.map(Lanes::UpTo), threads, wait: Some(wait), ..Shape::default() };
            if let Err(error) = here.takes(name, &shape) {
                if args.wait.is_empty() && wait != Wait::Adaptive {
                    continue;
                }
                return Err(error);
            }
            // A pack of every rank for each thread.
            let packs = lanes.zip(threads).map(|(lanes, threads)| u64::from(lanes * threads * ranks.get()));
            let bytes = packs.map_or(CPU_BYTES, |packs| packs * myelon_ccl::abi::PACK_BYTES);
            let request = variant::Request { count: bytes / dtype.size_bytes() as u64, dtype, op, registered: false };
            all.push(Waiting { choice: Choice { shape, ..Choice::of(variant) }, request });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_must_be_waited_for() {
        let count = |asked: Option<u32>, kind, gpus| {
            ranks(asked.map(|ranks| WorldSize::new(ranks).unwrap()), kind, gpus).map(WorldSize::get)
        };
        assert_eq!(count(None, DeviceKind::Cpu, 0).unwrap(), 2);
        assert_eq!(count(None, DeviceKind::Cuda, 4).unwrap(), 4);
        assert_eq!(count(Some(3), DeviceKind::Cuda, 4).unwrap(), 3);
        assert!(count(Some(5), DeviceKind::Cuda, 4).unwrap_err().to_string().contains("4 GPUs"));
        for alone in [count(Some(1), DeviceKind::Cpu, 0), count(None, DeviceKind::Cuda, 1)] {
            assert!(alone.unwrap_err().to_string().contains("2 ranks or more"));
        }
    }
}
