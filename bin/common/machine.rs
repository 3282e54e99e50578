//! What the ranks run on, as the header and the stored results say it.

use std::process;

use myelon_ccl::baseline;
use myelon_ccl::device::{DeviceKind, cuda, source};
use myelon_ccl::measure::Provenance;
use myelon_ccl::measure::text::RankLine;
use myelon_ccl::{Communicator, Result};
use serde::{Deserialize, Serialize};

use super::exchange;

/// One rank's process and device, as it tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) process: u32,
    pub(crate) host: String,
    pub(crate) ordinal: u32,
    pub(crate) name: String,
    /// Equal on ranks that share a device.
    pub(crate) identity: String,
    /// Bytes of device memory that its communicator holds.
    pub(crate) footprint: u64,
}

/// Everyone's seats in rank order. Collective.
pub(crate) fn seats(communicator: &Communicator) -> Result<Vec<Seat>> {
    let properties = communicator.device().properties();
    let own = Seat {
        process: process::id(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        ordinal: properties.ordinal,
        name: properties.name.clone(),
        identity: properties.identity.clone(),
        footprint: communicator.footprint_bytes(),
    };
    exchange::words(&**communicator.bootstrap(), "naming devices", &own)
}

/// The ranks' lines of the header.
pub(crate) fn lines(seats: &[Seat]) -> Vec<RankLine> {
    let line = |(rank, seat): (usize, &Seat)| RankLine {
        rank: rank as u32,
        process: seat.process,
        host: seat.host.clone(),
        device: format!(
            "{} {} [{}], heap of {} MiB",
            seat.ordinal,
            seat.name,
            seat.identity,
            seat.footprint.div_ceil(1 << 20)
        ),
    };
    seats.iter().enumerate().map(line).collect()
}

/// Why the times of this run mean nothing, if they do not.
pub(crate) fn caution(kind: DeviceKind, seats: &[Seat]) -> Option<&'static str> {
    let shared = || {
        seats.iter().enumerate().any(|(index, seat)| seats[..index].iter().any(|other| other.identity == seat.identity))
    };
    match kind {
        DeviceKind::Cpu => Some("these are the real kernels on the CPU; the times mean nothing"),
        DeviceKind::Cuda => shared().then_some("ranks share GPUs: times mean nothing"),
    }
}

/// Where this run is taken, as far as it can be found out.
pub(crate) fn provenance(communicator: &Communicator) -> Result<Provenance> {
    let properties = communicator.device().properties();
    let mut provenance = Provenance::of_this_host(source::tree_hash()?);
    if properties.kind == DeviceKind::Cpu {
        return Ok(provenance);
    }
    provenance.gpu = properties.name.clone();
    provenance.driver = properties.driver.clone();
    // The process may see only some of the machine's GPUs.
    let visible = cuda::device_count().unwrap_or(1);
    let listed = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.count() as u32);
    provenance.gpus = visible.max(listed);
    if visible > 1
        && let Ok(link) = cuda::link(0, 1)
    {
        provenance.link = link.to_string();
    }
    if let Ok(compiler) = cuda::Nvrtc::new(&properties.arch) {
        provenance.cuda = compiler.version().to_string();
    }
    if let Ok(version) = baseline::version() {
        provenance.nccl = version.to_string();
        provenance.nvls = baseline::nvls().to_owned();
    }
    Ok(provenance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_gpus_are_found_by_identity() {
        let seat = |identity: &str| Seat {
            process: 1,
            host: "node".into(),
            ordinal: 0,
            name: "NVIDIA H200".into(),
            identity: identity.into(),
            footprint: (124 << 20) + 1,
        };
        let (apart, together) = ([seat("a"), seat("b")], [seat("a"), seat("b"), seat("a")]);
        assert_eq!(caution(DeviceKind::Cuda, &apart), None);
        assert!(caution(DeviceKind::Cuda, &together).unwrap().contains("ranks share GPUs"));
        assert!(caution(DeviceKind::Cpu, &apart).unwrap().contains("real kernels on the CPU"));
        assert_eq!(lines(&apart)[1].device, "0 NVIDIA H200 [b], heap of 125 MiB");
    }
}
