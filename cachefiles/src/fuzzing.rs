//! Entry points for the fuzzers in `fuzz/` and for the test that runs the same functions without them.
//! Not an interface: only there with the feature `fuzzing`, and changed at will.
//!
//! Each takes any bytes. It must not panic, and what it accepts must mean the same after being written
//! again. Checksums would keep every fuzzer out, so each input is tried both as it is and sealed with
//! the checksum it should have: what a forger, or a mistake of our own, could have written.

use netfs::folio::PAGE_SIZE;

use crate::{
    checksum::Binding,
    content_map::{CHUNK_PAGES, Chunk, ContentMap, Editions, Place, edition_in},
    header::{AUX_MAX, ObjectHeader, seal},
    layout::ObjectName,
};

const VOLUME: &str = "fuzzed,volume";
/// A map's header without its planes; the checksum's place in it.
const MAP_FIXED: usize = 56;

/// The object header (`user.netfs.hdr`).
pub fn header(data: &[u8]) {
    for bytes in as_is_and_sealed(data) {
        let Ok(header) = ObjectHeader::decode(&bytes, VOLUME) else { continue };
        assert!(header.identity.aux.len() <= AUX_MAX && !header.key.is_empty());
        let again = header.encode(VOLUME);
        assert_eq!(ObjectHeader::decode(&again, VOLUME).as_ref(), Ok(&header));
        assert!(ObjectHeader::decode(&again, "another,volume").is_err());
    }
}

/// A content map with its checksums (`user.netfs.map`): two bytes say how many pages the object has.
pub fn content_map(data: &[u8]) {
    let Some((pages, map)) = split_u16(data) else { return };
    for bytes in as_is_and_sealed(map) {
        let place = Place { side: false, binding: binding_in(&bytes) };
        let number = (number_at(&bytes, 32), edition_in(&bytes));
        if let Ok(chunk) = Chunk::decode(&bytes, None, number, pages, place) {
            check_chunk(chunk, number, pages, place);
        }
    }
}

/// A side file: two bytes for the pages, two for the length of its map, then map and checksums.
pub fn side_file(data: &[u8]) {
    let Some((pages, rest)) = split_u16(data) else { return };
    let Some((len, rest)) = split_u16(rest) else { return };
    let (map, area) = rest.split_at(rest.len().min(len as usize));
    for bytes in as_is_and_sealed(map) {
        let place = Place { side: true, binding: binding_in(&bytes) };
        let number = (number_at(&bytes, 32), edition_in(&bytes));
        // A side file's map is followed by other things.
        let longer = [&bytes[..], area].concat();
        if let Ok(chunk) = Chunk::decode(&longer, Some(area), number, pages, place) {
            check_chunk(chunk, number, pages, place);
        }
    }
}

/// A key's names on disk: safe, and no other key's.
pub fn name(key: &[u8]) {
    let key = &key[..key.len().min(255)];
    if key.is_empty() {
        return;
    }
    let name = ObjectName::new(key);
    for n in [&name.fan, &name.file, &name.side] {
        assert!(n.len() <= 255 && n != "." && n != "..");
        assert!(n.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
    }
    match key_of(&name.file) {
        Some(back) => assert_eq!(back, key),
        // A hash: the full key in the header decides.
        None => assert!(name.file.starts_with('X') && key.len() > 189),
    }
}

/// The inverse of an object's name, which shows that no two keys share one; `None` for a hash.
pub fn key_of(name: &str) -> Option<Vec<u8>> {
    let (kind, rest) = name.split_at_checked(1)?;
    match kind {
        "D" => Some(rest.as_bytes().to_vec()),
        "H" => (0..rest.len() / 2)
            .map(|i| u8::from_str_radix(rest.get(2 * i..2 * i + 2)?, 16).ok())
            .collect(),
        "E" => base64(rest),
        _ => None,
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut n, mut out) = (0u32, 0, Vec::new());
    for c in text.bytes() {
        let digit = crate::layout::BASE64.iter().position(|b| *b == c)?;
        bits = (bits << 6) | u32::try_from(digit).ok()?;
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push(u8::try_from((bits >> n) & 0xff).ok()?);
        }
    }
    Some(out)
}

fn as_is_and_sealed(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut both = vec![bytes.to_vec()];
    if bytes.len() >= 16 {
        let mut forged = bytes.to_vec();
        forged[12..16].fill(0);
        both.push(seal(forged));
    }
    both
}

/// What was accepted says the same of every page when it has been encoded and read again.
fn check_chunk(chunk: Chunk, (number, edition): (u64, u64), pages: u64, place: Place) {
    let encoded = chunk.encode(number, edition, place);
    let area: Option<Vec<u8>> =
        place.side.then(|| (0..256).filter_map(|s| chunk.encode_segment(s)).flatten().collect());
    let decode =
        |number, edition| Chunk::decode(&encoded, area.as_deref(), (number, edition), pages, place);
    let Ok(again) = decode(number, edition) else {
        panic!("what was accepted is not accepted again");
    };
    assert_eq!(again.encode(number, edition, place), encoded);
    assert!(decode(number ^ 1, edition).is_err() && decode(number, edition ^ 1).is_err());
    let size = pages * PAGE_SIZE as u64;
    let (before, after) = (installed(chunk, size), installed(again, size));
    for page in 0..pages {
        let at = page * PAGE_SIZE as u64..(page + 1) * PAGE_SIZE as u64;
        assert_eq!(before.extents(at.clone()).0, after.extents(at).0);
        match (before.run(page, 1), after.run(page, 1)) {
            (Ok(a), Ok(b)) => {
                assert_eq!((a.zero, a.pages, a.crcs), (b.zero, b.pages, b.crcs));
            }
            (a, b) => assert_eq!(a.err(), b.err()),
        }
    }
}

fn installed(chunk: Chunk, size: u64) -> ContentMap {
    let mut map = ContentMap::stored(size, Editions::default());
    map.install(0, chunk);
    map
}

/// The binding the bytes claim: a fuzzer is not asked to guess one.
fn binding_in(bytes: &[u8]) -> Binding {
    Binding::from_value(number_at(bytes, 16))
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(..MAP_FIXED).and_then(|fixed| fixed.get(at..at + 8)) {
        Some(eight) => eight.iter().fold(0, |n, b| n << 8 | u64::from(*b)),
        None => 0,
    }
}

/// Two bytes from the front: 1 to 65535, which keeps a chunk small enough to look at all of it.
fn split_u16(data: &[u8]) -> Option<(u64, &[u8])> {
    let (two, rest) = data.split_at_checked(2)?;
    let n = u64::from(two[0]) << 8 | u64::from(two[1]);
    Some((n.clamp(1, CHUNK_PAGES), rest))
}

/// Inputs that are valid and those next to them, to begin with: `(fuzzer, name, bytes)`.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (i, key) in
        [&b"key"[..], &[0xff; 255], b"a b/../c", &[7; 190], &[1; 100]].iter().enumerate()
    {
        seeds.push(("name", format!("key-{i}"), key.to_vec()));
        let identity = netfs::fscache::Identity { aux: vec![9; 8 * i].into(), size: 5000 << i };
        let map = match i % 2 {
            0 => crate::header::MapPlace::Inline,
            _ => crate::header::MapPlace::Side,
        };
        let modifying = i == 4;
        let header = ObjectHeader {
            generation: 3,
            nonce: 5,
            map,
            identity,
            modifying,
            editions: i as u64,
            key: key.to_vec(),
        };
        seeds.push(("header", format!("header-{i}"), header.encode(VOLUME)));
    }
    for (i, pages) in [1u64, 3, 64, 200, 1500].into_iter().enumerate() {
        let mut chunk = Chunk::empty(pages);
        for page in (0..pages).filter(|p| p % 5 != 1 && (*p < 64 || i != 3)) {
            chunk.set_data(page, page as u32 * 7);
        }
        chunk.mark_zero(pages / 2..pages / 2 + 1);
        let binding = Binding::new(VOLUME, b"key", 3, 5);
        let two = |n: u64| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        for side in [false, true] {
            let map = chunk.encode(0, i as u64, Place { side, binding });
            if side {
                let area = (0..2).filter_map(|s| chunk.encode_segment(s)).flatten().collect();
                let bytes =
                    [two(pages).to_vec(), two(map.len() as u64).to_vec(), map, area].concat();
                seeds.push(("side_file", format!("map-{i}"), bytes));
            } else {
                seeds.push((
                    "content_map",
                    format!("map-{i}"),
                    [two(pages).to_vec(), map].concat(),
                ));
            }
        }
    }
    seeds
}
