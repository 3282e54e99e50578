//! On-disk cache of compiled kernels: one compile per key per node.
//!
//! An entry is two files, `<key>.<extension>` and `<key>.json` beside it, which says what the first one is and
//! holds its SHA-256. Readers need no lock: an image whose hash does not match its description does not exist
//! for them. Writers hold a lock on `<key>.lock`; the operating system drops it when its holder dies, so a crash
//! leaves nothing that has to be repaired by hand.

mod directory;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use fs4::fs_std::FileExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Compiler, KernelImage, KernelSource, source};
use crate::error::{Error, Result};

pub use directory::DIRECTORY_VARIABLE;

/// Longest wait for another thread or process that compiles the same kernel.
const LOCK_DEADLINE: Duration = Duration::from_secs(120);
/// Pause between two looks at a lock that somebody holds; short against a compile.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The image of `source` in the user's cache, compiled if it is not there yet.
///
/// The key covers the crate's version, the entry's text and that of the files it includes, and the compiler's identity: after a
/// change of one file, what does not include it is still there. Threads and processes that ask for the same key at once wait for
/// one compile; different keys compile in parallel.
///
/// Errors: [`Error::Config`] naming `MYELON_CACHE` when the directory cannot be used, [`Error::Compile`] from the
/// compiler or after 120 s of waiting for somebody else's compile, [`Error::Io`].
pub fn compile_cached(compiler: &dyn Compiler, source: &KernelSource) -> Result<KernelImage> {
    Cache::of_user()?.compile(compiler, source)
}

/// A directory of compiled kernels.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    lock_deadline: Duration,
    /// As `FileExt::try_lock_exclusive`.
    try_lock: fn(&File) -> std::io::Result<bool>,
}

/// What a compiled file is; stored beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    kernel: String,
    compiler: String,
    crate_version: String,
    source_hash: String,
    image_sha256: String,
}

impl Cache {
    /// The cache in `MYELON_CACHE`, `$XDG_CACHE_HOME/myelon`, `~/.cache/myelon` or, for a user without a home, a
    /// private directory below the system's temporary one.
    ///
    /// Errors: [`Error::Config`] when the directory cannot be made, or when the temporary one belongs to or can be
    /// written by somebody else: what lies in it gets executed.
    pub fn of_user() -> Result<Self> {
        Ok(Self { directory: directory::of_user()?, lock_deadline: LOCK_DEADLINE, try_lock: File::try_lock_exclusive })
    }

    /// The cache in `directory`, which is made if need be, readable by its owner alone.
    ///
    /// Errors: [`Error::Config`] naming `MYELON_CACHE`.
    pub fn at(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        directory::make(&directory)?;
        Ok(Self { directory, lock_deadline: LOCK_DEADLINE, try_lock: File::try_lock_exclusive })
    }

    /// Where the files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// As [`compile_cached`], in this cache.
    pub fn compile(&self, compiler: &dyn Compiler, source: &KernelSource) -> Result<KernelImage> {
        let entry = Entry::new(self, compiler, source)?;
        if entry.is_valid() {
            tracing::debug!(kernel = source.name, image = %entry.image.display(), "kernel found in the cache");
            return Ok(entry.into_image(source));
        }
        let Some(_lock) = self.lock_unless_valid(&entry, source)? else {
            tracing::debug!(kernel = source.name, image = %entry.image.display(), "kernel compiled by somebody else");
            return Ok(entry.into_image(source));
        };
        let start = Instant::now();
        self.fill(&entry, compiler, source)?;
        tracing::info!(kernel = source.name, milliseconds = start.elapsed().as_millis() as u64, "kernel compiled");
        Ok(entry.into_image(source))
    }

    /// Takes the writer's lock of an entry, or returns `None` once the entry is there.
    fn lock_unless_valid(&self, entry: &Entry, source: &KernelSource) -> Result<Option<File>> {
        let start = Instant::now();
        let mut options = File::options();
        let lock = options.create(true).truncate(false).write(true).open(&entry.lock);
        let lock = lock.map_err(|error| directory::unusable(&self.directory, &error))?;
        loop {
            let locked = (self.try_lock)(&lock).unwrap_or_else(|error| self.without_lock(&error));
            // ORDER: looked at after the lock was tried, so whoever gets the lock sees what its last holder wrote.
            if entry.is_valid() {
                return Ok(None);
            }
            if locked {
                return Ok(Some(lock));
            }
            if start.elapsed() > self.lock_deadline {
                let log = format!(
                    "somebody else has been compiling it for more than {} s and holds {}; \
                     end that process, or set {DIRECTORY_VARIABLE} to another directory",
                    self.lock_deadline.as_secs(),
                    entry.lock.display()
                );
                return Err(Error::Compile { kernel: source.name.clone(), log });
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// Goes on as if the lock was held. It saves work and no more: drafts have names of their own, and whole files are renamed.
    fn without_lock(&self, error: &std::io::Error) -> bool {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            tracing::warn!(
                "{} has no locks ({error}): each process compiles for itself, unless {DIRECTORY_VARIABLE} names a directory \
                 on a file system that has",
                self.directory.display()
            );
        });
        true
    }

    /// Compiles into an entry. The caller holds its lock, where there are locks.
    fn fill(&self, entry: &Entry, compiler: &dyn Compiler, source: &KernelSource) -> Result<()> {
        // Names that nobody else writes even where a network file system grants the lock twice. Both files are
        // deleted when the compile fails; what a crash leaves behind keeps a name that nothing looks for.
        let draft = |ending: &str| {
            let file = tempfile::Builder::new().prefix("draft-").suffix(ending).tempfile_in(&self.directory);
            file.map(tempfile::NamedTempFile::into_temp_path)
                .map_err(|error| directory::unusable(&self.directory, &error))
        };
        let (image, described) = (draft(&format!(".{}", compiler.extension()))?, draft(".json")?);
        compiler.compile(source, &image)?;
        let bytes = fs::read(&image).map_err(|e| Error::at_path("reading what the compiler wrote to", &*image, e))?;
        if bytes.is_empty() {
            let log = "the compiler reported success and wrote an empty file".to_owned();
            return Err(Error::Compile { kernel: source.name.clone(), log });
        }
        let description = Description {
            kernel: source.name.clone(),
            compiler: compiler.identity(),
            crate_version: env!("CARGO_PKG_VERSION").to_owned(),
            source_hash: source::hash_below(&source.entry)?,
            image_sha256: source::hex(&Sha256::digest(&bytes)),
        };
        let text = serde_json::to_vec_pretty(&description).map_err(|e| Error::io("describing a kernel", e))?;
        fs::write(&described, text).map_err(|e| Error::at_path("writing", &*described, e))?;
        // ORDER: an entry is valid once both renames are done, in whichever order a reader sees them.
        for (draft, file) in [(described, &entry.description), (image, &entry.image)] {
            draft.persist(file).map_err(|e| Error::at_path("renaming a compiled kernel to", file, e.error))?;
        }
        Ok(())
    }
}

/// The files of one key.
struct Entry {
    image: PathBuf,
    description: PathBuf,
    lock: PathBuf,
}

impl Entry {
    fn new(cache: &Cache, compiler: &dyn Compiler, source: &KernelSource) -> Result<Self> {
        let identity = compiler.identity();
        let below = source::hash_below(&source.entry)?;
        let key = source::hash_of([env!("CARGO_PKG_VERSION"), &below, &source.entry, &identity]);
        let file = |extension: &str| cache.directory.join(format!("{key}.{extension}"));
        Ok(Self { image: file(compiler.extension()), description: file("json"), lock: file("lock") })
    }

    fn is_valid(&self) -> bool {
        let (Ok(image), Ok(text)) = (fs::read(&self.image), fs::read(&self.description)) else { return false };
        serde_json::from_slice::<Description>(&text)
            .is_ok_and(|description| description.image_sha256 == source::hex(&Sha256::digest(&image)))
    }

    fn into_image(self, source: &KernelSource) -> KernelImage {
        KernelImage { name: source.name.clone(), path: self.image }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Writes the entry text as the image, slowly, and counts.
    #[derive(Debug, Default)]
    struct CountingCompiler {
        identity: String,
        compiles: AtomicU32,
    }

    impl Compiler for CountingCompiler {
        fn identity(&self) -> String {
            self.identity.clone()
        }
        fn extension(&self) -> &'static str {
            "so"
        }
        fn compile(&self, source: &KernelSource, output: &Path) -> Result<()> {
            self.compiles.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
            if source.entry == "broken" {
                return Err(Error::Compile { kernel: source.name.clone(), log: "it is broken".into() });
            }
            fs::write(output, &source.entry).map_err(|e| Error::at_path("writing", output, e))
        }
    }

    fn kernel(entry: &str) -> KernelSource {
        KernelSource { name: "probe".into(), entry: entry.into() }
    }

    fn new_cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache")).unwrap();
        (directory, cache)
    }

    fn compile_in_four_threads(cache: &Cache, compiler: &CountingCompiler) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let image = cache.compile(compiler, &kernel("text")).unwrap();
                    assert_eq!(fs::read_to_string(image.path).unwrap(), "text");
                });
            }
        });
    }

    #[test]
    fn threads_that_want_one_kernel_share_one_compile() {
        let (_directory, cache) = new_cache();
        let compiler = CountingCompiler::default();
        compile_in_four_threads(&cache, &compiler);
        assert_eq!(compiler.compiles.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn another_entry_or_compiler_is_another_file() {
        let (_directory, cache) = new_cache();
        let [first, second] =
            ["a", "b"].map(|identity| CountingCompiler { identity: identity.into(), ..Default::default() });
        let path = |compiler, entry| cache.compile(compiler, &kernel(entry)).unwrap().path;
        assert_ne!(path(&first, "text"), path(&second, "text"));
        assert_ne!(path(&first, "text"), path(&first, "other"));
        assert_eq!(path(&first, "text"), path(&first, "text"));
    }

    #[test]
    fn damaged_entries_are_compiled_again() {
        let (_directory, cache) = new_cache();
        let compiler = CountingCompiler::default();
        let image = cache.compile(&compiler, &kernel("text")).unwrap().path;
        for damage in ["", "te", "tixt"] {
            fs::write(&image, damage).unwrap();
            cache.compile(&compiler, &kernel("text")).unwrap();
            assert_eq!(fs::read_to_string(&image).unwrap(), "text");
        }
        fs::write(image.with_extension("json"), "{").unwrap();
        cache.compile(&compiler, &kernel("text")).unwrap();
        assert_eq!(compiler.compiles.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn what_a_crash_leaves_behind_does_no_harm() {
        let (_directory, cache) = new_cache();
        let compiler = CountingCompiler::default();
        let entry = Entry::new(&cache, &compiler, &kernel("text")).unwrap();
        fs::write(&entry.lock, "").unwrap();
        fs::write(&entry.description, "half a descr").unwrap();
        fs::write(cache.directory().join("draft-0.so"), "half an im").unwrap();
        let image = cache.compile(&compiler, &kernel("text")).unwrap();
        assert_eq!(fs::read_to_string(image.path).unwrap(), "text");
    }

    #[test]
    fn a_failed_compile_leaves_nothing_and_can_be_repeated() {
        let (_directory, cache) = new_cache();
        let compiler = CountingCompiler::default();
        for _ in 0..2 {
            let error = cache.compile(&compiler, &kernel("broken")).unwrap_err();
            assert!(matches!(error, Error::Compile { ref log, .. } if log == "it is broken"), "{error}");
        }
        assert_eq!(compiler.compiles.load(Ordering::Relaxed), 2);
        let left: Vec<_> = fs::read_dir(cache.directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.iter().all(|path| path.extension().is_some_and(|ending| ending == "lock")), "{left:?}");
    }

    #[test]
    fn where_there_are_no_locks_everybody_compiles() {
        let (_directory, mut cache) = new_cache();
        cache.try_lock = |_| Err(std::io::ErrorKind::Unsupported.into());
        let compiler = CountingCompiler::default();
        compile_in_four_threads(&cache, &compiler);
    }

    #[test]
    fn waiting_for_somebody_elses_compile_ends() {
        let (_directory, mut cache) = new_cache();
        cache.lock_deadline = Duration::from_millis(20);
        let compiler = CountingCompiler::default();
        let lock = File::create(Entry::new(&cache, &compiler, &kernel("text")).unwrap().lock).unwrap();
        assert!(lock.try_lock_exclusive().unwrap());
        let message = cache.compile(&compiler, &kernel("text")).unwrap_err().to_string();
        assert!(message.contains("MYELON_CACHE") && message.contains("probe"), "{message}");
        assert_eq!(compiler.compiles.load(Ordering::Relaxed), 0);
        drop(lock);
        cache.compile(&compiler, &kernel("text")).unwrap();
    }
}
