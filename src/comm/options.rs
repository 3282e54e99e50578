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
    /// Most lanes of messages of [`LARGE_BYTES`](crate::variant::LARGE_BYTES) and more: while other kernels run, these take their SMs for
    /// longest. Smaller ones have theirs, and the heap room for all. `MYELON_LARGE_LANES`.
    pub large_lanes: Option<u32>,
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
            large_lanes: None,
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
    ///
    /// NCCL connects the ranks in their first operation, whose call waits for all of them, whatever becomes of them. Once a peer is lost or
    /// has given up, as [`Communicator::status`](super::Communicator::status) then says, NCCL's communicator is gone: graphs with its
    /// operations are not launched any more.
    Nccl,
}

impl Options {
    /// [`Options::large_lanes`] of the backends of training code, unless the environment bounds lanes: a backward pass runs meanwhile.
    ///
    /// 4x H200, 2026-11-27: 256 MiB beside a product of matrices take 1847 us with 64 and slow it 1.35 times, 2338 us and 1.75 times with
    /// 128; alone 1160 and 1117 us. GPT-2 under DDP, 2026-11-28: a step 47.50 ms with 64, 47.80 with 128, NCCL 47.47.
    pub const LARGE_LANES_OF_TRAINING: u32 = 64;

    /// The defaults, changed by the environment. An empty variable counts as unset.
    ///
    /// Errors: [`Error::Config`] naming the first variable whose value cannot be used.
    pub fn from_env() -> Result<Self> {
        let (options, wrong) = Self::heard_from_env();
        wrong.into_iter().next().map_or(Ok(options), Err)
    }

    /// The defaults, changed by those variables that can be used; with each other one, the error that names it.
    pub fn heard_from_env() -> (Self, Vec<Error>) {
        Self::heard(&|name| std::env::var(name).ok())
    }

    /// Heap limits with what is set here beside [`Options::limits`].
    pub fn adjusted(&self, limits: HeapLimits) -> HeapLimits {
        limits.with_mailboxes(self.mailbox).with_lanes(self.max_lanes)
    }

    fn heard(variable: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<Error>) {
        let mut heard = Heard { variable, wrong: Vec::new() };
        let defaults = Self::default();
        let timeout = heard.parsed("MYELON_TIMEOUT", |text| {
            let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let timeout = seconds.filter(|timeout| timeout.as_nanos() < u128::from(u64::MAX));
            timeout.ok_or_else(|| format!("'{text}' is not a number of seconds; 0 means none"))
        });
        let table =
            heard.parsed("MYELON_LANE_TABLE", |path| super::tables::read(path).map_err(|error| error.to_string()));
        let sentinel = heard.parsed("MYELON_SENTINEL", |text| match text {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(format!("'{text}' is neither 0 nor 1")),
        });
        let mailbox = heard.parsed("MYELON_MAILBOX", |text| {
            // Any part of it that a peer may have is whole cache lines.
            let fits = |bytes: &Bytes| bytes.0.is_multiple_of(1 << 10) && (1 << 10..=1 << 30).contains(&bytes.0);
            let mailbox = text.parse().ok().filter(fits);
            mailbox.ok_or_else(|| format!("'{text}' is no size from 1K to 1G in whole K, such as 8M"))
        });
        let max_lanes = heard.parsed("MYELON_MAX_LANES", lanes);
        let large_lanes = heard.parsed("MYELON_LARGE_LANES", lanes);
        let options = Self {
            timeout: timeout.unwrap_or(defaults.timeout),
            table,
            sentinel: sentinel.unwrap_or(defaults.sentinel),
            mailbox,
            max_lanes,
            large_lanes,
            choice: heard.choice(),
            prepare: vec![(DType::F32, ReduceOp::Sum)],
            ..defaults
        };
        (options, heard.wrong)
    }
}

fn lanes(text: &str) -> Result<u32, String> {
    let lanes = text.parse().ok().filter(|lanes| (1..=MAX_LANES).contains(lanes));
    lanes.ok_or_else(|| format!("'{text}' is no number from 1 to {MAX_LANES}"))
}

/// The environment, and what is wrong with it so far.
struct Heard<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    wrong: Vec<Error>,
}

impl Heard<'_> {
    fn text(&self, key: &str) -> Option<String> {
        (self.variable)(key).filter(|text| !text.is_empty())
    }

    /// The value of a variable; `None` where it is unset, or wrong.
    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        let outcome = parse(&text);
        outcome
            .map_err(|detail| {
                self.wrong.push(Error::Config { source_name: "environment".into(), key: key.into(), detail });
            })
            .ok()
    }

    /// `MYELON_VARIANT` with `MYELON_LANES`, which is nothing without it.
    fn choice(&mut self) -> Option<Choice> {
        let name = self.text("MYELON_VARIANT");
        let variant = self.parsed("MYELON_VARIANT", |name| match name {
            "auto" => Ok(None),
            _ => Manifest::embedded().get(name).map(Some).map_err(|error| error.to_string()),
        });
        let lanes = self.parsed("MYELON_LANES", |text| {
            let wrong = |error: Error| format!("'{text}' {error}");
            let lanes = text.parse::<Lanes>().map_err(wrong)?;
            match (&variant, name.as_deref()) {
                (Some(Some(variant)), _) => {
                    variant.takes(&Shape { lanes: Some(lanes), ..Shape::default() }).map_err(wrong)?;
                }
                // A name that is wrong is told already.
                (None, Some(_)) => {}
                (_, name) => {
                    let without = name.map_or("", |_| ", and auto is none");
                    return Err(format!(
                        "'{text}' needs a variant in MYELON_VARIANT beside it{without}: MYELON_MAX_LANES bounds the lanes of all"
                    ));
                }
            }
            Ok(lanes)
        });
        let variant = Arc::clone(variant??);
        Some(Choice { variant, shape: Shape { lanes, ..Shape::default() } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pairs: &[(&str, &str)]) -> (Options, Vec<Error>) {
        Options::heard(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<Options> {
        let (options, wrong) = heard(pairs);
        wrong.into_iter().next().map_or(Ok(options), Err)
    }

    #[test]
    fn the_environment_is_heard() {
        let options =
            parse(&[("MYELON_TIMEOUT", "0.5"), ("MYELON_SENTINEL", "0"), ("MYELON_VARIANT", "one_shot_push")]).unwrap();
        assert_eq!(options.timeout, Duration::from_millis(500));
        assert!(!options.sentinel && options.choice.is_some());
        assert_eq!(parse(&[("MYELON_MAILBOX", "8M")]).unwrap().mailbox, Some(Bytes(8 << 20)));
        let options = parse(&[("MYELON_MAX_LANES", "32"), ("MYELON_LARGE_LANES", "16")]).unwrap();
        assert_eq!((options.max_lanes, options.large_lanes), (Some(32), Some(16)));
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
        for key in ["MYELON_MAX_LANES", "MYELON_LARGE_LANES"] {
            for lanes in ["0", "129", "few"] {
                let error = parse(&[(key, lanes)]).unwrap_err().to_string();
                assert!(error.contains(key) && error.contains("1 to 128"), "{error}");
            }
        }
        for lanes in ["0", "129", "many"] {
            let error = parse(&[("MYELON_VARIANT", "ring"), ("MYELON_LANES", lanes)]).unwrap_err().to_string();
            assert!(error.contains("MYELON_LANES") && error.contains("by_size"), "{error}");
        }
        for lanes in [&[("MYELON_LANES", "4")][..], &[("MYELON_LANES", "4"), ("MYELON_VARIANT", "auto")]] {
            let error = parse(lanes).unwrap_err().to_string();
            assert!(error.contains("MYELON_LANES: '4' needs a variant in MYELON_VARIANT"), "{error}");
            assert_eq!(error.contains("auto is none"), lanes.len() == 2, "{error}");
        }
        let error = parse(&[("MYELON_VARIANT", "warp_drive")]).unwrap_err().to_string();
        assert!(error.contains("MYELON_VARIANT: unknown variant 'warp_drive'"), "{error}");
        let error = parse(&[("MYELON_LANE_TABLE", "/nonexistent/t.toml")]).unwrap_err().to_string();
        assert!(error.contains("MYELON_LANE_TABLE: cannot read /nonexistent/t.toml"), "{error}");
    }

    #[test]
    fn every_wrong_variable_is_told_and_the_others_are_heard() {
        let (options, wrong) = heard(&[
            ("MYELON_TIMEOUT", "soon"),
            ("MYELON_LANE_TABLE", "/nonexistent/t.toml"),
            ("MYELON_SENTINEL", "yes"),
            ("MYELON_MAX_LANES", "7"),
            ("MYELON_VARIANT", "warp_drive"),
            ("MYELON_LANES", "4"),
        ]);
        let keys: Vec<_> = wrong.iter().map(|error| error.to_string().split(": ").nth(1).unwrap().to_owned()).collect();
        assert_eq!(keys, ["MYELON_TIMEOUT", "MYELON_LANE_TABLE", "MYELON_SENTINEL", "MYELON_VARIANT"]);
        assert_eq!((options.max_lanes, options.timeout), (Some(7), Options::default().timeout));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let names = ["TIMEOUT", "LANE_TABLE", "VARIANT", "LANES", "SENTINEL", "MAILBOX", "MAX_LANES", "LARGE_LANES"];
        for name in names.map(|name| format!("MYELON_{name}")) {
            let (options, wrong) = heard(&[(&name, "")]);
            assert!(wrong.is_empty() && options.choice.is_none() && options.sentinel, "{name}: {wrong:?}");
        }
    }
}
