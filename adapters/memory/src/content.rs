//! File content as a pure function of (seed, version, offset), so that any byte of any version of any
//! file can be checked without keeping it.
//!
//! [`byte`], [`fill`] and [`verify`] are that function; [`Content`] puts it together with literal bytes
//! and holes to what one version of a file holds.
//!
//! The pattern is a stream of distinct 8-byte words: no two words of one version are equal, so a block
//! served from the wrong offset shows, and another version's words are unrelated, so a stale block
//! shows. (A single byte may agree by chance, one time in 256.)

mod layout;
mod pieces;

use std::fmt;

pub use layout::{Content, Run};

use crate::hash;

/// Bytes of one pattern word.
const WORD: usize = 8;

/// The byte at `offset` of version `version` of the file with content seed `seed`.
#[must_use]
pub fn byte(seed: u64, version: u64, offset: u64) -> u8 {
    let word = word(stream(seed, version), offset / WORD as u64);
    word.to_le_bytes()[(offset % WORD as u64) as usize]
}

/// Writes the bytes from `offset` on into `buf`: the same as [`byte`] for each, at memory speed.
///
/// ```
/// use netfs_memory::content;
/// let mut buf = [0; 100];
/// content::fill(1, 2, 12345, &mut buf);
/// assert_eq!(buf[7], content::byte(1, 2, 12352));
/// ```
pub fn fill(seed: u64, version: u64, offset: u64, buf: &mut [u8]) {
    let stream = stream(seed, version);
    let unaligned = (offset % WORD as u64) as usize;
    let head = ((WORD - unaligned) % WORD).min(buf.len());
    let (front, rest) = buf.split_at_mut(head);
    let first = word(stream, offset / WORD as u64).to_le_bytes();
    front.copy_from_slice(&first[unaligned % WORD..][..head]);

    let mut index = offset.wrapping_add(head as u64) / WORD as u64;
    let mut words = rest.chunks_exact_mut(WORD);
    for chunk in &mut words {
        chunk.copy_from_slice(&word(stream, index).to_le_bytes());
        index = index.wrapping_add(1);
    }
    let tail = words.into_remainder();
    tail.copy_from_slice(&word(stream, index).to_le_bytes()[..tail.len()]);
}

/// Checks bytes read at `offset` against the pattern.
///
/// # Errors
/// The first byte that is wrong.
pub fn verify(seed: u64, version: u64, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
    compare(offset, bytes, |at, block| fill(seed, version, at, block))
}

/// The first wrong byte of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Mismatch {
    /// Where in the file.
    pub offset: u64,
    /// What should be there.
    pub expected: u8,
    /// What was read.
    pub found: u8,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { offset, expected, found } = self;
        write!(f, "byte {offset}: expected {expected:#04x}, found {found:#04x}")
    }
}

impl std::error::Error for Mismatch {}

/// Compares block by block with what `expect` makes, so that nothing of the read's size is allocated.
fn compare(offset: u64, bytes: &[u8], expect: impl Fn(u64, &mut [u8])) -> Result<(), Mismatch> {
    let mut block = [0; 4096];
    let mut at = offset;
    for found in bytes.chunks(block.len()) {
        let expected = &mut block[..found.len()];
        expect(at, expected);
        if expected != found {
            let wrong = expected.iter().zip(found).enumerate().find(|(_, (e, f))| e != f);
            if let Some((i, (&expected, &found))) = wrong {
                return Err(Mismatch { offset: at.wrapping_add(i as u64), expected, found });
            }
        }
        at = at.wrapping_add(found.len() as u64);
    }
    Ok(())
}

fn stream(seed: u64, version: u64) -> u64 {
    hash::combine(&[seed, version])
}

/// One word. A single multiplication keeps [`fill`] near memory speed; the word index is spread by the
/// golden ratio first, and each step is a bijection, so words of one stream never repeat.
fn word(stream: u64, index: u64) -> u64 {
    let mut x = stream.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fill_is_byte_for_each(
            seed: u64, version: u64, offset in prop_oneof![0u64..100, any::<u64>()], len in 0usize..200
        ) {
            let mut buf = vec![0; len];
            fill(seed, version, offset, &mut buf);
            for (i, &b) in buf.iter().enumerate() {
                prop_assert_eq!(b, byte(seed, version, offset.wrapping_add(i as u64)));
            }
            prop_assert_eq!(verify(seed, version, offset, &buf), Ok(()));
        }

        #[test]
        fn verify_names_the_first_wrong_byte(offset in 0u64..1 << 40, at in 0usize..8999, xor in 1u8..) {
            let mut buf = vec![0; 9000];
            fill(3, 4, offset, &mut buf);
            buf[at] ^= xor;
            buf[8999] ^= 1; // a later wrong byte must not be the one reported
            let wrong = verify(3, 4, offset, &buf).unwrap_err();
            prop_assert_eq!(wrong.offset, offset + at as u64);
        }
    }

    #[test]
    fn versions_files_and_offsets_have_different_words() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..8 {
            for version in 0..8 {
                for i in 0..512 {
                    assert!(seen.insert(word(stream(seed, version), i)), "a word repeats");
                }
            }
        }
    }
}
