//! How much memory a rank's place of work has, and what is said where it is too much.

use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::{Collective, Error, WorldSize};

/// What a bench has room for. Equal on all ranks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// What is measured.
    pub(crate) collective: Collective,
    /// Size of the largest message.
    pub(crate) bytes: u64,
    /// Operations of the longest batch; 0 without batches.
    pub(crate) batch: u32,
    /// Whether results replace their operands.
    pub(crate) in_place: bool,
    /// Libraries that are measured as well.
    pub(crate) against: Vec<Baseline>,
    /// Whether the results' memory is a window.
    pub(crate) window: bool,
    /// Whether that has to be zero-copy.
    pub(crate) registered: bool,
}

/// The error, with what was asked for where that is too much. `bytes` are those of a rank's operands.
pub(crate) fn explained(error: Error, bytes: u64, ranks: WorldSize) -> Error {
    if !error.is_out_of_memory() {
        return error;
    }
    let all = Bytes(bytes.saturating_mul(ranks.get().into()));
    Error::unsupported(format!(
        "no room for {} of operands a rank, {} for {ranks} ranks ({error}): lower -e or --ranks",
        Bytes(bytes).human(),
        all.human()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_told_with_how_much_for_how_many() {
        let four = WorldSize::new(4).unwrap();
        let full = Error::io("allocating 64 bytes", std::io::ErrorKind::OutOfMemory);
        let text = explained(full, 3 << 30, four).to_string();
        let expected = "no room for 3 GiB of operands a rank, 12 GiB for 4 ranks (allocating 64 bytes: out of memory)";
        assert!(text.starts_with(expected) && text.ends_with("lower -e or --ranks"), "{text}");
        let of_gpu = |code| Error::Driver { call: "cuMemAlloc", code, detail: "it said so".into() };
        assert!(explained(of_gpu(2), 1, four).to_string().contains("no room for 1 B of operands a rank, 4 B for 4"));
        assert_eq!(explained(of_gpu(1), 1, four).to_string(), of_gpu(1).to_string());
        assert_eq!(explained(Error::invalid("other"), 1, four).to_string(), "other");
    }
}
