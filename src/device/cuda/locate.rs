//! Where NVIDIA's libraries lie, and how they are opened.
//!
//! Nothing is linked: the same binary runs without a GPU, with the system's CUDA or with pip's. Looked at, in order:
//! the override variable, what the process has loaded already, the loader's own search, CUDA's roots, pip's packages.
//! An opened library stays open for the life of the process, so its functions are `'static`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use crate::error::{Error, Result};

/// One library that may be looked for.
#[derive(Debug)]
pub struct Wanted {
    /// Usual name: `libnvrtc`.
    pub stem: &'static str,
    /// What it is needed for, and the variable that overrides the search.
    pub purpose: &'static str,
    /// Variable that names the file; nothing else is tried where it is set.
    pub variable: &'static str,
    /// File names, best first.
    pub names: &'static [&'static str],
    /// Directories where packagers put it, beside CUDA's roots and pip's.
    pub directories: &'static [&'static str],
    /// Whether libraries loaded later may bind to it. Not where two releases of it may be open together.
    pub global: bool,
}

/// The CUDA driver.
pub const DRIVER: Wanted = Wanted {
    stem: "libcuda",
    purpose: "drives NVIDIA GPUs and comes with their driver; MYELON_CUDA_LIB overrides the search",
    variable: "MYELON_CUDA_LIB",
    names: &["libcuda.so.1"],
    directories: &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/nvidia/lib64"],
    global: true,
};

/// The run-time compiler.
pub const NVRTC: Wanted = Wanted {
    stem: "libnvrtc",
    purpose: "compiles kernels at run time; `pip install nvidia-cuda-nvrtc` brings it, MYELON_NVRTC_LIB overrides the search",
    variable: "MYELON_NVRTC_LIB",
    names: &["libnvrtc.so.13", "libnvrtc.so.12"],
    directories: &[],
    global: false,
};

/// The baseline that Myelon is measured against and falls back to.
pub const NCCL: Wanted = Wanted {
    stem: "libnccl",
    purpose: "is the baseline and the fallback; `pip install nvidia-nccl-cu13` brings it, MYELON_NCCL_LIB overrides the search",
    variable: "MYELON_NCCL_LIB",
    names: &["libnccl.so.2"],
    directories: &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"],
    global: false,
};

/// MSCCL++ behind NCCL's interface, which Myelon is measured against too. Named by the user: no package puts it anywhere.
pub const MSCCLPP: Wanted = Wanted {
    stem: "libmscclpp_nccl",
    purpose: "is MSCCL++ with NCCL's functions, built from its sources; name it with MYELON_MSCCLPP_LIB",
    variable: "MYELON_MSCCLPP_LIB",
    names: &["libmscclpp_nccl.so"],
    directories: &[],
    global: false,
};

/// What computes beside an all-reduce where the two are measured together.
pub const CUBLAS: Wanted = Wanted {
    stem: "libcublas",
    purpose: "multiplies matrices beside all-reduces; `pip install nvidia-cublas` brings it, MYELON_CUBLAS_LIB overrides the search",
    variable: "MYELON_CUBLAS_LIB",
    names: &["libcublas.so.13", "libcublas.so.12"],
    directories: &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"],
    global: false,
};

/// What cuBLAS needs beside it.
pub const CUBLAS_LT: Wanted = Wanted {
    stem: "libcublasLt",
    purpose: "comes with cuBLAS; MYELON_CUBLASLT_LIB overrides the search",
    variable: "MYELON_CUBLASLT_LIB",
    names: &["libcublasLt.so.13", "libcublasLt.so.12"],
    directories: CUBLAS.directories,
    global: false,
};

/// A library that is open for good.
#[derive(Clone, Debug)]
pub struct Found {
    /// The open library.
    pub opened: &'static Library,
    /// Name or path it was opened by.
    pub origin: String,
}

/// Opens `wanted`.
///
/// `accept` looks at each library that opens and may turn it down with a reason; the search then goes on.
/// Errors: [`Error::LibraryMissing`] with every place, and the reason where something was found but not accepted.
pub fn open(wanted: &Wanted, accept: &dyn Fn(&Found) -> Result<(), String>) -> Result<Found> {
    let mut searched = Vec::new();
    let attempt = |name: &Path, flags| match open_library(name, flags) {
        Err(detail) => Err(detail),
        Ok(library) => {
            let found = Found { opened: library, origin: name.display().to_string() };
            accept(&found).map(|()| found)
        }
    };
    let visibility = RTLD_NOW | if wanted.global { RTLD_GLOBAL } else { RTLD_LOCAL };
    let missing = |searched| Error::LibraryMissing { library: wanted.stem, purpose: wanted.purpose, searched };

    if let Some(path) = std::env::var_os(wanted.variable).filter(|path| !path.is_empty()) {
        // WHY: an override that does not open is an error and not a hint; silently using another library would hide it.
        return attempt(Path::new(&path), visibility).map_err(|detail| {
            missing(vec![format!("{} from {} ({detail})", path.to_string_lossy(), wanted.variable)])
        });
    }
    for flags in [visibility | libc::RTLD_NOLOAD, visibility] {
        for name in wanted.names {
            match attempt(Path::new(name), flags) {
                Ok(found) => return Ok(found),
                Err(_) if flags & libc::RTLD_NOLOAD != 0 => {}
                Err(detail) => searched.push(format!("{name} ({detail})")),
            }
        }
    }
    for directory in Places::of_process().directories(wanted) {
        let mut refused = Vec::new();
        for path in wanted.names.iter().map(|name| directory.join(name)).filter(|path| path.exists()) {
            match attempt(&path, visibility) {
                Ok(found) => return Ok(found),
                Err(detail) => refused.push(format!("{} ({detail})", path.display())),
            }
        }
        if refused.is_empty() {
            refused.push(directory.display().to_string());
        }
        searched.append(&mut refused);
    }
    Err(missing(searched))
}

fn open_library(name: &Path, flags: i32) -> Result<&'static Library, String> {
    // SAFETY: NVIDIA's libraries have initialisers that are safe to run at any time; an override names one of them by
    // the user's word. The handle is leaked, so nothing is unmapped while its functions are in use.
    match unsafe { Library::open(Some(name), flags) } {
        Ok(library) => Ok(Box::leak(Box::new(library))),
        Err(error) => Err(loader_words(&error, name)),
    }
}

/// The loader's message without the name it repeats.
fn loader_words(error: &libloading::Error, name: &Path) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    match text.strip_prefix(&format!("{}: ", name.display())) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Roots below which libraries may lie. Depends on the environment it was given alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// CUDA toolkits, the user's choice first, then newest first.
    pub cuda_roots: Vec<PathBuf>,
    /// Python package directories, an active environment first.
    pub site_packages: Vec<PathBuf>,
}

impl Places {
    /// As this process's environment has them.
    pub fn of_process() -> Self {
        Self::from_environment(&|name| std::env::var_os(name), Path::new("/"))
    }

    /// As `variable` and the tree below `root` have them; `root` is `/` outside tests.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut cuda_roots: Vec<_> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).collect();
        cuda_roots.push(root.join("usr/local/cuda"));
        let mut versioned = entries(&root.join("usr/local"), "cuda-");
        versioned.reverse();
        cuda_roots.append(&mut versioned);

        let mut prefixes: Vec<_> = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set).collect();
        let path = variable("PATH").unwrap_or_default();
        if let Some(python) = std::env::split_paths(&path).map(|bin| bin.join("python3")).find(|file| file.exists()) {
            // An environment's python3 is a link: the environment is where the link lies, its base where it leads.
            let prefix = |file: &Path| Some(file.parent()?.parent()?.to_owned());
            prefixes.extend(prefix(&python));
            prefixes.extend(python.canonicalize().ok().and_then(|file| prefix(&file)));
        }
        prefixes.extend(set("HOME").map(|home| home.join(".local")));
        prefixes.extend([root.join("usr/local"), root.join("usr")]);
        let mut site_packages = Vec::new();
        for version in prefixes.iter().flat_map(|prefix| entries(&prefix.join("lib"), "python3")) {
            site_packages.extend(["site-packages", "dist-packages"].map(|name| version.join(name)));
        }
        site_packages.retain(|directory| directory.is_dir());
        remove_repeats(&mut cuda_roots);
        remove_repeats(&mut site_packages);
        Self { cuda_roots, site_packages }
    }

    /// Directories that may hold `wanted`, best first; those of pip exist, the others may not.
    pub fn directories(&self, wanted: &Wanted) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for root in &self.cuda_roots {
            directories.push(root.join("lib64"));
            directories.extend(entries(&root.join("targets"), "").into_iter().map(|target| target.join("lib")));
        }
        // Both of pip's layouts: a directory a library (nvidia/nccl/lib) and one for all of a release (nvidia/cu13/lib).
        for packages in &self.site_packages {
            directories.extend(entries(&packages.join("nvidia"), "").into_iter().map(|package| package.join("lib")));
        }
        directories.extend(wanted.directories.iter().map(PathBuf::from));
        remove_repeats(&mut directories);
        directories
    }
}

/// Entries of a directory whose names start with `prefix`, in name order; none where it cannot be read.
fn entries(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(directory) else { return Vec::new() };
    let starts = |path: &PathBuf| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(prefix));
    let mut found: Vec<_> = listing.flatten().map(|entry| entry.path()).filter(starts).collect();
    found.sort();
    found
}

fn remove_repeats(paths: &mut Vec<PathBuf>) {
    let mut seen = std::collections::HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, PathBuf)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone().into_os_string())
    }

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn the_users_toolkit_comes_before_the_newest() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("usr/local/cuda-12.8/lib64/libnvrtc.so.12"));
        touch(&root.path().join("usr/local/cuda-13.0/targets/x86_64-linux/lib/libnvrtc.so.13"));
        let places =
            Places::from_environment(&environment(&[("CUDA_HOME", root.path().join("opt/cuda"))]), root.path());
        let local = root.path().join("usr/local");
        let expected =
            [root.path().join("opt/cuda"), local.join("cuda"), local.join("cuda-13.0"), local.join("cuda-12.8")];
        assert_eq!(places.cuda_roots, expected);
        let directories = places.directories(&NVRTC);
        let position = |tail: &str| directories.iter().position(|path| path.ends_with(tail)).expect(tail);
        assert!(position("opt/cuda/lib64") < position("cuda-13.0/targets/x86_64-linux/lib"));
        assert!(position("cuda-13.0/targets/x86_64-linux/lib") < position("cuda-12.8/lib64"));
    }

    #[test]
    fn both_layouts_of_pip_are_listed() {
        let root = tempfile::tempdir().unwrap();
        let packages = root.path().join("venv/lib/python3.11/site-packages");
        for package in ["nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"] {
            touch(&packages.join(package));
        }
        let places = Places::from_environment(&environment(&[("VIRTUAL_ENV", root.path().join("venv"))]), root.path());
        assert_eq!(places.site_packages, std::slice::from_ref(&packages));
        let directories = places.directories(&NVRTC);
        assert!(directories.contains(&packages.join("nvidia/cu13/lib")));
        assert!(directories.contains(&packages.join("nvidia/cuda_nvrtc/lib")));
    }

    #[test]
    fn python_on_the_path_names_its_environment_and_its_base() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("base/bin/python3.11"));
        touch(&root.path().join("base/lib/python3.11/site-packages/nvidia/nccl/lib/libnccl.so.2"));
        std::fs::create_dir_all(root.path().join("env/bin")).unwrap();
        std::fs::create_dir_all(root.path().join("env/lib/python3.11/site-packages")).unwrap();
        std::os::unix::fs::symlink(root.path().join("base/bin/python3.11"), root.path().join("env/bin/python3"))
            .unwrap();
        let places = Places::from_environment(&environment(&[("PATH", root.path().join("env/bin"))]), root.path());
        let names: Vec<_> =
            places.site_packages.iter().filter_map(|path| path.strip_prefix(root.path()).ok()).collect();
        assert_eq!(
            names,
            [Path::new("env/lib/python3.11/site-packages"), Path::new("base/lib/python3.11/site-packages")]
        );
        assert!(places.directories(&NCCL).iter().any(|path| path.join("libnccl.so.2").exists()));
    }

    #[test]
    fn a_missing_library_says_where_it_was_looked_for() {
        const NOWHERE: Wanted = Wanted {
            stem: "libnowhere",
            purpose: "is for this test",
            variable: "MYELON_TEST_NOWHERE_LIB",
            names: &["libnowhere-myelon.so.7"],
            directories: &["/nowhere/lib"],
            global: false,
        };
        let message = open(&NOWHERE, &|_| Ok(())).unwrap_err().to_string();
        for part in ["libnowhere not found (is for this test)", "libnowhere-myelon.so.7 (", "/nowhere/lib"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }

    #[test]
    fn a_library_that_is_turned_down_is_listed_with_the_reason() {
        const LIBC: Wanted = Wanted {
            stem: "libc",
            purpose: "is always there",
            variable: "MYELON_TEST_LIBC_LIB",
            names: &["libc.so.6"],
            directories: &[],
            global: false,
        };
        assert_eq!(open(&LIBC, &|_| Ok(())).unwrap().origin, "libc.so.6");
        let message = open(&LIBC, &|_| Err("too old for this test".into())).unwrap_err().to_string();
        assert!(message.contains("libc.so.6 (too old for this test)"), "{message}");
    }
}
