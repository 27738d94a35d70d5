//! Names on disk: volumes, fan-out directories, objects and side files.
//!
//! A name says what it is by its first byte, so no key can collide with a name of our own:
//! `I` a volume, `@` a fan-out directory, `D` `H` `E` `X` an object, `m` an object's side file.
//! The encoding of a key is injective (row 119, N-C55) except for `X`, the hash of a key that fits in
//! no other form; there the full key in the header decides.

use std::fmt::Write;

use crate::checksum::{hash64, mix};

/// The file that makes a directory a cache.
pub(crate) const SUPERBLOCK: &str = "netfs-cache";
/// The file the owner holds locked.
pub(crate) const LOCK: &str = "lock";
/// The directory of volumes.
pub(crate) const CACHE: &str = "cache";
/// The directory of what is being deleted or has no final name yet.
pub(crate) const GRAVEYARD: &str = "graveyard";

/// Longest encoded name: a file name's 255 bytes less the side file's or volume's prefix.
const NAME_MAX: usize = 254;
pub(crate) const BASE64: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Where an object lives inside its volume's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ObjectName {
    /// Fan-out directory.
    pub(crate) fan: String,
    /// The backing file.
    pub(crate) file: String,
    /// The side file, if there is one.
    pub(crate) side: String,
}

impl ObjectName {
    /// The place of `key`.
    pub(crate) fn new(key: &[u8]) -> ObjectName {
        let file = encode(key);
        let side = format!("m{file}");
        ObjectName { fan: format!("@{:02x}", mix(hash64(key)) & 0xff), file, side }
    }
}

/// The directory of a volume.
pub(crate) fn volume_name(id: &str) -> String {
    format!("I{}", encode(id.as_bytes()))
}

/// Printable keys as they are, short ones in hex, longer ones in base64, the rest by hash.
fn encode(key: &[u8]) -> String {
    if key.len() < NAME_MAX && key.iter().all(|b| b.is_ascii_graphic() && *b != b'/') {
        return std::iter::once('D').chain(key.iter().map(|b| char::from(*b))).collect();
    }
    if 2 * key.len() < NAME_MAX {
        return format!("H{}", hex(key));
    }
    if (key.len() * 4).div_ceil(3) < NAME_MAX {
        return format!("E{}", base64(key));
    }
    let reversed: Vec<u8> = key.iter().rev().copied().collect();
    format!("X{:016x}{:016x}", mix(hash64(key)), mix(hash64(&reversed)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        // Writing to a String cannot fail.
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// RFC 4648 section 5 (URL and file name safe), without padding.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity((bytes.len() * 4).div_ceil(3));
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..=group.len() {
            out.push(char::from(BASE64[((word >> (18 - 6 * i)) & 63) as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::key_of;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..=255),
            proptest::collection::vec(0x21u8..0x7f, 1..=255),
            proptest::collection::vec(
                prop_oneof![Just(b'/'), Just(b'.'), Just(0u8), Just(b'a')],
                1..=8
            ),
        ]
    }

    proptest! {
        #[test]
        fn n_c55_names_are_safe_and_decode_to_their_key(key in keys()) {
            let name = ObjectName::new(&key);
            for n in [&name.fan, &name.file, &name.side] {
                prop_assert!(n.len() <= 255 && n != "." && n != "..");
                prop_assert!(n.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
            }
            let starts = [&name.fan, &name.file, &name.side].map(|n| n.as_bytes()[0]);
            prop_assert_eq!((starts[0], starts[2]), (b'@', b'm'));
            prop_assert!(b"DHEX".contains(&starts[1]));
            match key_of(&name.file) {
                Some(back) => prop_assert_eq!(back, key),
                None => prop_assert!(name.file.starts_with('X') && key.len() > 189),
            }
        }
    }

    #[test]
    fn n_c55_every_key_length_and_byte_has_its_own_name() {
        let mut seen = HashMap::new();
        for len in 1..=255 {
            for byte in 0..=255u8 {
                let key = vec![byte; len];
                if let Some(other) = seen.insert(ObjectName::new(&key).file, key.clone()) {
                    panic!("{other:?} and {key:?} share a name");
                }
            }
        }
    }

    #[test]
    fn volume_names_hold_any_identity() {
        assert_eq!(volume_name("afs,cell,vol"), "IDafs,cell,vol");
        assert!(volume_name("..").starts_with("ID"));
        for id in ["a".repeat(255), "\u{e9}".repeat(127), " ".into()] {
            let name = volume_name(&id);
            assert!(name.len() <= 255 && name.starts_with('I'), "{name}");
        }
    }
}
