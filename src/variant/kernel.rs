//! Which kernel exactly: everything that is compiled in, and the entry file that instantiates it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::manifest::VariantSpec;
use crate::abi::{NEIGHBOUR_LOADS, PACK_BYTES, STAGE_FLAG_BYTES};
use crate::device::KernelSource;
use crate::measure::neighbour::Work;
use crate::types::{DType, Metadata, Output, Places, ReduceOp, SyncPolicy, Wait, WorldSize};

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
    /// Packs that a stage holds for each thread that is not of a producer warp.
    pub stage_packs: u32,
    /// Warps that fill the stages for the others; 0 where all warps work alike.
    pub producer_warps: u32,
    /// Sentinel mailboxes instead of LL.
    pub sentinel: bool,
    /// What a thread does between two polls.
    pub wait: Wait,
    /// How many barriers of the CTA there are.
    pub sync: SyncPolicy,
    /// Where fetched packs lie in shared memory.
    pub places: Places,
    /// How consumer warps learn which piece lies in a stage.
    pub metadata: Metadata,
    /// How results get into the output.
    pub output: Output,
    /// Whether the message is a list of buckets.
    pub buckets: bool,
}

impl KernelKey {
    fn identity(&self) -> impl Hash + PartialEq + '_ {
        let stages = (self.stages, self.stage_packs, self.producer_warps);
        let policies = (self.wait, self.sync, self.places, self.metadata, self.output, self.buckets);
        (&self.variant.name, self.dtype, self.op, self.world_size, self.threads, stages, self.sentinel, policies)
    }

    /// Dynamic shared memory of a CTA.
    pub fn shared_bytes(&self) -> u32 {
        let flags = if self.producer_warps > 0 { STAGE_FLAG_BYTES } else { 0 };
        let consumers = self.threads - 32 * self.producer_warps;
        flags + self.stages * self.stage_packs * consumers * PACK_BYTES as u32
    }

    /// The entry file over the kernels' tree.
    pub fn source(&self) -> KernelSource {
        let Self { dtype, op, world_size, threads, stages, stage_packs, producer_warps, sentinel, .. } = self;
        let Self { wait, sync, .. } = self;
        let (swizzled, notes) = (self.places == Places::Swizzled, self.metadata == Metadata::Shared);
        let (direct, landing, buckets) = (self.output != Output::Staged, self.output == Output::Landing, self.buckets);
        let args = if buckets { "BucketArgs" } else { "Args" };
        let name = &self.variant.name;
        // WHY: the policies are no part of Config: waits and phases lie below everything that is a template over it.
        let entry = format!(
            "#define MYELON_WAIT {wait}\n\
             #define MYELON_SYNC {sync}\n\
             #include \"algo/{name}.cuh\"\n\
             namespace myelon {{\n\
             struct Config {{\n\
             \x20 static constexpr u32 kWorldSize = {world_size};\n\
             \x20 static constexpr u32 kThreads = {threads};\n\
             \x20 static constexpr u32 kStages = {stages};\n\
             \x20 static constexpr u32 kStagePacks = {stage_packs};\n\
             \x20 static constexpr u32 kProducerWarps = {producer_warps};\n\
             \x20 static constexpr bool kSentinel = {sentinel};\n\
             \x20 static constexpr bool kSwizzled = {swizzled};\n\
             \x20 static constexpr bool kNotes = {notes};\n\
             \x20 static constexpr bool kDirect = {direct};\n\
             \x20 static constexpr bool kLanding = {landing};\n\
             \x20 static constexpr bool kBuckets = {buckets};\n\
             }};\n\
             MYELON_KERNEL({threads}, {args}, args) {{ {name}<{dtype}, {op}, Config>(args); }}\n\
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

impl Hash for KernelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
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
            write!(f, ", {} stages of {} packs a thread", self.stages, self.stage_packs)?;
        }
        if self.producer_warps > 0 {
            write!(f, ", {} producer warps", self.producer_warps)?;
        }
        if self.wait != Wait::Adaptive {
            write!(f, ", {} waits", self.wait)?;
        }
        if self.sync != SyncPolicy::Light {
            write!(f, ", {} barriers", self.sync)?;
        }
        if self.places != Places::Coalesced {
            write!(f, ", {} places", self.places)?;
        }
        if self.metadata != Metadata::Derived {
            write!(f, ", {} metadata", self.metadata)?;
        }
        if self.output != Output::Staged {
            write!(f, ", {} output", self.output)?;
        }
        if self.buckets {
            f.write_str(", buckets")?;
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

/// Threads of the one CTA in which streams meet.
pub const BARRIER_THREADS: u32 = 32;

/// The entry file of the kernel in which the streams of all ranks meet.
pub fn barrier_kernel(world_size: WorldSize) -> KernelSource {
    let entry = format!(
        "#include \"algo/stream_barrier.cuh\"\nnamespace myelon {{\n\
         MYELON_KERNEL({BARRIER_THREADS}, Args, args) {{ stream_barrier<{world_size}>(args); }}\n}}\n"
    );
    KernelSource { name: format!("stream_barrier<{world_size} ranks>"), entry }
}

/// The entry file of a neighbour: a kernel that has nothing to do with an all-reduce, to see what one that waits does to it.
pub fn neighbour_kernel(work: Work, threads: u32) -> KernelSource {
    let entry = format!(
        "#include \"verify/neighbour.cuh\"\nnamespace myelon {{\n\
         static_assert(kNeighbourLoads == {NEIGHBOUR_LOADS}, \"kNeighbourLoads differs from src/abi.rs\");\n\
         MYELON_KERNEL({threads}, NeighbourArgs, args) {{ {work}(args); }}\n}}\n"
    );
    KernelSource { name: format!("neighbour::{work}"), entry }
}
