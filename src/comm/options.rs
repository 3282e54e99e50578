//! What a communicator can be told, and the environment variables that say the same.

use std::sync::Arc;
use std::time::Duration;

use crate::abi::MAX_LANES;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::memory::HeapLimits;
use crate::table::LaneTable;
use crate::types::{DType, ReduceOp};
use crate::variant::{Choice, Lanes, Manifest, Shape};

/// Settings of a communicator, for all ranks alike.
///
/// Ranks on which these differ refuse each other, but for `share_devices`, `transient_streams` and `prepare`: giving all ranks the same `prepare` is
/// the caller's part.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest wait inside a kernel; zero waits until aborted. `MYELON_TIMEOUT`, in seconds; 30 by default.
    pub timeout: Duration,
    /// What the heap has room for; if absent, by device kind, and all that `table` and `choice` ask for.
    pub limits: Option<HeapLimits>,
    /// In place of their [`HeapLimits::sentinel_bytes`]: with less, a heap is smaller by three times the difference, and messages run
    /// in more pieces. `MYELON_MAILBOX`, such as `8M`.
    pub mailbox: Option<Bytes>,
    /// Most lanes of an operation: each is a CTA and takes an SM from kernels beside it, so fewer are for programs that compute meanwhile.
    /// Large messages take longer; the heap has room for no more. `MYELON_MAX_LANES`.
    pub max_lanes: Option<u32>,
    /// The lane table; if absent, that of this build for the GPU, link and world size. `MYELON_LANE_TABLE` names a file. What it has
    /// no rows for, a rule of the device kind chooses.
    pub table: Option<Arc<LaneTable>>,
    /// A variant to use wherever it can, instead of the table's. `MYELON_VARIANT`, `MYELON_LANES`.
    pub choice: Option<Choice>,
    /// Whether floats may use sentinel mailboxes. `MYELON_SENTINEL=0` turns them off.
    pub sentinel: bool,
    /// Whether several ranks may use one GPU: for tests of correctness. Where `limits` is absent, it also lowers the lanes that the
    /// heap has room for, so that the ranks on a GPU find room there together.
    pub share_devices: bool,
    /// What to do where ranks cannot reach each other's memory; [`Fallback::Refuse`] by default.
    pub fallback: Fallback,
    /// Whether streams may be destroyed as soon as their work has ended, without a word to the communicator: every operation outside
    /// captures is then followed by an event of its own.
    pub transient_streams: bool,
    /// Types and operators to compile and load at once; none by default, `f32` sums with [`Options::from_env`].
    pub prepare: Vec<(DType, ReduceOp)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            limits: None,
            mailbox: None,
            max_lanes: None,
            table: None,
            choice: None,
            sentinel: true,
            share_devices: false,
            fallback: Fallback::Refuse,
            transient_streams: false,
            prepare: Vec::new(),
        }
    }
}

/// What to do where this machine cannot run Myelon's kernels between the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Say what is missing.
    Refuse,
    /// Run on NCCL, and say so in the log and in [`Communicator::engine`](super::Communicator::engine).
    Nccl,
}

impl Options {
    /// The defaults, changed by the environment.
    ///
    /// Errors: [`Error::Config`] naming the variable whose value cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// Heap limits with what is set here beside [`Options::limits`].
    pub fn adjusted(&self, limits: HeapLimits) -> HeapLimits {
        limits.with_mailboxes(self.mailbox).with_lanes(self.max_lanes)
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = |key: &str, value: &str, detail: &str| Error::Config {
            source_name: "environment".into(),
            key: key.into(),
            detail: format!("'{value}' {detail}"),
        };
        let mut options = Self { prepare: vec![(DType::F32, ReduceOp::Sum)], ..Self::default() };
        if let Some(text) = variable("MYELON_TIMEOUT") {
            let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            options.timeout = seconds
                .filter(|timeout| timeout.as_nanos() < u128::from(u64::MAX))
                .ok_or_else(|| wrong("MYELON_TIMEOUT", &text, "is not a number of seconds; 0 means none"))?;
        }
        if let Some(path) = variable("MYELON_LANE_TABLE").filter(|path| !path.is_empty()) {
            options.table = Some(super::tables::read(&path)?);
        }
        if let Some(text) = variable("MYELON_SENTINEL") {
            options.sentinel = match text.as_str() {
                "1" => true,
                "0" => false,
                _ => return Err(wrong("MYELON_SENTINEL", &text, "is neither 0 nor 1")),
            };
        }
        if let Some(text) = variable("MYELON_MAILBOX") {
            // Any part of it that a peer may have is whole cache lines.
            let fits = |bytes: &Bytes| bytes.0.is_multiple_of(1 << 10) && (1 << 10..=1 << 30).contains(&bytes.0);
            let mailbox = text.parse().ok().filter(fits);
            let detail = "is no size from 1K to 1G in whole K, such as 8M";
            options.mailbox = Some(mailbox.ok_or_else(|| wrong("MYELON_MAILBOX", &text, detail))?);
        }
        if let Some(text) = variable("MYELON_MAX_LANES") {
            let lanes = text.parse().ok().filter(|lanes| (1..=MAX_LANES).contains(lanes));
            let detail = format!("is no number from 1 to {MAX_LANES}");
            options.max_lanes = Some(lanes.ok_or_else(|| wrong("MYELON_MAX_LANES", &text, &detail))?);
        }
        let lanes = match variable("MYELON_LANES") {
            Some(text) => {
                Some(text.parse::<Lanes>().map_err(|error| wrong("MYELON_LANES", &text, &error.to_string()))?)
            }
            None => None,
        };
        if let Some(name) = variable("MYELON_VARIANT").filter(|name| name != "auto") {
            let variant = Manifest::embedded().get(&name)?;
            let shape = Shape { lanes, ..Shape::default() };
            let lanes = lanes.map_or(String::new(), |lanes| lanes.to_string());
            variant.takes(&shape).map_err(|error| wrong("MYELON_LANES", &lanes, &error.to_string()))?;
            options.choice = Some(Choice { variant: Arc::clone(variant), shape });
        } else if lanes.is_some() {
            return Err(wrong("MYELON_LANES", "", "needs MYELON_VARIANT beside it"));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Options> {
        Options::from_variables(&|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_is_heard() {
        let options =
            parse(&[("MYELON_TIMEOUT", "0.5"), ("MYELON_SENTINEL", "0"), ("MYELON_VARIANT", "one_shot_push")]).unwrap();
        assert_eq!(options.timeout, Duration::from_millis(500));
        assert!(!options.sentinel && options.choice.is_some());
        assert_eq!(parse(&[("MYELON_MAILBOX", "8M")]).unwrap().mailbox, Some(Bytes(8 << 20)));
        assert_eq!(parse(&[("MYELON_MAX_LANES", "32")]).unwrap().max_lanes, Some(32));
        let options = parse(&[("MYELON_VARIANT", "ring"), ("MYELON_LANES", "by_size")]).unwrap();
        assert_eq!(options.choice.unwrap().shape.lanes, Some(Lanes::BySize));
    }

    #[test]
    fn wrong_values_name_their_variable() {
        for (key, value) in
            [("MYELON_TIMEOUT", "soon"), ("MYELON_TIMEOUT", "-1"), ("MYELON_SENTINEL", "yes"), ("MYELON_LANES", "2")]
        {
            assert!(parse(&[(key, value)]).unwrap_err().to_string().contains(key));
        }
        for size in ["much", "0", "1000", "2G"] {
            let error = parse(&[("MYELON_MAILBOX", size)]).unwrap_err().to_string();
            assert!(error.contains("MYELON_MAILBOX") && error.contains("such as 8M"), "{error}");
        }
        for lanes in ["0", "129", "few"] {
            let error = parse(&[("MYELON_MAX_LANES", lanes)]).unwrap_err().to_string();
            assert!(error.contains("MYELON_MAX_LANES") && error.contains("1 to 128"), "{error}");
        }
        for lanes in ["0", "129", "many"] {
            let error = parse(&[("MYELON_VARIANT", "ring"), ("MYELON_LANES", lanes)]).unwrap_err().to_string();
            assert!(error.contains("MYELON_LANES") && error.contains("by_size"), "{error}");
        }
        assert!(parse(&[("MYELON_VARIANT", "warp_drive")]).is_err());
        let error = parse(&[("MYELON_LANE_TABLE", "/nonexistent/t.toml")]).unwrap_err().to_string();
        assert!(error.contains("cannot read /nonexistent/t.toml"), "{error}");
    }
}
