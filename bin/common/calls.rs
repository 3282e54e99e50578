//! What the host issues at a time.

use myelon_ccl::{Operation, Result};

use super::bench::Bench;
use super::candidate::Planned;

/// The operations of one repeat: one, or a batch.
pub(crate) struct Calls<'a> {
    bench: &'a Bench,
    planned: &'a Planned,
    /// Empty where each operation is a call of its own.
    batch: Vec<Operation<'a>>,
}

impl<'a> Calls<'a> {
    /// `batch` as [`Issue::batch`](super::candidate::Issue::batch).
    pub(crate) fn new(bench: &'a Bench, planned: &'a Planned, batch: u32) -> Self {
        Self { bench, planned, batch: vec![bench.operation(planned, 0); batch as usize] }
    }

    /// Operations that can be told from each other: each has operands of its own, `sets` of them.
    pub(crate) fn apart(bench: &'a Bench, planned: &'a Planned, sets: usize) -> Self {
        Self { bench, planned, batch: (0..sets).map(|set| bench.operation(planned, set)).collect() }
    }

    pub(crate) fn bench(&self) -> &Bench {
        self.bench
    }

    /// Queues them, by one call. Returns how many they are.
    pub(crate) fn issue(&self) -> Result<u32> {
        if self.batch.is_empty() {
            return self.bench.issue(self.planned).map(|()| 1);
        }
        self.bench.issue_batch(self.planned, &self.batch)?;
        Ok(self.batch.len() as u32)
    }
}
