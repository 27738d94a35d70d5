//! Checksums and the identities they are bound to.
//!
//! A page's checksum is CRC32C of its 4096 bytes, XORed with a mask drawn from (volume, key,
//! generation, nonce, page number). For input of a fixed length a CRC started from another value
//! differs from the plain one by exactly such a constant, so this is a seeded CRC at the speed of
//! the plain one: a page of another object, of another place in the object or of an earlier
//! incarnation fails with the same certainty as a damaged one (1 - 2^-32).

#[cfg(target_arch = "x86_64")]
mod wide;

use netfs::folio::PAGE_SIZE;

/// A page of zeros.
pub(crate) static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// What everything stored for one incarnation of one object is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Binding(u64);

impl Binding {
    /// Binds to a volume, a key and one incarnation.
    pub(crate) fn new(volume: &str, key: &[u8], generation: u64, nonce: u64) -> Binding {
        let place = mix(hash64(volume.as_bytes())).wrapping_add(hash64(key));
        Binding(mix(mix(mix(place) ^ generation) ^ nonce))
    }

    /// The binding that was stored as this number.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn from_value(value: u64) -> Binding {
        Binding(value)
    }

    /// As a number, for storing.
    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The checksum of a page at its place.
    pub(crate) fn page(self, page: u64, bytes: &[u8]) -> u32 {
        crc32c_of_page(bytes) ^ self.mask(page)
    }

    fn mask(self, page: u64) -> u32 {
        let bytes = mix(self.0 ^ page.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// [`crc32c`], by a way of its own where the input is a page and the processor knows it.
fn crc32c_of_page(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if let Ok(page) = bytes.try_into()
        && let Some(crc) = wide::crc32c(page)
    {
        return crc;
    }
    crc32c(bytes)
}

/// Plain CRC32C, for headers and maps.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// FNV-1a, 64 bits: part of the format (fan-out, volume binding), so it must never change.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// splitmix64's finisher: every input bit reaches every output bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_and_hash_are_the_published_ones() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(hash64(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn every_part_of_the_binding_changes_the_checksum() {
        let page = [7u8; PAGE_SIZE];
        let base = Binding::new("v", b"k", 1, 2);
        let want = base.page(3, &page);
        for other in [
            Binding::new("w", b"k", 1, 2),
            Binding::new("v", b"l", 1, 2),
            Binding::new("v", b"k", 2, 2),
            Binding::new("v", b"k", 1, 3),
        ] {
            assert_ne!(other.page(3, &page), want);
        }
        assert_ne!(base.page(4, &page), want);
        assert_eq!(base.page(3, &page), want);
    }
}
