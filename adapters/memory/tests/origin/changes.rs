//! Third-party changes and events.

use std::sync::Arc;

use netfs::{
    Errno,
    coherency::{BreakReason, VolumeEvents},
    remote::{Promise, PromiseKind, RemoteFile, RemoteFs, VolumeFacts},
};
use netfs_memory::{Change, Changed, Event, MemoryFs};

use crate::common::*;

fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("d/a", 10_000).file("d/b", 10_000).build().unwrap()
}

fn broken(fs: &MemoryFs, path: &str) -> Event {
    Event::Break { key: fs.key(path).unwrap().into() }
}

/// Each change of data moves the version, keeps the rest of the bytes, and breaks the file.
#[test]
fn changes_of_data() {
    type Edit = fn(Change<'_>) -> netfs::Result<Changed>;
    // What is done, the new size, and a range that must keep its bytes.
    let edits: [(Edit, u64, std::ops::Range<u64>); 8] = [
        (|c| c.rewrite(), 10_000, 0..0),
        (|c| c.rewrite_sized(20_000), 20_000, 0..0),
        (|c| c.rewrite_range(100..200), 10_000, 200..10_000),
        (|c| c.write(5000, "hello"), 10_000, 0..5000),
        (|c| c.append(50), 10_050, 0..10_000),
        (|c| c.truncate(6000), 6000, 0..6000),
        (|c| c.punch(0..100), 10_000, 100..10_000),
        (|c| c.touch(), 10_000, 0..10_000),
    ];
    for (i, (edit, size, kept)) in edits.into_iter().enumerate() {
        let fs = origin();
        let before = fs.snapshot("d/a").unwrap();
        let changed = edit(fs.change("d/a")).unwrap();
        let now = fs.snapshot("d/a").unwrap();
        assert_eq!((changed.version, now.version), (2, 2), "edit {i}");
        assert_eq!(now.content.size(), size, "edit {i}");
        let len = (kept.end - kept.start) as usize;
        let same = now.content.read(kept.start, len) == before.content.read(kept.start, len);
        assert!(same, "edit {i} changed bytes it should keep");
        let touched = i == 7;
        assert_eq!(now.content == before.content, touched, "edit {i}");
        assert_eq!(fs.take_events(), [broken(&fs, "d/a")], "edit {i}");
        assert_eq!(fs.snapshot_of("d/a", 1).unwrap().unwrap(), before);
    }
}

#[test]
fn a_silent_change_tells_nobody() {
    let fs = origin();
    fs.attach(VolumeEvents::detached());
    let changed = fs.change("d/a").silently().rewrite().unwrap();
    assert_eq!((changed.version, changed.tickets.len()), (2, 0));
    assert_eq!(fs.take_events(), []);
    assert_eq!(fs.send_break("d/a").unwrap().len(), 1);
    assert_eq!(fs.take_events(), [broken(&fs, "d/a")]);
}

#[test]
fn every_client_that_attached_is_told() {
    let fs = origin();
    let other = fs.client();
    let tickets = |fs: &MemoryFs| fs.change("d/a").rewrite().unwrap().tickets.len();
    assert_eq!(tickets(&fs), 0);
    fs.attach(VolumeEvents::detached());
    fs.attach(VolumeEvents::detached());
    assert_eq!(tickets(&fs), 1, "attaching again replaces the handle");
    other.attach(VolumeEvents::detached());
    assert_eq!(tickets(&fs), 2);
    drop(other);
    assert_eq!(tickets(&fs), 1);
}

#[test]
fn a_lying_server_changes_bytes_under_one_version() {
    let fs = origin();
    let before = fs.snapshot("d/a").unwrap();
    fs.change("d/a").keeping_version().rewrite().unwrap();
    let after = fs.snapshot("d/a").unwrap();
    assert_eq!(before.version, after.version);
    assert_ne!(before.content.read(0, 64), after.content.read(0, 64));
}

#[test]
fn changes_of_attributes_move_the_version_only_if_told() {
    let fs = origin();
    fs.change("d/a").chmod(0o600).unwrap();
    fs.change("d/a").chown(1, 2).unwrap();
    let facts = validate(&fs, "d/a").unwrap();
    let attr = facts.attr.unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o600, 1, 2));
    assert!(attr.ctime > attr.mtime);
    assert_eq!(fs.snapshot("d/a").unwrap().version, 1);
    fs.configure(|s| s.attr_moves_version = true);
    fs.change("d/a").chmod(0o644).unwrap();
    let now = fs.snapshot("d/a").unwrap();
    assert_eq!(now.version, 2);
    assert_eq!(now.content, fs.snapshot_of("d/a", 1).unwrap().unwrap().content);
    assert_eq!(fs.take_events(), [broken(&fs, "d/a"), broken(&fs, "d/a"), broken(&fs, "d/a")]);
}

#[test]
fn names_come_and_go_with_their_events() {
    let fs = origin();
    let version = |fs: &MemoryFs| validate(fs, "d").unwrap().version.unwrap();
    let before = version(&fs);
    fs.change("d/c").create(10).unwrap();
    assert_ne!(version(&fs), before, "a directory's version follows its names");
    assert_eq!(fs.take_events(), [broken(&fs, "d")]);

    let old = fs.file("d/a").unwrap();
    fs.change("d/a").remove().unwrap();
    let deleted = Event::Deleted { key: old.key().to_vec().into() };
    assert_eq!(fs.take_events(), [deleted, broken(&fs, "d")]);
    assert_eq!(errno(now(Arc::clone(&old).validate(cx(1)))), Some(Errno::ESTALE));
    assert!(lookup(&fs, "d", "a", 1).unwrap().found.is_none());

    fs.change("d/a").create_bytes("again").unwrap();
    assert_ne!(fs.key("d/a").unwrap(), old.key(), "another file has another key");
}

#[test]
fn renames_break_both_directories_and_the_file() {
    let fs = MemoryFs::builder().file("d/a", 10).file("e/b", 10).build().unwrap();
    let (a, b) = (fs.key("d/a").unwrap(), fs.key("e/b").unwrap());
    fs.change("d/a").rename("e/b").unwrap();
    let key = |k: &Vec<u8>| k.clone().into();
    let expected = [
        Event::Deleted { key: key(&b) },
        broken(&fs, "d"),
        broken(&fs, "e"),
        Event::Break { key: key(&a) },
    ];
    assert_eq!(fs.take_events(), expected);
    assert_eq!(fs.key("e/b").unwrap(), a);
}

#[test]
fn links_share_one_file() {
    let fs = origin();
    fs.change("l").link("d/a").unwrap();
    assert_eq!(fs.key("l").unwrap(), fs.key("d/a").unwrap());
    let _ = fs.take_events();
    fs.change("d/a").remove().unwrap();
    let told = fs.take_events();
    assert!(told.contains(&broken(&fs, "l")), "its link count changed: {told:?}");
    assert_eq!(fs.snapshot("l").unwrap().version, 1);
}

#[test]
fn bad_changes_are_refused() {
    let fs = origin();
    assert_eq!(errno(fs.change("x").rewrite()), Some(Errno::ENOENT));
    assert_eq!(errno(fs.change("d").rewrite()), Some(Errno::EISDIR));
    assert_eq!(errno(fs.change("d/a").create(1)), Some(Errno::EEXIST));
    assert_eq!(errno(fs.change("d/a/x").create(1)), Some(Errno::ENOTDIR));
    assert_eq!(errno(fs.change("d/a").append(u64::MAX)), Some(Errno::EFBIG));
    assert_eq!(errno(fs.change("").remove()), Some(Errno::EINVAL));
    assert_eq!(errno(fs.change("l").link("d")), Some(Errno::EPERM));
    assert_eq!(fs.take_events(), []);
    assert_eq!(
        errno(MemoryFs::builder().file("a", 1).file("a/b", 1).build()),
        Some(Errno::ENOTDIR)
    );
    assert_eq!(errno(MemoryFs::builder().volume_id("a/b").build()), Some(Errno::EINVAL));
}

/// A snapshot is seen whole or not at all.
#[test]
fn a_staged_snapshot_appears_at_once() {
    let fs = origin();
    fs.stage();
    fs.change("d/a").rewrite().unwrap();
    fs.change("d/b").remove().unwrap();
    assert_eq!(validate(&fs, "d/a").unwrap().version, Some(netfs::remote::Version::from_u64(1)));
    assert!(fs.snapshot("d/b").is_ok());
    assert_eq!(fs.take_events(), []);
    fs.publish(true);
    assert_eq!(fs.snapshot("d/a").unwrap().version, 2);
    assert_eq!(errno(fs.snapshot("d/b")), Some(Errno::ENOENT));
    assert_eq!(fs.take_events(), [Event::SnapshotMoved]);
    fs.change("d/a").rewrite().unwrap();
    assert_eq!(fs.take_events(), [broken(&fs, "d/a")], "changes are seen again");
}

#[test]
fn volume_events_are_sent() {
    let fs = origin();
    fs.attach(VolumeEvents::detached());
    assert_eq!(fs.break_all(BreakReason::ServerReset).len(), 1);
    fs.scrub(BreakReason::Callback);
    fs.publish(true);
    assert_eq!(fs.send_break_key(b"unknown", BreakReason::Notify).len(), 1);
    fs.send_deleted(b"gone");
    let expected = [
        Event::BreakAll,
        Event::Scrub,
        Event::SnapshotMoved,
        Event::Break { key: "unknown".into() },
        Event::Deleted { key: "gone".into() },
    ];
    assert_eq!(fs.take_events(), expected);
}

#[test]
fn promises_are_settable_for_origin_file_and_volume() {
    let fs = origin();
    let broken_later = Promise::UntilBroken { kind: PromiseKind::Read };
    assert_eq!(validate(&fs, "d/a").unwrap().promise, broken_later);
    fs.configure(|s| s.promise = Promise::None);
    let second = std::time::Duration::from_secs(1);
    let ttl = Promise::Until { lifetime: second, margin: second };
    fs.configure_file("d/b", |f| f.promise = Some(ttl)).unwrap();
    assert_eq!(validate(&fs, "d/a").unwrap().promise, Promise::None);
    assert_eq!(validate(&fs, "d/b").unwrap().promise, ttl);
    assert_eq!(validate(&fs, "d/a").unwrap().volume, None);
    let volume = VolumeFacts { promise: ttl, checked: true };
    fs.configure(|s| s.volume = Some(volume));
    assert_eq!(read(&fs, "d/a", 0, 10).0.facts.volume, Some(volume));
}
