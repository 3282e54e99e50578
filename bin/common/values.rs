//! Values of arguments that several programs take.

use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use myelon_ccl::{DType, Error, ReduceOp, WorldSize};

/// What is expected of a number that is none.
const WHOLE: &str = "write a whole number, 0 or more, in digits alone";

/// Where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceArg {
    Auto,
    Cuda,
    Cpu,
}

/// Where ranks run, and as what.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Where kernels run; auto takes GPUs where there are any.
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,
    /// How many ranks to start: as many as GPUs unless told, 4 on the CPU; a launcher decides it otherwise.
    #[arg(long, value_name = "N", value_parser = ranks)]
    pub(crate) ranks: Option<WorldSize>,
    /// nccl-tests' name for --ranks; with a launcher it is the GPUs of each process, 1.
    #[arg(short = 'g', long, value_name = "N", value_parser = ranks, conflicts_with = "ranks")]
    pub(crate) ngpus: Option<WorldSize>,
    /// Keep the ranks in this process, a thread each, instead of a process a GPU.
    #[arg(long)]
    pub(crate) threads: bool,
}

/// A named value, or the word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrAll<T> {
    All,
    One(T),
}

/// An element type by its name, or by nccl-tests'.
pub(crate) fn dtype(text: &str) -> Result<OrAll<DType>, Error> {
    let name = match text {
        "all" => return Ok(OrAll::All),
        "float" | "float32" | "fp32" => "f32",
        "double" | "float64" | "fp64" => "f64",
        "half" | "float16" | "fp16" => "f16",
        "bfloat16" => "bf16",
        "f8e4m3" | "fp8e4m3" | "float8_e4m3" => "e4m3",
        "f8e5m2" | "fp8e5m2" | "float8_e5m2" => "e5m2",
        "int8" | "char" => "i8",
        "uint8" => "u8",
        "int32" | "int" => "i32",
        "uint32" => "u32",
        "int64" => "i64",
        "uint64" => "u64",
        other => other,
    };
    name.parse().map(OrAll::One)
}

/// An operator by its name.
pub(crate) fn op(text: &str) -> Result<OrAll<ReduceOp>, Error> {
    if text == "all" { Ok(OrAll::All) } else { text.parse().map(OrAll::One) }
}

/// A whole number that has no bounds but its type's.
pub(crate) fn whole<T: FromStr>(text: &str) -> Result<T, Error> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number =
        if is_number { text.parse().map_err(|_| "too large, write a smaller whole number") } else { Err(WHOLE) };
    number.map_err(Error::invalid)
}

/// A whole number within `bounds`.
pub(crate) fn within(text: &str, bounds: RangeInclusive<u32>) -> Result<u32, Error> {
    let number = whole(text)?;
    if bounds.contains(&number) {
        return Ok(number);
    }
    Err(Error::invalid(format!("{number} is not in {}..={}", bounds.start(), bounds.end())))
}

/// A number of ranks.
pub(crate) fn ranks(text: &str) -> Result<WorldSize, Error> {
    let number = text.parse().map_err(|_| Error::invalid("write a whole number of ranks, 1 to 8"))?;
    WorldSize::new(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_whole_number_is_told_apart() {
        assert_eq!((whole("20").ok(), whole::<u64>("0").ok()), (Some(20u32), Some(0)));
        for text in ["", "-1", "+1", "abc", "1.5", "1K", "\u{661}"] {
            assert!(whole::<u32>(text).unwrap_err().to_string().contains("write a whole number"), "{text}");
        }
        assert!(whole::<u32>("4294967296").unwrap_err().to_string().contains("too large"));
        assert_eq!(within("256", 0..=256).unwrap(), 256);
        assert!(within("257", 0..=256).unwrap_err().to_string().contains("257 is not in 0..=256"));
    }

    #[test]
    fn every_type_goes_by_nccl_tests_name_too() {
        let theirs = [
            "int8", "uint8", "int32", "uint32", "int64", "uint64", "half", "float", "double", "bfloat16", "f8e4m3",
            "f8e5m2",
        ];
        let mut known: Vec<_> = theirs
            .iter()
            .map(|name| match dtype(name).unwrap() {
                OrAll::One(dtype) => dtype,
                OrAll::All => panic!("{name} is one type"),
            })
            .collect();
        known.sort();
        assert_eq!(known, DType::ALL);
        assert_eq!(dtype("all").unwrap(), OrAll::All);
        assert!(dtype("float8").is_err());
    }
}
