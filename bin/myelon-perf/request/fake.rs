//! A machine and a build to check against, and the two things to expect of a command line.

use clap::Parser;

use super::*;
use crate::args::Cli;

/// Three variants: `ring` has no 8-bit floats, `pair` runs over two ranks only, `two_shot_tma`
/// is known to studies alone and needs another GPU, `slow` is disabled and alone has stages.
/// GPUs without NCCL are old ones, and lack a type.
#[derive(Clone, Copy)]
pub(crate) struct Fake {
    pub(crate) gpus: u32,
    pub(crate) launched: Option<WorldSize>,
    pub(crate) own: bool,
    pub(crate) nccl: bool,
    pub(crate) mscclpp: bool,
}

impl Surroundings for Fake {
    fn gpus(&self) -> u32 {
        self.gpus
    }
    fn launched(&self) -> Option<WorldSize> {
        self.launched
    }
    fn is_own_rank(&self) -> bool {
        self.own
    }
    fn has_nccl(&self) -> bool {
        self.nccl
    }
    fn has_mscclpp(&self) -> Result<()> {
        if self.mscclpp { Ok(()) } else { Err(Error::unsupported("libmscclpp_nccl not found")) }
    }
    fn variants(&self, collective: Collective) -> Vec<String> {
        let names: &[&str] = match collective {
            Collective::AllReduce => &["ring", "pair", "slow"],
            Collective::Broadcast => &["fan"],
            _ => &[],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }
    fn is_enabled(&self, variant: &str) -> bool {
        variant != "slow"
    }
    fn refusal(
        &self,
        variant: &str,
        _device: DeviceKind,
        ranks: WorldSize,
        dtype: DType,
        _op: ReduceOp,
    ) -> Option<String> {
        match variant {
            "ring" if dtype.is_fp8() => Some("has no 8-bit floats".into()),
            "two_shot_tma" => Some("needs sm_90 or newer".into()),
            "pair" if ranks.get() != 2 => Some("runs over 2 ranks".into()),
            _ => None,
        }
    }
    fn has(&self, device: DeviceKind, dtype: DType) -> Result<()> {
        match device {
            DeviceKind::Cuda if !self.nccl && dtype == DType::E5m2 => Err(Error::unsupported("e5m2 is too new")),
            _ => Ok(()),
        }
    }
    fn has_neighbour(&self, device: DeviceKind) -> Result<()> {
        match device {
            DeviceKind::Cuda if !self.nccl => Err(Error::unsupported("libcublas not found")),
            _ => Ok(()),
        }
    }
    fn takes(&self, variant: &str, shape: &Shape) -> Result<()> {
        match shape.stages {
            Some(_) if variant != "slow" => Err(Error::invalid(format!("{variant} takes no stages"))),
            _ if shape.slots == Some(3) => Err(Error::invalid(format!("{variant} takes no 3 slots"))),
            _ => Ok(()),
        }
    }
    fn has_parameters(&self, variant: &str, shape: &Shape) -> bool {
        (shape.stages.is_none() || variant == "slow") && (shape.slots.is_none() || variant == "pair")
    }
}

pub(crate) const CPU: Fake = Fake { gpus: 0, launched: None, own: false, nccl: false, mscclpp: false };
pub(crate) const NODE: Fake = Fake { gpus: 8, launched: None, own: false, nccl: true, mscclpp: true };

pub(crate) fn check(line: &str, here: Fake) -> Result<SweepRequest> {
    let cli = Cli::try_parse_from(std::iter::once("myelon-perf").chain(line.split_whitespace())).unwrap();
    SweepRequest::check(&cli.sweep, &here)
}

#[track_caller]
pub(crate) fn refused(line: &str, here: Fake, expected: &str) {
    let message = check(line, here).unwrap_err().to_string();
    assert!(message.contains(expected) && !message.contains('\n'), "{line}: {message}");
}
