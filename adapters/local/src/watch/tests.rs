//! The watches against real files, with a listener that remembers what it heard.

use std::{collections::HashSet, fs, path::Path, time::Duration};

use netfs::remote::{Cred, Cx, Facts, Promise, RemoteFile, RemoteFs};
use parking_lot::Condvar;

use super::*;
use crate::{
    LocalFile, LocalFs,
    opened::{OpenFile, Seat},
};

#[derive(Default)]
struct Heard {
    broken: HashSet<Vec<u8>>,
    deleted: HashSet<Vec<u8>>,
    all: usize,
    /// The listener does not return until this is false.
    stuck: bool,
}

#[derive(Clone, Default)]
struct Recorder(Arc<(Mutex<Heard>, Condvar)>);

impl Recorder {
    fn hear(&self, what: impl FnOnce(&mut Heard)) {
        let mut heard = self.0.0.lock();
        self.0.1.wait_while(&mut heard, |h| h.stuck);
        what(&mut heard);
        self.0.1.notify_all();
    }

    /// Waits until something was heard; the bound is for a defect only.
    fn wait(&self, what: &str, until: impl Fn(&Heard) -> bool) {
        let mut heard = self.0.0.lock();
        let timeout = self.0.1.wait_while_for(&mut heard, |h| !until(h), Duration::from_secs(20));
        assert!(!timeout.timed_out(), "not heard: {what}");
    }

    fn forget(&self) {
        *self.0.0.lock() = Heard::default();
    }

    fn stick(&self, stuck: bool) {
        self.0.0.lock().stuck = stuck;
        self.0.1.notify_all();
    }
}

impl Listener for Recorder {
    fn broken(&self, key: &[u8]) {
        self.hear(|h| _ = h.broken.insert(key.to_vec()));
    }
    fn deleted(&self, key: &[u8]) {
        self.hear(|h| _ = h.deleted.insert(key.to_vec()));
    }
    fn all_broken(&self, _: BreakReason) {
        self.hear(|h| h.all += 1);
    }
}

struct Bed {
    dir: tempfile::TempDir,
    fs: Arc<LocalFs>,
    heard: Recorder,
}

fn cx() -> Cx {
    Cx::new(Cred::current())
}

impl Bed {
    fn with(build: impl FnOnce(crate::Builder) -> crate::Builder) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let fs = build(LocalFs::builder(dir.path())).open().unwrap();
        let heard = Recorder::default();
        fs.tree.listen(heard.clone());
        Bed { dir, fs, heard }
    }

    fn new() -> Option<Bed> {
        let bed = Bed::with(|b| b);
        // On another filesystem there is nothing to test; `only_four_kinds_are_watched` says so.
        bed.fs.tree.kind.events.then_some(bed)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> Arc<LocalFile> {
        Arc::clone(&self.fs.root)
    }

    fn lookup(&self, name: &str) -> (Arc<LocalFile>, Facts) {
        let name = bytes::Bytes::copy_from_slice(name.as_bytes());
        let reply = Arc::clone(&self.fs).lookup(self.root(), name, cx());
        let found = pollster::block_on(reply).unwrap().found.unwrap();
        (found.file, found.facts)
    }

    /// Makes a file and has it watched.
    fn file(&self, name: &str) -> Arc<LocalFile> {
        fs::write(self.path(name), b"one").unwrap();
        self.lookup(name).0
    }

    fn hears_break(&self, what: &str, file: &LocalFile, change: impl FnOnce(&Path)) {
        // Events come in order: when the marker's is heard, none from before can be mistaken for the
        // one waited for.
        let marker = self.file("marker").key().to_vec();
        self.heard.forget();
        fs::write(self.path("marker"), b"again").unwrap();
        self.heard.wait("the marker", |h| h.broken.contains(&marker));
        self.heard.forget();
        change(self.dir.path());
        let key = file.key().to_vec();
        self.heard.wait(what, |h| h.broken.contains(&key));
    }
}

#[test]
fn w1_every_change_of_a_file_is_heard() {
    let Some(bed) = Bed::new() else { return };
    let file = bed.file("f");
    bed.hears_break("write", &file, |d| fs::write(d.join("f"), b"two").unwrap());
    bed.hears_break("truncate", &file, |d| {
        fs::OpenOptions::new().write(true).open(d.join("f")).unwrap().set_len(1).unwrap();
    });
    bed.hears_break("link", &file, |d| fs::hard_link(d.join("f"), d.join("g")).unwrap());
    bed.hears_break("write by another name", &file, |d| fs::write(d.join("g"), b"3").unwrap());
    bed.hears_break("rename", &file, |d| fs::rename(d.join("f"), d.join("h")).unwrap());
    bed.hears_break("unlink of one name", &file, |d| fs::remove_file(d.join("g")).unwrap());
}

#[test]
fn w1_every_change_of_a_directory_is_heard() {
    let Some(bed) = Bed::new() else { return };
    fs::create_dir(bed.path("d")).unwrap();
    let (dir, _) = bed.lookup("d");
    bed.hears_break("create", &dir, |d| fs::write(d.join("d/x"), b"").unwrap());
    bed.hears_break("rename inside", &dir, |d| {
        fs::rename(d.join("d/x"), d.join("d/y")).unwrap();
    });
    bed.hears_break("move out", &dir, |d| fs::rename(d.join("d/y"), d.join("y")).unwrap());
    bed.hears_break("move in", &dir, |d| fs::rename(d.join("y"), d.join("d/z")).unwrap());
    bed.hears_break("unlink", &dir, |d| fs::remove_file(d.join("d/z")).unwrap());
    bed.hears_break("rename of itself", &dir, |d| fs::rename(d.join("d"), d.join("e")).unwrap());
}

#[test]
fn a_deleted_file_is_reported_although_the_adapter_had_it_open() {
    let Some(bed) = Bed::new() else { return };
    let file = bed.file("f");
    let key = file.key().to_vec();
    assert!(bed.fs.usage().descriptors > 0);
    fs::remove_file(bed.path("f")).unwrap();
    bed.heard.wait("deleted", |h| h.deleted.contains(&key));
    let gone = pollster::block_on(file.validate(cx())).unwrap_err();
    assert_eq!(gone.errno(), netfs::Errno::ESTALE, "{gone:?}");
}

/// The kernel says "deleted" of the name that was watched, while an open by handle leads to the file by another way.
#[test]
fn a_deletion_of_a_file_that_somebody_has_open_is_a_break() {
    let Some(bed) = Bed::new() else { return };
    let (open, other) = (bed.file("f"), bed.file("g"));
    let (key, marker) = (open.shared_key(), other.key().to_vec());
    // What stands for the other way: any descriptor that is not the file's.
    let token = OpenFile::new(
        &bed.fs.tree.handles,
        fs::File::open("/dev/null").unwrap().into(),
        Arc::clone(&key),
        (true, false),
        Seat::take(&bed.fs.opens, 1).unwrap(),
    );
    bed.heard.forget();
    fs::remove_file(bed.path("f")).unwrap();
    fs::remove_file(bed.path("g")).unwrap();
    // Events come in order.
    bed.heard.wait("the marker", |h| h.deleted.contains(&marker));
    bed.heard.wait("a break", |h| h.broken.contains(&*key));
    assert!(!bed.heard.0.0.lock().deleted.contains(&*key));
    drop(token);
}

#[test]
fn a_replaced_file_is_deleted_and_its_directory_broken() {
    let Some(bed) = Bed::new() else { return };
    let old = bed.file("f").key().to_vec();
    fs::write(bed.path("new"), b"2").unwrap();
    pollster::block_on(Arc::clone(&bed.fs).getattr(bed.root(), cx())).unwrap();
    let root = bed.root().key().to_vec();
    fs::rename(bed.path("new"), bed.path("f")).unwrap();
    bed.heard.wait("replaced", |h| h.deleted.contains(&old) && h.broken.contains(&root));
}

#[test]
fn w2_a_watch_that_is_given_up_breaks_its_file() {
    let bed = Bed::with(|b| b.watches(3));
    if !bed.fs.tree.kind.events {
        return;
    }
    let first = bed.file("a");
    bed.heard.forget();
    for name in ["b", "c", "d"] {
        bed.file(name);
    }
    let key = first.key().to_vec();
    bed.heard.wait("eviction", |h| h.broken.contains(&key));
    assert!(bed.fs.usage().watches <= 3);
    // Used again, it is watched again.
    bed.lookup("a");
    bed.hears_break("write", &first, |d| fs::write(d.join("a"), b"two").unwrap());
}

#[test]
fn w3_lost_events_break_everything() {
    let Some(bed) = Bed::new() else { return };
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    if queue > 100_000 {
        return; // filling it would take long, and proves no more
    }
    bed.file("a");
    bed.file("b");
    let open = |n: &str| fs::OpenOptions::new().append(true).open(bed.path(n)).unwrap();
    let files = [open("a"), open("b")];
    bed.heard.stick(true);
    // Alternating, because equal events in a row are merged. One buffer full has left the queue already,
    // at 16 bytes an event.
    for i in 0..queue + BUFFER / 16 + 1000 {
        std::io::Write::write_all(&mut &files[i % 2], b"x").unwrap();
    }
    bed.heard.stick(false);
    bed.heard.wait("overflow", |h| h.all > 0);
}

/// The facts of a file once they are settled.
fn settled(file: &Arc<LocalFile>) -> Facts {
    for _ in 0..1_000_000 {
        let facts = pollster::block_on(Arc::clone(file).validate(cx())).unwrap();
        if facts.version.is_some() {
            return facts;
        }
        thread::yield_now();
    }
    panic!("the file never gets a version");
}

#[test]
fn promises_are_backed_by_a_watch_and_last_a_second_at_most() {
    let asked = Duration::from_secs(3600);
    let bed = Bed::with(|b| b.promise(asked));
    let promise = settled(&bed.file("f")).promise;
    if bed.fs.tree.kind.events {
        let lifetime = Duration::from_secs(1);
        assert_eq!(promise, Promise::Until { lifetime, margin: Duration::ZERO });
    } else {
        assert_eq!(promise, Promise::None);
    }
}

#[test]
fn without_a_watch_or_a_listener_nothing_is_promised() {
    let bed = Bed::with(|b| b.watches(0));
    assert_eq!(settled(&bed.file("f")).promise, Promise::None);

    let dir = tempfile::tempdir().unwrap();
    let fs = LocalFs::builder(dir.path()).open().unwrap();
    fs::write(dir.path().join("f"), b"x").unwrap();
    let name = bytes::Bytes::from_static(b"f");
    let reply = Arc::clone(&fs).lookup(Arc::clone(&fs.root), name, cx());
    let file = pollster::block_on(reply).unwrap().found.unwrap().file;
    assert_eq!(settled(&file).promise, Promise::None);
}

#[test]
fn what_has_no_version_has_no_promise() {
    let Some(bed) = Bed::new() else { return };
    let writer = fs::File::create(bed.path("f")).unwrap();
    let (file, facts) = bed.lookup("f");
    assert_eq!((facts.version, facts.promise), (None, Promise::None));
    drop(writer);
    assert_ne!(settled(&file).promise, Promise::None);
}
