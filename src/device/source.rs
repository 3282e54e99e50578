//! The kernel sources, `cuda/`, as they were when this library was built, or as a kernel author has them now.
//!
//! A program carries its kernels with it, so a compiled kernel can never belong to other sources than the
//! runtime that launches it. Ranks compare [`tree_hash`] before they trust each other's memory layout.
//!
//! For work on kernels, `MYELON_KERNEL_TREE=DIR` takes the files below `DIR` in place of the embedded ones: edit, run
//! again, nothing of Rust is rebuilt, and of the kernels those alone that include what changed. The directory is read once a
//! process, whole. Its text is what [`tree_hash`] hashes, so ranks with different trees refuse each other and results name the tree
//! that they were measured with. What `abi.cuh` mirrors stays in the library: change both and rebuild.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Environment variable that names a directory to take the kernel sources from.
pub const TREE_VARIABLE: &str = "MYELON_KERNEL_TREE";

/// What every tree has: without it a directory is some other directory.
const LANDMARK: &str = "abi.cuh";

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/cuda");

/// A file's name relative to the tree, `base/pack.cuh`, and its text.
type File = (&'static str, &'static str);

/// Every file of the tree, sorted by name.
///
/// Dot files and files that are not UTF-8 are no sources and left out.
///
/// Errors: [`Error::Config`] naming `MYELON_KERNEL_TREE` when that directory has no `abi.cuh` or cannot be read.
pub fn files() -> Result<&'static [File]> {
    Ok(&tree()?.files)
}

/// SHA-256 over names and texts of [`files`], 64 lower-case hex digits. The `source_hash` of results.
///
/// Errors: as [`files`].
pub fn tree_hash() -> Result<&'static str> {
    Ok(&tree()?.hash)
}

/// SHA-256 over names and texts of the files that `entry` includes, directly or not: what a compile of it can read.
///
/// Errors: as [`files`].
pub(crate) fn hash_below(entry: &str) -> Result<String> {
    Ok(tree()?.hash_below(entry))
}

struct Tree {
    files: Vec<File>,
    /// Places in `files` of those that each includes.
    includes: Vec<Vec<usize>>,
    hash: String,
}

impl Tree {
    fn of(mut files: Vec<File>) -> Self {
        files.sort_unstable();
        let hash = hash_of(files.iter().flat_map(|&(name, text)| [name, text]));
        let includes = files.iter().map(|&(_, text)| includes(&files, text).collect()).collect();
        Self { files, includes, hash }
    }

    fn hash_below(&self, entry: &str) -> String {
        let mut reached = BTreeSet::new();
        let mut ahead: Vec<_> = includes(&self.files, entry).collect();
        while let Some(place) = ahead.pop() {
            if reached.insert(place) {
                ahead.extend(&self.includes[place]);
            }
        }
        hash_of(reached.into_iter().flat_map(|place| <[&str; 2]>::from(self.files[place])))
    }
}

/// Places of the files that `text` includes. Conditions are not looked at: an include counts on every device. One of no file here, a
/// system's header, is the compiler's.
fn includes(files: &[File], text: &str) -> impl Iterator<Item = usize> {
    let place = |name: &str| files.binary_search_by_key(&name, |&(name, _)| name).ok();
    text.lines().filter_map(included).filter_map(place)
}

/// `base/pack.cuh` of `#include "base/pack.cuh"`; the sources name files by their places in the tree, whoever includes them.
fn included(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.split('"').nth(1)
}

fn tree() -> Result<&'static Tree> {
    static TREE: OnceLock<Tree> = OnceLock::new();
    if let Some(tree) = TREE.get() {
        return Ok(tree);
    }
    let chosen = env::var_os(TREE_VARIABLE).filter(|directory| !directory.is_empty());
    let files = match chosen {
        Some(directory) => on_disk(Path::new(&directory))?,
        None => embedded(),
    };
    Ok(TREE.get_or_init(|| Tree::of(files)))
}

fn embedded() -> Vec<File> {
    let mut files = Vec::new();
    collect(&EMBEDDED, &mut files);
    files
}

/// The files below `root`, by the rules of the embedded tree. Links to directories are not followed.
fn on_disk(root: &Path) -> Result<Vec<File>> {
    let wrong = |detail: String| Error::Config {
        source_name: "environment".into(),
        key: TREE_VARIABLE.into(),
        detail: format!("{}: {detail}", root.display()),
    };
    if !root.join(LANDMARK).is_file() {
        let detail = format!("no {LANDMARK} in it: name a copy of the directory cuda/, or unset the variable");
        return Err(wrong(detail));
    }
    let mut texts = Vec::new();
    read_below(root, "", &mut texts).map_err(|error| wrong(format!("it cannot be read whole: {error}")))?;
    tracing::warn!(directory = %root.display(), files = texts.len(), "kernels are not the embedded ones");
    // WHY: leaked, to live as long as the embedded ones do; once a process.
    let leak = |text: String| -> &'static str { text.leak() };
    Ok(texts.into_iter().map(|(name, text)| (leak(name), leak(text))).collect())
}

fn read_below(directory: &Path, prefix: &str, into: &mut Vec<(String, String)>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            read_below(&entry.path(), &format!("{name}/"), into)?;
        } else if entry.path().is_file()
            && let Ok(text) = String::from_utf8(fs::read(entry.path())?)
        {
            into.push((name, text));
        }
    }
    Ok(())
}

/// SHA-256 over a list of texts, as lower-case hex.
///
/// Each text is preceded by its length, so that moving a boundary between two texts changes the hash.
pub(crate) fn hash_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hex(&hasher.finalize())
}

/// Lower-case hex of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn collect(directory: &'static Dir<'static>, into: &mut Vec<(&'static str, &'static str)>) {
    for file in directory.files() {
        let hidden = file.path().file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if let (false, Some(name), Some(text)) = (hidden, file.path().to_str(), file.contents_utf8()) {
            into.push((name, text));
        }
    }
    for below in directory.dirs() {
        collect(below, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_on_disk(directory: &Path) -> usize {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        entries
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
            .map(|entry| if entry.path().is_dir() { count_on_disk(&entry.path()) } else { 1 })
            .sum()
    }

    #[test]
    fn every_file_is_embedded_with_its_text() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let files = Tree::of(embedded()).files;
        for &(name, text) in &files {
            assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), text, "{name}");
        }
        assert_eq!(files.len(), count_on_disk(&root), "a file below cuda/ is missing in the library: see build.rs");
        assert!(files.is_sorted());
    }

    #[test]
    fn the_hash_depends_on_names_texts_and_boundaries() {
        assert_eq!(tree_hash().unwrap().len(), 64);
        let base = hash_of(["a", "bc"]);
        assert_eq!(base, hash_of(["a", "bc"]));
        assert_ne!(base, hash_of(["ab", "c"]));
        assert_ne!(base, hash_of(["b", "bc"]));
        assert_ne!(base, hash_of(["a", "bd"]));
    }

    #[test]
    fn the_hash_below_an_entry_is_that_of_what_it_includes() {
        let tree = |last: &'static str| {
            Tree::of(vec![
                ("algo/ring.cuh", "#pragma once\n #  include \"base/pack.cuh\"  // packs\n#include <stdio.h>"),
                ("base/pack.cuh", "#include \"algo/ring.cuh\"\n"),
                ("verify/fill.cuh", last),
            ])
        };
        let below = |last, entry: &str| tree(last).hash_below(entry);
        let ring = "#define A\n#include \"algo/ring.cuh\"\n";
        assert_eq!(below("1", ring), below("2", ring), "what is not included does not count");
        assert_eq!(
            below("1", ring),
            hash_of(["algo/ring.cuh", "base/pack.cuh"].into_iter().flat_map(|name| {
                let tree = tree("1");
                <[&str; 2]>::from(*tree.files.iter().find(|(known, _)| *known == name).unwrap())
            }))
        );
        let fill = "#include \"verify/fill.cuh\"";
        assert_ne!(below("1", fill), below("2", fill));
        assert_eq!(below("1", "#include <verify/fill.cuh>"), below("1", ""), "no file of ours is included so");
    }

    #[test]
    fn every_include_of_the_embedded_tree_is_understood() {
        let tree = Tree::of(embedded());
        for &(name, text) in &tree.files {
            for line in text.lines().filter(|line| line.contains("#include")) {
                let known = included(line).is_some_and(|included| tree.files.iter().any(|&(name, _)| name == included));
                assert!(known || line.starts_with("#include <"), "{name}: {line}");
            }
        }
    }

    #[test]
    fn a_tree_on_disk_is_read_by_the_rules_of_the_embedded_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        assert_eq!(Tree::of(on_disk(&root).unwrap()).hash, Tree::of(embedded()).hash);

        let copy = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let file = copy.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        };
        for (name, bytes) in [("abi.cuh", "a"), ("algo/ring.cuh", "r"), (".hidden", "h"), (".git/x", "x")] {
            write(name, bytes.as_bytes());
        }
        write("image", &[0xff, 0xfe]);
        let before = Tree::of(on_disk(copy.path()).unwrap());
        assert_eq!(before.files, [("abi.cuh", "a"), ("algo/ring.cuh", "r")]);
        write("algo/ring.cuh", b"R");
        assert_ne!(Tree::of(on_disk(copy.path()).unwrap()).hash, before.hash);
    }

    #[test]
    fn a_directory_that_is_no_tree_is_refused_with_the_variable_and_the_remedy() {
        let empty = tempfile::tempdir().unwrap();
        for directory in [empty.path(), Path::new("/nowhere")] {
            let message = on_disk(directory).unwrap_err().to_string();
            assert!(message.contains("MYELON_KERNEL_TREE") && message.contains("abi.cuh"), "{message}");
        }
    }
}
