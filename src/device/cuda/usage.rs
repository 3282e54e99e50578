//! What ptxas says about a kernel: registers and spills.

/// Resources of a compiled kernel; the largest where a file holds several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceUsage {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread writes to local memory for want of registers, and reads back.
    pub spill_bytes: u32,
    /// Static shared memory a CTA, in bytes.
    pub static_shared_bytes: u32,
}

/// Reads the log of `--ptxas-options=-v`; `None` where it reports no kernel.
pub fn resource_usage(log: &str) -> Option<ResourceUsage> {
    let mut usage = None::<ResourceUsage>;
    for line in log.lines() {
        if let Some(registers) = number_before(line, " registers").filter(|_| line.contains("Used ")) {
            let usage = usage.get_or_insert_default();
            usage.registers = usage.registers.max(registers);
            let shared = number_before(line, " bytes smem").unwrap_or(0);
            usage.static_shared_bytes = usage.static_shared_bytes.max(shared);
        }
        if let Some(stores) = number_before(line, " bytes spill stores") {
            let usage = usage.get_or_insert_default();
            usage.spill_bytes = usage.spill_bytes.max(stores + number_before(line, " bytes spill loads").unwrap_or(0));
        }
    }
    usage
}

/// The decimal number that stands directly before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
    before[digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'myelon_kernel' for 'sm_90a'
ptxas info    : Function properties for myelon_kernel
    48 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 3.513 ms
";

    #[test]
    fn registers_and_spills_are_read() {
        let expected = ResourceUsage { registers: 168, spill_bytes: 84, static_shared_bytes: 1024 };
        assert_eq!(resource_usage(LOG), Some(expected));
    }

    #[test]
    fn the_largest_of_several_kernels_counts() {
        let small = LOG.replace("168", "32").replace("44 bytes", "0 bytes").replace("40 bytes", "0 bytes");
        assert_eq!(resource_usage(&format!("{LOG}{small}")), resource_usage(LOG));
        assert_eq!(resource_usage(&format!("{small}{LOG}")), resource_usage(LOG));
        assert_eq!(resource_usage(&small).unwrap().spill_bytes, 0);
    }

    #[test]
    fn other_text_is_no_report() {
        for log in ["", "warning: 3 registers", "kernel.cu(3): error: Used registers"] {
            assert_eq!(resource_usage(log), None, "{log}");
        }
    }
}
