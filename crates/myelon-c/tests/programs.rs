//! The library as a C programmer has it: installed, found by pkg-config, linked by the system's compiler.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};
use tempfile::TempDir;

const C: [&str; 6] = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
const CXX: [&str; 6] = ["c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic"];

/// What `ci/install_c.sh` made of this tree.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        let prefix = TempDir::new().unwrap();
        let mut script = Command::new(root().join("ci/install_c.sh"));
        script.arg("--prefix").arg(prefix.path()).arg("--library").arg(library());
        succeed(script);
        Self(prefix)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    /// Compiles a program and links it, as pkg-config says how.
    fn build(&self, compiler: &[&str], source: &Path) -> PathBuf {
        let mut ask = Command::new("pkg-config");
        ask.args(["--cflags", "--libs", "myelon-ccl"]).env("PKG_CONFIG_PATH", self.path("lib/pkgconfig"));
        let flags = succeed(ask);
        let program = self.path(source.file_stem().and_then(OsStr::to_str).unwrap());
        let mut compile = Command::new(compiler[0]);
        compile.args(&compiler[1..]).arg("-pthread").arg(source);
        // A program that calls nothing by itself is not to have the library loaded for it.
        compile.arg("-Wl,--as-needed").args(flags.split_whitespace()).arg("-ldl");
        succeed({
            compile.arg("-o").arg(&program);
            compile
        });
        program
    }

    /// A program that finds the library, and no launcher.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "240"]).arg(program).env("LD_LIBRARY_PATH", self.path("lib"));
        for name in ["MYELON_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"] {
            command.env_remove(name);
        }
        command
    }
}

/// `libmyelon_ccl.so` of this build, which no test is linked with.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let built = own.ancestors().nth(2).unwrap();
    let profile = built.file_name().and_then(OsStr::to_str).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--profile", if profile == "debug" { "dev" } else { profile }]);
    // WHY: with all that is built for tests. Alone it would have the main crate built again, with only the features of
    // dependencies that it asks for itself: 65 s instead of 2 (2 cores, 2026-11-27).
    build.args(["--workspace", "--lib", "--tests"]).current_dir(root());
    // Of the package that is tested, and not for what is built.
    build.env_remove("CARGO_MANIFEST_DIR");
    succeed(build);
    built.join("libmyelon_ccl.so")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn program(name: &str) -> PathBuf {
    root().join("crates/myelon-c/tests/c").join(name)
}

/// Runs a command that succeeds; what it prints.
fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    printed(&format!("{command:?}"), &output)
}

fn printed(what: &str, output: &Output) -> String {
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{text}{log}", output.status);
    text.into_owned()
}

/// Whether this machine has what a test needs; says so where it has not.
fn has(tools: &[&str]) -> bool {
    let missing = |tool: &&&str| {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = tools.iter().filter(missing).collect();
    if !missing.is_empty() {
        eprintln!("skipped: this machine lacks {missing:?}");
    }
    missing.is_empty()
}

#[test]
fn what_the_library_exports_is_what_the_header_declares() {
    let installed = Installed::new();
    let bytes = fs::read(installed.path("lib/libmyelon_ccl.so.0")).unwrap();
    let library = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
    let exported: BTreeSet<_> = library
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .map(|symbol| symbol.name().unwrap().to_owned())
        .collect();
    let header = fs::read_to_string(installed.path("include/myelon.h")).unwrap();
    // A declaration begins its line, and ends its name with a bracket.
    let declared: BTreeSet<_> = header
        .lines()
        .filter(|line| line.starts_with("myelonStatus_t ") || line.starts_with("const char *"))
        .filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next())
        .map(str::to_owned)
        .collect();
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(exported, declared);
}

#[test]
fn every_call_does_what_the_header_says() {
    if !has(&["cc", "pkg-config"]) {
        return;
    }
    let installed = Installed::new();
    let calls = installed.build(&C, &program("calls.c"));
    assert!(succeed(installed.command(&calls)).contains("calls: all as expected"));
}

#[test]
fn ranks_reduce_stall_and_abort() {
    if !has(&["cc", "pkg-config"]) {
        return;
    }
    let installed = Installed::new();
    let ranks = installed.build(&C, &program("ranks.c"));
    assert!(succeed(installed.command(&ranks)).contains("ranks: all as expected"));
}

#[test]
fn the_header_is_cxx_as_well() {
    if !has(&["c++", "pkg-config"]) {
        return;
    }
    let installed = Installed::new();
    let version = installed.build(&CXX, &program("version.cc"));
    assert_eq!(succeed(installed.command(&version)).trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_example_starts_its_ranks_and_joins_a_launchers_job() {
    if !has(&["cc", "pkg-config"]) {
        return;
    }
    let installed = Installed::new();
    let example = installed.build(&C, &root().join("examples/c/all_reduce.c"));
    let expect = |ranks: u32, text: &str| {
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        let sum = ranks * (ranks + 1) / 2;
        let expected: Vec<_> =
            (0..ranks).map(|rank| format!("rank {rank} of {ranks}: {sum}, 0 wrong (myelon on the CPU)")).collect();
        assert_eq!(lines, expected);
    };
    let mut forked = installed.command(&example);
    forked.args(["--ranks", "4"]);
    expect(4, &succeed(forked));

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let job: Vec<_> = ["0", "1"]
        .map(|rank| {
            let mut command = installed.command(&example);
            command.env("MYELON_RANK", rank).env("MYELON_WORLD_SIZE", "2").env("MYELON_ROOT", free.to_string());
            // A GPU would need the example's other half.
            command.env("CUDA_VISIBLE_DEVICES", "");
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .into_iter()
        .map(|rank| printed("a rank of the job", &rank.wait_with_output().unwrap()))
        .collect();
    expect(2, &job.concat());

    let refused = installed.command(&example).args(["--ranks", "9"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_library_stays_when_it_is_closed() {
    if !has(&["cc", "pkg-config"]) {
        return;
    }
    let installed = Installed::new();
    let closes = installed.build(&C, &program("closes.c"));
    let mut command = installed.command(&closes);
    command.arg(installed.path("lib/libmyelon_ccl.so.0"));
    assert!(succeed(command).contains("closes: all as expected"));
}

/// A program that was linked asks for the ABI's name, which is a link to the very version.
#[test]
fn the_library_has_a_soname() {
    let installed = Installed::new();
    let target = fs::read_link(installed.path("lib/libmyelon_ccl.so")).unwrap();
    assert_eq!(target, Path::new("libmyelon_ccl.so.0"));
    let bytes = fs::read(installed.path("lib/libmyelon_ccl.so.0")).unwrap();
    assert!(bytes.windows(20).any(|text| text == b"\0libmyelon_ccl.so.0\0"), "no SONAME among its strings");
}
