//! Durability levels: what an fsync, a close and a crash leave, with a log that fails in every way it can.

#[path = "../common/mod.rs"]
mod common;

mod local;
mod removed;
mod replays;
mod tools;
mod voided;

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use common::cx;
use futures_util::FutureExt;
use netfs::{
    Conflict, ConflictHook, ConflictPolicy, Durability, Errno, Netfs, OpenOptions, WaitKind,
    dirtylog::{DirtyLog, LogFault, MemLog},
    remote::{BoxFuture, Cred, Cx},
};
use netfs_memory::{Fault, Op};
use tokio::sync::oneshot;
use tools::*;

#[test]
fn every_byte_fsynced_at_level_journal_survives_a_crash() {
    let (fs, log) = (origin(), MemLog::new());
    let mut expected = fs.expected("f", 0, 100_000).expect("f");
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    let writes: [(usize, usize, u8); 4] =
        [(10, 20, 1), (4090, 5000, 2), (15, 4, 3), (99_990, 300, 4)];
    for (offset, len, byte) in writes {
        write(&file, offset as u64, &vec![byte; len]);
        expected.resize(expected.len().max(offset + len), 0);
        expected[offset..offset + len].fill(byte);
        fsync(&file);
    }
    assert_eq!(fs.counts().calls(Op::Write), 0, "nothing was uploaded");
    write(&file, 50_000, b"not fsynced");
    drop(file);
    client.crash(&log);

    let client = Client::new(&fs, &log);
    let told = client.mount.replayed();
    assert_eq!((told.files, told.conflicts), (1, 0));
    let file = client.open("f", Durability::Memory);
    assert_eq!(read(&file, 0, 200_000), expected, "before any upload");
    assert_eq!(fs.counts().calls(Op::Write), 0);
    fsync(&file);
    assert_eq!(fs.size("f").expect("f"), expected.len() as u64);
    assert_eq!(fs.expected("f", 0, expected.len()).expect("f"), expected);
    assert_eq!(log.records(), 0, "settled and checkpointed");
    drop(file);
    client.shutdown();
}

#[test]
fn a_replay_repeated_and_interrupted_is_as_one() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 100, b"once");
    fsync(&file);
    drop(file);
    client.crash(&log);
    // Crashes again before anything is uploaded; then after it, with what settles it lost.
    Client::new(&fs, &log).crash(&log);
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Memory);
    assert_eq!(read(&file, 100, 4), b"once");
    // A second mount of the volume replays nothing: newer bytes stay.
    write(&file, 100, b"new");
    let again = client.netfs.blocking_mount(Arc::clone(&fs), &cx()).expect("mount");
    assert_eq!(read(&file, 100, 4), b"newe");
    drop(again);
    fsync(&file);
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(client.mount.replayed().files, 0, "acknowledged, so it does not come back");
    assert_eq!(fs.expected("f", 100, 4).expect("f"), b"newe");
    client.shutdown();
}

/// L1: what is acknowledged later by an upload is not overwritten by what the log had earlier.
#[test]
fn the_log_brings_nothing_back_over_a_later_upload_a_cut_or_a_discard() {
    for how in 0..7 {
        let (fs, log) = (origin(), MemLog::new());
        let client = Client::new(&fs, &log);
        // Another file's record keeps the log from being checkpointed.
        let other = client.open("g", Durability::Journal);
        write(&other, 0, b"other");
        fsync(&other);
        let file = client.open("f", Durability::Journal);
        let mut expected = fs.expected("f", 0, 100).expect("f");
        write(&file, 10, b"older");
        expected[10..15].copy_from_slice(b"older");
        fsync(&file);
        let memory = client.open("f", Durability::Memory);
        match how {
            0 => {
                write(&memory, 10, b"newer");
                fsync(&memory);
                expected[10..15].copy_from_slice(b"newer");
            }
            1 => {
                write(&memory, 10, b"newer");
                pollster::block_on(memory.flush_range(12, 2)).expect("flush");
                // Of the rest the log has what was fsynced.
                expected[10..15].copy_from_slice(b"olwer");
            }
            2 => {
                pollster::block_on(memory.set_len(12)).expect("cut");
                expected.truncate(12);
            }
            4 | 5 => {
                let to = OpenOptions::new().write(true);
                let to = if how == 4 { to.direct(true) } else { to.sync(netfs::Sync::Data) };
                let other = client.mount.blocking().open_with("f", &to, &cx()).expect("open");
                write(&other, 12, b"new");
                expected[10..15].copy_from_slice(b"olnew");
            }
            3 => {
                // Cut without having been uploaded.
                let fault = no_writes(&fs);
                pollster::block_on(memory.set_len(12)).expect("cut");
                fs.remove_fault(&fault);
                expected.truncate(12);
            }
            _ => {
                let fault = no_writes(&fs);
                pollster::block_on(memory.flush_range(0, 100)).expect_err("refused");
                pollster::block_on(file.discard_dirty()).expect("given up");
                fs.remove_fault(&fault);
                expected = fs.expected("f", 0, 100).expect("f");
            }
        }
        drop((file, memory, other));
        client.crash(&log);
        let client = Client::new(&fs, &log);
        let file = client.open("f", Durability::Memory);
        assert_eq!(read(&file, 0, 100), expected, "case {how}");
        fsync(&file);
        assert_eq!(fs.expected("f", 0, 100).expect("f")[..expected.len()], expected, "{how}");
        assert_eq!(read(&client.open("g", Durability::Memory), 0, 5), b"other");
        drop(file);
        client.shutdown();
        assert_eq!(log.records(), 0);
    }
}

#[test]
fn a_log_that_is_full_sick_or_hangs_makes_an_fsync_upload_and_never_say_done_for_nothing() {
    for fault in [LogFault::Full, LogFault::Sick, LogFault::Hang] {
        let (fs, log) = (origin(), MemLog::new());
        let client = Client::new(&fs, &log);
        let file = client.open("f", Durability::Journal);
        write(&file, 0, b"bytes");
        log.inject(Some(fault));
        std::thread::scope(|s| {
            let sync = s.spawn(|| fsync(&file));
            while !sync.is_finished() {
                client.clock.advance(Duration::from_millis(100));
                std::thread::yield_now();
            }
            sync.join().expect("uploaded");
        });
        assert_eq!(fs.expected("f", 0, 5).expect("f"), b"bytes", "{fault:?}");
        // And where that fails too, so does the call.
        let refused = no_writes(&fs);
        write(&file, 0, b"again");
        std::thread::scope(|s| {
            let sync = s.spawn(|| pollster::block_on(file.fsync()).expect_err("neither"));
            while !sync.is_finished() {
                client.clock.advance(Duration::from_millis(100));
                std::thread::yield_now();
            }
            assert_eq!(sync.join().expect("no panic").errno(), Errno::EIO);
        });
        assert!(client.netfs.stats().log_failed >= 2, "{fault:?}");
        fs.remove_fault(&refused);
        log.inject(None);
        fsync(&file);
        drop(file);
        client.shutdown();
        assert_eq!(fs.expected("f", 0, 5).expect("f"), b"again");
    }
}

/// Bytes whose fsync came back from a sick log are appended again: an error is not forgotten.
#[test]
fn what_a_log_failed_to_keep_is_logged_again() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"bytes");
    let refused = no_writes(&fs);
    log.inject(Some(LogFault::Sick));
    pollster::block_on(file.fsync()).expect_err("neither");
    log.inject(None);
    fs.remove_fault(&refused);
    let refused = fs.inject(Fault::on(Op::Write).errno(Errno::ECONNRESET).always());
    // No upload has succeeded since: the file is parked, and an fsync tries the server.
    drop(file);
    fs.remove_fault(&refused);
    let file = client.open("f", Durability::Journal);
    fsync(&file);
    assert_eq!(fs.expected("f", 0, 5).expect("f"), b"bytes");
    drop(file);
    client.shutdown();
}

/// A sick log that has bytes of the file: the upload succeeds, but the older bytes might come back.
#[test]
fn an_fsync_that_cannot_void_older_records_fails() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"older");
    fsync(&file);
    write(&file, 0, b"newer");
    log.inject(Some(LogFault::Sick));
    let error = pollster::block_on(file.fsync()).expect_err("the log may bring back the older");
    assert_eq!(error.errno(), Errno::EIO);
    assert_eq!(fs.expected("f", 0, 5).expect("f"), b"newer");
    log.inject(None);
    fsync(&file);
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 5), b"newer");
    client.shutdown();
}

/// A cut of which the log was not told: an fsync that says "durable" later has told it.
#[test]
fn after_an_fsync_what_was_cut_off_while_the_log_failed_does_not_come_back() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, &[1; 5000]);
    fsync(&file);
    let unreachable = fs.inject(Fault::on(Op::Write).errno(Errno::ECONNRESET).always());
    log.inject(Some(LogFault::Sick));
    let error = pollster::block_on(file.set_len(10)).expect_err("the log may bring it back");
    assert_eq!((error.errno(), fs.size("f").expect("f")), (Errno::EIO, 10));
    log.inject(None);
    fs.remove_fault(&unreachable);
    write(&file, 0, b"new");
    fsync(&file);
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Memory);
    assert_eq!(read(&file, 0, 5000), b"new\x01\x01\x01\x01\x01\x01\x01");
    drop(file);
    client.shutdown();
}

/// A round brought newer bytes to the server than the log has, and then failed: nobody was told, so nothing was
/// voided. The next fsync does it: what it acknowledges does not get lost under the log's older bytes.
#[test]
fn l1_an_fsync_voids_what_a_failed_round_made_old() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"AAAA");
    fsync(&file);
    write(&file, 0, b"BBBB");
    write(&file, 50_000, b"CCCC");
    let fault = Fault::on(Op::Write).range(50_000..50_004).errno(Errno::EAGAIN);
    let fault = fs.inject(fault.always());
    let failed = pollster::block_on(client.netfs.sync()).expect_err("C is refused");
    assert_eq!(
        (failed.errno(), fs.expected("f", 0, 4).expect("f")),
        (Errno::EAGAIN, b"BBBB".into())
    );
    for written in [b"DDDD", b"EEEE"] {
        write(&file, 60_000, written);
        fsync(&file);
    }
    drop(file);
    client.crash(&log);
    fs.remove_fault(&fault);
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Memory);
    for (at, acknowledged) in [(0, b"BBBB"), (50_000, b"CCCC"), (60_000, b"EEEE")] {
        assert_eq!(read(&file, at, 4), acknowledged, "at {at}");
    }
    drop(file);
    client.shutdown();
}

/// Tells when it was asked, and saves the bytes when it is told to.
struct SlowHook(mpsc::Sender<()>, Mutex<Option<oneshot::Receiver<()>>>);

impl ConflictHook for SlowHook {
    fn keep(self: Arc<Self>, _: Conflict) -> BoxFuture<'static, netfs::Result<()>> {
        self.0.send(()).expect("the test listens");
        let told = self.1.lock().expect("no panic while held").take().expect("asked once");
        Box::pin(async move { told.await.map_err(|_| Errno::EIO.into()) })
    }
}

/// What the hook has saved is not logged beside it: it would come back over the other client's bytes.
#[test]
fn l1_what_a_conflict_hook_saved_does_not_come_back_from_the_log() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    let ((asked, is_asked), (tell, told)) = (mpsc::channel(), oneshot::channel());
    let hook = Arc::new(SlowHook(asked, Mutex::new(Some(told))));
    file.set_conflict_policy(Some(ConflictPolicy::KeepBoth(hook)));
    write(&file, 0, b"OLD!");
    fs.change("f").rewrite().expect("theirs");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EAGAIN).always());
    std::thread::scope(|s| {
        let round = s.spawn(|| pollster::block_on(client.netfs.sync()));
        is_asked.recv().expect("asked");
        write(&file, 50_000, b"NEW!");
        let mut beside = Box::pin(file.fsync());
        assert!(
            (&mut beside).now_or_never().is_none(),
            "the file's dirty bytes are in the hook's hands"
        );
        tell.send(()).expect("the hook waits");
        pollster::block_on(beside).expect("logged");
        round.join().expect("no panic").expect_err("the server is busy");
    });
    let theirs = fs.expected("f", 0, 4).expect("f");
    drop(file);
    client.crash(&log);
    fs.remove_fault(&fault);
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Memory);
    assert_eq!((read(&file, 0, 4), read(&file, 50_000, 4)), (theirs, b"NEW!".into()));
    drop(file);
    client.shutdown();
}

#[test]
fn a_close_uploads_unless_told_not_to() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("empty", Durability::Journal);
    write(&file, 0, b"closed");
    pollster::block_on(file.close()).expect("close");
    assert_eq!(fs.expected("empty", 0, 6).expect("empty"), b"closed");
    let how = OpenOptions::new().write(true).durability(Durability::Journal).close_flush(false);
    let file = client.mount.blocking().open_with("empty", &how, &cx()).expect("open");
    write(&file, 0, b"opened");
    fsync(&file);
    pollster::block_on(file.close()).expect("close");
    assert_eq!(fs.expected("empty", 0, 6).expect("empty"), b"closed");
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("empty", Durability::Memory), 0, 9), b"opened");
    client.shutdown();
    assert_eq!(fs.expected("empty", 0, 6).expect("empty"), b"opened");
}

#[test]
fn a_file_that_moved_on_since_is_a_conflict_and_ours_are_laid_over() {
    let (fs, log) = (origin(), MemLog::new());
    crashed_with_both(&fs, &log);
    fs.change("f").rewrite().expect("theirs");
    fs.change("g").remove().expect("gone");
    let mut expected = fs.expected("f", 0, 100).expect("f");
    expected[10..14].copy_from_slice(b"ours");
    let client = Client::new(&fs, &log);
    let told = client.mount.replayed();
    assert_eq!((told.files, told.conflicts, told.gone.len()), (1, 1, 1));
    let stats = client.netfs.stats();
    assert_eq!((stats.write_conflicts, stats.replay_lost_bytes), (1, 4));
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 100), expected);
    client.shutdown();
    assert_eq!(fs.expected("f", 0, 100).expect("f"), expected);
    assert_eq!(log.records(), 0);
}

/// Owners are numbers in the log; the program says with whose credentials their bytes go.
#[test]
fn the_log_holds_no_credentials_and_each_owners_bytes_are_uploaded_as_that_owner() {
    let (fs, log) = (origin(), MemLog::new());
    fs.change("f").chmod(0o666).expect("f");
    let client = Client::new(&fs, &log);
    let mut cred = Cred::new(1000, 1000);
    cred.principal = Some("a secret name".into());
    let file = client.open_as("f", Durability::Journal, &Cx::new(cred.clone()));
    write(&file, 0, b"ours");
    fsync(&file);
    drop(file);
    client.crash(&log);
    for record in log.replay().expect("readable") {
        assert!(!format!("{:?}", record.expect("whole").1).contains("secret"));
    }
    let dirty_log: Arc<dyn DirtyLog> = log.clone();
    let netfs = Netfs::builder()
        .dirty_log(dirty_log)
        .replay_as(move |owner| (owner.0 == 1000).then(|| Cx::new(cred.clone())))
        .build()
        .expect("build");
    fs.inject(Fault::on(Op::Write).uid(0).errno(Errno::EACCES).always());
    let mount = netfs.blocking_mount(Arc::clone(&fs), &cx()).expect("mount");
    pollster::block_on(netfs.sync()).expect("as the owner");
    assert_eq!(fs.expected("f", 0, 4).expect("f"), b"ours");
    drop(mount);
    assert!(netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
}

/// Without what the log has the files must not be read: no mount then.
#[test]
fn a_mount_that_cannot_replay_fails_and_keeps_the_records() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"ours");
    fsync(&file);
    drop(file);
    client.crash(&log);
    let fault = fs.inject(Fault::on(Op::Lookup).errno(Errno::ETIMEDOUT).always());
    assert_eq!(Client::try_new(&fs, &log).err().expect("no mount").errno(), Errno::ETIMEDOUT);
    fs.remove_fault(&fault);
    log.inject(Some(LogFault::Sick));
    assert_eq!(Client::try_new(&fs, &log).err().expect("no context").errno(), Errno::EIO);
    log.restart();
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 4), b"ours");
    client.shutdown();
}

/// A log that lies about what is durable loses the bytes, not the client.
#[test]
fn a_lost_tail_leaves_what_came_before_it() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    for i in 0..3 {
        write(&file, i * 10_000, b"bytes");
        fsync(&file);
    }
    drop(file);
    drop(client);
    log.inject(Some(LogFault::LostTail(1)));
    log.restart();
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Memory);
    assert_eq!(read(&file, 10_000, 5), b"bytes");
    assert_ne!(read(&file, 20_000, 5), b"bytes");
    drop(file);
    client.shutdown();
}
