//! From arguments to a request that can run: every mistake that can be known beforehand is found here.

use std::path::PathBuf;

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::text::counted;
use myelon_ccl::measure::{Baseline, Bytes, Series, SizeSweep, Step, output};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::LaneTable;
use myelon_ccl::variant::Shape;
use myelon_ccl::{Collective, DType, Error, Output, ReduceOp, Result, WorldSize};

use crate::against::baselines;
use crate::args::SweepArgs;
use crate::bench::Room;
use crate::candidate::Candidate;
use crate::here::Surroundings;
use crate::job::{self, Job};
use crate::placement::{Asked, Placement, device};
use crate::studies::StudyRequest;

/// A sweep that can run as it stands.
#[derive(Clone, Debug)]
pub(crate) struct SweepRequest {
    pub(crate) collective: Collective,
    pub(crate) device: DeviceKind,
    pub(crate) ranks: WorldSize,
    pub(crate) placement: Placement,
    /// There are more ranks than GPUs, and they may share them.
    pub(crate) shares_gpus: bool,
    pub(crate) sizes: SizeSweep,
    /// At least 1.
    pub(crate) repeats: u32,
    pub(crate) warmup: u32,
    /// Operations to verify a case; 0 for none.
    pub(crate) check: u32,
    /// Operations a graph; 0 without graphs.
    pub(crate) graph: u32,
    /// Operations a call; 0 without batches.
    pub(crate) batch: u32,
    /// Whether a small kernel runs behind each operation.
    pub(crate) between: bool,
    pub(crate) in_place: bool,
    /// Results go into a window that all ranks registered.
    pub(crate) registered: bool,
    /// Empty where studies take the place of a sweep.
    pub(crate) jobs: Vec<Job>,
    /// What runs in place of the jobs, at sizes, with repeats and graphs of its own.
    pub(crate) studies: Option<StudyRequest>,
    /// Each candidate is timed beside another kernel too.
    pub(crate) overlap: bool,
    /// In the order of columns, each once; empty on the CPU.
    pub(crate) against: Vec<Baseline>,
    /// Writable.
    pub(crate) json: Option<PathBuf>,
    /// Writable, and another file than `json`.
    pub(crate) csv: Option<PathBuf>,
}

impl SweepRequest {
    /// Checks everything that can be known without launching anything.
    ///
    /// Errors: one that names the argument, what it asks for and what would be right.
    pub(crate) fn check(args: &SweepArgs, here: &dyn Surroundings) -> Result<Self> {
        let device = device(args.place.device, here)?;
        let asked = Asked::of(&args.place, args.share_gpus);
        let ranks = asked.ranks(device, here)?;
        if args.repeats == Some(0) {
            return Err(Error::invalid("-n 0 measures nothing: use 1 or more"));
        }
        // WHY: clap does not ask for an argument that those which are there exclude, as most do --ablate.
        if args.budget.is_some() && args.ablate.is_none() {
            return Err(Error::invalid("--budget is for the studies of --ablate: leave it out, or add --ablate"));
        }
        if let Some(output) = args.output.iter().find(|&&output| output != Output::Staged) {
            if !args.registered {
                let message = format!("--output {output} stores results into registered memory: add --registered");
                return Err(Error::invalid(message));
            }
            if args.in_place && args.output.contains(&Output::Landing) {
                return Err(Error::invalid("--output landing needs an output beside the input: leave --in-place out"));
            }
        }
        let shares_gpus = device == DeviceKind::Cuda && args.share_gpus && ranks.get() > here.gpus();
        if args.overlap {
            here.has_neighbour(device)?;
        }
        let studies = StudyRequest::check(args, device, ranks, shares_gpus, here)?;
        let (jobs, against) = match &studies {
            None => (job::jobs(args, device, ranks, here)?, baselines(args, device, ranks, shares_gpus, here)?),
            Some(studies) => (Vec::new(), studies.against()),
        };
        let (repeats, warmup) = match device {
            DeviceKind::Cuda => (20, 5),
            DeviceKind::Cpu => (4, 1),
        };
        let request = Self {
            collective: args.collective.unwrap_or_default(),
            device,
            ranks,
            placement: asked.placement(device, here),
            shares_gpus,
            sizes: sizes(args, device)?,
            repeats: args.repeats.unwrap_or(repeats),
            warmup: args.warmup.unwrap_or(warmup),
            check: args.check,
            graph: args.graph,
            batch: args.batch,
            between: args.between,
            in_place: args.in_place,
            registered: args.registered,
            jobs,
            studies,
            overlap: args.overlap,
            against,
            json: args.json.clone(),
            csv: args.csv.clone(),
        };
        if let (Some(json), Some(csv)) = (&request.json, &request.csv) {
            output::prove_apart(&[("--json", json), ("--csv", csv)], &[])?;
        }
        for path in request.json.iter().chain(&request.csv) {
            output::prove_writable(path)?;
        }
        Ok(request)
    }
}

impl SweepRequest {
    /// The shapes that named variants run with.
    fn shapes(&self) -> impl Iterator<Item = &Shape> {
        let candidates = self.jobs.iter().flat_map(|job| &job.candidates);
        let swept = candidates.filter_map(|candidate| match candidate {
            Candidate::Auto => None,
            Candidate::Variant(_, shape) => Some(shape),
        });
        swept.chain(self.studies.iter().flat_map(StudyRequest::shapes))
    }

    /// The largest message.
    pub(crate) fn largest(&self) -> Option<Bytes> {
        self.studies.as_ref().map_or_else(|| self.sizes.largest(), StudyRequest::largest)
    }

    /// The longest batch; 0 without batches.
    pub(crate) fn most_batch(&self) -> u32 {
        self.studies.as_ref().map_or(self.batch, StudyRequest::most_batch)
    }

    /// Whether any is other than the manifest's.
    pub(crate) fn has_shapes(&self) -> bool {
        self.shapes().any(|shape| *shape != Shape::default())
    }

    /// What the operands have room for.
    pub(crate) fn room(&self) -> Room {
        let (bytes, against) = (self.largest().map_or(0, |bytes| bytes.0), self.against.clone());
        let (window, registered) = (self.has_window(), self.registered);
        let (collective, batch) = (self.collective, self.most_batch());
        Room { collective, bytes, batch, in_place: self.in_place, against, window, registered }
    }

    /// A heap with room for all of them, and for what `auto` may take of these tables.
    pub(crate) fn limits<'a>(&'a self, tables: impl IntoIterator<Item = &'a LaneTable>) -> HeapLimits {
        let of_tables = tables.into_iter().flat_map(|table| table.shapes(self.ranks));
        HeapLimits::for_shapes(self.device, self.ranks, self.shares_gpus, self.shapes().chain(of_tables))
    }

    /// Whether the results' memory is registered, for all candidates or for some of the studies.
    pub(crate) fn has_window(&self) -> bool {
        self.registered || self.shapes().any(Shape::is_direct)
    }

    /// What all rows of a type and operator have in common.
    pub(crate) fn series(&self, dtype: DType, op: ReduceOp) -> Series {
        let &Self { collective, ranks, in_place, registered, graph, batch, between, .. } = self;
        Series { collective, ranks, dtype, op, in_place, registered, graph, batch, between }
    }

    /// How it is measured, as a line of the table's header.
    pub(crate) fn settings(&self) -> String {
        let (repeats, warmup) = (counted(self.repeats as usize, "repeat"), counted(self.warmup as usize, "warm-up"));
        let mode = self.series(DType::F32, ReduceOp::Sum).mode();
        format!("{} {} ranks, {repeats} after {warmup}, {mode}", self.ranks, self.device)
    }
}

/// A default gives way to the end that was named, so that `-b 1G` alone measures 1G.
fn sizes(args: &SweepArgs, device: DeviceKind) -> Result<SizeSweep> {
    let (first, last) = match (args.overlap, device) {
        (true, DeviceKind::Cuda) => (Bytes(256 << 20), None),
        (true, DeviceKind::Cpu) => (Bytes(64 << 10), None),
        (false, DeviceKind::Cuda) => (Bytes(1 << 10), Some(Bytes(64 << 20))),
        (false, DeviceKind::Cpu) => (Bytes(1 << 10), Some(Bytes(1 << 20))),
    };
    let begin = args.begin.unwrap_or(args.end.map_or(first, |end| end.min(first)));
    let end = args.end.unwrap_or(last.map_or(begin, |last| begin.max(last)));
    SizeSweep::new(begin, end, args.step.map_or(Step::Factor(args.factor), Step::Add))
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests {
    use super::fake::{CPU, Fake, NODE, check, refused};
    use super::*;

    #[test]
    fn defaults_follow_the_machine() {
        let cpu = check("", CPU).unwrap();
        assert_eq!((cpu.device, cpu.ranks.get(), cpu.placement), (DeviceKind::Cpu, 4, Placement::Threads));
        assert_eq!((cpu.sizes.largest(), cpu.against.len()), (Some(Bytes(1 << 20)), 0));
        let node = check("", NODE).unwrap();
        assert_eq!((node.device, node.ranks.get(), node.placement), (DeviceKind::Cuda, 8, Placement::Processes));
        assert_eq!((node.sizes.largest(), node.against), (Some(Bytes(64 << 20)), vec![Baseline::Nccl]));
        // Without a GPU nobody compares times: what is worth seeing is that everything runs.
        let ring = Candidate::Variant("ring".into(), Shape::default());
        let job = |candidates| Job { dtype: DType::F32, op: ReduceOp::Sum, candidates };
        assert_eq!(node.jobs, [job(vec![Candidate::Auto])]);
        assert_eq!(cpu.jobs, [job(vec![Candidate::Auto, ring])]);
        assert_eq!(check("--device cpu", NODE).unwrap().jobs, check("--variant all", CPU).unwrap().jobs);
        assert_eq!(check("--variant auto", CPU).unwrap().jobs, node.jobs);
        assert_eq!(check("--device cpu --ranks 3", NODE).unwrap().ranks.get(), 3);
        assert_eq!(check("--threads", NODE).unwrap().placement, Placement::Threads);
        assert!(check("--against none", NODE).unwrap().against.is_empty());
        assert!(check("", Fake { nccl: false, ..NODE }).unwrap().against.is_empty());
    }

    #[test]
    fn one_named_end_moves_the_other() {
        let sizes = |line| check(line, CPU).unwrap().sizes.map(|size| size.0).collect::<Vec<_>>();
        assert_eq!(sizes("-b 1G"), [1 << 30]);
        assert_eq!(sizes("-e 512"), [512]);
        assert_eq!(sizes("-b 1K -e 3K -i 1K"), [1024, 2048, 3072]);
        refused("-b 2K -e 1K", CPU, "swap -b and -e");
    }

    #[test]
    fn ranks_and_gpus_must_fit() {
        refused("--ranks 3", Fake { gpus: 2, ..NODE }, "--ranks 3, but there are 2 GPUs");
        assert_eq!(check("--ranks 3 --share-gpus", Fake { gpus: 1, ..NODE }).unwrap().ranks.get(), 3);
        refused("--device cuda", CPU, "no usable GPU");
        let launched = Fake { launched: WorldSize::new(4).ok(), ..NODE };
        let request = check("--ranks 4", launched).unwrap();
        assert_eq!((request.ranks.get(), request.placement), (4, Placement::Launched));
        refused("--ranks 2", launched, "the launcher started 4");
        refused("--threads", launched, "launcher");
        assert_eq!(check("-g 1", launched).unwrap().ranks.get(), 4, "a GPU each");
        refused("-g 4", launched, "-g above 1, but a launcher");
        assert_eq!(check("-g 4", Fake { own: true, ..launched }).unwrap().ranks.get(), 4, "the launcher's own -g");
        assert_eq!(check("-g 4", NODE).unwrap().ranks.get(), 4);
        refused("--ngpus 8", Fake { gpus: 2, ..NODE }, "-g 8, but there are 2 GPUs");
    }

    #[test]
    fn overlaps_are_of_one_large_message_against_all_libraries() {
        let sizes = |line: &str, here| check(line, here).unwrap().sizes.map(|size| size.0 >> 10).collect::<Vec<_>>();
        assert_eq!(sizes("--overlap", NODE), [256 << 10]);
        assert_eq!(sizes("--overlap", CPU), [64]);
        assert_eq!(sizes("--overlap -b 1M", NODE), [1 << 10]);
        assert_eq!(sizes("--overlap -e 1M", NODE), [1 << 10]);
        assert_eq!(sizes("--overlap -b 1M -e 4M", NODE), [1 << 10, 4 << 10]);
        assert_eq!(check("--overlap", NODE).unwrap().against, Baseline::OF_NCCL);
        refused("--overlap", Fake { nccl: false, ..NODE }, "libcublas not found");
    }

    #[test]
    fn the_heap_has_room_for_what_is_asked_for() {
        let limits = check("", NODE).unwrap().limits([]);
        let eight = WorldSize::new(8).unwrap();
        assert_eq!(limits, HeapLimits::of(DeviceKind::Cuda, eight));
        assert_eq!(
            check("--share-gpus", NODE).unwrap().limits([]),
            limits,
            "nothing is shared where there are enough GPUs"
        );
        let shared = check("--share-gpus --ranks 8", Fake { gpus: 4, ..NODE }).unwrap().limits([]);
        assert_eq!(shared, HeapLimits::for_shapes(DeviceKind::Cuda, eight, true, []));
        let limits = check("--variant ring --slots 2,16 --chunk 64K,1M --lanes 8,128", NODE).unwrap().limits([]);
        assert_eq!((limits.ring_slots, limits.slot_bytes, limits.lanes), (16, 1 << 20, 128));
    }

    #[test]
    fn files_are_proven_and_settings_told() {
        refused("--json /nonexistent/x.json", CPU, "cannot write /nonexistent/x.json");
        refused("--csv /dev/null", CPU, "not a regular file");
        refused("--json x --csv ./x", CPU, "--json and --csv both name x");
        refused("--budget 3 -n 1", CPU, "--budget is for the studies of --ablate");
        refused("-n 0", CPU, "-n 0 measures nothing");
        refused("--variant ring --output staged,direct", CPU, "add --registered");
        refused("--variant ring_copy_engine --output landing --registered --in-place", CPU, "leave --in-place out");
        let request = check("-n 1 -w 2 -c 3 -G 4 --in-place --registered --share-gpus", CPU).unwrap();
        assert_eq!((request.check, request.json.is_none(), request.csv.is_none()), (3, true, true));
        let settings =
            "4 cpu ranks, 1 repeat after 2 warm-ups, graph replay, 4 operations a graph, in place, registered";
        assert_eq!(request.settings(), settings);
        assert!(check("-n 2 -w 1", CPU).unwrap().settings().contains("2 repeats after 1 warm-up, "));
    }
}
