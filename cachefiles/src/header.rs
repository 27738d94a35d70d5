//! The object header (xattr `user.netfs.hdr`) and the volume header (xattr `user.netfs.vol`): what an
//! object or volume is about. Anything unexpected is [`Damaged`]: such an object is replaced, never
//! served and never left in the way (row 122, complaint 16, N-C56).

use netfs::fscache::Identity;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32, U64},
};

use crate::checksum::{crc32c, hash64};

/// The xattr that holds an object's header.
pub(crate) const OBJECT_XATTR: &str = "user.netfs.hdr";
/// The xattr that holds a volume's header.
pub(crate) const VOLUME_XATTR: &str = "user.netfs.vol";
/// The format this code reads and writes. Format 0 is not stable.
pub(crate) const FORMAT: u32 = 0;
/// Longest coherency data of an object.
pub(crate) const AUX_MAX: usize = 200;
/// Longest coherency data of a volume.
pub(crate) const VOLUME_AUX_MAX: usize = 1024;

const OBJECT_MAGIC: [u8; 8] = *b"netfsobj";
const VOLUME_MAGIC: [u8; 8] = *b"netfsvol";

/// What was read is not a header this format wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Damaged;

/// Where an object's content map is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapPlace {
    /// In the xattr beside the header.
    Inline,
    /// In the side file.
    Side,
}

/// An object's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ObjectHeader {
    /// Incarnation number.
    pub(crate) generation: u64,
    /// Random; tells incarnations apart even when the clock ran backwards.
    pub(crate) nonce: u64,
    /// Where the content map is.
    pub(crate) map: MapPlace,
    /// The identity the content belongs to.
    pub(crate) identity: Identity,
    /// The owner is changing the file: the identity vouches for nothing.
    pub(crate) modifying: bool,
    /// What the editions of the map's chunks come to.
    pub(crate) editions: u64,
    /// The whole key.
    pub(crate) key: Vec<u8>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawObject {
    magic: [u8; 8],
    format: U32,
    crc: U32,
    generation: U64,
    nonce: U64,
    object_size: U64,
    zero_point: U64,
    volume: U64,
    map_place: u8,
    aux_len: u8,
    key_len: u8,
    modifying: u8,
    editions: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawVolume {
    magic: [u8; 8],
    format: U32,
    crc: U32,
    id_len: U16,
    aux_len: U16,
}

impl ObjectHeader {
    /// As stored in `volume`.
    pub(crate) fn encode(&self, volume: &str) -> Vec<u8> {
        let raw = RawObject {
            magic: OBJECT_MAGIC,
            format: U32::new(FORMAT),
            crc: U32::ZERO,
            generation: U64::new(self.generation),
            nonce: U64::new(self.nonce),
            object_size: U64::new(self.identity.size),
            // Nothing is known to be zero below the size; known zeros are in the content map.
            zero_point: U64::new(self.identity.size),
            volume: U64::new(hash64(volume.as_bytes())),
            map_place: match self.map {
                MapPlace::Inline => 0,
                MapPlace::Side => 1,
            },
            aux_len: u8::try_from(self.identity.aux.len()).unwrap_or(u8::MAX),
            key_len: u8::try_from(self.key.len()).unwrap_or(u8::MAX),
            modifying: u8::from(self.modifying),
            editions: U64::new(self.editions),
        };
        seal([raw.as_bytes(), &self.identity.aux, &self.key].concat())
    }

    /// Reads what [`encode`](ObjectHeader::encode) wrote for the same volume.
    pub(crate) fn decode(bytes: &[u8], volume: &str) -> Result<ObjectHeader, Damaged> {
        let (raw, rest) = RawObject::read_from_prefix(bytes).map_err(|_| Damaged)?;
        check(bytes, raw.magic == OBJECT_MAGIC, raw.format, raw.crc)?;
        let (aux_len, key_len) = (usize::from(raw.aux_len), usize::from(raw.key_len));
        let fits = rest.len() == aux_len + key_len && aux_len <= AUX_MAX && key_len > 0;
        if !fits || raw.volume.get() != hash64(volume.as_bytes()) {
            return Err(Damaged);
        }
        let map = match raw.map_place {
            0 => MapPlace::Inline,
            1 => MapPlace::Side,
            _ => return Err(Damaged),
        };
        let modifying = match raw.modifying {
            0 => false,
            1 => true,
            _ => return Err(Damaged),
        };
        let (aux, key) = rest.split_at(aux_len);
        Ok(ObjectHeader {
            generation: raw.generation.get(),
            nonce: raw.nonce.get(),
            map,
            identity: Identity { aux: aux.to_vec().into(), size: raw.object_size.get() },
            modifying,
            editions: raw.editions.get(),
            key: key.to_vec(),
        })
    }
}

/// A volume's header: its identity string and coherency data.
pub(crate) fn encode_volume(id: &str, aux: &[u8]) -> Vec<u8> {
    let raw = RawVolume {
        magic: VOLUME_MAGIC,
        format: U32::new(FORMAT),
        crc: U32::ZERO,
        id_len: U16::new(u16::try_from(id.len()).unwrap_or(u16::MAX)),
        aux_len: U16::new(u16::try_from(aux.len()).unwrap_or(u16::MAX)),
    };
    seal([raw.as_bytes(), id.as_bytes(), aux].concat())
}

/// Fills in the checksum of a header whose checksum field is zero.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Checks magic, format and the checksum at bytes 12..16 (where every header of ours has it).
pub(crate) fn check(bytes: &[u8], magic: bool, format: U32, crc: U32) -> Result<(), Damaged> {
    if !magic || format.get() != FORMAT || !crc_matches(bytes, crc) {
        return Err(Damaged);
    }
    Ok(())
}

/// Whether the checksum at bytes 12..16 is that of the rest.
pub(crate) fn crc_matches(bytes: &[u8], crc: U32) -> bool {
    let mut plain = bytes.to_vec();
    let Some(field) = plain.get_mut(12..16) else { return false };
    field.fill(0);
    crc32c(&plain) == crc.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ObjectHeader {
        ObjectHeader {
            generation: 5,
            nonce: 0x0102_0304_0506_0708,
            map: MapPlace::Side,
            identity: Identity { aux: b"version".to_vec().into(), size: 12345 },
            modifying: false,
            editions: 9,
            key: b"key".to_vec(),
        }
    }

    #[test]
    fn a_header_reads_back() {
        let modifying = ObjectHeader { modifying: true, ..header() };
        assert_eq!(ObjectHeader::decode(&modifying.encode("vol"), "vol"), Ok(modifying));
        let bytes = header().encode("vol");
        assert_eq!(ObjectHeader::decode(&bytes, "vol"), Ok(header()));
        assert_eq!(ObjectHeader::decode(&bytes, "other"), Err(Damaged));
    }

    proptest::proptest! {
        #[test]
        fn decoding_survives_forged_headers(
            changes in proptest::collection::vec((8..78usize, proptest::num::u8::ANY), 1..6),
            len in 0..88usize,
        ) {
            let mut bytes = header().encode("vol");
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes.truncate(len.max(16));
            bytes[12..16].fill(0);
            if let Ok(h) = ObjectHeader::decode(&seal(bytes), "vol") {
                proptest::prop_assert!(h.identity.aux.len() <= AUX_MAX && !h.key.is_empty());
            }
        }
    }

    #[test]
    fn numbers_are_big_endian() {
        let bytes = header().encode("vol");
        assert_eq!(bytes[24..32], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn n_c56_every_changed_bit_and_every_truncation_is_noticed() {
        let bytes = header().encode("vol");
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert_eq!(ObjectHeader::decode(&bad, "vol"), Err(Damaged), "byte {i} bit {bit}");
            }
            assert_eq!(ObjectHeader::decode(&bytes[..i], "vol"), Err(Damaged));
        }
    }
}
