//! What ranks compare of an operation, in a word.

/// Bits of a descriptor that hold the count, modulo 2^31.
pub const COUNT_BITS: u32 = 31;
/// Bits of a signature that hold the operation's number, modulo 2^24; they stand above its descriptor.
pub const OPERATION_BITS: u32 = 24;

/// What ranks compare of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Elements, of which a descriptor holds [`COUNT_BITS`] bits.
    pub count: u64,
    /// Code of the collective: 2 bits.
    pub collective: u8,
    /// Code of the operator, or the root of a collective that has one: 3 bits.
    pub detail: u8,
    /// Code of the data type: 4 bits.
    pub dtype: u8,
}

/// Packs a description into the word that ranks compare: 40 bits, so that it fits beside 24 bits of the operation's number in the
/// one 64-bit store that a signature is (a wider one could be seen torn).
pub const fn descriptor(of: Description) -> u64 {
    (of.count & ((1 << COUNT_BITS) - 1))
        | ((of.collective as u64 & 3) << COUNT_BITS)
        | ((of.detail as u64 & 7) << (COUNT_BITS + 2))
        | ((of.dtype as u64 & 15) << (COUNT_BITS + 5))
}

/// Inverse of [`descriptor`].
pub const fn describe(descriptor: u64) -> Description {
    Description {
        count: descriptor & ((1 << COUNT_BITS) - 1),
        collective: (descriptor >> COUNT_BITS) as u8 & 3,
        detail: (descriptor >> (COUNT_BITS + 2)) as u8 & 7,
        dtype: (descriptor >> (COUNT_BITS + 5)) as u8 & 15,
    }
}

/// In place of a data type's code: a barrier, which has neither count nor operator.
pub const BARRIER_CODE: u8 = 15;
/// The [`descriptor`] of a barrier.
pub const BARRIER: u64 = descriptor(Description { count: 0, collective: 0, detail: 0, dtype: BARRIER_CODE });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_round_trips() {
        let whole = Description { count: 0x7fff_ffff, collective: 3, detail: 7, dtype: 15 };
        assert_eq!(descriptor(whole), (1 << (u64::BITS - OPERATION_BITS)) - 1);
        for alone in [
            Description { count: 0x2345_6789, collective: 0, detail: 0, dtype: 0 },
            Description { count: 0, collective: 2, detail: 4, dtype: 11 },
        ] {
            assert_eq!(describe(descriptor(alone)), alone);
        }
    }
}
