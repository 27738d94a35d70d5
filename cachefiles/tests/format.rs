//! `docs/format.md` read as a specification: a second, plain reader written from the document alone
//! finds every byte of a cache where the document says it is.

mod common;

use std::{fs, os::unix::fs::FileExt, path::Path};

use common::*;
use netfs::fscache::Found;

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A big-endian number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |n, b| (n << 8) | u64::from(*b))
}

/// Magic, format 0, and the CRC over everything with the CRC's field zero.
fn check_start(bytes: &[u8], magic: &[u8]) {
    assert_eq!((&bytes[..8], number(bytes, 8, 4)), (magic, 0));
    let mut plain = bytes.to_vec();
    plain[12..16].fill(0);
    assert_eq!(number(bytes, 12, 4), u64::from(crc_fast::crc32_iscsi(&plain)));
}

struct Stored {
    /// Of every chunk.
    edition: u64,
    binding: u64,
    file: fs::File,
}

/// Reads an object's header and checks all of it.
fn open(path: &Path, volume: &str, key: &[u8], aux: &[u8], size: u64, side: bool) -> Stored {
    let header = xattr::get(path, "user.netfs.hdr").expect("xattr").expect("header");
    check_start(&header, b"netfsobj");
    assert_eq!((number(&header, 32, 8), number(&header, 40, 8)), (size, size));
    assert_eq!(number(&header, 48, 8), fnv(volume.bytes()));
    let lengths = [u8::from(side), aux.len() as u8, key.len() as u8, 0];
    // No own change, so no editions.
    assert_eq!(header[56..], [&lengths[..], &[0; 8], aux, key].concat());
    let place = mix(fnv(volume.bytes())).wrapping_add(fnv(key.iter().copied()));
    let generation = number(&header, 16, 8);
    let binding = mix(mix(mix(place) ^ generation) ^ number(&header, 24, 8));
    Stored { edition: 0, binding, file: fs::File::open(path).expect("data") }
}

impl Stored {
    /// The document's page checksum over what is in the backing file.
    fn checksum(&self, page: u64) -> u64 {
        let mut bytes = [0; 4096];
        self.file.read_exact_at(&mut bytes, page * 4096).expect("stored");
        let mask = mix(self.binding ^ page.wrapping_mul(0x9e37_79b9_7f4a_7c15)) & 0xffff_ffff;
        u64::from(crc_fast::crc32_iscsi(&bytes)) ^ mask
    }

    /// Checks a chunk's fixed part and reads its pages: (data, zero), and where it ends.
    fn pages(&self, map: &[u8], chunk: u64, pages: u64) -> (Vec<u64>, Vec<u64>, usize) {
        assert_eq!(
            (number(map, 16, 8), &map[24..32]),
            (self.binding, &self.edition.to_be_bytes()[..])
        );
        assert_eq!((number(map, 32, 8), number(map, 40, 4)), (chunk, pages));
        let partials = number(map, 44, 4) as usize;
        assert_eq!(number(map, 52, 4), 0);
        let blocks = pages.div_ceil(64);
        let plane = blocks.div_ceil(8) as usize;
        let (mut data, mut zero) = (Vec::new(), Vec::new());
        for block in 0..blocks {
            let bit = |at: usize| map[at + block as usize / 8] >> (7 - block % 8) & 1 == 1;
            let all = block * 64..(block * 64 + 64).min(pages);
            match (bit(56), bit(56 + plane)) {
                (true, false) => data.extend(all),
                (false, true) => zero.extend(all),
                (both, _) => assert!(!both),
            }
        }
        for i in 0..partials {
            let at = 56 + 2 * plane + 20 * i;
            for bit in 0..64 {
                let page = number(map, at, 4) * 64 + bit;
                for (pages, mask) in [(&mut data, at + 4), (&mut zero, at + 12)] {
                    if number(map, mask, 8) >> bit & 1 == 1 {
                        pages.push(page);
                    }
                }
            }
        }
        data.sort_unstable();
        zero.sort_unstable();
        (data, zero, 56 + 2 * plane + 20 * partials)
    }
}

#[test]
fn superblock_volume_and_names_are_as_documented() {
    let dir = tempfile::tempdir().expect("dir");
    let cache = builder(dir.path()).open().expect("opens");
    let v = volume(&cache, "server,export", b"coherent").expect("volume");
    let long = [7; 200];
    let keys: [(&[u8], String); 4] = [
        (b"plain", "Dplain".into()),
        (b"a/b", "H612f62".into()),
        (&[0xff; 130], format!("E{}{}", "_".repeat(173), "w")),
        (&long, format!("X{0:016x}{0:016x}", mix(fnv(long)))),
    ];
    for (key, name) in &keys {
        let object = lookup(&v, key, &identity(b"v", 4096)).expect("lookup").object;
        fill(&object, 1, 0, 4096);
        close(object);
        let fan = format!("@{:02x}", mix(fnv(key.iter().copied())) & 0xff);
        let path = dir.path().join("cache/IDserver,export").join(fan).join(name);
        open(&path, "server,export", key, b"v", 4096, false);
    }
    let superblock = fs::read(dir.path().join("netfs-cache")).expect("superblock");
    assert_eq!((superblock.len(), &superblock[16..]), (64, &[0; 48][..]));
    check_start(&superblock, b"netfsdir");
    let path = dir.path().join("cache/IDserver,export");
    let header = xattr::get(path, "user.netfs.vol").expect("xattr").expect("volume header");
    check_start(&header, b"netfsvol");
    assert_eq!(header[16..], *[&[0, 13, 0, 8][..], b"server,exportcoherent"].concat());
}

#[test]
fn an_inline_map_is_as_documented() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let size = 200 * 4096 - 96;
    let (object, _) = bed.object(b"key", &identity(b"v1", size));
    fill(&object, 1, 0, 70 * 4096);
    fill(&object, 1, 199 * 4096, 4096);
    object.mark_zero(128 * 4096..192 * 4096);
    object.mark_zero(195 * 4096..197 * 4096);
    close(object);
    let path = find(dir.path(), "Dkey").expect("file");
    let stored = open(&path, "vol", b"key", b"v1", size, false);
    let map = xattr::get(&path, "user.netfs.map").expect("xattr").expect("map");
    check_start(&map, b"netfsmap");
    let (data, zero, end) = stored.pages(&map, 0, 200);
    assert_eq!(data, (0..70).chain([199]).collect::<Vec<_>>());
    assert_eq!(zero, (128..192).chain(195..197).collect::<Vec<_>>());
    assert_eq!((number(&map, 48, 4), map.len()), (71, end + 4 * 71));
    for (i, page) in data.into_iter().enumerate() {
        assert_eq!(number(&map, end + 4 * i, 4), stored.checksum(page), "page {page}");
    }
    let data = fs::read(path).expect("data");
    assert_eq!(data[..70 * 4096], content(1, 0, 70 * 4096, size));
    assert_eq!(data[size as usize..], [0; 96], "padded");
}

#[test]
fn a_side_file_is_as_documented() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let size = (1 << 30) + 100 * 4096;
    let (object, _) = bed.object(b"key", &identity(b"v1", size));
    fill(&object, 1, 3 * 4096, 4096);
    fill(&object, 1, (1 << 30) - 4096, 3 * 4096);
    close(object);
    let path = find(dir.path(), "Dkey").expect("file");
    let stored = open(&path, "vol", b"key", b"v1", size, true);
    let side = fs::read(path.with_file_name("mDkey")).expect("side file");
    for (chunk, pages, want) in [(0, 262_144, vec![3, 262_143]), (1, 100, vec![0, 1])] {
        let bytes = &side[chunk as usize * 1_179_648..];
        let (data, zero, end) = stored.pages(bytes, chunk, pages);
        check_start(&bytes[..end], b"netfsmap");
        assert_eq!((&data, zero.len(), number(bytes, 48, 4)), (&want, 0, 0));
        for page in data {
            let sum = number(bytes, 131_072 + 4 * page as usize, 4);
            assert_eq!(sum, stored.checksum(chunk * 262_144 + page), "page {page}");
        }
    }
}

#[test]
fn a_generation_without_successors_is_not_believed() {
    let dir = tempfile::tempdir().expect("dir");
    for generation in [1 << 63, u64::MAX - 1] {
        let bed = Bed::open(dir.path());
        let (object, _) = bed.object(b"key", &identity(b"v", 4096));
        fill(&object, 1, 0, 4096);
        close(object);
        let path = find(dir.path(), "Dkey").expect("file");
        let mut header = xattr::get(&path, "user.netfs.hdr").expect("xattr").expect("header");
        header[16..24].copy_from_slice(&u64::to_be_bytes(generation));
        header[12..16].fill(0);
        let crc = crc_fast::crc32_iscsi(&header);
        header[12..16].copy_from_slice(&crc.to_be_bytes());
        xattr::set(&path, "user.netfs.hdr", &header).expect("set");
        let (object, found) = bed.object(b"key", &identity(b"v2", 4096));
        assert_eq!(found, Found::ReplacedCorrupt);
        let next = object.cut_over(identity(b"v3", 4096)).expect("cut over");
        assert!(next.generation() > object.generation());
        retire(next);
        bed.end();
    }
}
