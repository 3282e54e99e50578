//! Message sizes: `1K` and `64M` as nccl-tests spells them, and the sweep from one to another.

use std::fmt;
use std::iter::FusedIterator;
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::types::DType;

/// Suffixes by their power of 1024, largest first.
const SUFFIXES: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// A number of bytes. `1K` is 1024 of them, as in nccl-tests.
///
/// [`fmt::Display`] writes the shortest text that parses back to the same number (`1536` stays `1536`, 65536 is `64K`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub u64);

impl Bytes {
    /// Whole elements of `dtype` that fit; what is left over is not moved.
    pub fn elements(self, dtype: DType) -> u64 {
        self.0 / dtype.size_bytes() as u64
    }

    /// The size for prose and plots, with its unit: `64 KiB`, `1.5 MiB`, `100 B`; at most two decimals.
    pub fn human(self) -> String {
        // What would round to 1024 of a unit is 1 of the next.
        let Some((suffix, unit)) =
            SUFFIXES.into_iter().find(|&(_, unit)| self.0.saturating_add(unit / 1024 / 200) >= unit)
        else {
            return format!("{} B", self.0);
        };
        let text = format!("{:.2}", self.0 as f64 / unit as f64);
        format!("{} {suffix}iB", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SUFFIXES.into_iter().find(|&(_, unit)| self.0 != 0 && self.0.is_multiple_of(unit)) {
            Some((suffix, unit)) => f.pad(&format!("{}{suffix}", self.0 / unit)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl FromStr for Bytes {
    type Err = Error;

    /// Takes a whole number with at most one of K, M, G, T behind it, in either case.
    ///
    /// Errors: [`Error::InvalidArgument`] for anything else and for what passes 2^64 - 1 bytes.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "'{text}' is not a size: write a whole number of bytes, with K, M, G or T for powers of 1024, such as 512, 1K or 64M"
            ))
        };
        let last = text.chars().next_back().ok_or_else(wrong)?.to_ascii_uppercase();
        let (digits, unit) = match SUFFIXES.into_iter().find(|&(suffix, _)| suffix == last) {
            Some((_, unit)) => (&text[..text.len() - 1], unit),
            None => (text, 1),
        };
        // `u64::from_str` alone would take a leading plus sign.
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let too_large = || Error::invalid(format!("'{text}' is more than 2^64 - 1 bytes: write a smaller size"));
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(unit).map(Self).ok_or_else(too_large)
    }
}

impl TryFrom<String> for Bytes {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// How a sweep goes from one size to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Multiplies by this, at least 2.
    Factor(u64),
    /// Adds this many bytes, at least 1.
    Add(Bytes),
}

/// Sizes from a first to a last by a [`Step`]; the last is yielded only when a step lands on it, as in nccl-tests.
///
/// It is its own iterator: finite, strictly growing, never empty.
#[derive(Clone, Debug)]
pub struct SizeSweep {
    next: Option<u64>,
    end: u64,
    step: Step,
}

impl SizeSweep {
    /// A sweep over `begin..=end`.
    ///
    /// Errors: [`Error::InvalidArgument`] if `begin` is past `end` or the step would not grow the size.
    pub fn new(begin: Bytes, end: Bytes, step: Step) -> Result<Self> {
        if begin > end {
            return Err(Error::invalid(format!("first size {begin} is larger than last size {end}: swap -b and -e")));
        }
        match step {
            Step::Factor(factor) if factor < 2 => {
                return Err(Error::invalid(format!("-f {factor} never reaches the last size: use 2 or more")));
            }
            Step::Factor(_) if begin.0 == 0 && end.0 > 0 => {
                return Err(Error::invalid("a factor never leaves size 0: start at -b 1 or step with -i"));
            }
            Step::Add(Bytes(0)) => return Err(Error::invalid("-i 0 never reaches the last size: use 1 or more")),
            _ => {}
        }
        Ok(Self { next: Some(begin.0), end: end.0, step })
    }

    /// The largest size this sweep still yields; none once it is exhausted.
    pub fn largest(&self) -> Option<Bytes> {
        let next = self.next?;
        match self.step {
            Step::Add(Bytes(add)) => Some(Bytes(next + (self.end - next) / add * add)),
            Step::Factor(_) => self.clone().last(),
        }
    }
}

impl Iterator for SizeSweep {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let size = self.next?;
        let after = match self.step {
            Step::Factor(factor) => size.checked_mul(factor),
            Step::Add(Bytes(add)) => size.checked_add(add),
        };
        // A factor keeps 0 at 0; `new` allows that only as the one size of the sweep.
        self.next = after.filter(|&after| after <= self.end && after > size);
        Some(Bytes(size))
    }
}

impl FusedIterator for SizeSweep {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sweep(begin: &str, end: &str, step: Step) -> Vec<String> {
        SizeSweep::new(begin.parse().unwrap(), end.parse().unwrap(), step)
            .unwrap()
            .map(|size| size.to_string())
            .collect()
    }

    #[test]
    fn suffixes_are_powers_of_1024() {
        let sizes =
            [("0", 0), ("512", 512), ("1K", 1024), ("1k", 1024), ("64M", 64 << 20), ("2g", 2 << 30), ("1T", 1 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_says_what_is() {
        for text in ["12Q", "", "K", "-1", "+1", "1.5M", "1 K", "1KiB", "\u{661}", "\u{212a}", "1\u{212a}"] {
            let message = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(message.contains(&format!("'{text}'")) && message.contains("64M"), "{message}");
        }
        for text in ["16777216T", "18446744073709551616"] {
            assert!(text.parse::<Bytes>().unwrap_err().to_string().contains("2^64"), "{text}");
        }
    }

    #[test]
    fn human_sizes_carry_a_unit() {
        let names = [
            (0, "0 B"),
            (1000, "1000 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1020, "1020 B"),
            ((1 << 20) - 4, "1 MiB"),
            ((1 << 20) - 6, "1023.99 KiB"),
            (u64::MAX, "16777216 TiB"),
            (10 << 20, "10 MiB"),
            (1 << 30, "1 GiB"),
        ];
        for (bytes, name) in names {
            assert_eq!(Bytes(bytes).human(), name);
        }
    }

    #[test]
    fn sweeps_step_as_in_nccl_tests() {
        assert_eq!(sweep("1K", "64K", Step::Factor(4)), ["1K", "4K", "16K", "64K"]);
        assert_eq!(sweep("1K", "5K", Step::Factor(4)), ["1K", "4K"]);
        assert_eq!(sweep("1K", "3K", Step::Add(Bytes(1024))), ["1K", "2K", "3K"]);
        assert_eq!(sweep("0", "8", Step::Add(Bytes(5))), ["0", "5"]);
        assert_eq!(sweep("0", "0", Step::Factor(2)), ["0"]);
        assert_eq!(sweep("8388608T", "16777215T", Step::Factor(2)), ["8388608T"], "the next one passes 2^64");
    }

    #[test]
    fn endless_sweeps_are_refused() {
        for (begin, end, step, fix) in [
            (2, 1, Step::Factor(2), "swap"),
            (1, 2, Step::Factor(1), "2 or more"),
            (0, 2, Step::Factor(2), "-b 1"),
            (1, 2, Step::Add(Bytes(0)), "1 or more"),
        ] {
            let message = SizeSweep::new(Bytes(begin), Bytes(end), step).unwrap_err().to_string();
            assert!(message.contains(fix), "{message}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(bytes: u64) {
            prop_assert_eq!(Bytes(bytes).to_string().parse::<Bytes>().unwrap(), Bytes(bytes));
        }

        #[test]
        fn suffixed_sizes_display_short(number in 1_u64..1024, suffix in 0_usize..4) {
            let text = format!("{number}{}", SUFFIXES[suffix].0);
            prop_assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,6}") {
            let _ = text.parse::<Bytes>();
        }

        #[test]
        fn sweeps_grow_and_stay_inside(begin in 1_u64..1 << 20, span in 0_u64..1 << 20, factor in 2_u64..9, add in 1000_u64..9000) {
            for step in [Step::Factor(factor), Step::Add(Bytes(add))] {
                let sweep = SizeSweep::new(Bytes(begin), Bytes(begin + span), step).unwrap();
                let largest = sweep.largest();
                let sizes: Vec<_> = sweep.collect();
                prop_assert_eq!(sizes[0], Bytes(begin));
                prop_assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert_eq!(sizes.last().copied(), largest);
                prop_assert!(largest.unwrap() <= Bytes(begin + span));
            }
        }
    }
}
