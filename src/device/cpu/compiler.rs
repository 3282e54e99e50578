//! The system's C++ compiler in NVRTC's place.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::host;
use crate::device::{Compiler, KernelSource, source};
use crate::error::{Error, Result};

/// Longest run of the compiler; a kernel takes a second at most, so this is a compiler that hangs.
const COMPILE_DEADLINE: Duration = Duration::from_secs(90);
/// Longest run of `c++ --version`.
const VERSION_DEADLINE: Duration = Duration::from_secs(20);
/// What is tried on PATH, in this order.
const CANDIDATES: [&str; 3] = ["c++", "g++", "clang++"];
/// `-fno-strict-aliasing` because kernels move elements of any type as 16-byte packs.
// WHY: -Og keeps apart the lines that debuggers and sanitizers name, and a kernel of a test is compiled more often than it runs:
// 2000 operations of all variants take 62 s with it and 103 with -O2, 12 of them to run, either way. Messages of 1 MiB run longer: a
// sweep of all variants to there takes 27 s, 20 with -O2 (2 cores, 2026-11-26).
const OPTIONS: [&str; 10] = [
    "-std=c++17",
    "-Og",
    "-g1",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-DMYELON_CPU=1",
    "-nodefaultlibs",
];
/// What is linked.
// WHY: not what the compiler would link C++ with, which no kernel uses: without it a compile takes a fifth less, under AddressSanitizer a
// third (2 cores, 2026-11-27). A sanitizer's library is there already. libgcc has the atomics of some processors.
const LIBRARIES: [&str; 2] = ["-lc", "-lgcc"];

/// A sanitizer that kernels are built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitizer {
    /// ThreadSanitizer; the process has to be started with `libtsan.so` in `LD_PRELOAD`.
    Thread,
    /// AddressSanitizer; the process has to be started with `libasan.so` in `LD_PRELOAD`.
    Address,
}

impl Sanitizer {
    fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Address => "address",
        }
    }
}

impl FromStr for Sanitizer {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Thread, Self::Address].into_iter().find(|sanitizer| sanitizer.name() == text);
        known.ok_or_else(|| Error::invalid(format!("unknown sanitizer '{text}': known are thread, address")))
    }
}

/// Compiles kernels for the processor it runs on, into shared objects.
#[derive(Clone, Debug)]
pub struct CpuCompiler {
    /// Program and leading arguments: `c++`, or `ccache g++`.
    command: Vec<String>,
    version: String,
    sanitizer: Option<Sanitizer>,
    defines: Vec<String>,
    deadline: Duration,
}

impl CpuCompiler {
    /// The compiler that the environment asks for.
    ///
    /// `MYELON_CXX`, else `CXX`, else the first of `c++`, `g++`, `clang++` on `PATH` that runs.
    /// `MYELON_CPU_SANITIZE` is `thread` or `address`; `MYELON_CPU_DEFINES` is a list of macros, `A=1 B`.
    ///
    /// Errors: [`Error::LibraryMissing`] without a compiler, [`Error::Config`] for a variable that makes no sense.
    pub fn from_environment() -> Result<Self> {
        let mut compiler = Self::find(host::variable("MYELON_CXX").or_else(|| host::variable("CXX")))?;
        compiler.sanitizer = host::sanitizer()?;
        compiler.defines = host::defines()?;
        Ok(compiler)
    }

    /// The compiler called `chosen`, arguments included, or the first one on `PATH`; no sanitizer, no macros.
    ///
    /// Errors: [`Error::LibraryMissing`] when it does not run.
    pub fn find(chosen: Option<String>) -> Result<Self> {
        let names = chosen.map_or_else(|| CANDIDATES.map(str::to_owned).to_vec(), |name| vec![name]);
        for name in &names {
            let command: Vec<String> = name.split_whitespace().map(str::to_owned).collect();
            if let Some(version) = version_of(&command) {
                return Ok(Self { command, version, sanitizer: None, defines: Vec::new(), deadline: COMPILE_DEADLINE });
            }
        }
        Err(Error::LibraryMissing {
            library: "a C++ compiler",
            purpose: "the CPU device compiles kernels with it: install g++ or clang++, or set MYELON_CXX",
            searched: names,
        })
    }

    /// The same compiler with a sanitizer.
    pub fn with_sanitizer(mut self, sanitizer: Sanitizer) -> Self {
        self.sanitizer = Some(sanitizer);
        self
    }

    /// The same compiler with more macros: `A=1 B` defines `A` and `B`.
    ///
    /// Errors: [`Error::InvalidArgument`] for a word that is no macro.
    pub fn with_defines(mut self, words: &str) -> Result<Self> {
        self.defines.extend(defines_of(words)?);
        Ok(self)
    }

    /// First line of the compiler's `--version`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Name or path of the compiler.
    pub fn program(&self) -> &str {
        &self.command[0]
    }

    /// The sanitizer kernels are built with.
    pub fn sanitizer(&self) -> Option<Sanitizer> {
        self.sanitizer
    }

    fn options(&self) -> Vec<String> {
        let mut options: Vec<String> = OPTIONS.map(str::to_owned).to_vec();
        options.extend(self.sanitizer.map(|sanitizer| format!("-fsanitize={}", sanitizer.name())));
        options.extend_from_slice(&self.defines);
        options
    }
}

impl Compiler for CpuCompiler {
    fn identity(&self) -> String {
        format!("{} {} {}", self.version, env::consts::ARCH, self.options().join(" "))
    }

    fn extension(&self) -> &'static str {
        "so"
    }

    fn compile(&self, source: &KernelSource, output: &Path) -> Result<()> {
        // The tree stays beside the output, for the next compiles and for debuggers; the entry file goes.
        let directory = output.parent().unwrap_or(Path::new("."));
        let tree = unpack_tree(directory)?;
        let entry = tempfile::Builder::new().prefix("entry-").suffix(".cc").tempfile_in(directory);
        let entry = entry.and_then(|mut file| file.write_all(source.entry.as_bytes()).map(|()| file.into_temp_path()));
        let entry = entry.map_err(|e| Error::at_path("writing an entry file to", directory, e))?;

        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(self.options()).arg("-I").arg(tree);
        command.args(["-x", "c++"]).arg(&*entry).args(["-x", "none"]).args(LIBRARIES).arg("-o").arg(output);
        let failed = |log| Error::Compile { kernel: source.name.clone(), log };
        let (status, log) =
            run(&mut command, self.deadline).map_err(|error| failed(format!("{}: {error}", self.command.join(" "))))?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(format!("{} ended with {status}\n{log}", self.command.join(" "))))
        }
    }
}

/// Writes the kernels' sources to `<directory>/cuda-<hash>` and returns that path.
///
/// Checked file by file at each compile, which costs a millisecond: sweepers of temporary directories delete files
/// one by one.
fn unpack_tree(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join(format!("cuda-{}", &source::tree_hash()?[..16]));
    fs::create_dir_all(&tree).map_err(|e| Error::at_path("making", &tree, e))?;
    for (name, text) in source::files()? {
        let file = tree.join(name);
        if fs::read(&file).is_ok_and(|present| present == text.as_bytes()) {
            continue;
        }
        replace(&file, text).map_err(|e| Error::at_path("unpacking a kernel source to", &file, e))?;
    }
    Ok(tree)
}

/// Writes `file` so that a compiler that runs meanwhile sees the old text or the new one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut draft = tempfile::NamedTempFile::new_in(directory)?;
    draft.write_all(text.as_bytes())?;
    draft.persist(file)?;
    Ok(())
}

/// First line that a program on `PATH` prints for `--version`; none where it does not run, or not within 20 s.
pub fn version_line(program: &str) -> Option<String> {
    version_of(&[program.to_owned()])
}

/// First line that `command --version` prints; `None` when it does not run. Asked once a process.
fn version_of(command: &[String]) -> Option<String> {
    static KNOWN: Mutex<BTreeMap<Vec<String>, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = known.get(command) {
        return Some(version.clone());
    }
    let (program, arguments) = command.split_first()?;
    let (status, text) = run(Command::new(program).args(arguments).arg("--version"), VERSION_DEADLINE).ok()?;
    let version = text.lines().next().filter(|_| status.success())?.to_owned();
    known.insert(command.to_vec(), version.clone());
    Some(version)
}

/// Runs a command to its end or to the deadline; returns its status and what it printed, on either stream.
fn run(command: &mut Command, deadline: Duration) -> io::Result<(ExitStatus, String)> {
    let (mut reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).env("LC_ALL", "C");
    // A sanitizer that was preloaded for the kernels would judge the compiler too, and finds it leaking.
    command.env_remove("LD_PRELOAD");
    // A group of its own, so that the compiler's own children end with it.
    command.process_group(0);
    let mut child = command.spawn()?;
    // The command holds the writing ends; the pipe must close when the child does.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let outcome = reader.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned());
        // The receiver is gone after the deadline; then nobody wants the text.
        let _ = sender.send(outcome);
    });
    let Ok(text) = receiver.recv_timeout(deadline) else {
        if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
            // Fails only where the group has just ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        child.wait()?;
        let text = format!("still running after {} s, killed", deadline.as_secs_f32());
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    };
    Ok((child.wait()?, text?))
}

/// The options that define macros.
pub(super) fn defines_of(words: &str) -> Result<Vec<String>> {
    let define = |word: &str| {
        if word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
            return Ok(format!("-D{word}"));
        }
        Err(Error::invalid(format!("'{word}' is no macro: write NAME or NAME=value, separated by spaces")))
    };
    words.split_whitespace().map(define).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(entry: &str) -> KernelSource {
        KernelSource { name: "probe".into(), entry: entry.into() }
    }

    fn output_in(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("image.so")
    }

    #[test]
    fn the_log_of_a_failed_compile_is_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let compiler = CpuCompiler::find(None).unwrap();
        let error = compiler.compile(&kernel("int f() { return no_such_name; }"), &output_in(&directory)).unwrap_err();
        assert!(matches!(&error, Error::Compile { kernel, log } if kernel == "probe" && log.contains("no_such_name")));
    }

    #[test]
    fn macros_reach_the_kernel_and_the_tree_is_unpacked_whole() {
        let directory = tempfile::tempdir().unwrap();
        let compiler = CpuCompiler::find(None).unwrap().with_defines("A=3 B").unwrap();
        // Includes are relative to the tree's root.
        let probe = unpack_tree(directory.path()).unwrap().join("probe/probe.cuh");
        replace(&probe, "#define PROBE 1\n").unwrap();
        let entry = "#include \"probe/probe.cuh\"\n#if PROBE != 1 || A != 3 || !defined(B) || MYELON_CPU != 1\n#error missing\n#endif\n";
        compiler.compile(&kernel(entry), &output_in(&directory)).unwrap();
        let tree = unpack_tree(directory.path()).unwrap();
        for (name, text) in source::files().unwrap() {
            assert_eq!(fs::read_to_string(tree.join(name)).unwrap(), *text);
        }
        let message = CpuCompiler::find(None).unwrap().with_defines("A=3 -O3").unwrap_err().to_string();
        assert!(message.contains("-O3"), "{message}");
    }

    #[test]
    fn whatever_changes_the_output_changes_the_identity() {
        let plain = CpuCompiler::find(None).unwrap();
        let identities = [
            plain.identity(),
            plain.clone().with_sanitizer(Sanitizer::Thread).identity(),
            plain.clone().with_sanitizer(Sanitizer::Address).identity(),
            plain.clone().with_defines("A=1").unwrap().identity(),
            CpuCompiler { version: "another".into(), ..plain.clone() }.identity(),
        ];
        for (index, identity) in identities.iter().enumerate() {
            assert!(!identities[..index].contains(identity), "{identity}");
        }
        assert_eq!(plain.identity(), CpuCompiler::find(None).unwrap().identity());
    }

    #[test]
    fn a_missing_compiler_is_named_with_the_remedy() {
        let message = CpuCompiler::find(Some("/nowhere/c++".into())).unwrap_err().to_string();
        assert!(message.contains("/nowhere/c++") && message.contains("MYELON_CXX"), "{message}");
        assert!("threads".parse::<Sanitizer>().unwrap_err().to_string().contains("address"));
    }

    #[test]
    fn a_compiler_that_hangs_is_ended_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let deadline = Duration::from_millis(100);
        let hanging = ["sh", "-c", "sleep 600 & wait"].map(str::to_owned).to_vec();
        let compiler = CpuCompiler { command: hanging, deadline, ..CpuCompiler::find(None).unwrap() };
        let start = std::time::Instant::now();
        let message = compiler.compile(&kernel(""), &output_in(&directory)).unwrap_err().to_string();
        assert!(message.contains("still running"), "{message}");
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
