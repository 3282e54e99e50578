//! NCCL, as the baseline to measure against and as what runs, on request, where Myelon's kernels cannot.
//!
//! Two forms: plain, on any buffer, and with symmetric windows ([`SymmetricBuffer`], NCCL 2.27 and newer), which is the
//! faster of the two at small sizes and so the one to beat. NCCL reads its own environment; nothing here changes it.
//!
//! MSCCL++ has NCCL's functions in a library of its own ([`Provider::Mscclpp`]), and its all-reduces are measured through them.
//!
//! And cuBLAS, whose [`MatrixProduct`] is what all-reduces are measured beside. All are loaded at run time.

mod agreement;
mod bounded;
mod connect;
mod cublas;
mod library;
mod live;
mod mscclpp;
mod nccl;
mod window;

pub use self::cublas::{CublasVersion, MatrixProduct, cublas_version};
pub use self::library::{NcclVersion, Provider, version};
pub use self::mscclpp::{mscclpp_settings, mscclpp_version};
pub use self::nccl::{AllGather, NcclCommunicator, group};
pub use self::window::SymmetricBuffer;

/// Whether NCCL may reduce inside NVLink switches: `off` where `NCCL_NVLS_ENABLE=0`, else `default`.
pub fn nvls() -> &'static str {
    nvls_of(std::env::var("NCCL_NVLS_ENABLE").ok().as_deref())
}

fn nvls_of(value: Option<&str>) -> &'static str {
    match value.map(str::trim) {
        Some("0") => "off",
        _ => "default",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_turns_nvls_off() {
        assert_eq!(nvls_of(Some("0")), "off");
        for value in [None, Some(""), Some("1"), Some("2")] {
            assert_eq!(nvls_of(value), "default");
        }
    }
}
