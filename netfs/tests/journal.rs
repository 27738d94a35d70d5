//! Durability levels: what an fsync, a close and a crash leave, with a log that fails in every way it can.

mod common;

use std::{sync::Arc, time::Duration};

use common::cx;
use netfs::{
    Durability, Errno, File, Mount, Netfs, OpenOptions,
    clock::StepClock,
    dirtylog::{DirtyLog, LogFault, MemLog},
    remote::{Cred, Cx},
};
use netfs_memory::{Fault, Injected, MemoryFs, Op};

/// A client with a log. Dropped without more ado it has crashed.
struct Client {
    mount: Mount,
    netfs: Netfs,
    clock: StepClock,
}

fn origin() -> Arc<MemoryFs> {
    let fs = MemoryFs::builder().file("f", 100_000).file("g", 50_000).bytes("empty", "");
    fs.build().expect("build")
}

impl Client {
    fn new(fs: &Arc<MemoryFs>, log: &Arc<MemLog>) -> Client {
        Client::try_new(fs, log).expect("mount")
    }

    fn try_new(fs: &Arc<MemoryFs>, log: &Arc<MemLog>) -> netfs::Result<Client> {
        let clock = StepClock::new();
        let log: Arc<dyn DirtyLog> = log.clone();
        // Nothing is uploaded by itself: the clock stands.
        let builder = Netfs::builder().memory_bytes(16 << 20).dirty_log(log);
        let netfs = builder.clock(Arc::new(clock.clone())).build()?;
        let mount = netfs.blocking_mount(Arc::clone(fs), &cx())?;
        Ok(Client { mount, netfs, clock })
    }

    fn open(&self, path: &str, durability: Durability) -> File {
        self.open_as(path, durability, &cx())
    }

    fn open_as(&self, path: &str, durability: Durability, cx: &Cx) -> File {
        let how = OpenOptions::new().read(true).write(true).durability(durability);
        self.mount.blocking().open_with(path, &how, cx).expect("open")
    }

    fn crash(self, log: &MemLog) {
        drop(self);
        log.restart();
    }

    fn shutdown(self) {
        drop(self.mount);
        assert!(self.netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
    }
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    let n = file.blocking().write_at(offset, bytes).expect("write");
    assert_eq!(n, bytes.len());
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    let n = file.blocking().read_at(offset, &mut buf).expect("read");
    buf.truncate(n);
    buf
}

fn fsync(file: &File) {
    pollster::block_on(file.fsync()).expect("fsync");
}

fn no_writes(fs: &MemoryFs) -> Injected {
    fs.inject(Fault::on(Op::Write).errno(Errno::EIO).always())
}

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
    let client = Client::new(&fs, &log);
    for name in ["f", "g"] {
        let file = client.open(name, Durability::Journal);
        write(&file, 10, b"ours");
        fsync(&file);
    }
    client.crash(&log);
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
