//! The kernel sources, `cuda/`, as they were when this library was built.
//!
//! A program carries its kernels with it, so a compiled kernel can never belong to other sources than the
//! runtime that launches it. Ranks compare [`tree_hash`] before they trust each other's memory layout.

use std::sync::OnceLock;

use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

static TREE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/cuda");

/// Every file below `cuda/` as (name, text), sorted by name; names are relative to `cuda/`: `base/pack.cuh`.
///
/// Dot files and files that are not UTF-8 are no sources and left out.
pub fn files() -> &'static [(&'static str, &'static str)] {
    static FILES: OnceLock<Vec<(&'static str, &'static str)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = Vec::new();
        collect(&TREE, &mut files);
        files.sort_unstable();
        files
    })
}

/// SHA-256 over names and texts of [`files`], 64 lower-case hex digits. The `source_hash` of results.
pub fn tree_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash_of(files().iter().flat_map(|&(name, text)| [name, text])))
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
    use std::path::Path;

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
        for &(name, text) in files() {
            assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), text, "{name}");
        }
        assert_eq!(files().len(), count_on_disk(&root), "a file below cuda/ is missing in the library: see build.rs");
        assert!(files().is_sorted());
    }

    #[test]
    fn the_hash_depends_on_names_texts_and_boundaries() {
        assert_eq!(tree_hash().len(), 64);
        let base = hash_of(["a", "bc"]);
        assert_eq!(base, hash_of(["a", "bc"]));
        assert_ne!(base, hash_of(["ab", "c"]));
        assert_ne!(base, hash_of(["b", "bc"]));
        assert_ne!(base, hash_of(["a", "bd"]));
    }
}
