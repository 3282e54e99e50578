//! Which libraries are measured beside Myelon.

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::Baseline;
use myelon_ccl::{Error, Result, WorldSize};

use crate::args::{Against, SweepArgs};
use crate::here::Surroundings;

/// Whether there is a library to measure against: NCCL refuses two ranks on one GPU.
pub(crate) fn has_rivals(device: DeviceKind, shares_gpus: bool, here: &dyn Surroundings) -> bool {
    device == DeviceKind::Cuda && !shares_gpus && here.has_nccl()
}

/// What a sweep is measured against: what was asked for, else NCCL where there is one. In the order of columns.
///
/// Errors: one that says why what was asked for cannot be measured here.
pub(crate) fn baselines(
    args: &SweepArgs,
    device: DeviceKind,
    ranks: WorldSize,
    shares_gpus: bool,
    here: &dyn Surroundings,
) -> Result<Vec<Baseline>> {
    let Some(asked) = &args.against else {
        let usual = if args.overlap { &Baseline::ALL[..] } else { &[Baseline::Nccl] };
        return Ok(if has_rivals(device, shares_gpus, here) { usual.to_vec() } else { Vec::new() });
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
    if shares_gpus {
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
