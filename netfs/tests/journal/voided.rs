//! L1, L5: records that could not be voided in time have an owner until they are, and bring nothing back over
//! what is acknowledged later.

use super::*;

/// The log has bytes of "f", which are on the server too, and failed to void them; nobody has the file open.
fn left_behind(client: &Client, log: &Arc<MemLog>) {
    // Another file's record keeps the log from being checkpointed.
    let other = client.open("g", Durability::Journal);
    write(&other, 0, b"other");
    fsync(&other);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"older");
    fsync(&file);
    log.inject(Some(LogFault::Sick));
    // What the log would bring back is what the server has: no error yet.
    pollster::block_on(file.flush_range(0, u64::MAX)).expect("uploaded");
    drop(file);
    log.inject(None);
}

#[test]
fn l5_a_record_that_was_not_voided_outlives_its_openers_and_never_comes_over_newer_bytes() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    left_behind(&client, &log);
    let file = client.open("f", Durability::Memory);
    write(&file, 0, b"newer");
    fsync(&file);
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 5), b"newer");
    client.shutdown();
    assert_eq!(fs.expected("f", 0, 5).expect("f"), b"newer");
}

#[test]
fn l5_the_flusher_voids_later_what_was_not_voided_at_once() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    left_behind(&client, &log);
    let before = log.records();
    let waits = || client.netfs.waits().iter().any(|wait| wait.kind == WaitKind::Log);
    // Not more often than it tries a file whose upload fails. Then until the log has it for good.
    while log.records() == before || waits() {
        client.clock.advance(Duration::from_millis(50));
        std::thread::yield_now();
    }
    fs.change("f").rewrite().expect("theirs");
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!((client.mount.replayed().files, client.mount.replayed().conflicts), (1, 0));
    client.shutdown();
}

/// A log that stays sick keeps nobody from leaving.
#[test]
fn l5_a_shutdown_waits_for_no_log_that_does_not_forget() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    left_behind(&client, &log);
    log.inject(Some(LogFault::Sick));
    client.shutdown();
    assert_eq!(fs.expected("f", 0, 5).expect("f"), b"older");
}

/// A server that uses a deleted file's key again means another file: nothing of the first comes back in it.
#[test]
fn l5_the_file_that_gets_a_deleted_ones_key_voids_its_records() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    left_behind(&client, &log);
    let gone = client.open("f", Durability::Memory);
    fs.send_deleted(&fs.key("f").expect("f"));
    let file = client.open("f", Durability::Memory);
    write(&file, 0, b"another");
    fsync(&file);
    drop((gone, file));
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 7), b"another");
    client.shutdown();
}

/// After a cut that the log did not take, the next fsync says nothing before the log has forgotten what was
/// cut off.
#[test]
fn l1_an_fsync_after_a_change_that_the_log_did_not_take_has_it_voided() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 10, b"older");
    fsync(&file);
    log.inject(Some(LogFault::Sick));
    let error = pollster::block_on(file.set_len(12)).expect_err("the log is sick");
    assert_eq!(error.errno(), Errno::EIO);
    log.inject(None);
    write(&file, 0, b"later");
    file.blocking().fsync().expect("the log is well");
    let mut expected = fs.expected("f", 0, 12).expect("f");
    expected[..5].copy_from_slice(b"later");
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    expected[10..12].copy_from_slice(b"ol");
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 100), expected);
    client.shutdown();
}

/// What a conflict's hook has saved is given up, in the log as well.
#[test]
fn l1_what_a_conflicts_hook_has_saved_does_not_come_back() {
    use netfs::{Conflict, ConflictHook, ConflictPolicy, Result, remote::BoxFuture};

    /// Somebody writes meanwhile.
    struct Saved(std::sync::Mutex<Option<netfs::File>>);
    impl ConflictHook for Saved {
        fn keep(self: Arc<Self>, _: Conflict) -> BoxFuture<'static, Result<()>> {
            let writer = self.0.lock().expect("no panic").take().expect("asked once");
            let writing = std::thread::spawn(move || write(&writer, 90_000, b"later"));
            Box::pin(async move {
                writing.join().expect("no panic");
                Ok(())
            })
        }
    }

    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    left_behind(&client, &log);
    let file = client.open("f", Durability::Journal);
    let saved = Saved(std::sync::Mutex::new(Some(client.open("f", Durability::Memory))));
    file.set_conflict_policy(Some(ConflictPolicy::KeepBoth(Arc::new(saved))));
    write(&file, 50_000, b"ours");
    fsync(&file);
    write(&file, 100, b"ours, too");
    fs.change("f").rewrite().expect("theirs");
    let theirs = fs.expected("f", 0, 100_000).expect("f");
    // Of a part of the file only: all of it is given up.
    pollster::block_on(file.flush_range(0, 200)).expect("saved elsewhere");
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 100_000), theirs);
    client.shutdown();
}

/// A discard that the log refuses has discarded nothing, and is told; the next one does it.
#[test]
fn l1_a_discard_that_the_log_does_not_take_is_none() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"ours");
    fsync(&file);
    let theirs = fs.expected("f", 0, 100).expect("f");
    let refused = no_writes(&fs);
    pollster::block_on(file.flush_range(0, 100)).expect_err("refused");
    log.inject(Some(LogFault::Sick));
    pollster::block_on(file.discard_dirty()).expect_err("the log would bring it back");
    assert_eq!(read(&file, 0, 4), b"ours");
    log.inject(None);
    // It may have been voided all the same: an fsync must not take the log's word for these bytes.
    pollster::block_on(file.fsync()).expect_err("still refused, and not logged");
    assert_eq!(pollster::block_on(file.discard_dirty()).expect("given up"), 4);
    assert_eq!(read(&file, 0, 100), theirs);
    fs.remove_fault(&refused);
    drop(file);
    client.crash(&log);
    let client = Client::new(&fs, &log);
    assert_eq!(read(&client.open("f", Durability::Memory), 0, 100), theirs);
    client.shutdown();
}
