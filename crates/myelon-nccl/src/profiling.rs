//! NCCL's functions by their second names, `pncclAllReduce` and so on. A tool that puts functions of NCCL's names before a program's calls
//! these for what it stands before.

#![allow(non_snake_case, reason = "these are NCCL's names")]
#![allow(clippy::missing_safety_doc, reason = "the promises are those of NCCL's documentation")]
#![allow(clippy::too_many_arguments, reason = "as many as NCCL's")]

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::abi::{Comm, Stream, UniqueId};
use crate::real::functions;

macro_rules! second {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            /// As the function without the `p`.
            #[unsafe(export_name = concat!("p", stringify!($name)))]
            pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller's promises are those of that function.
                unsafe { crate::$name($($argument),*) }
            }
        )*
    };
}

macro_rules! names {
    (
        own { $($own:tt)* }
        stream { $(fn $stream:ident($($argument:ident: $type:ty),*) moves $moves:tt;)* }
        plain { $($plain:tt)* }
    ) => {
        second! { $($own)* }
        second! { $(fn $stream($($argument: $type),*) -> c_int;)* }
        second! { $($plain)* }
    };
}
functions!(names);
