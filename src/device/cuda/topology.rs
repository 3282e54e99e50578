//! Which GPUs this process sees, what they are, and how they reach each other. Creates no context.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use cudarc::driver::sys::{CUdevice, CUdevice_P2PAttribute as P2p, CUdevice_attribute as Attribute, CUresult, CUuuid};

use serde::Serialize;

use super::driver::{Context, driver, driver_call};
use crate::device::{DeviceKind, DeviceProperties};
use crate::error::{Error, Result};

/// How one GPU reaches another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Two ordinals of one GPU.
    SameGpu,
    /// Peer access with atomics done by the link, which NVLink has.
    NvLink,
    /// Peer access without them.
    Pcie,
    /// No peer access.
    Unreachable,
}

impl Link {
    /// For reports: `NVLink`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameGpu => "same GPU",
            Self::NvLink => "NVLink",
            Self::Pcie => "PCIe",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a GPU's memory can be shared by, as far as the driver tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sharing {
    /// Memory with a handle and an address of its own, which a heap is made of.
    pub virtual_memory: bool,
    /// File descriptors, by which other processes of this host map a heap.
    pub file_descriptors: bool,
    /// Handles for a fabric of several hosts. Nothing here uses them.
    pub fabric_handles: bool,
    /// Multicast through NVLink switches (NVLS). NCCL may use it.
    pub multicast: bool,
}

/// What the memory of GPU `ordinal` can be shared by.
///
/// Errors: as [`can_access_peer`].
pub fn sharing(ordinal: u32) -> Result<Sharing> {
    let device = device(ordinal)?;
    let has = |attribute: Attribute| self::attribute(device, attribute).map(|value| value != 0);
    Ok(Sharing {
        virtual_memory: has(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)?,
        file_descriptors: has(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)?,
        // A driver that does not know an attribute has not what it stands for.
        fabric_handles: has(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED).unwrap_or(false),
        multicast: has(Attribute::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED).unwrap_or(false),
    })
}

/// GPUs this process sees: 0 where the driver runs and none is visible.
///
/// Errors: [`Error::LibraryMissing`] without a driver.
pub fn device_count() -> Result<u32> {
    match driver() {
        Ok(_) => {}
        Err(Error::Driver { code, .. }) if code == CUresult::CUDA_ERROR_NO_DEVICE as i32 => return Ok(0),
        Err(error) => return Err(error),
    }
    let mut count: c_int = 0;
    // SAFETY: the driver is initialised; the count goes to a local.
    unsafe { driver_call!(cuDeviceGetCount(&mut count)) }?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// Every GPU this process sees, in the order of their ordinals.
///
/// Errors: as [`device_count`].
pub fn devices() -> Result<Vec<DeviceProperties>> {
    (0..device_count()?).map(|ordinal| properties(device(ordinal)?, ordinal)).collect()
}

/// Whether kernels on GPU `from` can reach memory of GPU `to`; true for a GPU itself.
///
/// Errors: [`Error::InvalidArgument`] for an ordinal that does not exist.
pub fn can_access_peer(from: u32, to: u32) -> Result<bool> {
    let (from, to) = (device(from)?, device(to)?);
    if from == to {
        return Ok(true);
    }
    let mut reachable: c_int = 0;
    // SAFETY: both devices exist; the answer goes to a local.
    unsafe { driver_call!(cuDeviceCanAccessPeer(&mut reachable, from, to)) }?;
    Ok(reachable != 0)
}

/// How GPU `from` reaches GPU `to`, as far as the driver tells: PCIe without native atomics, NVLink with them.
///
/// Errors: as [`can_access_peer`].
pub fn link(from: u32, to: u32) -> Result<Link> {
    if !can_access_peer(from, to)? {
        return Ok(Link::Unreachable);
    }
    let (from_device, to_device) = (device(from)?, device(to)?);
    if from == to || uuid(from_device)? == uuid(to_device)? {
        return Ok(Link::SameGpu);
    }
    let mut atomics: c_int = 0;
    // SAFETY: both devices exist and differ; the answer goes to a local.
    unsafe {
        driver_call!(cuDeviceGetP2PAttribute(
            &mut atomics,
            P2p::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED,
            from_device,
            to_device
        ))
    }?;
    Ok(if atomics != 0 { Link::NvLink } else { Link::Pcie })
}

/// Bytes of a GPU's memory that nobody holds, this process and others.
///
/// Errors: those of the driver; [`Error::InvalidArgument`] for a GPU that this process does not see.
pub fn free_bytes(ordinal: u32) -> Result<u64> {
    device(ordinal)?;
    Context::new(ordinal)?.bind()?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: a context is current; both numbers go to locals.
    unsafe { driver_call!(cuMemGetInfo_v2(&mut free, &mut total)) }?;
    Ok(free as u64)
}

/// The driver's handle of an ordinal.
pub(crate) fn device(ordinal: u32) -> Result<CUdevice> {
    let count = device_count()?;
    if ordinal >= count {
        return Err(Error::invalid(format!(
            "there is no GPU {ordinal}: this process sees {count} (CUDA_VISIBLE_DEVICES decides which)"
        )));
    }
    let mut device: CUdevice = 0;
    // SAFETY: the driver is initialised; the handle goes to a local.
    unsafe { driver_call!(cuDeviceGet(&mut device, ordinal as c_int)) }?;
    Ok(device)
}

pub(crate) fn attribute(device: CUdevice, attribute: Attribute) -> Result<u32> {
    let mut value: c_int = 0;
    // SAFETY: the device exists; the value goes to a local.
    unsafe { driver_call!(cuDeviceGetAttribute(&mut value, attribute, device)) }?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// Major and minor compute capability.
pub(crate) fn compute_capability(device: CUdevice) -> Result<(u32, u32)> {
    Ok((
        attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

pub(crate) fn properties(device: CUdevice, ordinal: u32) -> Result<DeviceProperties> {
    let mut name = [0 as c_char; 256];
    // SAFETY: the buffer has the length that is passed; the driver terminates the name.
    unsafe { driver_call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device)) }?;
    // SAFETY: terminated, as above; the last byte stays zero in any case.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let (major, minor) = compute_capability(device)?;
    Ok(DeviceProperties {
        kind: DeviceKind::Cuda,
        name,
        ordinal,
        arch: arch_name(major, minor),
        multiprocessors: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        identity: uuid_text(&uuid(device)?),
        driver: driver()?.version.to_string(),
    })
}

fn uuid(device: CUdevice) -> Result<[u8; 16]> {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: the device exists; the id goes to a local. The second form tells MIG instances of a GPU apart.
    unsafe { driver_call!(cuDeviceGetUuid_v2(&mut uuid, device)) }?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

/// As nvidia-smi writes it: `GPU-01234567-89ab-cdef-0123-456789abcdef`.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// Compiler's name of an architecture. From Hopper on with the features of exactly this one, where it has any we use.
fn arch_name(major: u32, minor: u32) -> String {
    let exact = if matches!(major, 9..=11) { "a" } else { "" };
    format!("sm_{major}{minor}{exact}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_the_compilers_names() {
        let cases =
            [((8, 0), "sm_80"), ((8, 9), "sm_89"), ((9, 0), "sm_90a"), ((10, 0), "sm_100a"), ((12, 0), "sm_120")];
        for ((major, minor), name) in cases {
            assert_eq!(arch_name(major, minor), name);
        }
    }

    #[test]
    fn identities_read_as_nvidia_smi_prints_them() {
        let bytes = std::array::from_fn(|index| (index * 17) as u8);
        assert_eq!(uuid_text(&bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn an_ordinal_beyond_the_last_says_how_many_there_are() {
        match device_count() {
            Ok(count) => {
                let message = can_access_peer(count, 0).unwrap_err().to_string();
                assert!(message.contains(&format!("sees {count}")), "{message}");
            }
            Err(error) => assert!(matches!(error, Error::LibraryMissing { .. }), "{error}"),
        }
    }
}
