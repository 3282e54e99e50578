//! A file through which rank 0 tells a job's other ranks its unique id, where a launcher gives no address.
//!
//! It lies in `myelon-<uid>` (mode 0700) below the temporary directory, is named by a hash of the job's identity, and
//! is written by rename with mode 0600. A file that an earlier job left behind fools nobody: readers look again before
//! every attempt to connect, the server it names is gone or has another secret, and rank 0 replaces it.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::unique_id::{UNIQUE_ID_BYTES, UniqueId, hex};
use crate::error::{Error, Result};

/// The address file of one job.
#[derive(Debug)]
pub(super) struct AddressFile {
    path: PathBuf,
    /// What this process wrote, and removes where it is still there.
    published: Option<UniqueId>,
}

impl AddressFile {
    /// The file of the job that `identity` names, below `base`; nothing is read or written yet but its directory.
    ///
    /// Errors: [`Error::Io`] when the directory cannot be made or belongs to somebody else.
    pub(super) fn of_job(base: &Path, identity: &str) -> Result<Self> {
        let directory = base.join(format!("myelon-{}", rustix::process::geteuid().as_raw()));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::at_path("making the directory (TMPDIR chooses another place)", &directory, source));
            }
            _ => {}
        }
        let found = directory.symlink_metadata().map_err(|source| Error::at_path("looking at", &directory, source))?;
        if !found.is_dir() || !is_private(&found) {
            let source = std::io::Error::new(
                ErrorKind::PermissionDenied,
                "it must be a directory of this user with mode 0700: remove it or set TMPDIR to a private place",
            );
            return Err(Error::at_path("using the directory", &directory, source));
        }
        let name = hex(&Sha256::digest(identity.as_bytes())[..16]);
        Ok(Self { path: directory.join(name), published: None })
    }

    /// Puts `id` into the file, replacing what was there; it is removed when this is dropped.
    pub(super) fn publish(&mut self, id: &UniqueId) -> Result<()> {
        let fail = |source| Error::at_path("writing the address file", &self.path, source);
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(fail)?;
        file.write_all(id.to_text().as_bytes()).map_err(fail)?;
        file.persist(&self.path).map_err(|error| fail(error.error))?;
        self.published = Some(*id);
        Ok(())
    }

    /// The id in the file; `None` while there is none that this release and user can trust.
    pub(super) fn read(&self) -> Result<Option<UniqueId>> {
        let fail = |source| Error::at_path("reading the address file", &self.path, source);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(fail(errno.into())),
        };
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() || !is_private(&metadata) {
            tracing::warn!("ignoring {}: not a private file of this user", self.path.display());
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(2 * UNIQUE_ID_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
        match String::from_utf8_lossy(&bytes).parse() {
            Ok(id) => Ok(Some(id)),
            Err(error) => {
                tracing::warn!("ignoring {}: {error}", self.path.display());
                Ok(None)
            }
        }
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        // A later job with the same identity may have replaced it.
        let Some(own) = self.published else { return };
        if self.read().is_ok_and(|there| there == Some(own)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_private(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn id(port: u16) -> UniqueId {
        UniqueId::derive(([127, 0, 0, 1], port).into(), b"test")
    }

    #[test]
    fn published_ids_are_read_replaced_and_removed() {
        let base = tempfile::tempdir().unwrap();
        let reader = AddressFile::of_job(base.path(), "job").unwrap();
        assert_eq!(reader.read().unwrap(), None);
        let mut writer = AddressFile::of_job(base.path(), "job").unwrap();
        for port in [1, 2] {
            writer.publish(&id(port)).unwrap();
            assert_eq!(reader.read().unwrap(), Some(id(port)));
        }
        assert_eq!(reader.path.metadata().unwrap().mode() & 0o777, 0o600);
        let other = AddressFile::of_job(base.path(), "another job").unwrap();
        assert_eq!(other.read().unwrap(), None);
        let mut later = AddressFile::of_job(base.path(), "job").unwrap();
        later.publish(&id(3)).unwrap();
        drop(writer);
        assert_eq!(reader.read().unwrap(), Some(id(3)), "another job's");
        drop(later);
        assert_eq!(reader.read().unwrap(), None);
    }

    #[test]
    fn what_cannot_be_trusted_is_ignored() {
        let base = tempfile::tempdir().unwrap();
        let mut file = AddressFile::of_job(base.path(), "job").unwrap();
        file.publish(&id(1)).unwrap();
        std::fs::set_permissions(&file.path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.publish(&id(1)).unwrap();
        std::fs::write(&file.path, "half an i").unwrap();
        assert_eq!(file.read().unwrap(), None);
        std::fs::remove_file(&file.path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file.path).unwrap();
        assert!(file.read().is_err());
    }

    #[test]
    fn an_open_directory_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let file = AddressFile::of_job(base.path(), "job").unwrap();
        std::fs::set_permissions(file.path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let error = AddressFile::of_job(base.path(), "job").unwrap_err().to_string();
        assert!(error.contains("0700"), "{error}");
    }
}
