//! Which libraries are measured beside Myelon.

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::Baseline;
use myelon_ccl::{Collective, Error, Result, WorldSize};

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
        let usual = if args.overlap { &Baseline::OF_NCCL[..] } else { &[Baseline::Nccl] };
        return Ok(if has_rivals(device, shares_gpus, here) { usual.to_vec() } else { Vec::new() });
    };
    let chosen: Vec<_> =
        Baseline::ALL.into_iter().filter(|&baseline| asked.contains(&Against::Baseline(baseline))).collect();
    let Some(first) = chosen.first() else { return Ok(chosen) };
    if asked.contains(&Against::None) {
        return Err(Error::invalid(format!("--against {first} and none: leave one of the two out")));
    }
    if device == DeviceKind::Cpu {
        let label = name_of(*first);
        return Err(Error::unsupported(format!(
            "--against {first}: {label} runs on GPUs only; leave it out on the CPU"
        )));
    }
    if shares_gpus {
        return Err(Error::unsupported(format!(
            "--against {first}: {} needs a GPU for each of the {ranks} ranks; leave it out where ranks share GPUs",
            name_of(*first)
        )));
    }
    for &baseline in &chosen {
        match baseline {
            Baseline::Nccl | Baseline::NcclSymmetric if here.has_nccl() => {}
            Baseline::Nccl | Baseline::NcclSymmetric => {
                return Err(Error::unsupported(format!(
                    "--against {baseline}: libnccl.so.2 was not found; put its directory into LD_LIBRARY_PATH"
                )));
            }
            Baseline::Mscclpp => mscclpp(args, here)?,
            Baseline::TorchSymmMem => {
                return Err(Error::unsupported(
                    "--against torch_symm_mem: python/bench/symm_mem.py measures it, and `report` takes its file beside others",
                ));
            }
        }
    }
    Ok(chosen)
}

/// The library's name for people.
fn name_of(baseline: Baseline) -> &'static str {
    if baseline.is_of_nccl() { Baseline::Nccl.label() } else { baseline.label() }
}

/// Whether MSCCL++ can be measured in what was asked for.
fn mscclpp(args: &SweepArgs, here: &dyn Surroundings) -> Result<()> {
    let refused = |why: &str| Err(Error::unsupported(format!("--against mscclpp: {why}")));
    if args.collective.is_some_and(|collective| collective != Collective::AllReduce) {
        return refused("only its all-reduces are measured; leave it out for other collectives");
    }
    if args.overlap {
        return refused("it is not measured beside other kernels; leave --overlap out");
    }
    if args.place.threads {
        return refused("it holds one rank a process; leave --threads out");
    }
    if args.registered {
        return refused("without multicast it takes no memory that is mapped from handles; leave --registered out");
    }
    here.has_mscclpp().or_else(|error| refused(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::fake::{CPU, Fake, NODE, check, refused};

    #[test]
    fn baselines_need_gpus_and_nccl() {
        assert_eq!(check("--against nccl_symmetric,nccl", NODE).unwrap().against, Baseline::OF_NCCL);
        refused("--against nccl", CPU, "NCCL runs on GPUs only");
        refused("--against nccl", Fake { nccl: false, ..NODE }, "libnccl.so.2 was not found");
        refused("--against nccl,none", NODE, "leave one of the two out");
        let one = Fake { gpus: 1, ..NODE };
        refused("--ranks 2 --share-gpus --against nccl", one, "NCCL needs a GPU for each of the 2 ranks");
        assert!(check("--ranks 2 --share-gpus", one).unwrap().against.is_empty());
        assert_eq!(check("--share-gpus", NODE).unwrap().against, [Baseline::Nccl]);
    }

    #[test]
    fn mscclpp_is_measured_where_it_can_be() {
        assert_eq!(check("--against mscclpp,nccl", NODE).unwrap().against, [Baseline::Nccl, Baseline::Mscclpp]);
        let without_nccl = Fake { nccl: false, ..NODE };
        assert_eq!(check("--against mscclpp", without_nccl).unwrap().against, [Baseline::Mscclpp]);
        refused("--against mscclpp", Fake { mscclpp: false, ..NODE }, "--against mscclpp: libmscclpp_nccl not found");
        refused("--against mscclpp", CPU, "MSCCL++ runs on GPUs only");
        refused("--against mscclpp --threads", NODE, "leave --threads out");
        refused("--against mscclpp --registered", NODE, "leave --registered out");
        refused("--against mscclpp --overlap", NODE, "leave --overlap out");
        refused("--against mscclpp --collective broadcast", NODE, "only its all-reduces");
        refused("--against torch_symm_mem", NODE, "python/bench/symm_mem.py measures it");
    }
}
