//! Studies: what is claimed of a pattern, which candidates show whether it holds, and what came out.
//!
//! Nothing here touches a device. `configs/studies.toml` says what is measured ([`Study`]), [`Ablation`] is the stored form of
//! a run, and the rest is derived from the two: a [`Grid`] holds times of one group side by side, a [`Finding`] says what they
//! amount to, [`patterns`] and [`plot`] make a page and pictures of it.

mod ablation;
mod file;
mod finding;
mod grid;
mod patterns;
mod plot;
mod studies;

pub use ablation::{Ablation, Machine, Measured, StudyRun};
pub use finding::{Finding, Point, TOLERANCE, holds};
pub use grid::{Grid, Line};
pub use patterns::{PLOTS, patterns};
pub use plot::plot;
pub use studies::{Candidate, Group, Study};
