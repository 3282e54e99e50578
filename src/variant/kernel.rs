//! Which kernel exactly: everything that is compiled in, and the entry file that instantiates it.

use std::fmt;
use std::sync::Arc;

use super::manifest::VariantSpec;
use crate::device::KernelSource;
use crate::types::{DType, ReduceOp, Wait, WorldSize};

/// Everything that a collective kernel is compiled for. Two equal keys are one compiled file.
#[derive(Clone, Debug)]
pub struct KernelKey {
    /// The variant.
    pub variant: Arc<VariantSpec>,
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// Ranks.
    pub world_size: WorldSize,
    /// Threads a CTA.
    pub threads: u32,
    /// Pipeline stages.
    pub stages: u32,
    /// Sentinel mailboxes instead of LL.
    pub sentinel: bool,
    /// What a thread does between two polls.
    pub wait: Wait,
}

impl KernelKey {
    fn identity(&self) -> (&str, DType, ReduceOp, WorldSize, u32, u32, bool, Wait) {
        let &Self { dtype, op, world_size, threads, stages, sentinel, wait, .. } = self;
        (&self.variant.name, dtype, op, world_size, threads, stages, sentinel, wait)
    }

    /// The entry file over the kernels' tree.
    pub fn source(&self) -> KernelSource {
        let Self { dtype, op, world_size, threads, stages, sentinel, wait, .. } = self;
        let name = &self.variant.name;
        // WHY: the wait policy is no part of Config: waits lie below everything that is a template over it.
        let entry = format!(
            "#define MYELON_WAIT {wait}\n\
             #include \"algo/{name}.cuh\"\n\
             namespace myelon {{\n\
             struct Config {{\n\
             \x20 static constexpr u32 kWorldSize = {world_size};\n\
             \x20 static constexpr u32 kThreads = {threads};\n\
             \x20 static constexpr u32 kStages = {stages};\n\
             \x20 static constexpr bool kSentinel = {sentinel};\n\
             }};\n\
             MYELON_KERNEL({threads}, Args, args) {{ {name}<{dtype}, {op}, Config>(args); }}\n\
             }}  // namespace myelon\n"
        );
        KernelSource { name: self.to_string(), entry }
    }
}

impl PartialEq for KernelKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for KernelKey {}

impl std::hash::Hash for KernelKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Display for KernelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}<{}, {}, {} ranks, {} threads",
            self.variant.name, self.dtype, self.op, self.world_size, self.threads
        )?;
        if self.stages > 0 {
            write!(f, ", {} stages", self.stages)?;
        }
        if self.wait != Wait::Adaptive {
            write!(f, ", {} waits", self.wait)?;
        }
        f.write_str(">")
    }
}

/// The kernels that write test data and check results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerifyKernel {
    /// Writes a rank's data of the current operation.
    Fill,
    /// Counts wrong elements of a result.
    Check,
    /// Steps the operation's number.
    Next,
}

impl VerifyKernel {
    /// Threads a CTA.
    pub const THREADS: u32 = 256;

    /// The entry file over the kernels' tree.
    pub fn source(self, dtype: DType, op: ReduceOp) -> KernelSource {
        let (file, call) = match self {
            Self::Fill => ("fill", format!("fill<{dtype}, {op}>(args)")),
            Self::Check => ("check", format!("check<{dtype}, {op}>(args)")),
            Self::Next => ("check", "next_operation(args)".to_owned()),
        };
        KernelSource {
            name: format!("verify::{call}"),
            entry: format!(
                "#include \"verify/{file}.cuh\"\nnamespace myelon {{\nMYELON_KERNEL({}, VerifyArgs, args) {{ {call}; }}\n}}\n",
                Self::THREADS
            ),
        }
    }
}
