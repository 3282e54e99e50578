//! What the programs in `bin/` share: from arguments to ranks, and from a rank's bench to verified times.

pub(crate) mod bench;
pub(crate) mod calls;
pub(crate) mod candidate;
pub(crate) mod exchange;
pub(crate) mod gauge;
pub(crate) mod here;
pub(crate) mod interrupt;
pub(crate) mod launch;
pub(crate) mod machine;
pub(crate) mod place;
pub(crate) mod placement;
pub(crate) mod processes;
pub(crate) mod program;
pub(crate) mod progress;
pub(crate) mod rival;
pub(crate) mod room;
pub(crate) mod shapes;
pub(crate) mod stdout;
pub(crate) mod values;
