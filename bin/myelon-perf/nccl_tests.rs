//! What stands for flags of nccl-tests that have another name here, or none.

/// What to write in place of a flag, behind "nccl-tests' FLAG "; none for a flag that nccl-tests has not either.
pub(crate) fn instead(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "-t" | "--nthreads" => "is --ranks N --threads here: a thread a GPU in one process",
        "-m" | "--agg_iters" => "is --batch COUNT here: operations issued by one call",
        "-N" | "--run_cycles" => "has no counterpart: run the command again, and hold the runs together by `compare`",
        "-p" | "--parallel_init" => "has no counterpart: ranks always come up in parallel, leave it out",
        "-r" | "--root" => "has no counterpart: a broadcast is from rank 0, leave it out",
        "-z" | "--blocking" => "has no counterpart: the host waits as often as the measurement needs, leave it out",
        "-y" | "--stream_null" => "has no counterpart: every rank has a stream of its own, leave it out",
        "-a" | "--average" => "has no counterpart: times are those of the slowest rank, as with -a 3; leave it out",
        "-T" | "--timeout" => "is the variable MYELON_TIMEOUT here: the longest wait inside a kernel, in seconds",
        "-C" | "--report_cputime" => "has no counterpart: the host's time of a call is said at the end, leave it out",
        "-S" | "--report_timestamps" => "has no counterpart: the JSON of a run has its date, leave it out",
        "-R" | "--local_register" => "is --registered here",
        "-J" | "--output_file" => "is --json FILE here, and --csv FILE for comma-separated values",
        "-x" | "--cta_policy" | "-V" | "--device_cta_count" => {
            "is near to --lanes N here, with variants named by --variant"
        }
        "-D" | "--device_implementation" => "is near to --variant NAME here",
        "-M" | "--memory" => "has no counterpart: --overlap says what memory a rank holds",
        _ => return None,
    })
}
