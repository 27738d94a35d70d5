//! A chunk of the content map as bytes (`docs/format.md`, "Content map").

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U32, U64},
};

use super::{BLOCK_PAGES, Chunk};
use crate::{
    checksum::Binding,
    header::{Damaged, FORMAT, check, seal},
};

/// Pages whose checksums are written to the side file together: 4 KiB of checksums.
pub(crate) const CRC_SEGMENT_PAGES: u64 = 1024;
/// Bytes of a chunk's map in the side file: the largest encoding and room to spare.
pub(crate) const MAP_AREA: usize = 128 * 1024;
/// Bytes of a chunk's checksums in the side file.
pub(crate) const CRC_AREA: usize = 1024 * 1024;

const MAGIC: [u8; 8] = *b"netfsmap";

/// Where a chunk is encoded for, and what it is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Side file (checksums apart) or xattr (checksums follow the map).
    pub(crate) side: bool,
    /// The object's incarnation.
    pub(crate) binding: Binding,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawMap {
    magic: [u8; 8],
    format: U32,
    crc: U32,
    binding: U64,
    edition: U64,
    number: U64,
    pages: U32,
    partials: U32,
    checksums: U32,
    reserved: U32,
}

/// A block that is neither absent, nor wholly data, nor wholly zero.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawPartial {
    block: U32,
    data: U64,
    zero: U64,
}

/// Where a chunk starts in the side file: first its map, then its checksums.
pub(crate) fn side_offset(number: u64) -> u64 {
    number * (MAP_AREA + CRC_AREA) as u64
}

/// The largest inline encoding a map of `pages` pages can have.
pub(crate) fn worst_inline(pages: u64) -> u64 {
    let blocks = pages.div_ceil(BLOCK_PAGES);
    let fixed = size_of::<RawMap>() as u64 + 2 * blocks.div_ceil(8);
    fixed + blocks * size_of::<RawPartial>() as u64 + 4 * pages
}

/// The edition that the start of an encoding states; [`Chunk::decode`] says whether it is one.
pub(crate) fn edition_in(bytes: &[u8]) -> u64 {
    let raw = RawMap::read_from_prefix(bytes).ok().filter(|(raw, _)| raw.magic == MAGIC);
    raw.map_or(0, |(raw, _)| raw.edition.get())
}

/// What [`edition_in`] has to see of an encoding.
pub(crate) const MAP_FIXED: usize = size_of::<RawMap>();

impl Chunk {
    /// The map as bytes; with `place.side` unset the checksums of the stored pages follow it.
    pub(crate) fn encode(&self, number: u64, edition: u64, place: Place) -> Vec<u8> {
        let mut full = Plane::new(self.data.len());
        let mut zero = Plane::new(self.data.len());
        let mut partials = Vec::new();
        for (block, (d, z)) in self.data.iter().zip(&*self.zero).enumerate() {
            let all = self.all_pages(block);
            if *d == all {
                full.set(block);
            } else if *z == all {
                zero.set(block);
            } else if d | z != 0 {
                let block = U32::new(u32::try_from(block).unwrap_or(u32::MAX));
                partials.push(RawPartial { block, data: U64::new(*d), zero: U64::new(*z) });
            }
        }
        let checksums: Vec<U32> =
            if place.side { Vec::new() } else { self.stored().map(U32::new).collect() };
        let raw = RawMap {
            magic: MAGIC,
            format: U32::new(FORMAT),
            crc: U32::ZERO,
            binding: U64::new(place.binding.value()),
            edition: U64::new(edition),
            number: U64::new(number),
            pages: U32::new(u32::try_from(self.pages).unwrap_or(u32::MAX)),
            partials: U32::new(u32::try_from(partials.len()).unwrap_or(u32::MAX)),
            checksums: U32::new(u32::try_from(checksums.len()).unwrap_or(u32::MAX)),
            reserved: U32::ZERO,
        };
        let parts = [raw.as_bytes(), &full.0, &zero.0, partials.as_bytes(), checksums.as_bytes()];
        seal(parts.concat())
    }

    /// A segment of checksums for the side file; `None` if the chunk stores nothing.
    pub(crate) fn encode_segment(&self, segment: u64) -> Option<Vec<u8>> {
        if self.crcs.is_empty() {
            return None;
        }
        let start = usize::try_from(segment * CRC_SEGMENT_PAGES).ok()?;
        let end = self.crcs.len().min(start + CRC_SEGMENT_PAGES as usize);
        Some(self.crcs.get(start..end)?.iter().flat_map(|c| c.to_be_bytes()).collect())
    }

    /// Reads an encoding of chunk `number` in this edition, of `pages` pages, back. `bytes` may be longer than it
    /// (side file). For a side file `checksums` are the bytes of the checksum area, as many as there
    /// are: a page without one is not known.
    pub(crate) fn decode(
        bytes: &[u8],
        checksums: Option<&[u8]>,
        (number, edition): (u64, u64),
        pages: u64,
        place: Place,
    ) -> Result<Chunk, Damaged> {
        let (raw, _) = RawMap::read_from_prefix(bytes).map_err(|_| Damaged)?;
        let mut chunk = Chunk::empty(pages);
        let plane = chunk.data.len().div_ceil(8);
        let partials = usize::try_from(raw.partials.get()).map_err(|_| Damaged)?;
        let stored = usize::try_from(raw.checksums.get()).map_err(|_| Damaged)?;
        if partials > chunk.data.len() || stored as u64 > pages {
            return Err(Damaged);
        }
        let partial_len = partials * size_of::<RawPartial>();
        let map_len = size_of::<RawMap>() + 2 * plane + partial_len;
        let body = bytes.get(..map_len + 4 * stored).ok_or(Damaged)?;
        check(body, raw.magic == MAGIC, raw.format, raw.crc)?;
        let bound = raw.binding.get() == place.binding.value()
            && raw.edition.get() == edition
            && raw.number.get() == number
            && u64::from(raw.pages.get()) == pages;
        if !bound || (!place.side && body.len() != bytes.len()) {
            return Err(Damaged);
        }
        let (planes, entries) = body[size_of::<RawMap>()..].split_at(2 * plane);
        chunk.decode_planes(planes.split_at(plane))?;
        chunk.decode_partials(&entries[..partial_len])?;
        match checksums {
            Some(area) => chunk.take_checksums_area(area),
            None => chunk.take_checksums_inline(&entries[partial_len..])?,
        }
        Ok(chunk)
    }

    fn decode_planes(&mut self, (full, zero): (&[u8], &[u8])) -> Result<(), Damaged> {
        for block in 0..self.data.len() {
            let (f, z) = (bit(full, block), bit(zero, block));
            if f && z {
                return Err(Damaged);
            }
            if f {
                self.data[block] = self.all_pages(block);
            } else if z {
                self.zero[block] = self.all_pages(block);
            }
        }
        Ok(())
    }

    fn decode_partials(&mut self, entries: &[u8]) -> Result<(), Damaged> {
        for entry in entries.chunks_exact(size_of::<RawPartial>()) {
            let entry = RawPartial::read_from_bytes(entry).map_err(|_| Damaged)?;
            let block = usize::try_from(entry.block.get()).map_err(|_| Damaged)?;
            let (data, zero) = (entry.data.get(), entry.zero.get());
            let fits = block < self.data.len() && (data | zero) & !self.all_pages(block) == 0;
            if !fits || data & zero != 0 || self.data[block] | self.zero[block] != 0 {
                return Err(Damaged);
            }
            (self.data[block], self.zero[block]) = (data, zero);
        }
        Ok(())
    }

    fn take_checksums_inline(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let stored: u64 = self.data.iter().map(|d| u64::from(d.count_ones())).sum();
        if stored * 4 != bytes.len() as u64 {
            return Err(Damaged);
        }
        if stored == 0 {
            return Ok(());
        }
        self.crcs = vec![0; usize::try_from(self.pages).map_err(|_| Damaged)?];
        let mut values = bytes.chunks_exact(4).map(be32);
        for (block, mask) in self.data.iter().enumerate() {
            for bit in (0..64).filter(|b| mask >> b & 1 == 1) {
                let slot = self.crcs.get_mut(block * BLOCK_PAGES as usize + bit).ok_or(Damaged)?;
                *slot = values.next().ok_or(Damaged)?;
            }
        }
        Ok(())
    }

    fn take_checksums_area(&mut self, area: &[u8]) {
        if self.data.iter().all(|d| *d == 0) {
            return;
        }
        self.crcs = area.chunks_exact(4).map(be32).collect();
        // The area ends early when the file was truncated. What has no checksum gets one that is
        // as good as never right, and the first read forgets the page.
        self.crcs.resize(usize::try_from(self.pages).unwrap_or(0), 0);
    }

    /// The checksums of stored pages, in order.
    fn stored(&self) -> impl Iterator<Item = u32> {
        self.data.iter().enumerate().flat_map(move |(block, mask)| {
            let base = block * BLOCK_PAGES as usize;
            (0..64).filter(move |b| mask >> b & 1 == 1).map(move |b| self.crcs[base + b])
        })
    }

    /// The mask of the pages a block has (the last one may have fewer).
    fn all_pages(&self, block: usize) -> u64 {
        let left = self.pages - block as u64 * BLOCK_PAGES;
        if left >= BLOCK_PAGES { u64::MAX } else { (1 << left) - 1 }
    }
}

/// One bit a block, most significant bit of a byte first.
struct Plane(Vec<u8>);

impl Plane {
    fn new(blocks: usize) -> Plane {
        Plane(vec![0; blocks.div_ceil(8)])
    }

    fn set(&mut self, block: usize) {
        self.0[block / 8] |= 0x80 >> (block % 8);
    }
}

fn bit(plane: &[u8], block: usize) -> bool {
    plane[block / 8] & (0x80 >> (block % 8)) != 0
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| (n << 8) | u32::from(*b))
}
