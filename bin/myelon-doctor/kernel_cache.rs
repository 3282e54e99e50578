//! Where compiled kernels lie, and whether they can be put there.

use std::path::{Path, PathBuf};

use myelon_ccl::device::cache::Cache;
use myelon_ccl::{Error, Result};
use serde::Serialize;

/// The cache of this user.
#[derive(Debug, Serialize)]
pub(crate) struct KernelCache {
    directory: PathBuf,
    kernels: usize,
    bytes: u64,
}

impl KernelCache {
    /// Finds the directory, makes it if need be, and writes into it.
    ///
    /// Errors: those of [`Cache::of_user`]; [`Error::Io`] where it cannot be written to.
    pub(crate) fn look() -> Result<Self> {
        Self::at(Cache::of_user()?.directory())
    }

    fn at(directory: &Path) -> Result<Self> {
        tempfile::tempfile_in(directory)
            .map_err(|error| Error::at_path("cannot write to the kernel cache", directory, error))?;
        let entries = std::fs::read_dir(directory).map_err(|error| Error::at_path("cannot read", directory, error))?;
        let is_image = |path: &Path| path.extension().is_some_and(|ending| ending == "cubin" || ending == "so");
        let images = entries.flatten().filter(|entry| is_image(&entry.path()));
        let sizes: Vec<u64> = images.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len())).collect();
        Ok(Self { directory: directory.to_owned(), kernels: sizes.len(), bytes: sizes.iter().sum() })
    }

    pub(crate) fn line(&self) -> String {
        format!("{}: {} kernels, {} KiB", self.directory.display(), self.kernels, self.bytes >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.cubin"), [0; 3000]).unwrap();
        std::fs::write(directory.path().join("a.json"), "{}").unwrap();
        let cache = KernelCache::at(directory.path()).unwrap();
        assert_eq!((cache.kernels, cache.bytes), (1, 3000));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(KernelCache::at(Path::new("/nowhere/kernels")).unwrap_err().to_string().contains("/nowhere/kernels"));
    }
}
