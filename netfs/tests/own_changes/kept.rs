//! What was written to a file that somebody else removes.

use std::sync::{Arc, Mutex};

use netfs::{
    Conflict, ConflictHook, ConflictPolicy, Errno, Error, File, Result, remote::BoxFuture,
};
use netfs_memory::MemoryFs;

use crate::{
    common::{Bench, cx},
    tools::promised,
};

#[derive(Default)]
struct Copies {
    kept: Mutex<Vec<(u64, Vec<u8>)>>,
    broken: bool,
}

impl ConflictHook for Copies {
    fn keep(self: Arc<Self>, conflict: Conflict) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            assert!(conflict.removed() && conflict.ours().is_some() && conflict.theirs().is_none());
            let pieces = conflict.dirty().map(|(at, bytes)| (at, bytes.to_vec()));
            self.kept.lock().expect("lock").extend(pieces);
            if self.broken { Err(Error::new(Errno::ENOSPC, "no room for copies")) } else { Ok(()) }
        })
    }
}

fn bed(copies: &Arc<Copies>) -> (Arc<MemoryFs>, Bench, File, File) {
    let fs = MemoryFs::builder().promise(promised()).bytes("f", "old content");
    let fs = fs.bytes("new", "their content").build().expect("build");
    let policy = ConflictPolicy::KeepBoth(Arc::clone(copies) as _);
    let bench = Bench::with(&fs, None, |b| b.conflict_policy(policy));
    let open = || bench.mount.blocking().open_rw("f", &cx()).expect("open");
    let (file, other) = (open(), open());
    file.blocking().write_at(4, b"ours").expect("write");
    (fs, bench, file, other)
}

#[test]
fn with_keep_both_the_hook_gets_what_was_written_before_it_goes_with_the_file() {
    for replaced in [true, false] {
        let copies = Arc::<Copies>::default();
        let (fs, bench, file, other) = bed(&copies);
        if replaced {
            // As an editor saves.
            fs.change("new").rename("f").expect("rename");
        } else {
            fs.change("f").remove().expect("remove");
        }
        file.blocking().fsync().expect("saved: nothing is lost");
        other.blocking().fsync().expect("nor for another opener");
        assert_eq!(*copies.kept.lock().expect("lock"), [(4, b"ours".to_vec())]);
        let stats = bench.stats();
        assert_eq!((stats.write_kept_bytes, stats.write_removed_bytes), (4, 0));
        let failed = file.blocking().write_at(0, b"more").expect_err("the file is gone");
        assert_eq!(failed.errno(), Errno::ESTALE);
        assert_eq!(bench.netfs().memory().dirty, 0);
        drop((file, other));
        bench.shutdown();
    }
}

#[test]
fn a_hook_that_fails_for_a_removed_file_loses_the_bytes_and_each_opener_is_told_once() {
    let copies = Arc::new(Copies { broken: true, ..Copies::default() });
    let (fs, bench, file, other) = bed(&copies);
    fs.change("f").remove().expect("remove");
    for opener in [&file, &other] {
        assert_eq!(opener.blocking().fsync().expect_err("told").errno(), Errno::ESTALE);
        opener.blocking().fsync().expect("once");
    }
    assert_eq!(copies.kept.lock().expect("lock").len(), 1);
    assert_eq!(bench.stats().write_removed_bytes, 4);
    drop((file, other));
    bench.shutdown();
}

/// Nobody else's change meets ours where we remove the file ourselves.
#[test]
fn the_hook_gets_nothing_of_a_file_that_is_removed_here() {
    let copies = Arc::<Copies>::default();
    let (_fs, bench, file, other) = bed(&copies);
    let root = bench.mount.root();
    bench.mount.blocking().unlink(&root, b"f", &cx()).expect("unlink");
    let gone = file.blocking().fsync().expect_err("nobody will take the bytes");
    assert_eq!(gone.errno(), Errno::ESTALE);
    assert_eq!(bench.stats().write_kept_bytes, 0);
    assert!(copies.kept.lock().expect("lock").is_empty());
    drop((file, other));
    bench.shutdown();
}
