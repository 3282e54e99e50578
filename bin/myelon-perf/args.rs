//! The command line as it is typed. [`crate::request`] turns it into something that can run.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use myelon_ccl::measure::{Baseline, Bytes, MOST_BATCH};
use myelon_ccl::variant::Lanes;
use myelon_ccl::{
    Collective, DType, Error, Launching, Metadata, Output, Places, ReduceOp, SyncPolicy, Wait, WorldSize,
};

use crate::compare::CompareArgs;
use crate::values::{DeviceArg, OrAll, PlaceArgs, dtype, op, ranks, whole, within};

const AFTER_HELP: &str = "\
Examples:
  myelon-perf
      1K to 64M over all GPUs, beside NCCL; without a GPU, every variant at 1K to 1M over four CPU ranks
  myelon-perf -b 1K -e 1G -f 2 -n 100 -G 20 --against nccl,nccl_symmetric --json run.json
      small latencies as applications with CUDA graphs see them, kept for `report`
  myelon-perf --variant all -b 64K -e 64K -d bf16
      every variant at one size
  myelon-perf --variant ring -b 64M -e 64M --slots 2,4,8,16 --chunk 64K,256K --csv ring.csv
      one variant in every combination of these parameters
  myelon-perf --variant ring -b 1M -e 1G --registered --output staged,direct
      what it is worth that results go straight into registered memory
  myelon-perf --ranks 4 --share-gpus -d all -o all -n 1
      correctness of everything, even on a single GPU
  mpirun -n 8 myelon-perf
      one process a GPU, started by a launcher
  myelon-perf --ablate --json ablation-8.json
      which patterns pay where, held against what is claimed of them
  myelon-perf --overlap --variant ring,ring_specialized --lanes 16,32,128 --json overlap.json
      what an all-reduce of 256M and a product of matrices cost each other, for each number of lanes, and with NCCL
  myelon-perf report results/*/*.json -o report.html
      earlier runs as a page for a browser
  myelon-perf report results/*/{eager,graph,symm_mem}-*.json --readme README.md --svg docs/plots/allreduce.svg
      tables and plot of earlier runs, written into the README
  myelon-perf compare before.json after.json
      what became slower or faster; fails where something became slower by more than 5 %
  myelon-perf neighbour --json neighbour.json
      what a kernel that waits for its peers does to another kernel on its GPU

Sizes are whole bytes with K, M, G or T for powers of 1024.
Times are those of the slowest rank: p50 and p99 over the repeats; with -G or --batch, over the means of \
replays or batches.

Exit status: 0 all right, 1 a result was wrong (or `compare` found a run worse, or `report --check` a stale file), \
2 the request cannot be served and nothing was started, 3 a failure on the way, or Ctrl-C: the case under way is \
measured to its end, and --json and --csv have what there is by then. The second Ctrl-C ends the run at once.";

/// Measures all-reduce over the GPUs of this machine, or over CPU ranks, with nccl-tests' flags and columns.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes tables and plots from the JSON files of earlier runs.
    Report(ReportArgs),
    /// Holds a run against an earlier one, or what `auto` took against what was measured beside it.
    Compare(CompareArgs),
    /// Measures what an all-reduce that waits for its peers does to another kernel on its GPU.
    Neighbour(NeighbourOptions),
}

/// What to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct SweepArgs {
    /// First message size; 1K unless told.
    #[arg(short = 'b', long = "minbytes", value_name = "SIZE")]
    pub(crate) begin: Option<Bytes>,
    /// Last message size; 64M unless told, 1M on the CPU.
    #[arg(short = 'e', long = "maxbytes", value_name = "SIZE")]
    pub(crate) end: Option<Bytes>,
    /// Multiply the size by this from step to step.
    #[arg(short = 'f', long = "stepfactor", value_name = "FACTOR", default_value_t = 4, value_parser = whole::<u64>)]
    pub(crate) factor: u64,
    /// Add this to the size from step to step, instead of a factor.
    #[arg(short = 'i', long = "stepbytes", value_name = "SIZE", conflicts_with = "factor")]
    pub(crate) step: Option<Bytes>,
    /// Timed repeats of each case; 20 unless told, 4 on the CPU, where times mean nothing. p99 means something from 100 on.
    #[arg(short = 'n', long = "iters", value_name = "COUNT", value_parser = whole::<u32>)]
    pub(crate) repeats: Option<u32>,
    /// Untimed repeats before them; 5 unless told, 1 on the CPU.
    #[arg(short = 'w', long = "warmup_iters", value_name = "COUNT", value_parser = whole::<u32>)]
    pub(crate) warmup: Option<u32>,
    /// Element types: f32, f64, f16, bf16, e4m3, e5m2, i8 to i64, u8 to u64, nccl-tests' names for them, or `all`.
    #[arg(short = 'd', long = "datatype", value_name = "TYPE,..", value_delimiter = ',', value_parser = dtype, default_value = "f32")]
    pub(crate) dtypes: Vec<OrAll<DType>>,
    /// Operators: sum, prod, min, max, avg, or `all`; sum unless told, and none for all_gather and broadcast.
    #[arg(short = 'o', long = "op", value_name = "OP,..", value_delimiter = ',', value_parser = op)]
    pub(crate) ops: Vec<OrAll<ReduceOp>>,
    /// Operations of each case that are compared with exact results; 0 turns verification off.
    #[arg(short = 'c', long = "check", value_name = "COUNT", default_value_t = 1, value_parser = whole::<u32>)]
    pub(crate) check: u32,
    /// Capture this many operations in a CUDA graph and time its replays; 0 launches each from the host.
    #[arg(short = 'G', long = "cudagraph", value_name = "COUNT", default_value_t = 0, value_parser = whole::<u32>)]
    pub(crate) graph: u32,
    /// Issue this many operations by each call of the host's and time the call, baselines by a call each; 0 issues one by one.
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = batch, conflicts_with = "graph")]
    pub(crate) batch: u32,
    /// Queue a small kernel behind each operation, as a program has them, and time both together; how long it takes alone is said at
    /// the end. Operations back to back overlap where launches may.
    #[arg(long, conflicts_with_all = ["batch", "ablate", "overlap"])]
    pub(crate) between: bool,
    /// What is measured: all_reduce, reduce_scatter, all_gather, or broadcast from rank 0; all_reduce unless told. A size is that of all
    /// ranks' parts together, cut to whole parts.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["batch", "registered", "ablate", "overlap"])]
    pub(crate) collective: Option<Collective>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Let several ranks use one GPU: for correctness only, their times mean nothing.
    #[arg(long)]
    pub(crate) share_gpus: bool,
    /// Candidates: `auto` is what the lane table chooses, `all` is that and every enabled variant, the rest are names; auto
    /// unless told, all on the CPU.
    #[arg(long = "variant", value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) variants: Vec<String>,
    /// Run each named variant with these numbers of lanes instead of the manifest's; `by_size` is 32 to 1M, 64 to 8M, else 128.
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub(crate) lanes: Vec<Lanes>,
    /// Run each named variant with these numbers of threads a lane: multiples of 32.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) lane_threads: Vec<u32>,
    /// Run each named variant with these steps of a lane, for variants that go in steps.
    #[arg(long, value_name = "SIZE,..", value_delimiter = ',')]
    pub(crate) chunk: Vec<Bytes>,
    /// Run each named variant with pipelines of this depth, for variants that have one.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) stages: Vec<u32>,
    /// Run each named variant with stages of so many packs for each consumer thread, for variants with producer warps.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) stage_packs: Vec<u32>,
    /// Run each named variant with so many producer warps, for variants that have them.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) producer_warps: Vec<u32>,
    /// Run each named variant with rings of so many slots, for variants that have them.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) slots: Vec<u32>,
    /// Run each named variant with so many sixteenths of a message in copies, for variants whose kernels carry the rest.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) copied: Vec<u32>,
    /// Run each named variant with these wait policies: adaptive, spin, yield, or paired where a variant has it.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) wait: Vec<Wait>,
    /// Run each named variant with these sync policies: light, or strict with a barrier after every phase of the kernel.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) sync: Vec<SyncPolicy>,
    /// Run each named variant with these orders of fetched packs in shared memory: coalesced, swizzled.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) places: Vec<Places>,
    /// Run each named variant with its consumer warps told what lies in a stage in these ways: derived, shared.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) metadata: Vec<Metadata>,
    /// Run each named variant with its steps launched in these ways: persistent is one launch, per_step is one a step.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) launch: Vec<Launching>,
    /// Run each named variant with its results brought into the output in these ways: staged, or with --registered direct, landing.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) output: Vec<Output>,
    /// Measure nccl, nccl_symmetric or mscclpp too, for a ratio column; nccl unless told if it is installed, `none` for none.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = against)]
    pub(crate) against: Option<Vec<Against>>,
    /// Let each result replace its operand.
    #[arg(long)]
    pub(crate) in_place: bool,
    /// Register the results' memory on all ranks, so that variants which can store results right into it do.
    #[arg(long)]
    pub(crate) registered: bool,
    /// Run the studies of patterns that this build has, or those of FILE, in place of a sweep: `configs/studies.toml` is one.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with_all = [
        "begin", "end", "factor", "step", "repeats", "dtypes", "ops", "graph", "batch", "variants", "against", "in_place", "registered", "csv",
    ])]
    pub(crate) ablate: Option<Option<PathBuf>>,
    /// Time each candidate alone and beside a kernel of somebody else's, a large product of matrices by cuBLAS, and that kernel alone and
    /// beside all-reduces: 256M (64K on the CPU), against nccl and nccl_symmetric, unless told.
    #[arg(long, conflicts_with_all = ["ablate", "graph", "batch", "csv"])]
    pub(crate) overlap: bool,
    /// Start no further case of the studies after this time; 480 unless told.
    #[arg(long, value_name = "SECONDS", requires = "ablate", value_parser = whole::<u64>)]
    pub(crate) budget: Option<u64>,
    /// Store results and provenance in this file, for `report`.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Store results as comma-separated values in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// What to make of stored results.
#[derive(Debug, Args)]
#[command(after_help = "\
A README has its parts between lines `<!-- results:NAME -->` and `<!-- /results -->`. NAME is one of \
provenance, latency (a table a world size), latency-N (of N ranks only), plot (with --svg), judged (with --judged).
Of runs on equal machines, the newer measurement of a case counts.")]
pub(crate) struct ReportArgs {
    /// JSON files that --json wrote; with --patterns, those that --ablate --json wrote, if any.
    #[arg(required_unless_present_any = ["overlaps", "neighbours"], value_name = "RESULTS")]
    pub(crate) results: Vec<PathBuf>,
    /// Write a page for a browser into this file: curves, filters, tables. Of RESULTS, runs of other kinds and collectives are left out.
    #[arg(short = 'o', long = "output", value_name = "FILE", conflicts_with_all = ["patterns", "neighbours"])]
    pub(crate) output: Option<PathBuf>,
    /// With -o, what the links of a GPU carry in one direction by their data sheet, in GB/s of 10^9 bytes: where the GPU is not known.
    #[arg(long, value_name = "GBPS", requires = "output")]
    pub(crate) link_gbps: Option<f64>,
    /// Fill the marked parts of this Markdown file.
    #[arg(long, value_name = "FILE")]
    pub(crate) readme: Option<PathBuf>,
    /// With --readme, JSON files that `myelon-tune --judge TABLE --json` wrote: how far lane tables are behind the best, as `judged`.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "readme")]
    pub(crate) judged: Vec<PathBuf>,
    /// Draw time and bandwidth into this file; results of further machines into NAME-2.svg and so on, newest machine first.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write what the studies showed into this Markdown file, and their plots into plots/patterns beside it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["readme", "svg", "markdown"])]
    pub(crate) patterns: Option<PathBuf>,
    /// The studies that were run, where --ablate had a file.
    #[arg(long, value_name = "FILE", requires = "patterns")]
    pub(crate) studies: Option<PathBuf>,
    /// With --patterns, JSON files that `neighbour --json` wrote: what waits do to other kernels.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "patterns")]
    pub(crate) neighbours: Vec<PathBuf>,
    /// With --patterns, JSON files that `--overlap --json` wrote: what running all-reduces cost other kernels.
    #[arg(long, value_name = "FILE", num_args = 0.., requires = "patterns")]
    pub(crate) overlaps: Vec<PathBuf>,
    /// Print the tables; also what happens where neither file is named.
    #[arg(long, conflicts_with = "check")]
    pub(crate) markdown: bool,
    /// Write nothing; exit with 1 if a file is not what would be written.
    #[arg(long)]
    pub(crate) check: bool,
}

/// What waits, beside which kernel.
#[derive(Debug, Args)]
#[command(after_help = "\
A kernel that computes, and one that loads memory, run on rank 0's GPU alone, and then while an all-reduce of rank 0 \
waits for the other ranks, which start theirs when the kernel has ended. Its CTAs need room on every multiprocessor \
beside those that wait: with --lane-threads above 512 they may not find it.
Ranks are threads of this process, one a GPU.")]
pub(crate) struct NeighbourOptions {
    /// How many ranks: as many as GPUs unless told, 2 on the CPU.
    #[arg(long, value_name = "N", value_parser = ranks)]
    pub(crate) ranks: Option<WorldSize>,
    /// Where kernels run; auto takes GPUs where there are any.
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,
    /// Variants that wait, by name.
    #[arg(
        long = "variant",
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "ring,one_shot_push,signal_one_shot"
    )]
    pub(crate) variants: Vec<String>,
    /// Wait policies; all of them unless told.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) wait: Vec<Wait>,
    /// CTAs that wait: 64 unless told, on the CPU what the manifest says.
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) lanes: Option<u32>,
    /// Threads of each: 512 unless told, on the CPU what the manifest says.
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) lane_threads: Option<u32>,
    /// Repeats of each measurement, whose median is shown.
    #[arg(short = 'n', long = "iters", value_name = "COUNT", default_value_t = 10, value_parser = repeats)]
    pub(crate) repeats: u32,
    /// Store rows and provenance in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// A baseline, or the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    None,
    Baseline(Baseline),
}

fn batch(text: &str) -> Result<u32, Error> {
    within(text, 0..=MOST_BATCH)
}

fn repeats(text: &str) -> Result<u32, Error> {
    within(text, 1..=u32::MAX)
}

fn against(text: &str) -> Result<Against, Error> {
    if text == "none" { Ok(Against::None) } else { text.parse().map(Against::Baseline) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_finds_the_definition_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn clap_breaks_the_lines_of_help() {
        assert_eq!(crate::common::program::broken_lines(&Cli::command()), [""; 0]);
    }

    #[test]
    fn a_factor_and_a_step_exclude_each_other() {
        assert!(Cli::try_parse_from(["myelon-perf", "-f", "2", "-i", "1K"]).is_err());
        let cli = Cli::try_parse_from(["myelon-perf", "-i", "1K"]).unwrap();
        assert_eq!(cli.sweep.step, Some(Bytes(1024)));
    }

    #[test]
    fn what_is_said_of_nccl_tests_flags_is_of_none_that_there_is() {
        let command = Cli::command();
        let own: Vec<_> = command.get_arguments().flat_map(|arg| arg.get_short()).collect();
        for short in ('a'..='z').chain('A'..='Z').filter(|short| own.contains(short)) {
            assert_eq!(crate::nccl_tests::instead(&format!("-{short}")), None, "-{short}");
        }
        assert!(Cli::try_parse_from("myelon-perf -b 8 -e 128M -f 2 -g 8".split(' ')).is_ok());
        assert!(Cli::try_parse_from("myelon-perf --ngpus 8 --ranks 8".split(' ')).is_err());
    }

    #[test]
    fn nccl_tests_long_flags_work() {
        let line =
            "myelon-perf --minbytes 8 --maxbytes 16 --stepfactor 2 --iters 1 --warmup_iters 0 --check 0 --cudagraph 3";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!((cli.sweep.begin, cli.sweep.graph), (Some(Bytes(8)), 3));
    }
}
