//! The one mixing function: everything that looks random in this crate is a hash of stated inputs,
//! so a run is repeatable from its seeds alone.

/// A bijective 64-bit mixer (the finaliser of SplitMix64): every input bit reaches every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a sequence of numbers, order mattering.
pub(crate) fn combine(parts: &[u64]) -> u64 {
    parts.iter().fold(0x6e65_7466_735f_6d65, |h, &p| mix(h ^ mix(p)))
}

/// Hash of bytes, length included.
pub(crate) fn bytes(seed: u64, data: &[u8]) -> u64 {
    let start = combine(&[seed, data.len() as u64]);
    data.chunks(8).fold(start, |h, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(h ^ mix(u64::from_be_bytes(word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_length_matter() {
        assert_ne!(combine(&[1, 2]), combine(&[2, 1]));
        assert_ne!(bytes(0, b"a"), bytes(0, b"a\0"));
        assert_ne!(bytes(0, b""), bytes(1, b""));
    }
}
