//! Changes of data: bytes, versions, durability, errors.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use netfs::{
    Errno, Result,
    clock::{Clock, SystemClock},
    remote::{
        Change, Cred, Cx, OpenIntent, OpenToken, RemoteFile, RemoteFs, Stability, WriteFinished,
        WriteOutcome, WriteSub,
    },
};
use netfs_local::LocalFile;
use pollster::block_on;
use proptest::prelude::*;

use crate::bed::{Bed, check, failure, is_root, me, read, read_as, version};

pub(crate) fn writable() -> Bed {
    Bed::with(|b| b.writable(true))
}

fn write_as(file: &Arc<LocalFile>, offset: u64, bytes: &[u8], cx: Cx) -> WriteFinished {
    write_sub(file, offset, bytes, cx, false)
}

fn write_sub(
    file: &Arc<LocalFile>,
    offset: u64,
    bytes: &[u8],
    cx: Cx,
    stable: bool,
) -> WriteFinished {
    let (sub, done) = WriteSub::detached(offset, bytes, cx);
    block_on(Arc::clone(file).write(sub.stable(stable)));
    done.wait()
}

pub(crate) fn write(file: &Arc<LocalFile>, offset: u64, bytes: &[u8]) -> WriteFinished {
    write_as(file, offset, bytes, me())
}

fn write_failure(done: &WriteFinished) -> Option<Errno> {
    match &done.outcome {
        WriteOutcome::Failed(e) => Some(e.errno()),
        _ => None,
    }
}

fn open(bed: &Bed, file: &Arc<LocalFile>, intent: OpenIntent, cx: &Cx) -> Result<OpenToken> {
    block_on(Arc::clone(&bed.fs).open(Arc::clone(file), intent, cx.clone())).map(|(t, _)| t)
}

fn set_size(file: &Arc<LocalFile>, size: u64) -> Result<Change> {
    block_on(Arc::clone(file).set_size(size, me()))
}

fn errno<T>(result: Result<T>) -> Option<Errno> {
    result.err().map(|e| e.errno())
}

#[test]
fn bytes_sizes_and_holes_are_what_the_tree_has_then() {
    let bed = writable();
    bed.write("f", b"hello world");
    let file = bed.walk("f").unwrap();
    let done = write(&file, 6, b"there, you");
    assert_eq!((write_failure(&done), done.written), (None, 10));
    assert_eq!(done.change.unwrap().after.stated_size(), Some(16));
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"hello there, you");
    write(&file, 100_000, b"end");
    assert_eq!(read(&file, 99_998, 9).1, b"\0\0end");
    assert_eq!(set_size(&file, 5).unwrap().after.stated_size(), Some(5));
    set_size(&file, 8).unwrap();
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"hello\0\0\0");
    let grown = block_on(Arc::clone(&file).allocate(0..9000, false, me())).unwrap();
    assert_eq!(grown.after.stated_size(), Some(9000));
    let kept = block_on(Arc::clone(&file).allocate(0..90_000, true, me())).unwrap();
    assert_eq!(kept.after.stated_size(), Some(9000));
    assert!(fs::metadata(bed.path("f")).unwrap().blocks() * 512 >= 90_000);
    let holed = block_on(Arc::clone(&file).deallocate(2..1 << 40, me())).unwrap();
    assert_eq!(holed.after.stated_size(), Some(9000));
    let mut want = vec![0; 9000];
    want[..2].copy_from_slice(b"he");
    assert!(fs::read(bed.path("f")).unwrap() == want);
}

/// Where the kernel lets us know, each change leaves a version, and the next one finds it.
#[test]
fn own_changes_are_a_chain_and_somebody_elses_is_a_gap() {
    for bed in [Some(writable()), shm()].into_iter().flatten() {
        bed.write("f", b"start");
        let file = bed.walk("f").unwrap();
        let settled = version(&file);
        let token = open(&bed, &file, OpenIntent::ReadWrite, &me()).unwrap();
        let cx = me().with_token(token);
        let first = write_as(&file, 0, b"S", cx.clone()).change.unwrap();
        assert_eq!(first.before, Some(settled), "a settled file");
        let Some(mut last) = first.after.version else {
            assert!(!has_fine_stamps(&bed), "the kernel has them and they were not used");
            continue;
        };
        for i in 0..50u8 {
            let change = match i % 3 {
                0 => set_size(&file, 10 + u64::from(i)).unwrap(),
                _ => write_as(&file, 0, &[i], cx.clone()).change.unwrap(),
            };
            assert_eq!(change.before.as_ref(), Some(&last));
            let after = change.after.version.expect("nobody else has the file open");
            assert_ne!(after, last);
            assert_eq!(check(&file).unwrap().version.as_ref(), Some(&after));
            assert_eq!(read(&file, 0, 1).0.facts.version.as_ref(), Some(&after));
            last = after;
        }
        // Somebody else, as fast as can be, of the same size.
        for i in 0..50u8 {
            bed.other(&[i]);
            let change = write(&file, 0, &[i]).change.unwrap();
            assert_ne!(change.before.as_ref(), Some(&last), "the other's change is hidden");
            last = change.after.version.unwrap();
            bed.other(&[i]);
            assert_ne!(check(&file).unwrap().version.as_ref(), Some(&last));
        }
    }
}

/// tmpfs has had them since Linux 6.13.
fn has_fine_stamps(bed: &Bed) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    bed.dir.path().starts_with("/dev/shm") && version >= (6, 13)
}

/// While somebody has the file open for writing nothing is known of what it holds.
#[test]
fn a_change_beside_another_writer_has_no_version() {
    let bed = writable();
    bed.write("f", b"start");
    let file = bed.walk("f").unwrap();
    let other = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
    assert_eq!(write(&file, 0, b"S").change.unwrap().after.version, None);
    drop(other);
    assert_eq!(write(&file, 0, b"S").change.unwrap().before, None);
}

fn shm() -> Option<Bed> {
    let dir = tempfile::tempdir_in("/dev/shm").ok()?;
    Some(Bed::in_dir(dir, |b| b.writable(true)))
}

impl Bed {
    /// Another process's write to `f`, without a change of its size.
    fn other(&self, bytes: &[u8]) {
        let f = OpenOptions::new().write(true).open(self.path("f")).unwrap();
        f.write_all_at(bytes, 1).unwrap();
    }
}

#[test]
fn a_tree_is_read_only_unless_it_is_said_otherwise() {
    let bed = Bed::new();
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    let erofs = Some(Errno::EROFS);
    for intent in [OpenIntent::Write, OpenIntent::ReadWrite] {
        assert_eq!(errno(open(&bed, &file, intent, &me())), erofs);
    }
    let done = write(&file, 0, b"x");
    assert_eq!((write_failure(&done), done.written, done.change), (erofs, 0, None));
    assert_eq!(errno(set_size(&file, 0)), erofs);
    assert_eq!(errno(block_on(Arc::clone(&file).deallocate(0..1, me()))), erofs);
    assert_eq!(errno(block_on(Arc::clone(&file).allocate(0..1, true, me()))), erofs);
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"hello");
}

#[test]
fn what_cannot_be_written_fails_and_changes_nothing() {
    let bed = writable();
    bed.write("f", b"hello");
    fs::create_dir(bed.path("d")).unwrap();
    std::os::unix::fs::symlink("f", bed.path("l")).unwrap();
    for (name, errno) in [("d", Errno::EISDIR), ("l", Errno::EINVAL)] {
        let file = bed.walk(name).unwrap();
        assert_eq!(write_failure(&write(&file, 0, b"x")), Some(errno), "{name}");
        assert_eq!(set_size(&file, 0).unwrap_err().errno(), errno, "{name}");
    }
    let dir = bed.walk("d").unwrap();
    assert_eq!(errno(open(&bed, &dir, OpenIntent::Write, &me())), Some(Errno::EISDIR));
    let file = bed.walk("f").unwrap();
    let max = i64::MAX as u64;
    assert_eq!(write_failure(&write(&file, max, b"x")), Some(Errno::EFBIG));
    assert_eq!(errno(set_size(&file, max + 1)), Some(Errno::EFBIG));
    let long = block_on(Arc::clone(&file).allocate(max..max + 2, false, me()));
    assert_eq!(errno(long), Some(Errno::EFBIG));
    assert_eq!(errno(block_on(Arc::clone(&file).deallocate(3..3, me()))), Some(Errno::EINVAL));
    let late = me().with_deadline(SystemClock.now() - Duration::from_nanos(1));
    assert_eq!(write_failure(&write_as(&file, 0, b"x", late)), Some(Errno::ETIMEDOUT));
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"hello");
    fs::remove_file(bed.path("f")).unwrap();
    assert_eq!(write_failure(&write(&file, 0, b"x")), Some(Errno::ESTALE));
    assert_eq!(errno(set_size(&file, 0)), Some(Errno::ESTALE));
}

#[test]
fn an_open_file_is_written_after_its_last_name_is_gone() {
    let bed = writable();
    bed.write("f", b"hello");
    bed.write("g", b"other");
    let (file, other) = (bed.walk("f").unwrap(), bed.walk("g").unwrap());
    let cx = me().with_token(open(&bed, &file, OpenIntent::ReadWrite, &me()).unwrap());
    fs::remove_file(bed.path("f")).unwrap();
    assert_eq!(write_failure(&write_as(&file, 0, b"J", cx.clone())), None);
    assert_eq!(read_as(&file, 0, 5, cx.clone()).1, b"Jello");
    // Another file's open is none of this file's.
    write_as(&other, 0, b"O", cx);
    assert_eq!(fs::read(bed.path("g")).unwrap(), b"Other");
}

#[test]
fn rights_to_write() {
    if !is_root() {
        return;
    }
    let bed = writable();
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    let nobody = || Cx::new(Cred::new(65534, 65534));
    let chmod =
        |mode| fs::set_permissions(bed.path("f"), fs::Permissions::from_mode(mode)).unwrap();
    chmod(0o604);
    let eacces = Some(Errno::EACCES);
    assert_eq!(errno(open(&bed, &file, OpenIntent::Write, &nobody())), eacces);
    assert_eq!(errno(open(&bed, &file, OpenIntent::ReadWrite, &nobody())), eacces);
    assert_eq!(write_failure(&write_as(&file, 0, b"x", nobody())), eacces);
    assert_eq!(errno(block_on(Arc::clone(&file).set_size(0, nobody()))), eacces);
    let reading = open(&bed, &file, OpenIntent::Read, &nobody()).unwrap();
    let done = write_as(&file, 0, b"x", nobody().with_token(reading));
    assert_eq!(write_failure(&done), eacces, "an open for reading gives no right to write");
    chmod(0o602);
    let token = open(&bed, &file, OpenIntent::Write, &nobody()).unwrap();
    let cx = nobody().with_token(token);
    chmod(0o600);
    assert_eq!(write_failure(&write_as(&file, 0, b"J", cx.clone())), None, "the open's right");
    assert_eq!(failure(&read_as(&file, 0, 5, cx).0), eacces, "which is none to read");
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"Jello");
}

#[test]
fn unstable_bytes_wait_for_a_commit() {
    let bed = Bed::with(|b| b.writable(true).descriptors(2));
    for name in ["a", "b", "c"] {
        bed.write(name, b"");
    }
    let file = |name| bed.walk(name).unwrap();
    let stable = write_sub(&file("a"), 0, b"x", me(), true);
    assert_eq!((stable.stability, bed.fs.usage().unsynced), (Stability::Stable, 0));
    let Stability::Unstable(verifier) = write(&file("a"), 0, b"x").stability else {
        panic!("nobody asked for a sync")
    };
    assert_eq!(write(&file("a"), 1, b"y").stability, Stability::Unstable(verifier.clone()));
    write(&file("b"), 0, b"x");
    assert_eq!(bed.fs.usage().unsynced, 2);
    // No more descriptors: this one is synced at once.
    assert_eq!(write(&file("c"), 0, b"x").stability, Stability::Stable);
    let commit = |name| block_on(file(name).commit(0..1, me())).unwrap().0;
    assert_eq!(commit("a"), verifier);
    assert_eq!(bed.fs.usage().unsynced, 1);
    assert_eq!((commit("a"), commit("b")), (verifier.clone(), verifier.clone()));
    // A tree that is opened again does not vouch for what was before.
    let again = netfs_local::LocalFs::builder(bed.dir.path()).writable(true).open().unwrap();
    let root = block_on(Arc::clone(&again).root(me())).unwrap().file;
    let found = block_on(Arc::clone(&again).lookup(root, "a".into(), me())).unwrap().found;
    assert_ne!(block_on(found.unwrap().file.commit(0..1, me())).unwrap().0, verifier);
}

/// A filesystem of its own, where this process may make one.
struct Mounted(Bed);

impl Mounted {
    fn tmpfs(options: &str) -> Option<Mounted> {
        let dir = tempfile::tempdir().unwrap();
        mount(&["-t", "tmpfs", "-o", options, "none"], dir.path())
            .then(|| Mounted(Bed::in_dir(dir, |b| b.writable(true))))
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    let mounted = Command::new("mount").args(args).arg(at).output();
    let ok = is_root() && mounted.is_ok_and(|o| o.status.success());
    if !ok {
        eprintln!("no mounts here: nothing to test");
    }
    ok
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.dir.path()).output();
    }
}

#[test]
fn a_full_filesystem_takes_what_fits_and_says_enospc() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let bed = &mounted.0;
    bed.write("f", b"");
    let file = bed.walk("f").unwrap();
    let done = write(&file, 0, &[7; 100_000]);
    assert_eq!(write_failure(&done), Some(Errno::ENOSPC));
    let size = fs::metadata(bed.path("f")).unwrap().len();
    assert!(done.written > 0 && done.written == size, "{} of {size}", done.written);
    assert_eq!(done.change.unwrap().after.stated_size(), Some(size));
    assert!(matches!(done.stability, Stability::Unstable(_)));
    let done = write(&file, size, &[7; 5000]);
    assert_eq!((write_failure(&done), done.written), (Some(Errno::ENOSPC), 0));
    let more = block_on(Arc::clone(&file).allocate(0..200_000, false, me()));
    assert_eq!(errno(more), Some(Errno::ENOSPC));
    assert_eq!(write_failure(&write(&file, 0, &[8; 4096])), None, "what is there can be changed");
}

#[test]
fn a_filesystem_mounted_read_only_says_erofs() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let bed = &mounted.0;
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    assert!(mount(&["-o", "remount,ro"], bed.dir.path()));
    let refused = [Errno::EROFS, Errno::EACCES];
    assert!(refused.contains(&write_failure(&write(&file, 0, b"x")).unwrap()));
    assert!(refused.contains(&set_size(&file, 0).unwrap_err().errno()));
    assert_eq!(read(&file, 0, 9).1, b"hello");
}

/// ramfs makes no holes.
#[test]
fn what_the_filesystem_cannot_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    if !mount(&["-t", "ramfs", "none"], dir.path()) {
        return;
    }
    let mounted = Mounted(Bed::in_dir(dir, |b| b.writable(true)));
    mounted.0.write("f", b"hello");
    let file = mounted.0.walk("f").unwrap();
    let hole = block_on(Arc::clone(&file).deallocate(0..1, me()));
    assert_eq!(errno(hole), Some(Errno::EOPNOTSUPP));
    assert_eq!(write_failure(&write(&file, 0, b"J")), None);
}

#[test]
fn writers_of_one_file_and_of_many_do_not_mix() {
    let bed = writable();
    for name in ["f", "g"] {
        bed.write(name, b"");
    }
    std::thread::scope(|s| {
        for (i, name) in [(0u8, "f"), (1, "f"), (2, "g"), (3, "g")] {
            let bed = &bed;
            s.spawn(move || {
                let file = bed.walk(name).unwrap();
                for n in 0..100 {
                    let at = n * 2000 + u64::from(i % 2) * 1000;
                    assert_eq!(write(&file, at, &[i + 1; 1000]).written, 1000);
                    if n % 10 == 0 {
                        block_on(Arc::clone(&file).commit(0..u64::MAX, me())).unwrap();
                    }
                }
            });
        }
    });
    for (name, first) in [("f", 1u8), ("g", 3)] {
        let bytes = fs::read(bed.path(name)).unwrap();
        let right = |(i, b): (usize, &u8)| *b == first + (i / 1000 % 2) as u8;
        assert!(bytes.len() == 200_000 && bytes.iter().enumerate().all(right), "{name}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>, bool),
    Punch(u64, u64),
    Allocate(u64, u64, bool),
    SetSize(u64),
    Other(Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0u64..100_000;
    let bytes = || proptest::collection::vec(any::<u8>(), 1..9000);
    prop_oneof![
        4 => (at(), bytes(), any::<bool>()).prop_map(|(at, b, s)| Op::Write(at, b, s)),
        1 => (at(), 1u64..50_000).prop_map(|(at, n)| Op::Punch(at, n)),
        1 => (at(), 1u64..50_000, any::<bool>()).prop_map(|(at, n, k)| Op::Allocate(at, n, k)),
        1 => at().prop_map(Op::SetSize),
        1 => bytes().prop_map(Op::Other),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn random_changes_equal_a_plain_vector(ops in proptest::collection::vec(op(), 1..25)) {
        let bed = writable();
        bed.write("f", b"");
        let file = bed.walk("f").unwrap();
        let mut plain: Vec<u8> = Vec::new();
        for op in ops {
            let change = match op {
                Op::Write(at, bytes, stable) => {
                    let at_end = at as usize + bytes.len();
                    plain.resize(plain.len().max(at_end), 0);
                    plain[at as usize..at_end].copy_from_slice(&bytes);
                    write_sub(&file, at, &bytes, me(), stable).change.unwrap()
                }
                Op::Punch(at, n) => {
                    let end = plain.len();
                    plain[(at as usize).min(end)..((at + n) as usize).min(end)].fill(0);
                    block_on(Arc::clone(&file).deallocate(at..at + n, me())).unwrap()
                }
                Op::Allocate(at, n, keep) => {
                    let end = if keep { 0 } else { (at + n) as usize };
                    plain.resize(plain.len().max(end), 0);
                    block_on(Arc::clone(&file).allocate(at..at + n, keep, me())).unwrap()
                }
                Op::SetSize(n) => {
                    plain.resize(n as usize, 0);
                    set_size(&file, n).unwrap()
                }
                Op::Other(bytes) => {
                    plain.extend_from_slice(&bytes);
                    let f = OpenOptions::new().append(true).open(bed.path("f")).unwrap();
                    (&f).write_all(&bytes).unwrap();
                    continue;
                }
            };
            prop_assert_eq!(change.after.stated_size(), Some(plain.len() as u64));
            prop_assert!(fs::read(bed.path("f")).unwrap() == plain);
            let (_, bytes) = read(&file, 0, plain.len() + 1);
            prop_assert!(bytes == plain);
        }
    }
}
