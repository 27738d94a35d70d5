//! Opening a cache under adverse conditions.

use super::*;
use crate::OpenError;

#[test]
fn a_crash_while_starting_afresh_leaves_nobody_locked_out() {
    for nth in 0.. {
        let dir = tempfile::tempdir().expect("dir");
        let bed = Bed::open(dir.path(), plain());
        assert_eq!(write(&bed.object("key"), 0, 1), Ok(()));
        bed.end();
        std::fs::write(dir.path().join("netfs-cache"), "damaged").expect("write");
        let calls = AtomicUsize::new(0);
        let hook: Hook = Arc::new(move |call| {
            let dies = call == Call::Name && calls.fetch_add(1, SeqCst) >= nth;
            if dies { Err(Errno::IO) } else { Ok(()) }
        });
        let opened = CacheDir::builder(dir.path()).open_with(Arc::new(HookedIo(hook)));
        if opened.is_ok() {
            assert!(nth > 5, "the calls of opening were all tried");
            return;
        }
        let bed = Bed::open(dir.path(), plain());
        assert_eq!(read(&bed.object("key"), 0), Err(CacheMiss::Absent), "call {nth}");
        bed.end();
    }
}

#[test]
fn a_full_disk_does_not_keep_what_is_cached_from_being_read() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 7), Ok(()));
    bed.end();
    for no_inodes in [false, true] {
        let armed = Arc::new(AtomicBool::new(true));
        let hook = fail_when(&armed, Errno::NOSPC, move |call| match call {
            Call::Write | Call::SetXattr(_) => true,
            Call::TempFile | Call::Create => no_inodes,
            _ => false,
        });
        let bed = Bed::open(dir.path(), hook);
        let opened = bed.lookup("key").expect("lookup");
        assert_eq!((opened.found, read(&opened.object, 0)), (Found::Existing, page(7)));
        assert_eq!(write(&opened.object, 1, 8), Err(Refusal::NoSpace));
        armed.store(false, SeqCst);
        assert_eq!(write(&opened.object, 1, 8), Ok(()), "there is room again");
        let other = bed.object("other");
        assert_eq!(write(&other, 0, 9), Ok(()));
        pollster::block_on(Arc::clone(&other).close(Relinquish::Retire));
        pollster::block_on(Arc::clone(&opened.object).close(Relinquish::Keep));
        assert_eq!(read(&bed.object("key"), 1), page(8));
        bed.end();
    }
}

#[test]
fn a_pipe_instead_of_a_directory_is_an_error_and_no_hang() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo").success());
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tx.send(CacheDir::builder(path).open().map(drop));
    });
    let answer = rx.recv_timeout(Duration::from_secs(5)).expect("opening hangs");
    assert!(matches!(answer, Err(OpenError::Io { .. })));
}
