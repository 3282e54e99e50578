//! What the environment tells this library. `docs/NCCL.md` lists the variables.

use std::sync::OnceLock;

use myelon_ccl::{Collective, DType, ReduceOp};

/// Where the ranks' operations run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the GPU of the communicator.
    Gpu,
    /// On the CPU device, with host pointers, every call waited for: for tests.
    Cpu,
}

/// A collective that is taken, up to a size: bytes of all ranks' parts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) collective: Collective,
    pub(crate) most_bytes: u64,
}

impl Taken {
    const fn whole(collective: Collective) -> Self {
        Self { collective, most_bytes: u64::MAX }
    }
}

/// What was measured to be faster than NCCL over three and four ranks: `results/4x-h200`.
const OVER_THREE_AND_FOUR: [Taken; 4] = [
    Taken::whole(Collective::AllReduce),
    Taken::whole(Collective::ReduceScatter),
    Taken::whole(Collective::AllGather),
    Taken { collective: Collective::Broadcast, most_bytes: 256 << 10 },
];

/// Read once, at the first communicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `MYELON_NCCL_DISABLE=1`: forward everything.
    pub(crate) disabled: bool,
    /// `MYELON_NCCL_LOG=1`: say at exit who took what, and when a communicator is attached.
    pub(crate) log: bool,
    /// `MYELON_NCCL_COLLECTIVES`: what is taken; none where it is for [`Settings::taken`] to say.
    pub(crate) collectives: Option<Vec<Collective>>,
    /// `MYELON_NCCL_PREPARE`: types and operators whose kernels are made ready with a communicator. Others are forwarded.
    pub(crate) prepare: Vec<(DType, ReduceOp)>,
    /// `MYELON_NCCL_DEVICE`.
    pub(crate) place: Place,
}

impl Settings {
    /// What is taken of a communicator of `ranks` ranks: unless the user says, what was measured to be faster than NCCL from 1 KiB on
    /// (`results/4x-h200`), and all-reduces where nothing was.
    pub(crate) fn taken(&self, ranks: u32) -> Vec<Taken> {
        let whole = |collectives: &[Collective]| collectives.iter().copied().map(Taken::whole).collect();
        match (&self.collectives, ranks) {
            (Some(collectives), _) => whole(collectives),
            (None, ..=2) => whole(Collective::ALL),
            (None, 3 | 4) => OVER_THREE_AND_FOUR.to_vec(),
            (None, _) => whole(&[Collective::AllReduce]),
        }
    }
}

/// The settings of this process; a variable that cannot be understood is the error, and nothing is taken then.
pub(crate) fn settings() -> &'static Result<Settings, String> {
    static SETTINGS: OnceLock<Result<Settings, String>> = OnceLock::new();
    SETTINGS.get_or_init(|| parse(&|name| std::env::var(name).ok().filter(|value| !value.is_empty())))
}

/// What frameworks reduce by default: gradients and activations, and counters and flags beside them.
fn usual() -> Vec<(DType, ReduceOp)> {
    let floats = [DType::F32, DType::F16, DType::Bf16];
    let integers = [DType::I32, DType::I64, DType::U8];
    let of = |types: [DType; 3], ops: [ReduceOp; 2]| {
        types.into_iter().flat_map(move |dtype| ops.into_iter().map(move |op| (dtype, op)))
    };
    of(floats, [ReduceOp::Sum, ReduceOp::Avg]).chain(of(integers, [ReduceOp::Sum, ReduceOp::Max])).collect()
}

fn everything() -> Vec<(DType, ReduceOp)> {
    DType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.iter().map(move |&op| (dtype, op))).collect()
}

fn parse(variable: &dyn Fn(&str) -> Option<String>) -> Result<Settings, String> {
    let switch = |name: &str| match variable(name).as_deref() {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(format!("{name}='{other}' is neither 0 nor 1")),
    };
    let prepare = match variable("MYELON_NCCL_PREPARE").as_deref() {
        None => usual(),
        Some("all") => everything(),
        Some(list) => list.split(',').map(pair).collect::<Result<_, _>>()?,
    };
    let collectives = match variable("MYELON_NCCL_COLLECTIVES").as_deref() {
        None => None,
        Some("all") => Some(Collective::ALL.to_vec()),
        Some(list) => {
            let wrong = |error: myelon_ccl::Error| format!("MYELON_NCCL_COLLECTIVES: {error}; or write all");
            Some(list.split(',').map(|name| name.trim().parse().map_err(wrong)).collect::<Result<_, _>>()?)
        }
    };
    let place = match variable("MYELON_NCCL_DEVICE").as_deref() {
        None | Some("gpu") => Place::Gpu,
        Some("cpu") => Place::Cpu,
        Some(other) => return Err(format!("MYELON_NCCL_DEVICE='{other}' is neither gpu nor cpu")),
    };
    let (disabled, log) = (switch("MYELON_NCCL_DISABLE")?, switch("MYELON_NCCL_LOG")?);
    Ok(Settings { disabled, log, collectives, prepare, place })
}

fn pair(text: &str) -> Result<(DType, ReduceOp), String> {
    let wrong = |what: &str| format!("MYELON_NCCL_PREPARE: '{text}' {what}: write all, or f32:sum,bf16:avg");
    let (dtype, op) = text.trim().split_once(':').ok_or_else(|| wrong("is no pair of type and operator"))?;
    let dtype = dtype.parse().map_err(|error: myelon_ccl::Error| wrong(&error.to_string()))?;
    let op = op.parse().map_err(|error: myelon_ccl::Error| wrong(&error.to_string()))?;
    Ok((dtype, op))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        parse(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn without_variables_the_usual_types_are_prepared() {
        let settings = with(&[]).unwrap();
        assert!(!settings.disabled && !settings.log && settings.place == Place::Gpu);
        assert_eq!(settings.prepare.len(), 12);
        assert!(settings.prepare.contains(&(DType::Bf16, ReduceOp::Avg)));
        assert!(!settings.prepare.contains(&(DType::I32, ReduceOp::Avg)));
    }

    #[test]
    fn lists_are_read_and_wrong_ones_name_the_variable() {
        let prepare = |list| with(&[("MYELON_NCCL_PREPARE", list)]).map(|settings| settings.prepare);
        assert_eq!(prepare("f32:sum, bf16:avg").unwrap(), [(DType::F32, ReduceOp::Sum), (DType::Bf16, ReduceOp::Avg)]);
        assert_eq!(prepare("all").unwrap().len(), 60);
        for wrong in ["f32", "f31:sum", "f32:median", "f32:sum,"] {
            assert!(prepare(wrong).unwrap_err().contains("MYELON_NCCL_PREPARE"), "{wrong}");
        }
        let names = |taken: Vec<Taken>| taken.iter().map(|taken| taken.collective).collect::<Vec<_>>();
        let collectives = |list| with(&[("MYELON_NCCL_COLLECTIVES", list)]).map(|settings| names(settings.taken(4)));
        let by_default = |ranks| names(with(&[]).unwrap().taken(ranks));
        assert_eq!(
            [2, 3, 4, 5].map(by_default),
            [Collective::ALL, Collective::ALL, Collective::ALL, &[Collective::AllReduce]]
        );
        assert_eq!(collectives("all_gather, broadcast").unwrap(), [Collective::AllGather, Collective::Broadcast]);
        assert_eq!(collectives("all").unwrap(), Collective::ALL);
        assert!(collectives("all_reduce,send").unwrap_err().contains("MYELON_NCCL_COLLECTIVES"));
        assert!(with(&[("MYELON_NCCL_DISABLE", "yes")]).unwrap_err().contains("neither 0 nor 1"));
        assert!(with(&[("MYELON_NCCL_DEVICE", "tpu")]).is_err());
    }
}
