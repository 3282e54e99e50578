//! The command line as it is typed.

use std::path::PathBuf;

use clap::Parser;
use myelon_ccl::measure::Bytes;
use myelon_ccl::table::Buffers;
use myelon_ccl::{DType, Error, SyncPolicy};

use crate::values::{OrAll, PlaceArgs, dtype, whole, within};

const AFTER_HELP: &str = "\
How it searches: the manifest's own shapes at every size, so that a search that is cut is no worse than these; all \
shapes at few sizes, and the best candidates of each are kept; then every size is searched from \
those and their neighbours, the better half of them with more repeats; then, between every two sizes, what may \
win at either, and between two winners both, until the boundary is known within 20 %, and right behind a size as well. Of candidates \
within 1 % of the best the one that lasts is taken, without copies where there is one. Every candidate is verified before it is timed, and is out where a result is \
wrong, a wait stalls, or the heap would be over the footprint. Times are of graph replays, of the slowest rank.

A table has sections for plain buffers, which are any memory, and for registered ones: outputs in a window of \
Communicator::register. There a variant with direct output stores results right into the output; everything else \
runs as in plain buffers. So these sections are searched last, at each size among the best of the plain ones and the \
direct candidates next to them, and what they say was measured in registered memory. --buffers plain leaves them out: \
operations on windows then take the plain rows. With --buffers registered alone everything is searched there.

Examples:
  myelon-tune
      all GPUs of this machine, into configs/lanes/GPU-LINK-RANKS.toml
  myelon-tune --ranks 4 -b 1K -e 256M --budget 120 -o h200-4.toml
      four ranks, in two minutes
  mpirun -n 8 myelon-tune
      one process a GPU, started by a launcher; torchrun and srun do as well
  myelon-tune --resume
      goes on where a run was interrupted or ended by its budget
  myelon-tune --ranks 4 --exhaustive -b 64K -e 1M -f 4 --judge configs/lanes/h200-nvlink-4.toml -o all.toml
      every candidate at these sizes, and how far behind the best of them the table is; --json FILE keeps that
  MYELON_LANE_TABLE=h200-4.toml myelon-perf --variant all -f 2 --json run.json
  myelon-perf compare run.json --auto-within 3
      what it is worth: auto takes the table, and is held against every variant

A table that was written into configs/lanes is part of the library once that is built again. The file is replaced \
when the run ends, at once; until then NAME.journal.json beside it has what was measured, for --resume.

Exit status: 0 a table was written, also when the budget or Ctrl-C cut the search (`complete = false` says so), \
1 the table that was judged is more than 3 % behind somewhere, or takes what is wrong or cannot run, or a search that was cut \
judged only a part, 2 the request \
cannot be served and nothing was started, 3 a failure on the way: no table was written.";

/// Measures which variant and shape is fastest at each message size on this machine, and writes a lane table of it.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    /// Smallest message size; 1K unless told.
    #[arg(short = 'b', long = "minbytes", value_name = "SIZE", default_value = "1K")]
    pub(crate) begin: Bytes,
    /// Largest message size; 1G unless told, 64K on the CPU.
    #[arg(short = 'e', long = "maxbytes", value_name = "SIZE")]
    pub(crate) end: Option<Bytes>,
    /// Multiply the size by this from step to step; 2 unless told, 4 on the CPU.
    #[arg(short = 'f', long = "stepfactor", value_name = "FACTOR", value_parser = whole::<u64>)]
    pub(crate) factor: Option<u64>,
    /// Element types to measure, one for each class of them: f32, f64, f16 or bf16 for the floats, e4m3 or e5m2 for 8-bit floats,
    /// any integer for the integers.
    #[arg(short = 'd', long = "datatype", value_name = "TYPE,..", value_delimiter = ',', value_parser = one_dtype, default_value = "f32,i32")]
    pub(crate) dtypes: Vec<DType>,
    /// Whose memory the operands are: any, or registered with the communicator, which takes candidates with direct output as well.
    #[arg(long, value_name = "KIND,..", value_delimiter = ',', default_value = "plain,registered")]
    pub(crate) buffers: Vec<Buffers>,
    /// Start no further measurement after this time.
    #[arg(long, value_name = "SECONDS", default_value_t = 420, value_parser = whole::<u64>)]
    pub(crate) budget: u64,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Candidates; every enabled variant unless told.
    #[arg(long = "variant", value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) variants: Vec<String>,
    /// Numbers of lanes to try besides the manifest's.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) lanes: Vec<u32>,
    /// Numbers of threads a lane to try.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) lane_threads: Vec<u32>,
    /// Steps of a lane to try.
    #[arg(long, value_name = "SIZE,..", value_delimiter = ',')]
    pub(crate) chunk: Vec<Bytes>,
    /// Depths of pipelines to try.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = whole::<u32>)]
    pub(crate) stages: Vec<u32>,
    /// Sync policies to try.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub(crate) sync: Vec<SyncPolicy>,
    /// Most bytes of a rank's heap: candidates that need more are left out; as much as the default heap unless told.
    #[arg(long, value_name = "SIZE")]
    pub(crate) footprint: Option<Bytes>,
    /// Timed repeats of the best two candidates of a size; those behind them have half, a quarter, or in the first pass three.
    #[arg(short = 'n', long = "iters", value_name = "COUNT", default_value_t = 20, value_parser = repeats)]
    pub(crate) repeats: u32,
    /// Operations in each replayed graph, fewer above 1M; 0 launches each from the host.
    #[arg(short = 'G', long = "cudagraph", value_name = "COUNT", default_value_t = 20, value_parser = whole::<u32>)]
    pub(crate) graph: u32,
    /// The table to write; configs/lanes/GPU-LINK-RANKS.toml unless told.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Go on from the journal of a run that did not come to its end.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Measure every candidate at every size, with all repeats where it is within 25 % of the best, instead of a search.
    #[arg(long)]
    pub(crate) exhaustive: bool,
    /// Measure what this table takes as well, and say how far it is behind the best.
    #[arg(long, value_name = "TABLE")]
    pub(crate) judge: Option<PathBuf>,
    /// Write how far behind at each size into this file, such as results/MACHINE/judge-2.json.
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) json: Option<PathBuf>,
    /// Commit that the table names; what git says of this directory unless told.
    #[arg(long, value_name = "TEXT")]
    pub(crate) commit: Option<String>,
}

fn repeats(text: &str) -> Result<u32, Error> {
    within(text, 1..=10_000)
}

fn one_dtype(text: &str) -> Result<DType, Error> {
    match dtype(text)? {
        OrAll::One(dtype) => Ok(dtype),
        OrAll::All => Err(Error::invalid("name one type for each class, such as f32,i32")),
    }
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
    fn all_is_no_class() {
        assert!(Cli::try_parse_from(["myelon-tune", "-d", "all"]).unwrap_err().to_string().contains("f32,i32"));
        let cli = Cli::try_parse_from(["myelon-tune", "-d", "bfloat16,u8"]).unwrap();
        assert_eq!(cli.dtypes, [DType::Bf16, DType::U8]);
    }
}
