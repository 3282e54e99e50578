//! Which variant `auto` takes for a message: measured lane tables, and the rule that serves where none was measured.
//!
//! - [`LaneTable`] is what `myelon-tune` writes on a machine: ranges of sizes, each with the variant and shape that won there
//!   and the times that say by how much. Those below `configs/lanes` are part of this build, chosen by GPU, link and world size.
//! - [`Rule`] is first fit over a few rows by size, type and ranks, for a kind of device: `configs/rules`.
//! - [`Judged`] is how far a table is behind the best of everything that was measured.
//! - [`Dispatcher`] asks them for a communicator: what was forced, else the table, else the rule.
//!
//! Nothing here touches a device, and only [`Machine::of_gpus`] asks a driver. Equal tables give equal answers on every rank.

mod class;
mod dispatcher;
mod embedded;
mod file;
mod judged;
mod lane_table;
mod rule;
mod stale;

pub use class::{Buffers, DTypeClass, OperatorClass};
pub use dispatcher::{Decision, Dispatcher, Origin};
pub use embedded::Machine;
pub use judged::{Judged, Judgement, Out, judged_table};
pub use lane_table::{LaneTable, Measured, Row, Section};
pub use rule::Rule;
pub use stale::Present;
