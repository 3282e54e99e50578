//! A pretended NCCL, a program that uses it, and the stand-in before it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No scenario takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the tests run, built by whoever comes first.
pub(crate) struct Built {
    directory: PathBuf,
}

impl Built {
    pub(crate) fn get() -> &'static Self {
        static BUILT: OnceLock<Built> = OnceLock::new();
        BUILT.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            SOURCES.hash(&mut hasher);
            let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let built = Self { directory: place.join(format!("stand-in-{:016x}", hasher.finish())) };
            if !built.directory.exists() {
                // In a place of its own, for the programs of other tests may be being built.
                let scratch = tempfile::tempdir_in(place).unwrap();
                let fake = scratch.path().join("libnccl.so.2");
                compile(&["nccl.cc"], &fake, &["-shared", "-fPIC", "-pthread", "-Wl,-soname,libnccl.so.2"]);
                let linked = [fake.to_str().unwrap(), "-Wl,-rpath,$ORIGIN", "-pthread", "-ldl"];
                compile(&RANKS, &scratch.path().join("linked"), &linked);
                compile(&["wrapper.cc"], &scratch.path().join("libwrapper.so"), &["-shared", "-fPIC"]);
                compile(&RANKS, &scratch.path().join("opener"), &["-DOPENED", "-pthread", "-ldl"]);
                let scratch = scratch.keep();
                if fs::rename(&scratch, &built.directory).is_err() {
                    fs::remove_dir_all(&scratch).unwrap();
                }
            }
            built
        })
    }

    /// The pretended NCCL.
    pub(crate) fn fake(&self) -> PathBuf {
        self.directory.join("libnccl.so.2")
    }

    /// The program that is linked to it.
    pub(crate) fn linked(&self) -> PathBuf {
        self.directory.join("linked")
    }

    /// A tool that stands before NCCL's functions.
    pub(crate) fn wrapper(&self) -> PathBuf {
        self.directory.join("libwrapper.so")
    }

    /// The program that opens a library by its path.
    pub(crate) fn opener(&self) -> PathBuf {
        self.directory.join("opener")
    }
}

/// The program.
const RANKS: [&str; 2] = ["ranks.cc", "processes.cc"];

const SOURCES: [&str; 6] = [
    include_str!("../fake/nccl.h"),
    include_str!("../fake/nccl.cc"),
    include_str!("../fake/wrapper.cc"),
    include_str!("../fake/ranks.h"),
    include_str!("../fake/ranks.cc"),
    include_str!("../fake/processes.cc"),
];

fn compile(sources: &[&str], output: &Path, flags: &[&str]) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake");
    let sources = sources.iter().map(|source| place.join(source));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut command = Command::new(compiler);
    let ended = command.args(["-std=c++17", "-O1", "-o"]).arg(output).args(sources).args(flags).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// `libmyelon_nccl.so`, built with this test.
pub(crate) fn stand_in() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let places = own.ancestors().skip(1).take(2).map(|directory| directory.join("libmyelon_nccl.so"));
    let mut found: Vec<_> = places.filter(|path| path.exists()).collect();
    found.sort_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).ok());
    found.pop().expect("the library is built before its tests")
}

/// One run of a program.
pub(crate) struct Run {
    command: Command,
    directory: TempDir,
}

/// What a run left behind.
pub(crate) struct Ran {
    pub(crate) output: String,
    /// A line for each call that came to the pretended NCCL.
    pub(crate) calls: Vec<String>,
    pub(crate) succeeded: bool,
}

impl Run {
    fn of(program: &Path, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MYELON_") && name != "MYELON_CACHE") {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("FAKE_NCCL_DIR", directory.path())
            .env("FAKE_NCCL_LOG", directory.path().join("calls"))
            .env("MYELON_NCCL_DEVICE", "cpu")
            .env("MYELON_NCCL_PREPARE", "f32:sum")
            .env("MYELON_NCCL_LOG", "1");
        Self { command, directory }
    }

    /// The linked program, with the stand-in preloaded.
    pub(crate) fn preloaded(arguments: &[&str]) -> Self {
        Self::of(&Built::get().linked(), arguments).with("LD_PRELOAD", stand_in())
    }

    /// The program that opens `library` in NCCL's place.
    pub(crate) fn opening(library: &Path, arguments: &[&str]) -> Self {
        Self::of(&Built::get().opener(), arguments).with("NCCL_SO_PATH", library)
    }

    pub(crate) fn with(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs to the end, however it ends.
    pub(crate) fn run(mut self) -> Ran {
        // Into files: a pipe that is not read would hold the program up.
        let output = self.directory.path().join("output");
        let file = fs::File::create(&output).unwrap();
        let mut child =
            self.command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("did not end in {PATIENCE:?}: {}", fs::read_to_string(&output).unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let calls = fs::read_to_string(self.directory.path().join("calls")).unwrap_or_default();
        Ran {
            output: fs::read_to_string(&output).unwrap(),
            calls: calls.lines().map(str::to_owned).collect(),
            succeeded: status.success(),
        }
    }
}

impl Ran {
    /// The program says that all went as it should.
    pub(crate) fn well(self) -> Self {
        assert!(self.succeeded, "{}\n{}", self.output, self.calls.join("\n"));
        self
    }

    /// Calls of one kind that came to the pretended NCCL.
    pub(crate) fn calls(&self, kind: &str) -> Vec<&str> {
        let start = format!("{kind} ");
        self.calls.iter().map(String::as_str).filter(|line| *line == kind || line.starts_with(&start)).collect()
    }

    /// Calls that the report counts: `by` is `Myelon`, or `NCCL` with a part of the reason or without.
    pub(crate) fn counted(&self, name: &str, by: &str) -> u64 {
        let (start, who) = (format!("{name}: "), format!(" bytes by {by}"));
        let lines = self.output.lines().map(str::trim).filter(|line| line.starts_with(&start) && line.contains(&who));
        lines.map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum()
    }
}

/// The output of a program, for short ones that end by themselves.
pub(crate) fn output_of(command: &mut Command) -> Output {
    command.output().unwrap()
}
