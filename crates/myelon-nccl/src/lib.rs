//! Stands in front of NCCL: `libmyelon_nccl.so` has the functions of `libnccl.so.2`, takes the calls that Myelon is for, and
//! passes every other call on to the real NCCL, arguments untouched.
//!
//! Preloaded (`LD_PRELOAD`) or opened by path in NCCL's place. `docs/NCCL.md` says what is taken and which variables there are.
//!
//! INVARIANT: a communicator's handle is the real one, never a wrapper. What Myelon has to do with it stands beside, in
//! `communicators`; a handle that is not there is forwarded. So whatever a newer NCCL does with a handle is done to the real one.
//!
//! | module | what it is |
//! |---|---|
//! | `collectives` | the functions that Myelon may take |
//! | `exports` | the others that do more than forward |
//! | `forward` | the functions that do not |
//! | `profiling` | all of them by their second names |
//! | `real` | the real NCCL: found, its functions by name |
//! | `communicators` | the table beside the handles |
//! | `attach` | how the ranks of a new communicator agree on using Myelon |
//! | `ending` | how Myelon leaves a communicator |
//! | `route` | Myelon or NCCL, for one call: pure |
//! | `sequence` | one order over both engines |
//! | `group` | calls between `ncclGroupStart` and `ncclGroupEnd` |
//! | `failure`, `guard` | errors in NCCL's words; no panic leaves |
//! | `settings`, `log` | what the environment says; who took what |
//! | `abi` | NCCL's types and codes |
//! | `cuda` | the few calls to the driver |

mod abi;
mod attach;
mod collectives;
mod communicators;
mod cuda;
mod ending;
mod exports;
mod failure;
mod forward;
mod group;
mod guard;
mod log;
mod profiling;
mod real;
mod route;
mod sequence;
mod settings;

pub use collectives::*;
pub use exports::*;
pub use forward::*;
