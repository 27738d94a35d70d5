//! What a replay keeps of the promises made before the crash: the order of write groups, and the policy for
//! bytes that meet somebody else's change.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use netfs::{
    Conflict, ConflictHook, ConflictPolicy, Durability, Errno, File, Netfs, Result, WaitKind,
    WriteGroup, WriteOptions, clock,
    dirtylog::{DirtyLog, MemLog},
    remote::BoxFuture,
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::{common::cx, tools::*};

fn put(file: &File, group: &WriteGroup, at: u64, bytes: &[u8]) {
    let n = file.blocking().write_at_with(at, bytes, WriteOptions::in_group(group));
    assert_eq!(n.expect("write"), bytes.len());
}

/// Across the crash, and for groups that begin after it.
#[test]
fn n_c29_write_groups_keep_their_order_over_a_crash() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    let (first, second) = (file.write_group(), file.write_group());
    // The later one at the smaller offset.
    put(&file, &first, 90_000, b"pages");
    put(&file, &second, 0, b"root");
    fsync(&file);
    drop((first, second, file));
    client.crash(&log);

    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Memory);
    let (third, before) = (file.write_group(), fs.expected("f", 0, 4).expect("f"));
    put(&file, &third, 40_000, b"third");
    assert_eq!((read(&file, 0, 4), read(&file, 90_000, 5)), (b"root".into(), b"pages".into()));
    let fault = fs.inject(Fault::on(Op::Write).range(90_000..90_005).errno(Errno::EIO).always());
    assert_eq!(file.blocking().fsync().expect_err("the first group fails").errno(), Errno::EIO);
    fs.verify("f", 0, &before).expect("nothing of a later group was sent");
    assert_ne!(fs.expected("f", 40_000, 5).expect("f"), b"third", "nor of the one after it");
    fs.remove_fault(&fault);
    fsync(&file);
    fs.verify("f", 0, b"root").expect("sent");
    fs.verify("f", 90_000, b"pages").expect("sent");
    fs.verify("f", 40_000, b"third").expect("sent");
    drop((third, file));
    client.shutdown();
}

/// Two files with bytes in the log; then one is rewritten, and one removed, by somebody else.
fn met(fs: &Arc<netfs_memory::MemoryFs>, log: &Arc<MemLog>) {
    crashed_with_both(fs, log);
    fs.change("f").rewrite().expect("theirs");
    fs.change("g").remove().expect("gone");
}

#[test]
fn with_the_policy_to_fail_replayed_bytes_are_not_sent_over_somebody_elses() {
    let (fs, log) = (origin(), MemLog::new());
    met(&fs, &log);
    let theirs = fs.expected("f", 0, 100).expect("f");
    let client =
        Client::configured(Arc::clone(&fs), &log, |b| b.conflict_policy(ConflictPolicy::Fail));
    let client = client.expect("mount");
    assert_eq!(client.mount.replayed().conflicts, 1);
    let file = client.open("f", Durability::Memory);
    assert_eq!(file.blocking().fsync().expect_err("a conflict").errno(), Errno::ESTALE);
    fs.verify("f", 0, &theirs).expect("untouched");
    // They are readable, and somebody decides.
    assert_eq!(read(&file, 10, 4), b"ours");
    file.set_conflict_policy(Some(ConflictPolicy::Merge));
    fsync(&file);
    fs.verify("f", 10, b"ours").expect("merged");
    drop(file);
    client.shutdown();
}

/// What was saved: whether of a removed file, where, and the bytes.
#[derive(Default)]
struct Saved(Mutex<Vec<(bool, u64, Vec<u8>)>>);

impl ConflictHook for Saved {
    fn keep(self: Arc<Self>, conflict: Conflict) -> BoxFuture<'static, Result<()>> {
        let pieces = conflict.dirty().map(|(at, b)| (conflict.removed(), at, b.to_vec()));
        self.0.lock().expect("no panic while held").extend(pieces);
        Box::pin(async { Ok(()) })
    }
}

#[test]
fn with_the_policy_to_keep_both_the_hook_gets_what_was_replayed() {
    let (fs, log) = (origin(), MemLog::new());
    met(&fs, &log);
    let theirs = fs.expected("f", 0, 100).expect("f");
    let hook = Arc::<Saved>::default();
    let policy = ConflictPolicy::KeepBoth(hook.clone());
    let client =
        Client::configured(Arc::clone(&fs), &log, |b| b.conflict_policy(policy)).expect("mount");
    let told = client.mount.replayed();
    assert_eq!((told.conflicts, told.gone.len()), (1, 0), "the removed file's are the hook's");
    let file = client.open("f", Durability::Memory);
    fsync(&file);
    assert_eq!(read(&file, 0, 100), theirs);
    fs.verify("f", 0, &theirs).expect("untouched");
    let mut saved = hook.0.lock().expect("no panic while held").clone();
    saved.sort();
    assert_eq!(saved, [(false, 10, b"ours".to_vec()), (true, 10, b"ours".to_vec())]);
    assert_eq!(client.netfs.stats().replay_lost_bytes, 0);
    drop(file);
    client.shutdown();
    assert_eq!(log.records(), 0);
}

fn hold(fs: &MemoryFs, op: Op) -> Gate {
    let gate = Gate::new();
    fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Issue).times(1));
    gate
}

/// A context with little room, on the log as a crash has left it.
fn small(log: &Arc<MemLog>) -> Netfs {
    log.restart();
    let log: Arc<dyn DirtyLog> = log.clone();
    Netfs::builder()
        .memory_bytes(16 << 20)
        .dirty_bytes(4096, 12288)
        .dirty_log(log)
        .build()
        .expect("built")
}

fn ended(netfs: Netfs) {
    assert!(netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
}

#[test]
fn a_replay_that_hangs_keeps_no_other_volume_from_being_mounted() {
    let other = MemoryFs::builder().volume_id("another").build().expect("build");
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"logged");
    fsync(&file);
    drop((file, client));
    let netfs = small(&log);
    let gate = hold(&fs, Op::Open);
    let who = cx();
    let mut hanging = Box::pin(netfs.mount(Arc::clone(&fs), &who));
    while gate.hits() == 0 {
        assert!((&mut hanging).now_or_never().is_none(), "the server does not answer");
        std::thread::yield_now();
    }
    // Kept without being polled.
    let soon = clock::Clock::now(&clock::SystemClock) + Duration::from_secs(20);
    drop(netfs.blocking_mount(other, &cx().with_deadline(soon)).expect("another server"));
    gate.release();
    let mount = pollster::block_on(hanging).expect("mounted");
    assert_eq!(mount.replayed().files, 1);
    drop(mount);
    ended(netfs);
    fs.verify("f", 0, b"logged").expect("sent");
}

/// Groups begin anew, and what the first try has brought to the server is nobody else's.
#[test]
fn n_c29_a_replay_of_groups_that_was_cut_off_is_repeated() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    let (first, second) = (file.write_group(), file.write_group());
    put(&file, &first, 60_000, &[1; 2000]);
    put(&file, &second, 0, &[2; 4096]);
    put(&file, &second, 20_480, &[3; 8192]);
    fsync(&file);
    drop((first, second, file, client));

    let netfs = small(&log);
    let gate = hold(&fs, Op::Write);
    let who = cx();
    let mut cut_off = Box::pin(netfs.mount(Arc::clone(&fs), &who));
    let in_room = || netfs.waits().iter().any(|wait| wait.kind == WaitKind::DirtyRoom);
    while !in_room() {
        assert!((&mut cut_off).now_or_never().is_none(), "the server does not answer");
        std::thread::yield_now();
    }
    drop(cut_off);
    // While the file is still there as the first try has left it.
    let mut again = Box::pin(netfs.mount(Arc::clone(&fs), &who));
    while !in_room() {
        assert!((&mut again).now_or_never().is_none(), "the server does not answer");
        std::thread::yield_now();
    }
    gate.release();
    let mount = pollster::block_on(again).expect("mounted again");
    assert_eq!(mount.replayed().conflicts, 0);
    netfs.blocking_sync().expect("uploaded");
    let there = fs.expected("f", 0, 100_000).expect("f");
    assert!(there[..4096] == [2; 4096] && there[20_480..28_672] == [3; 8192]);
    assert!(there[60_000..62_000] == [1; 2000]);
    drop(mount);
    ended(netfs);
    assert_eq!(log.records(), 0);
}

/// A mount that fails after a file was found to be gone has told nobody: the next one does.
#[test]
fn a_loss_that_a_failed_mount_met_is_told_by_the_next() {
    let (fs, log) = (origin(), MemLog::new());
    crashed_with_both(&fs, &log);
    let (f, g) = (fs.key("f").expect("f"), fs.key("g").expect("g"));
    // Files are replayed in the order of their keys.
    let (gone, kept) = if f < g { ("f", "g") } else { ("g", "f") };
    fs.change(gone).remove().expect("gone");
    let fault = fs.inject(Fault::on(Op::Open).file(kept).errno(Errno::EIO).always());
    let netfs = small(&log);
    let failed = netfs.blocking_mount(Arc::clone(&fs), &cx()).map(drop);
    assert_eq!(failed.expect_err("the other cannot be opened").errno(), Errno::EIO);
    fs.remove_fault(&fault);
    let mount = netfs.blocking_mount(Arc::clone(&fs), &cx()).expect("mounted");
    let told = mount.replayed();
    assert_eq!((told.files, told.gone.len()), (1, 1));
    drop(mount);
    ended(netfs);
}
