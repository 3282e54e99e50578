//! Which libraries are measured beside Myelon.

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::Baseline;
use myelon_ccl::{Error, Result, WorldSize};

use crate::args::{Against, SweepArgs};
use crate::request::Surroundings;

/// Whether ranks share GPUs: NCCL refuses two on one.
fn shares(args: &SweepArgs, ranks: WorldSize, here: &dyn Surroundings) -> bool {
    args.share_gpus && ranks.get() > here.gpus()
}

/// Whether there is a library to measure against.
pub(crate) fn has_rivals(args: &SweepArgs, device: DeviceKind, ranks: WorldSize, here: &dyn Surroundings) -> bool {
    device == DeviceKind::Cuda && !shares(args, ranks, here) && here.has_nccl()
}

/// What a sweep is measured against: what was asked for, else NCCL where there is one. In the order of columns.
///
/// Errors: one that says why what was asked for cannot be measured here.
pub(crate) fn baselines(
    args: &SweepArgs,
    device: DeviceKind,
    ranks: WorldSize,
    here: &dyn Surroundings,
) -> Result<Vec<Baseline>> {
    let Some(asked) = &args.against else {
        return Ok(if has_rivals(args, device, ranks, here) { vec![Baseline::Nccl] } else { Vec::new() });
    };
    let chosen: Vec<_> =
        Baseline::ALL.into_iter().filter(|&baseline| asked.contains(&Against::Baseline(baseline))).collect();
    let Some(first) = chosen.first() else { return Ok(chosen) };
    if asked.contains(&Against::None) {
        return Err(Error::invalid(format!("--against {first} and none: leave one of the two out")));
    }
    if device == DeviceKind::Cpu {
        return Err(Error::unsupported(format!("--against {first}: NCCL runs on GPUs only; leave it out on the CPU")));
    }
    if shares(args, ranks, here) {
        return Err(Error::unsupported(format!(
            "--against {first}: NCCL needs a GPU for each of the {ranks} ranks; leave it out where ranks share GPUs"
        )));
    }
    if !here.has_nccl() {
        return Err(Error::unsupported(format!(
            "--against {first}: libnccl.so.2 was not found; put its directory into LD_LIBRARY_PATH"
        )));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::fake::{CPU, Fake, NODE, check, refused};

    #[test]
    fn baselines_need_gpus_and_nccl() {
        assert_eq!(check("--against nccl_symmetric,nccl", NODE).unwrap().against, Baseline::ALL);
        refused("--against nccl", CPU, "NCCL runs on GPUs only");
        refused("--against nccl", Fake { nccl: false, ..NODE }, "libnccl.so.2 was not found");
        refused("--against nccl,none", NODE, "leave one of the two out");
        let one = Fake { gpus: 1, ..NODE };
        refused("--ranks 2 --share-gpus --against nccl", one, "NCCL needs a GPU for each of the 2 ranks");
        assert!(check("--ranks 2 --share-gpus", one).unwrap().against.is_empty());
        assert_eq!(check("--share-gpus", NODE).unwrap().against, [Baseline::Nccl]);
    }
}
