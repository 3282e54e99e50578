//! Where the cache lies.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Environment variable that names the cache directory.
pub const DIRECTORY_VARIABLE: &str = "MYELON_CACHE";

/// The directory of the current user, made if need be; see [`super::Cache::of_user`].
pub(super) fn of_user() -> Result<PathBuf> {
    if let Some(directory) = choose(|name| env::var_os(name).map(PathBuf::from)) {
        make(&directory)?;
        return Ok(directory);
    }
    let uid = rustix::process::geteuid().as_raw();
    let directory = env::temp_dir().join(format!("myelon-{uid}"));
    make(&directory)?;
    check_private(&directory, uid)?;
    Ok(directory)
}

/// Makes a directory and those above it, for their owner alone.
pub(super) fn make(directory: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| unusable(directory, error))
}

/// The error for a directory that does not serve, with the remedy.
pub(super) fn unusable(directory: &Path, why: impl std::fmt::Display) -> Error {
    Error::Config {
        source_name: "environment".into(),
        key: DIRECTORY_VARIABLE.into(),
        detail: format!(
            "the kernel cache {} cannot be used ({why}): set it to a directory that you can write to",
            directory.display()
        ),
    }
}

/// The directory that the environment asks for; empty variables count as unset, a relative `XDG_CACHE_HOME` too
/// (XDG base directory specification).
fn choose(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.as_os_str().is_empty());
    variable(DIRECTORY_VARIABLE)
        .or_else(|| variable("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("myelon")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/myelon")))
}

fn check_private(directory: &Path, uid: u32) -> Result<()> {
    let metadata = fs::symlink_metadata(directory).map_err(|error| unusable(directory, &error))?;
    if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(unusable(directory, "others can write to it, and what lies in it is executed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_directory_follows_the_environment() {
        let choose = |variables: &[(&str, &str)]| {
            super::choose(|name| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        let all = [("MYELON_CACHE", "/m"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(choose(&all), Some("/m".into()));
        assert_eq!(choose(&all[1..]), Some("/x/myelon".into()));
        assert_eq!(choose(&all[2..]), Some("/h/.cache/myelon".into()));
        assert_eq!(choose(&[("MYELON_CACHE", ""), ("XDG_CACHE_HOME", "x")]), None);
    }

    #[test]
    fn an_unusable_directory_is_an_error_that_names_the_variable() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let message = make(&file.join("cache")).unwrap_err().to_string();
        assert!(message.contains("MYELON_CACHE") && message.contains("file/cache"), "{message}");

        let uid = rustix::process::geteuid().as_raw();
        let cache = directory.path().join("deep/cache");
        make(&cache).unwrap();
        check_private(&cache, uid).unwrap();
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check_private(&cache, uid).unwrap_err().to_string().contains("MYELON_CACHE"));
    }
}
