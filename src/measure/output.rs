//! Files that are replaced as a whole or not at all.

use std::fs::Permissions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Result};

/// Replaces the contents of `path` by a rename, so that no reader and no crash ever shows half of it. Links are followed.
///
/// Errors: [`Error::Io`] with the path if its directory cannot be written, [`Error::InvalidArgument`] if there is none, or if
/// `path` is something other than a file; the old contents stay.
pub fn replace(path: &Path, contents: &str) -> Result<()> {
    let target = target_of(path)?;
    let failed = |error| Error::at_path("cannot write", path, error);
    let mut file = temporary_beside(&target, path)?;
    file.write_all(contents.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&target).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Finds out before a long run whether [`replace`] will work, by everything but the rename. Leaves nothing behind.
///
/// Errors: as [`replace`].
pub fn prove_writable(path: &Path) -> Result<()> {
    let target = target_of(path)?;
    temporary_beside(&target, path).map(drop)
}

/// Refuses files that would be written over: one that is named for two outputs, or for an output and an input. Each comes with what it
/// was named by.
///
/// Errors: [`Error::InvalidArgument`] with both.
pub fn prove_apart(outputs: &[(&str, &Path)], inputs: &[(&str, &Path)]) -> Result<()> {
    for (place, (what, path)) in outputs.iter().enumerate() {
        let mut others = outputs[place + 1..].iter().chain(inputs);
        if let Some((other, _)) = others.find(|(_, other)| is_one_file(path, other)) {
            return Err(Error::invalid(format!("{what} and {other} both name {}: use two files", path.display())));
        }
    }
    Ok(())
}

fn is_one_file(a: &Path, b: &Path) -> bool {
    let resolve =
        |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    resolve(a) == resolve(b)
}

/// Where the file itself is, behind links.
fn target_of(path: &Path) -> Result<PathBuf> {
    let Ok(target) = path.canonicalize() else { return Ok(path.to_owned()) };
    // WHY: a rename over a device or a pipe would replace it by a file: `/dev/stdout` would be gone.
    if target.is_file() {
        Ok(target)
    } else {
        Err(Error::invalid(format!("cannot write {}: it exists and is not a regular file", path.display())))
    }
}

/// `path` is what the target was called by whoever named it.
fn temporary_beside(target: &Path, path: &Path) -> Result<NamedTempFile> {
    let failed = |error| Error::at_path("cannot write", path, error);
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if target.file_name().is_none() {
        return Err(failed(ErrorKind::InvalidFilename.into()));
    }
    // The umask applies, as to any other new file.
    let file = Builder::new().prefix(".myelon-").permissions(Permissions::from_mode(0o666)).tempfile_in(directory);
    file.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::invalid(format!(
            "cannot write {}: there is no directory {}: make it, or name another place",
            path.display(),
            directory.display()
        )),
        kind => {
            // WHY: what follows is the name of the temporary file, which says nothing to anybody.
            let text = error.to_string();
            failed(io::Error::new(kind, text.split(" at path ").next().unwrap_or_default()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_written_twice_or_over_what_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let [there, link, new] = ["there", "link", "new"].map(|name| directory.path().join(name));
        std::fs::write(&there, "").unwrap();
        std::os::unix::fs::symlink(&there, &link).unwrap();
        prove_apart(&[("-o", &new), ("--json", &link)], &[]).unwrap();
        let message = prove_apart(&[("-o", &link)], &[("--judge", &there)]).unwrap_err().to_string();
        assert!(message.contains("-o and --judge both name"), "{message}");
        prove_apart(&[("-o", &new), ("--json", &new)], &[]).unwrap_err();
        prove_apart(&[("-o", &new)], &[("--judge", &there), ("--json", &there)]).unwrap();
    }

    #[test]
    fn replacing_leaves_only_the_new_contents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&path, "a longer text").unwrap();
        replace(&link, "text").unwrap();
        prove_writable(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_proof_creates_nothing() {
        let directory = tempfile::tempdir().unwrap();
        prove_writable(&directory.path().join("out")).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [directory.path(), &socket] {
            for result in [prove_writable(path), replace(path, "")] {
                assert!(result.unwrap_err().to_string().contains("not a regular file"));
            }
        }
        for path in [directory.path().join("missing/out"), PathBuf::from("")] {
            let message = prove_writable(&path).unwrap_err().to_string();
            assert!(message.contains(&format!("cannot write {}", path.display())), "{message}");
        }
    }

    #[test]
    fn a_directory_that_is_none_is_named_and_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let (missing, file) = (directory.path().join("missing"), directory.path().join("file"));
        std::fs::write(&file, "").unwrap();
        for (beside, expected) in [
            (&missing, format!("there is no directory {}: make it, or name another place", missing.display())),
            (&file, "Not a directory (os error 20)".to_owned()),
        ] {
            for result in [prove_writable(&beside.join("out")), replace(&beside.join("out"), "")] {
                let message = result.unwrap_err().to_string();
                assert!(message.ends_with(&expected) && !message.contains(".myelon-"), "{message}");
            }
        }
    }
}
