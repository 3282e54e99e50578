//! MSCCL++ behind NCCL's functions: what has to hold before it is used, and which of its all-reduces are.
//!
//! What is said of it here is what the sources of its release 0.9.0 say (`src/ext/nccl`, `src/core/env.cpp`).

use super::library::{NcclVersion, OLDEST as OLDEST_NCCL, Provider};
use crate::error::{Error, Result};
use crate::types::{Collective, DType, ReduceOp};

/// Keeps it from NVLink multicast; any value but `0` does. It reads this once, when it is first used.
const NO_MULTICAST: &str = "MSCCLPP_FORCE_DISABLE_NVLS";
/// Has it hand all-reduces above 1 MiB to the NCCL of this name.
const FALLBACK: &str = "MSCCLPP_NCCL_LIB_PATH";
/// Has it keep the connections of a buffer; without it every call that is not replayed makes them anew.
const SYMMETRIC: &str = "MSCCLPP_NCCL_SYMMETRIC_MEMORY";
/// The release whose sources were read. Whether an older one heeds the variables above was not looked at.
const OLDEST: NcclVersion = NcclVersion::from_code(900);

/// Version of the MSCCL++ that would be used.
///
/// Errors: [`Error::Unsupported`] where it might use multicast or hand on to NCCL, or is not the library that it should be;
/// [`Error::LibraryMissing`] without it.
pub fn mscclpp_version() -> Result<NcclVersion> {
    super::library::Library::open(Provider::Mscclpp).map(|library| library.version)
}

/// What it may use, in words that follow its version. Multicast it may never use.
pub fn mscclpp_settings() -> String {
    settings_of(std::env::var(SYMMETRIC).ok().as_deref())
}

fn settings_of(symmetric: Option<&str>) -> String {
    let symmetric = if symmetric.is_some_and(|value| value != "0") { "on" } else { "off" };
    format!("NVLS off, symmetric memory {symmetric}")
}

/// Whether the variables that MSCCL++ reads let it be measured.
pub(super) fn check_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    if variable(NO_MULTICAST).is_none_or(|value| value == "0") {
        return Err(Error::unsupported(format!(
            "MSCCL++ is measured without NVLink multicast: set {NO_MULTICAST}=1 for every rank"
        )));
    }
    if variable(FALLBACK).is_some_and(|value| !value.is_empty()) {
        return Err(Error::unsupported(format!(
            "{FALLBACK} is set, and MSCCL++ would hand large messages to NCCL: unset it, to measure MSCCL++ itself"
        )));
    }
    Ok(())
}

/// Whether a library with NCCL's functions is MSCCL++, and new enough.
pub(super) fn check_version(version: NcclVersion, origin: &str) -> Result<()> {
    if version >= OLDEST_NCCL {
        return Err(Error::unsupported(format!(
            "{origin} says it is release {version}, as NCCL's are numbered: name MSCCL++'s libmscclpp_nccl.so with MYELON_MSCCLPP_LIB"
        )));
    }
    if version < OLDEST {
        return Err(Error::unsupported(format!(
            "MSCCL++ {version} ({origin}) is older than {OLDEST}: build a newer release, and name it with MYELON_MSCCLPP_LIB"
        )));
    }
    Ok(())
}

/// Whether MSCCL++ heeds [`NO_MULTICAST`] on GPUs of this architecture.
///
/// WHY: on compute capability 10 it takes multicast for messages to 32 KiB whatever the variable says.
pub(super) fn check_architecture(arch: &str) -> Result<()> {
    if arch.starts_with("sm_10") {
        return Err(Error::unsupported(format!(
            "MSCCL++ uses NVLink multicast on {arch} although {NO_MULTICAST} is set: leave it out"
        )));
    }
    Ok(())
}

/// Whether an all-reduce has this type and operator.
///
/// WHY: the library is not asked, because it answers with a C++ exception, which ends the process. Its 8-bit floats depend on how
/// it was built, and its minimum of u32 is that of i32.
pub(super) fn check_request(collective: Collective, dtype: DType, op: ReduceOp) -> Result<()> {
    if collective != Collective::AllReduce {
        return Err(Error::unsupported(format!("MSCCL++ is measured for all_reduce only, not for {collective}")));
    }
    let has_type = matches!(dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::U32 | DType::U8);
    let has_op = op == ReduceOp::Sum || (op == ReduceOp::Min && dtype != DType::U32);
    if has_type && has_op {
        return Ok(());
    }
    Err(Error::unsupported(format!("MSCCL++ is not taken for {dtype} {op}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_used_with_multicast_or_in_front_of_nccl() {
        let check = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            check_environment(&move |name| {
                pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            })
        };
        for unset in [&[][..], &[(NO_MULTICAST, "0")]] {
            assert!(check(unset).unwrap_err().to_string().contains("set MSCCLPP_FORCE_DISABLE_NVLS=1"));
        }
        check(&[(NO_MULTICAST, "1")]).unwrap();
        check(&[(NO_MULTICAST, "1"), (FALLBACK, "")]).unwrap();
        let handed_on = check(&[(NO_MULTICAST, "1"), (FALLBACK, "libnccl.so.2")]).unwrap_err().to_string();
        assert!(handed_on.contains("unset it"), "{handed_on}");
        assert!(check_architecture("sm_100a").unwrap_err().to_string().contains("sm_100a"));
        check_architecture("sm_90").unwrap();
    }

    #[test]
    fn another_library_is_not_taken_for_it() {
        let nccl = check_version(NcclVersion::from_code(22_803), "libnccl.so.2").unwrap_err().to_string();
        assert!(nccl.contains("libnccl.so.2 says it is release 2.28.3"), "{nccl}");
        let old = check_version(NcclVersion::from_code(800), "x.so").unwrap_err().to_string();
        assert!(old.contains("MSCCL++ 0.8.0 (x.so) is older than 0.9.0"), "{old}");
        check_version(NcclVersion::from_code(900), "x.so").unwrap();
    }

    #[test]
    fn what_would_end_the_process_is_refused() {
        let check = |dtype, op| check_request(Collective::AllReduce, dtype, op).is_ok();
        assert!(check(DType::F32, ReduceOp::Sum) && check(DType::Bf16, ReduceOp::Min));
        for (dtype, op) in [
            (DType::F64, ReduceOp::Sum),
            (DType::I64, ReduceOp::Sum),
            (DType::E4m3, ReduceOp::Sum),
            (DType::F32, ReduceOp::Max),
            (DType::U32, ReduceOp::Min),
        ] {
            assert!(!check(dtype, op), "{dtype} {op}");
        }
        let other = check_request(Collective::Broadcast, DType::F32, ReduceOp::Sum).unwrap_err().to_string();
        assert!(other.contains("not for broadcast"), "{other}");
    }

    #[test]
    fn what_it_may_use_is_told() {
        assert_eq!(settings_of(None), "NVLS off, symmetric memory off");
        assert_eq!(settings_of(Some("1")), "NVLS off, symmetric memory on");
        assert_eq!(settings_of(Some("0")), "NVLS off, symmetric memory off");
    }
}
