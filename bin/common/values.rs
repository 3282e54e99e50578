//! Values of arguments that several programs take.

use clap::{Args, ValueEnum};
use myelon_ccl::{DType, Error, ReduceOp, WorldSize};

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

/// A number of ranks.
pub(crate) fn ranks(text: &str) -> Result<WorldSize, Error> {
    let number = text.parse().map_err(|_| Error::invalid("write a whole number of ranks, 1 to 8"))?;
    WorldSize::new(number)
}

#[cfg(test)]
mod tests {
    use super::*;

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
