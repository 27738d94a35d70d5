//! Life of an object: store, read back, restart, invalidate, refuse.

mod common;

use common::*;
use netfs::fscache::{CacheMiss, Found};

const SIZE: u64 = 3 * 4096 + 100;

#[test]
fn what_was_stored_reads_back_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let id = identity(b"v1", SIZE);
    let bed = Bed::open(dir.path());
    let (object, found) = bed.object(b"key", &id);
    assert_eq!(found, Found::Created);
    assert_eq!(read_any(&object, 0, 100), Err(CacheMiss::Absent));
    fill(&object, 1, 0, 4 * 4096);
    for (offset, len) in [(0, SIZE as usize), (5, 10), (4000, 200), (4096, 4096), (1, 4095)] {
        assert_eq!(read_any(&object, offset, len), Ok(content(1, offset, len, SIZE)));
        assert_eq!(read(&object, offset, len), Ok(content(1, offset, len, SIZE)));
    }
    close(object);
    bed.end();

    let bed = Bed::open(dir.path());
    let (object, found) = bed.object(b"key", &id);
    assert_eq!(found, Found::Existing);
    assert_eq!(read_any(&object, 0, SIZE as usize), Ok(content(1, 0, SIZE as usize, SIZE)));
}
