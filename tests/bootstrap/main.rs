//! Ranks that find each other: threads, TCP within one process, and processes; and peers that mean harm.
//!
//! Upper bounds on time here are deadlines of the code under test with at least tenfold slack.

mod attacks;
mod groups;
mod processes;
mod rig;
