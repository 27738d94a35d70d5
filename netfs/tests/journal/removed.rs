//! L6: a file without a name is in no log, from the moment that its removal is acknowledged.

use netfs::remote::RenameHow;

use super::*;

/// "f" has logged bytes, and another file's keep the log from being checkpointed.
fn logged(client: &Client) -> netfs::File {
    let other = client.open("g", Durability::Journal);
    write(&other, 0, b"other");
    fsync(&other);
    let file = client.open("f", Durability::Journal);
    write(&file, 0, b"bytes");
    fsync(&file);
    file
}

fn remove(client: &Client, by_rename: bool) -> netfs::Result<()> {
    let (root, names) = (client.mount.root(), client.mount.blocking());
    if by_rename {
        names.rename((&root, b"empty"), (&root, b"f"), RenameHow::Replace, &cx())
    } else {
        names.unlink(&root, b"f", &cx())
    }
}

/// Nothing is left of "f" after a crash; "g" is as it was.
fn nothing_comes_back(fs: &Arc<netfs_memory::MemoryFs>, log: &MemLog, client: Client) {
    client.crash(log);
    let log_2: Arc<dyn DirtyLog> = {
        let records: Vec<_> = log.replay().expect("readable").collect();
        let again = MemLog::new();
        for record in records {
            again.append(record.expect("whole").1).expect("room");
        }
        again
    };
    let netfs = Netfs::builder().dirty_log(log_2).build().expect("build");
    let mount = netfs.blocking_mount(Arc::clone(fs), &cx()).expect("mount");
    let told = mount.replayed();
    assert_eq!((told.files, told.gone), (1, vec![]), "only of g");
    drop(mount);
    assert!(netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
}

#[test]
fn l6_a_removed_file_is_in_no_log_when_the_call_returns() {
    for (by_rename, open) in [(false, false), (false, true), (true, false), (true, true)] {
        let (fs, log) = (origin(), MemLog::new());
        let client = Client::new(&fs, &log);
        let file = logged(&client);
        // The log does not have all of it.
        write(&file, 20, b"not logged");
        let kept = open.then_some(file);
        remove(&client, by_rename).expect("removed");
        if let Some(file) = kept {
            // Its opener goes on; nothing of that is logged.
            let records = log.records();
            let _ = file.blocking().write_at(0, b"more");
            let _ = file.blocking().fsync();
            assert_eq!(log.records(), records);
            drop(file);
        }
        nothing_comes_back(&fs, &log, client);
    }
}

#[test]
fn l6_a_removal_that_the_log_did_not_take_says_so_and_is_made_up_for() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    drop(logged(&client));
    log.inject(Some(LogFault::Sick));
    let error = remove(&client, false).expect_err("the log may bring it back");
    assert_eq!(error.errno(), Errno::EIO);
    assert!(fs.size("f").is_err(), "removed all the same");
    log.inject(None);
    let before = log.records();
    while log.records() == before {
        client.clock.advance(Duration::from_millis(50));
        std::thread::yield_now();
    }
    nothing_comes_back(&fs, &log, client);
}

/// Also where the server says that a file is gone, and only then: a name less is not enough.
#[test]
fn l6_a_file_with_another_name_stays_in_the_log_and_one_removed_by_others_does_not() {
    let (fs, log) = (origin(), MemLog::new());
    let client = Client::new(&fs, &log);
    let file = logged(&client);
    let root = client.mount.root();
    client.mount.blocking().link(&file.node(), &root, b"too", &cx()).expect("linked");
    remove(&client, false).expect("one name less");
    write(&file, 10, b"more");
    fsync(&file);
    assert_eq!(fs.counts().calls(Op::Write), 0, "logged");
    fs.change("too").remove().expect("by somebody else");
    assert_eq!(file.blocking().flush_range(0, 100).expect_err("gone").errno(), Errno::ESTALE);
    drop((file, root));
    nothing_comes_back(&fs, &log, client);
}
