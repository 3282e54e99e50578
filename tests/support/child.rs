//! This test program once more, as a process of its own: with another environment, and ended when it hangs.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a child ended, and what it said on both streams.
pub(crate) struct Outcome {
    /// `None`: it was killed at the deadline.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) text: String,
}

impl Outcome {
    /// Whether exactly one test ran in the child, and passed.
    pub(crate) fn passed(&self) -> bool {
        self.status.is_some_and(|status| status.success()) && self.text.contains("1 passed")
    }
}

impl fmt::Display for Outcome {
    /// The end of a long text: that is where a child says why it ended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(40)..];
        match self.status {
            Some(status) => writeln!(f, "{status}")?,
            None => writeln!(f, "killed at its deadline")?,
        }
        shown.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// A command that runs one test of this program alone, with what it prints.
pub(crate) fn command(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    // A child decides for itself what it inherits of these.
    for name in ["MYELON_KERNEL_TREE", "MYELON_CPU_SANITIZE", "MYELON_CPU_DELAYS", "MYELON_CPU_DEFINES"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end, or to the deadline.
pub(crate) fn run(mut command: Command, deadline: Duration) -> Outcome {
    // A file and not a pipe: a child that says a lot must not wait for a reader.
    let said = tempfile::NamedTempFile::new().unwrap();
    let stream = || Stdio::from(File::options().append(true).open(said.path()).unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(stream()).stderr(stream()).spawn().unwrap();
    let end = Instant::now() + deadline;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > end => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = String::from_utf8_lossy(&std::fs::read(said.path()).unwrap()).into_owned();
    Outcome { status, text }
}

/// In a child whose first panic is its result: the other ranks need not find out that one is gone.
pub(crate) fn end_at_first_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        // WHY: not `exit`, which would run destructors of C under kernels that still run.
        std::process::abort();
    }));
}

/// The library to preload for a sanitizer, `thread` or `address`; `None`, with the reason printed, where there is none.
pub(crate) fn sanitizer_library(sanitizer: &str) -> Option<PathBuf> {
    let compiler = myelon_ccl::device::cpu::CpuCompiler::find(None).unwrap();
    let name = match sanitizer {
        "thread" => "libtsan.so",
        "address" => "libasan.so",
        _ => panic!("no sanitizer is called {sanitizer}"),
    };
    let answer = Command::new(compiler.program()).arg(format!("-print-file-name={name}")).output().unwrap();
    let path = PathBuf::from(String::from_utf8(answer.stdout).unwrap().trim());
    if !path.is_absolute() {
        eprintln!("skipped: {} has no {name}", compiler.version());
        return None;
    }
    Some(path)
}

/// Sets a command up so that the kernels in it are watched; false, with the reason printed, where that is not possible.
pub(crate) fn watch(command: &mut Command, sanitizer: &str) -> bool {
    let Some(library) = sanitizer_library(sanitizer) else { return false };
    command.env("LD_PRELOAD", library).env("MYELON_CPU_SANITIZE", sanitizer);
    // The test harness hands results over by `memcpy` between its threads, which the first option keeps out. A process
    // full of Rust that nobody instrumented has no leaks worth a report. A second's sleep at the end is for threads that still run:
    // those of kernels have been joined by then.
    command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1 halt_on_error=1 atexit_sleep_ms=0");
    command.env("ASAN_OPTIONS", "detect_leaks=0 detect_stack_use_after_return=0");
    true
}
