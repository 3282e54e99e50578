//! Architectures of GPUs, and what they lack.

use crate::error::{Error, Result};
use crate::types::DType;

/// Oldest that converts to and from the 8-bit floats (`cvt` with `e4m3x2` and `e5m2x2`: PTX ISA, "cvt").
const FIRST_WITH_FP8: u32 = 89;

/// Ten times the compute capability that an architecture has, 90 for `sm_90a`; `None` for what is no GPU's.
pub(super) fn capability_of(arch: &str) -> Option<u32> {
    arch.strip_prefix("sm_")?.trim_end_matches(['a', 'f']).parse().ok()
}

/// Whether kernels can work on this element type on this architecture; the reason if not. The CPU device has all types.
///
/// Errors: [`Error::Unsupported`] naming the type and both architectures.
pub fn dtype_runs_on(dtype: DType, arch: &str) -> Result<()> {
    match capability_of(arch) {
        Some(have) if dtype.is_fp8() && have < FIRST_WITH_FP8 => {
            Err(Error::unsupported(format!("{dtype} needs sm_{FIRST_WITH_FP8} or newer, this is {arch}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_8_bit_floats_need_a_newer_architecture() {
        for &dtype in DType::ALL {
            for arch in ["sm_89", "sm_90a", "sm_100a", "sm_120", "cpu"] {
                dtype_runs_on(dtype, arch).unwrap();
            }
            for arch in ["sm_70", "sm_80", "sm_86"] {
                assert_eq!(dtype_runs_on(dtype, arch).is_err(), dtype.is_fp8(), "{dtype} {arch}");
            }
        }
        let message = dtype_runs_on(DType::E4m3, "sm_80").unwrap_err().to_string();
        assert!(message.contains("e4m3 needs sm_89 or newer, this is sm_80"), "{message}");
    }
}
