//! What a benchmark knows besides running: sizes, bandwidths, statistics, and every form a result is written in.
//!
//! Nothing here touches a device or a rank. The measuring loop hands in times in microseconds, one value a repeat,
//! and gets rows back; [`results`] is the one form that is stored, everything else is derived from it:
//!
//! - [`text`] streams rows to a terminal in nccl-tests' columns, [`csv`] flattens them for a spreadsheet;
//! - [`markdown`] and [`svg`] make the tables and plots of the README, and [`readme`] puts them there;
//! - [`page`] is all of it in a browser, beside what the hardware allows ([`ceiling`]);
//! - [`neighbour`] is what a waiting kernel does to another one: stored and shown apart, for it is no time of an all-reduce;
//! - [`overlap`] is what a running all-reduce and another kernel cost each other, stored and shown apart for the same reason;
//! - [`against`] finds the baseline of a row, so that a ratio is always computed and never stored;
//! - [`compare`] holds two runs against each other, and [`shortfall`] what `auto` took against what was measured beside it.

pub mod against;
pub mod bandwidth;
pub mod case;
pub mod ceiling;
pub mod compare;
pub mod csv;
pub(crate) mod kind;
pub(crate) mod mark;
pub mod markdown;
pub mod merge;
pub mod neighbour;
pub mod output;
pub mod overlap;
pub mod page;
pub mod provenance;
pub mod readme;
pub mod results;
pub mod scale;
pub mod shortfall;
pub mod size;
pub mod stats;
pub(crate) mod stored;
pub mod svg;
pub mod text;

pub use against::{Baseline, Standing};
pub use bandwidth::Bandwidth;
pub use case::{Case, MOST_BATCH, Series};
pub use provenance::Provenance;
pub use results::{Results, Row};
pub use size::{Bytes, SizeSweep, Step};
pub use stats::Summary;
pub use stored::Stored;
