//! Looking an object up: opening what is on disk if it can be trusted and is what was asked for, and
//! an empty object in every other case (B4, N-C56).

use std::{fs::File, io::IoSliceMut, sync::Arc};

use bytes::Bytes;
use netfs::{
    folio::PAGE_SIZE,
    fscache::{Found, Identity, Opened, Refusal},
};

use super::Volume;
use crate::{
    checksum::Binding,
    content_map::{
        CHUNK_PAGES, Chunk, ContentMap, Editions, MAP_FIXED, Place, edition_in, side_offset,
    },
    descriptors::Place as Budgeted,
    header::{Damaged, MapPlace, OBJECT_XATTR, ObjectHeader},
    io::{Errno, FileId, KernelCopy, is_not_now, read_full},
    object::{MAP_XATTR, Object, OnDisk, Slot, check_identity, refusal},
    stats::Counters,
};

/// No clock gives out this generation or a later one before the year 2262.
const GENERATION_END: u64 = 1 << 63;

/// What was found at a name.
enum AtName {
    Nothing,
    /// Not to be trusted.
    Corrupt,
    /// In order, with the identity that was asked for.
    Wanted(Box<Wanted>),
    /// In order, of another identity; its generation.
    Stale(u64),
}

struct Wanted {
    file: File,
    id: FileId,
    header: ObjectHeader,
    map: ContentMap,
}

impl Volume {
    /// On I/O threads only.
    pub(super) fn lookup_now(
        self: &Arc<Self>,
        key: Bytes,
        identity: Identity,
    ) -> Result<Opened, Refusal> {
        if key.is_empty() || key.len() > 255 {
            return Err(Refusal::Unsupported);
        }
        check_identity(&identity)?;
        self.alive()?;
        let slot = self.claim(key)?;
        let place = self.shared.descriptors.make_room();
        let (object, found) = match look(&slot, &identity)? {
            AtName::Wanted(wanted) => (adopt(&slot, *wanted, place), Found::Existing),
            AtName::Nothing => (Object::fresh(slot, identity, 0, false), Found::Created),
            AtName::Stale(generation) => {
                Counters::count(&self.shared.stats.stale_objects);
                clear(&slot);
                (Object::fresh(slot, identity, generation, false), Found::ReplacedStale)
            }
            AtName::Corrupt => {
                Counters::count(&self.shared.stats.corrupt_objects);
                clear(&slot);
                (Object::fresh(slot, identity, 0, false), Found::ReplacedCorrupt)
            }
        };
        Ok(Opened { object, found })
    }
}

fn adopt(slot: &Arc<Slot>, wanted: Wanted, place: Budgeted) -> Arc<Object> {
    let Wanted { file, id, header, map } = wanted;
    *slot.disk() = OnDisk::Ours { generation: header.generation, id };
    let object = Object::found(Arc::clone(slot), header, map);
    slot.shared().descriptors.adopt(&object, file, place);
    // The first GiB at once: a reader that comes next finds it.
    // Not now is no reason to be refused: it is loaded when it is asked for.
    let _ = object.load_chunk(0);
    object
}

/// Removes what the new object replaces. Until it is gone, its header or checksums give it away.
fn clear(slot: &Slot) {
    let mut disk = slot.disk();
    *disk = OnDisk::Other;
    slot.remove(&mut disk);
}

fn look(slot: &Slot, identity: &Identity) -> Result<AtName, Refusal> {
    let shared = slot.shared();
    let open = || slot.fan_dir(false).and_then(|fan| shared.io.open_file(&fan, &slot.name().file));
    let found = match shared.descriptors.open(open) {
        Ok(file) => inspect(slot, identity, file),
        Err(Errno::NOENT) => return Ok(AtName::Nothing),
        // A directory, link, dead pipe or unreadable file: replaced, never in the way.
        Err(e) => Err(e.into()),
    };
    match found {
        Ok(found) => Ok(found),
        Err(Unusable::Damaged) => Ok(AtName::Corrupt),
        Err(Unusable::NotNow(e)) => Err(refusal(e)),
    }
}

/// Why an object that is there cannot be used.
enum Unusable {
    Damaged,
    /// The process or the system lacks something to find out, which says nothing about the object: it stays.
    NotNow(Errno),
}

impl From<Errno> for Unusable {
    fn from(e: Errno) -> Unusable {
        if is_not_now(e) { Unusable::NotNow(e) } else { Unusable::Damaged }
    }
}

impl From<Damaged> for Unusable {
    fn from(Damaged: Damaged) -> Unusable {
        Unusable::Damaged
    }
}

fn inspect(slot: &Slot, identity: &Identity, file: File) -> Result<AtName, Unusable> {
    let io = &slot.shared().io;
    let id = io.id(&file)?;
    let bytes = io.get_xattr(&file, OBJECT_XATTR)?.ok_or(Damaged)?;
    let header = ObjectHeader::decode(&bytes, slot.volume_id())?;
    // Generations are nanoseconds of a clock: one near the end of the numbers was not ours, and its
    // successors would not grow for long (row 106 rests on that).
    if !id.regular || header.key != slot.key() || header.generation >= GENERATION_END {
        return Err(Unusable::Damaged);
    }
    // Nobody knows how far the change went that was under way.
    if header.identity != *identity || header.modifying {
        return Ok(AtName::Stale(header.generation));
    }
    let map = match header.map {
        MapPlace::Side => ContentMap::stored(identity.size, side_editions(slot, &header)?),
        MapPlace::Inline => inline_map(slot, &header, &file)?,
    };
    Ok(AtName::Wanted(Box::new(Wanted { file, id, header, map })))
}

/// No map yet is an empty one: the object was made and nothing was committed to it.
fn inline_map(slot: &Slot, header: &ObjectHeader, file: &File) -> Result<ContentMap, Unusable> {
    let io = &slot.shared().io;
    let bytes = io.get_xattr(file, MAP_XATTR)?;
    let edition = bytes.as_deref().map_or(0, edition_in);
    let mut map = ContentMap::stored(header.identity.size, believed(header, [(0, edition)])?);
    let pages = map.pages_in(0);
    if map.pages() > CHUNK_PAGES {
        return Err(Unusable::Damaged);
    }
    let binding = Binding::new(slot.volume_id(), slot.key(), header.generation, header.nonce);
    let place = Place { side: false, binding };
    let chunk = match bytes {
        Some(bytes) => Chunk::decode(&bytes, None, (0, edition), pages, place)?,
        None => Chunk::empty(pages),
    };
    map.install(0, chunk);
    Ok(map)
}

/// The editions of the chunks in the side file, from the start of each: that they are what is there is seen
/// when a chunk is loaded.
fn side_editions(slot: &Slot, header: &ObjectHeader) -> Result<Editions, Unusable> {
    if header.editions == 0 {
        // The usual case: no own change has touched anything.
        return Ok(Editions::default());
    }
    let shared = slot.shared();
    let io = &*shared.io;
    let open = || slot.fan_dir(false).and_then(|fan| io.open_file(&fan, &slot.name().side));
    let file = shared.descriptors.open(open)?;
    if !io.id(&file)?.regular {
        return Err(Unusable::Damaged);
    }
    let chunks = header.identity.size.div_ceil(CHUNK_PAGES * PAGE_SIZE as u64);
    let mut editions = Vec::new();
    for chunk in 0..chunks {
        let mut start = [0; MAP_FIXED];
        let mut slices = [IoSliceMut::new(&mut start)];
        read_full(io, &file, &mut slices, side_offset(chunk), KernelCopy::Keep)?;
        editions.push((chunk, edition_in(&start)));
    }
    Ok(believed(header, editions)?)
}

/// These editions, if they are those that the header knows.
fn believed(
    header: &ObjectHeader,
    editions: impl IntoIterator<Item = (u64, u64)>,
) -> Result<Editions, Damaged> {
    let editions = Editions::stored(editions);
    if editions.sum() == header.editions { Ok(editions) } else { Err(Damaged) }
}
