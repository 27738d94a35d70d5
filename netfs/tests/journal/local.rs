//! The log before a directory tree: files are found again by the kernel's handles. And which level is in force.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use netfs::{
    Durability, Netfs,
    dirtylog::MemLog,
    remote::{Cred, Cx},
};
use netfs_local::{Builder, LocalFs};

use crate::{common::cx, tools::*};

/// Whether the kernel lets this process open files by handle (`CAP_DAC_READ_SEARCH`).
///
/// # Panics
/// For root without it: there these tests must run, or nobody would notice that they do not.
fn may_open_by_handle() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("a /proc");
    let field =
        |name| status.lines().find_map(|line| line.strip_prefix(name)).expect("in every kernel");
    let caps = u64::from_str_radix(field("CapEff:").trim(), 16).expect("a number");
    let effective = field("Uid:").split_whitespace().nth(1).expect("real, effective and others");
    let may = caps & 1 << 2 != 0;
    assert!(may || effective != "0", "root without CAP_DAC_READ_SEARCH");
    if !may {
        eprintln!("left out: neither root nor CAP_DAC_READ_SEARCH");
    }
    may
}

fn tree() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    fs::write(&path, vec![b'-'; 100_000]).expect("written");
    (dir, path)
}

fn serve(dir: &Path, build: impl FnOnce(Builder) -> Builder) -> Arc<LocalFs> {
    build(LocalFs::builder(dir).writable(true)).open().expect("opened")
}

fn client(dir: &Path, log: &Arc<MemLog>) -> Client {
    Client::configured(serve(dir, |b| b), log, |b| b).expect("mount")
}

#[test]
fn what_was_fsynced_at_level_journal_over_a_local_tree_survives_a_crash() {
    if !may_open_by_handle() {
        return;
    }
    let ((dir, path), log) = (tree(), MemLog::new());
    let before = fs::read(&path).expect("read");
    let mut expected = before.clone();
    let one = client(dir.path(), &log);
    let file = one.open("f", Durability::Journal);
    assert_eq!(file.durability(), Durability::Journal);
    for (offset, len, byte) in [(10, 20, b'a'), (4090, 5000, b'b'), (99_990, 300, b'c')] {
        write(&file, offset as u64, &vec![byte; len]);
        expected.resize(expected.len().max(offset + len), 0);
        expected[offset..offset + len].fill(byte);
    }
    fsync(&file);
    write(&file, 50_000, b"not fsynced");
    assert!(fs::read(&path).expect("read") == before, "nothing was uploaded");
    drop(file);
    one.crash(&log);
    // The key finds it, not the name.
    let moved = dir.path().join("moved");
    fs::rename(&path, &moved).expect("moved");
    fs::write(&path, b"another file").expect("written");
    let two = client(dir.path(), &log);
    assert_eq!((two.mount.replayed().files, two.mount.replayed().gone.len()), (1, 0));
    let file = two.open("moved", Durability::Memory);
    assert!(read(&file, 0, 200_000) == expected, "before any upload");
    fsync(&file);
    assert!(fs::read(&moved).expect("read") == expected);
    assert_eq!(fs::read(&path).expect("read"), b"another file");
    assert_eq!(log.records(), 0, "settled and checkpointed");
    drop(file);
    two.shutdown();
}

#[test]
fn what_the_log_has_of_a_removed_local_file_goes_into_no_other() {
    if !may_open_by_handle() {
        return;
    }
    let ((dir, path), log) = (tree(), MemLog::new());
    let one = client(dir.path(), &log);
    let file = one.open("f", Durability::Journal);
    write(&file, 0, b"lost with it");
    fsync(&file);
    drop(file);
    one.crash(&log);
    fs::remove_file(&path).expect("removed");
    // One of these gets its inode number.
    for n in 0..20 {
        fs::write(dir.path().join(n.to_string()), b"another file").expect("written");
    }
    let two = client(dir.path(), &log);
    let told = two.mount.replayed();
    assert_eq!((told.files, told.gone.len()), (0, 1));
    two.shutdown();
    for n in 0..20 {
        let bytes = fs::read(dir.path().join(n.to_string())).expect("read");
        assert_eq!(bytes, b"another file");
    }
    assert_eq!(log.records(), 0);
}

/// A directory tree that cannot be found again after this process: the log is of no use for it.
#[test]
fn without_handles_journal_is_memory_and_an_fsync_uploads() {
    let ((dir, path), log) = (tree(), MemLog::new());
    let client =
        Client::configured(serve(dir.path(), |b| b.by_handle(false)), &log, |b| b).expect("mount");
    let file = client.open("f", Durability::Journal);
    assert_eq!(file.durability(), Durability::Memory);
    write(&file, 0, b"uploaded");
    fsync(&file);
    assert_eq!(fs::read(&path).expect("read")[..8], *b"uploaded");
    assert_eq!(log.records(), 0);
    drop(file);
    client.shutdown();
}

#[test]
fn a_file_says_which_durability_level_is_in_force() {
    let (origin, log) = (origin(), MemLog::new());
    let one = Client::new(&origin, &log);
    for level in [Durability::Memory, Durability::Journal, Durability::Remote] {
        assert_eq!(one.open("f", level).durability(), level);
    }
    let file = one.open("f", Durability::Journal);
    let names = one.mount.blocking();
    let root = names.walk("", &cx()).expect("root");
    names.unlink(&root, b"f", &cx()).expect("unlinked");
    assert_eq!(file.durability(), Durability::Memory, "of a file without a name nothing is logged");
    drop(file);
    one.shutdown();
    // Without a log.
    let netfs = Netfs::builder().memory_bytes(8 << 20).build().expect("built");
    let mount = netfs.blocking_mount(origin, &Cx::new(Cred::new(0, 0))).expect("mount");
    let how = netfs::OpenOptions::new().write(true).durability(Durability::Journal);
    let file = mount.blocking().open_with("g", &how, &cx()).expect("opened");
    assert_eq!(file.durability(), Durability::Memory);
}
