//! The functions that are forwarded as they are. Those that queue work are counted, and ordered behind Myelon's operations of the
//! same communicator.

#![allow(non_snake_case, reason = "these are NCCL's names")]
#![allow(clippy::missing_safety_doc, reason = "the promises are those of NCCL's documentation")]
#![allow(clippy::too_many_arguments, reason = "as many as NCCL's")]

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::abi::{Comm, Stream, UINT8, UniqueId, bytes};
use crate::log::Named;
use crate::real::{call_real, functions};
use crate::{communicators, failure, group, guard};

/// What a forwarded function gives where it cannot be called.
trait Outcome {
    fn of_code(code: c_int) -> Self;
    /// Takes note of what NCCL answered.
    fn noted(self) -> Self;
}

impl Outcome for c_int {
    fn of_code(code: c_int) -> Self {
        code
    }

    fn noted(self) -> Self {
        failure::theirs(self)
    }
}

impl Outcome for () {
    fn of_code(_code: c_int) {}

    fn noted(self) {}
}

macro_rules! exports {
    (
        own { $($own:tt)* }
        stream { $(fn $stream:ident($($stream_arg:ident: $stream_type:ty),*) moves ($comm:ident, $on:ident, $count:expr, $datatype:expr);)* }
        plain { $(fn $plain:ident($($plain_arg:ident: $plain_type:ty),*) -> $plain_result:ty;)* }
    ) => {
        $(
            /// As NCCL's: queued by NCCL.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $stream($($stream_arg: $stream_type),*) -> c_int {
                let forward = || call_real!($stream($($stream_arg),*));
                if guard::is_inside() {
                    return forward();
                }
                guard::no_panic(|| {
                    let moved = bytes($count as usize, $datatype);
                    group::by_nccl(communicators::find($comm), Named::$stream, moved, $on, forward)
                })
            }
        )*
        $(
            /// As NCCL's: forwarded.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $plain($($plain_arg: $plain_type),*) -> $plain_result {
                match $crate::real::real() {
                    Err(why) => Outcome::of_code($crate::real::absent(why)),
                    Ok(real) => match real.$plain {
                        None => Outcome::of_code($crate::real::lacking(stringify!($plain))),
                        // SAFETY: the caller made NCCL's promises for these arguments.
                        Some(function) => guard::inside(|| unsafe { function($($plain_arg),*) }).noted(),
                    },
                }
            }
        )*
    };
}
functions!(exports);
