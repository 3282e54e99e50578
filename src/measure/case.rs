//! What was measured, apart from how fast it was.

use std::fmt;

use crate::measure::size::Bytes;
use crate::types::{Collective, DType, ReduceOp, WorldSize};

/// Most operations of a batch, [`Series::batch`]: together fewer than a stream queues before a call blocks.
pub const MOST_BATCH: u32 = 256;

/// One operation as the ranks ask for it. Rows of equal cases can be held against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Case {
    /// Everything but the size.
    pub series: Series,
    /// Message size: the bytes that the elements take, those of all parts together where a collective has parts.
    pub bytes: Bytes,
}

/// What the points of one curve, or the lines of one table, have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// What the ranks do. All-reduces come first.
    pub collective: Collective,
    /// Ranks that take part.
    pub ranks: WorldSize,
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// Whether each rank's result replaces its operand.
    pub in_place: bool,
    /// Whether results went into a window that all ranks registered.
    pub registered: bool,
    /// Operations in each replayed graph; 0 where every operation was launched by the host.
    pub graph: u32,
    /// Operations in each call of the host's; 0 where every operation was a call of its own.
    pub batch: u32,
    /// Whether a small kernel of somebody else's ran behind each operation, and is part of its time.
    pub between: bool,
}

impl Series {
    /// The case of this series at one size.
    pub fn at(self, bytes: Bytes) -> Case {
        Case { series: self, bytes }
    }

    /// What is done with what: `f32 sum`, `all_gather f32`.
    pub fn what(self) -> String {
        let Self { collective, dtype, op, .. } = self;
        match collective {
            Collective::AllReduce => format!("{dtype} {op}"),
            _ if collective.has_operator() => format!("{collective} {dtype} {op}"),
            _ => format!("{collective} {dtype}"),
        }
    }

    /// How the operations were issued and where the result went, for captions.
    pub fn mode(self) -> String {
        let issue = match (self.graph, self.batch) {
            (0, 0) => "launched one by one".to_owned(),
            (0, 1) => "launched in batches of 1 operation".to_owned(),
            (0, batch) => format!("launched in batches of {batch} operations"),
            (1, _) => "graph replay, 1 operation a graph".to_owned(),
            (graph, _) => format!("graph replay, {graph} operations a graph"),
        };
        let place = if self.in_place { "in place" } else { "out of place" };
        let registered = if self.registered { ", registered" } else { "" };
        let between = if self.between { ", a small kernel behind each operation" } else { "" };
        format!("{issue}, {place}{registered}{between}")
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranks = if self.ranks.get() == 1 { "rank" } else { "ranks" };
        write!(f, "{} {ranks}, {}, {}", self.ranks, self.what(), self.mode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_reads_as_a_caption() {
        let ranks = WorldSize::new(8).unwrap();
        let series = Series {
            collective: Collective::AllReduce,
            ranks,
            dtype: DType::F32,
            op: ReduceOp::Sum,
            in_place: false,
            registered: false,
            graph: 20,
            batch: 0,
            between: false,
        };
        assert_eq!(series.to_string(), "8 ranks, f32 sum, graph replay, 20 operations a graph, out of place");
        let series = Series { ranks: WorldSize::new(1).unwrap(), graph: 0, in_place: true, ..series };
        assert_eq!(series.to_string(), "1 rank, f32 sum, launched one by one, in place");
        let series = Series { batch: 8, registered: true, ..series };
        assert_eq!(series.to_string(), "1 rank, f32 sum, launched in batches of 8 operations, in place, registered");
        let mode = Series { batch: 0, registered: false, between: true, ..series }.mode();
        assert_eq!(mode, "launched one by one, in place, a small kernel behind each operation");
        let what = |collective| Series { collective, ..series }.what();
        assert_eq!(what(Collective::ReduceScatter), "reduce_scatter f32 sum");
        assert_eq!(what(Collective::Broadcast), "broadcast f32");
    }
}
