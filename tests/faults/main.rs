//! What ends badly must end soon, name who is to blame, and leave the machine usable.
//!
//! Upper bounds on time are deadlines of the library with at least tenfold slack.

#[path = "../support/mod.rs"]
mod support;

mod aborts;
mod collectives;
mod control_plane;
mod departures;
mod graphs;
mod launches;
mod processes;
mod rig;
mod side_by_side;
mod stalls;
mod waits;
