//! The log of dirty bytes beside uploads, removals and discards: what a crash would bring back.

use shuttle::thread;

use super::{
    writers::{A, B, fsync, join, read, write},
    *,
};
use crate::{
    Durability,
    dirtylog::{DirtyLog, Entry, MemLog},
};

/// Bytes that a replay would lay over byte `at`, by what is durable.
fn replayed(log: &MemLog, at: u64) -> Option<u8> {
    log.restart();
    let mut byte = None;
    for record in log.replay().expect("readable") {
        let (position, record) = record.expect("whole");
        match record.entry {
            Entry::Extent { offset, data, .. } => {
                let there = at.checked_sub(offset).and_then(|i| data.get(i as usize).copied());
                byte = there.map(|b| (position, b)).or(byte);
            }
            Entry::SetSize(size) if size <= at => byte = None,
            Entry::Settled { upto, range } if range.contains(&at) => {
                byte = byte.filter(|(position, _)| *position > upto);
            }
            _ => {}
        }
    }
    byte.map(|(_, b)| b)
}

fn world(log: &Arc<MemLog>) -> World {
    let log: Arc<dyn DirtyLog> = log.clone();
    let world = World::build(1, PAGE, Answers::Whole, None, |b| {
        b.dirty_log(log).fill(FillPolicy::Exact).readahead_max(0)
    });
    // As a mount finds out whose adapter finds files by key.
    world.mount.root().inode.volume.set_replayable();
    world
}

fn journaled(world: &World) -> Arc<File> {
    world.open_with(OpenOptions::new().read(true).write(true).durability(Durability::Journal))
}

/// L6: once a removal is acknowledged nothing of the file comes back, whatever fsyncs are under way.
#[test]
fn l6_a_removal_beside_fsyncs_leaves_nothing_to_replay() {
    explore(400, || {
        let log = MemLog::new();
        let world = world(&log);
        let files = [(journaled(&world), A), (journaled(&world), B)];
        let syncing = files.map(|(file, byte)| {
            thread::spawn(move || {
                write(&file, 0, 10, byte);
                fsync(&file);
            })
        });
        block_on(world.mount.root().inode.log_removed()).expect("the log is well");
        assert_eq!(replayed(&log, 0), None);
        join(syncing);
        assert_eq!(replayed(&log, 0), None, "nor of what was written later");
    });
}

/// L1, L2: after whatever mixture of fsyncs to the log and uploads, a replay brings the newest bytes or none.
#[test]
fn l1_fsyncs_to_the_log_beside_uploads_bring_back_nothing_older() {
    explore(400, || {
        let log = MemLog::new();
        let world = world(&log);
        let (logging, uploading) = (journaled(&world), world.open());
        let logging = thread::spawn(move || {
            write(&logging, 0, 10, A);
            fsync(&logging);
        });
        let uploading = thread::spawn(move || {
            write(&uploading, 0, 10, B);
            fsync(&uploading);
        });
        join([logging, uploading]);
        let now = read(&world.open(), 0, 1)[0];
        let server = world.origin.bytes()[0];
        let after_a_crash = replayed(&log, 0).unwrap_or(server);
        assert_eq!(after_a_crash, now, "the server has {server}");
    });
}
