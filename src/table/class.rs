//! What a section of a lane table is for besides a world size: classes of requests that are measured once for all in them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::types::{DType, ReduceOp, named_enum};

named_enum! {
    /// Element types that move alike: a kernel's time depends on the bytes, and on whether its mailboxes are sentinel ones.
    DTypeClass ("class of data types") {
        /// Floats of 16 bits and more, where sentinels are used.
        Float = 0 "float",
        /// 8-bit floats, where sentinels are used. Where a table has none of these, it takes what it has of the other floats.
        Float8 = 1 "float8",
        /// Integers; and all floats where sentinels are switched off, for both have LL mailboxes.
        Integer = 2 "integer",
    }
}

named_enum! {
    /// Operators that take the same time beside the link.
    OperatorClass ("class of operators") {
        /// All of them: none was seen to differ.
        All = 0 "all",
    }
}

named_enum! {
    /// Whose memory the operands are.
    Buffers ("kind of buffers") {
        /// Any memory of the device.
        Plain = 0 "plain",
        /// Memory that was registered with the communicator. Where a table has none of these, it takes what it has of plain ones.
        Registered = 1 "registered",
    }
}

impl DTypeClass {
    /// The class of a type, where sentinels are used or not.
    pub const fn of(dtype: DType, sentinel: bool) -> Self {
        match (dtype.is_float() && sentinel, dtype.is_fp8()) {
            (true, true) => Self::Float8,
            (true, false) => Self::Float,
            (false, _) => Self::Integer,
        }
    }
}

impl OperatorClass {
    /// The class of an operator.
    pub const fn of(_op: ReduceOp) -> Self {
        Self::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_of_the_mailboxes() {
        let of = |dtype| [true, false].map(|sentinel| DTypeClass::of(dtype, sentinel));
        assert_eq!(of(DType::Bf16), [DTypeClass::Float, DTypeClass::Integer]);
        assert_eq!(of(DType::E4m3), [DTypeClass::Float8, DTypeClass::Integer]);
        assert_eq!(of(DType::U8), [DTypeClass::Integer; 2]);
    }

    #[test]
    fn an_unknown_name_says_what_is_known() {
        let error = "window".parse::<Buffers>().unwrap_err().to_string();
        assert_eq!(error, "unknown kind of buffers 'window': known are plain, registered");
        assert!(Buffers::ALL.iter().all(|&buffers| buffers.name().parse::<Buffers>().unwrap() == buffers));
    }
}
