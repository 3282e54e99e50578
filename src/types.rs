//! The words every floor shares: data types, operators, ranks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::abi::PACK_BYTES;
use crate::error::Error;

mod world;

pub use world::{MAX_WORLD_SIZE, Rank, WorldSize};

/// Declares an enum whose variants have one spelling everywhere: Rust, CUDA, configs, command line, results. Where it is used,
/// `fmt`, `FromStr`, `Error`, `Serialize` and `Deserialize` are in scope.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident ($what:literal) { $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code),+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The one spelling used in kernels, configs, the command line and results.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|value| value.name()).collect();
                    Error::invalid(format!("unknown {} '{text}': known are {}", $what, known.join(", ")))
                })
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.name().to_owned()
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }
    };
}

pub(crate) use named_enum;

named_enum! {
    /// Element type of a collective. Names are the type names inside `cuda/`.
    DType ("data type") {
        /// IEEE 754 binary32.
        F32 = 0 "f32",
        /// IEEE 754 binary64.
        F64 = 1 "f64",
        /// IEEE 754 binary16, accumulated in f32.
        F16 = 2 "f16",
        /// bfloat16, accumulated in f32.
        Bf16 = 3 "bf16",
        /// 8-bit float, 4 exponent bits, no infinity; accumulated in f32.
        E4m3 = 4 "e4m3",
        /// 8-bit float, 5 exponent bits; accumulated in f32.
        E5m2 = 5 "e5m2",
        /// Signed 8-bit integer, wrapping.
        I8 = 6 "i8",
        /// Unsigned 8-bit integer, wrapping.
        U8 = 7 "u8",
        /// Signed 32-bit integer, wrapping.
        I32 = 8 "i32",
        /// Unsigned 32-bit integer, wrapping.
        U32 = 9 "u32",
        /// Signed 64-bit integer, wrapping.
        I64 = 10 "i64",
        /// Unsigned 64-bit integer, wrapping.
        U64 = 11 "u64",
    }
}

named_enum! {
    /// What the ranks do together. `n` ranks; a **part** is what one rank gives or gets of a whole of n parts, in rank order.
    Collective ("collective") {
        /// Every rank gets the reduction of all inputs.
        AllReduce = 0 "all_reduce",
        /// Inputs have n parts; each rank gets its part of their reduction.
        ReduceScatter = 1 "reduce_scatter",
        /// Every rank gets the inputs of all ranks, one after another.
        AllGather = 2 "all_gather",
        /// Every rank gets the input of one, the root.
        Broadcast = 3 "broadcast",
    }
}

impl Default for Collective {
    /// What is meant where none is named.
    fn default() -> Self {
        Self::AllReduce
    }
}

impl Collective {
    /// Whether it reduces; else it moves bytes, whatever they mean.
    pub const fn has_operator(self) -> bool {
        matches!(self, Self::AllReduce | Self::ReduceScatter)
    }

    /// Whether what the ranks give or get is a part of a whole that has one for each of them.
    pub const fn has_parts(self) -> bool {
        matches!(self, Self::ReduceScatter | Self::AllGather)
    }

    /// The type and operator that its kernels are compiled for: where bytes are moved, one of each size of an element; where integers
    /// wrap, for which signs make no difference, the unsigned ones.
    pub const fn compiled_for(self, dtype: DType, op: ReduceOp) -> (DType, ReduceOp) {
        if self.has_operator() {
            let wraps = matches!(op, ReduceOp::Sum | ReduceOp::Prod);
            return (if wraps { dtype.unsigned() } else { dtype }, op);
        }
        let dtype = match dtype.size_bytes() {
            1 => DType::U8,
            2 => DType::F16,
            4 => DType::U32,
            _ => DType::U64,
        };
        (dtype, ReduceOp::Sum)
    }
}

named_enum! {
    /// What a thread does between two polls. Names are those of `cuda/sync/wait.cuh`.
    Wait ("wait policy") {
        /// Polls bare at first, then with sleeps that grow.
        Adaptive = 0 "adaptive",
        /// Polls bare, without a sleep.
        Spin = 1 "spin",
        /// Sleeps as short as it can after every poll.
        Yield = 2 "yield",
        /// As `Adaptive`, with two polls under way at first.
        Paired = 3 "paired",
    }
}

named_enum! {
    /// How many barriers of the CTA a kernel has. Names are those of `cuda/sync/phase.cuh`.
    SyncPolicy ("sync policy") {
        /// Those that an ordering needs.
        Light = 0 "light",
        /// One more after every phase of the kernel, to measure what barriers cost.
        Strict = 1 "strict",
    }
}

named_enum! {
    /// Where the packs that a thread fetches lie in shared memory: see `cuda/proto/prefetch.cuh`.
    Places ("order of places") {
        /// Packs of one rank lie together, thread by thread.
        Coalesced = 0 "coalesced",
        /// Packs of one thread lie together, rotated so that threads meet in no bank.
        Swizzled = 1 "swizzled",
    }
}

named_enum! {
    /// How consumer warps learn which piece of a message lies in a stage: see `cuda/algo/ring_specialized.cuh`.
    Metadata ("way of sharing metadata") {
        /// They go through the same list as the producer warps.
        Derived = 0 "derived",
        /// A producer warp leaves a note beside the stage.
        Shared = 1 "shared",
    }
}

named_enum! {
    /// How the steps of a ring are launched.
    Launching ("way of launching") {
        /// One launch, which loops over all steps.
        Persistent = 0 "persistent",
        /// A launch a step.
        PerStep = 1 "per_step",
    }
}

named_enum! {
    /// How results get into a rank's output.
    Output ("way of a result into the output") {
        /// Through a slot of the heap, from which the rank copies it.
        Staged = 0 "staged",
        /// Stored there by the rank before, without a copy; the output lies in a registered window.
        Direct = 1 "direct",
        /// As direct, and what is reduced on the way lands there too, in place of slots: input and output lie apart on every rank.
        /// A failed operation leaves nothing of the outputs of a window, also where the rank has not called it.
        Landing = 2 "landing",
    }
}

impl DType {
    /// Size of one element in bytes; also the alignment a buffer of it needs.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Elements of a pack of 16 bytes.
    pub const fn pack_elements(self) -> u64 {
        PACK_BYTES / self.size_bytes() as u64
    }

    /// Whether the type is a float of any width.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16 | Self::E4m3 | Self::E5m2)
    }

    /// Whether the type is one of the 8-bit floats.
    pub const fn is_fp8(self) -> bool {
        matches!(self, Self::E4m3 | Self::E5m2)
    }

    /// Whether sums of a few ordinary values may exceed it.
    pub(crate) const fn has_narrow_range(self) -> bool {
        matches!(self, Self::F16 | Self::E4m3 | Self::E5m2)
    }

    /// The unsigned type of the same size, for an integer; else the type itself.
    pub(crate) const fn unsigned(self) -> Self {
        match self {
            Self::I8 => Self::U8,
            Self::I32 => Self::U32,
            Self::I64 => Self::U64,
            other => other,
        }
    }
}

named_enum! {
    /// Reduction operator. Names are the functor names inside `cuda/`.
    ReduceOp ("operator") {
        /// x0 + x1 + ..., integers wrapping.
        Sum = 0 "sum",
        /// x0 * x1 * ..., integers wrapping.
        Prod = 1 "prod",
        /// Smallest; a NaN anywhere gives NaN.
        Min = 2 "min",
        /// Largest; a NaN anywhere gives NaN.
        Max = 3 "max",
        /// Sum divided by the world size; integers divide the wrapped sum, toward zero.
        Avg = 4 "avg",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for &dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
        }
        for &op in ReduceOp::ALL {
            assert_eq!(op.name().parse::<ReduceOp>().unwrap(), op);
        }
        for &collective in Collective::ALL {
            assert_eq!(collective.name().parse::<Collective>().unwrap(), collective);
        }
    }

    #[test]
    fn what_gives_the_same_bits_shares_a_kernel() {
        for &dtype in DType::ALL {
            assert_eq!(Collective::ReduceScatter.compiled_for(dtype, ReduceOp::Max), (dtype, ReduceOp::Max));
            assert_eq!(Collective::AllReduce.compiled_for(dtype, ReduceOp::Avg), (dtype, ReduceOp::Avg));
            let (summed, _) = Collective::AllReduce.compiled_for(dtype, ReduceOp::Sum);
            assert_eq!((summed.size_bytes(), summed.is_float()), (dtype.size_bytes(), dtype.is_float()));
            let (moved, op) = Collective::Broadcast.compiled_for(dtype, ReduceOp::Max);
            assert_eq!((moved.size_bytes(), op), (dtype.size_bytes(), ReduceOp::Sum));
            assert_eq!(Collective::AllGather.compiled_for(moved, op), (moved, op));
            assert!(!moved.is_fp8(), "a type that some architectures lack");
        }
        for (signed, unsigned) in [(DType::I8, DType::U8), (DType::I32, DType::U32), (DType::I64, DType::U64)] {
            for op in [ReduceOp::Sum, ReduceOp::Prod] {
                assert_eq!(Collective::AllReduce.compiled_for(signed, op), (unsigned, op));
                assert_eq!(Collective::AllReduce.compiled_for(unsigned, op), (unsigned, op));
            }
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let message = "f31".parse::<DType>().unwrap_err().to_string();
        assert!(message.contains("f31") && message.contains("bf16"), "{message}");
    }
}
