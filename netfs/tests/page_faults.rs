//! The caller's buffer may be anything, and a page fault in it may take for ever: memory of a guest, a file mapped
//! from a mount that this very process serves. So no lock is held while it is copied to or from (row 51).
//!
//! A buffer is made inaccessible; whoever touches it waits, in the handler of the signal that this raises, until
//! the others have shown that they go on.

#![allow(unsafe_code, reason = "a page fault that waits is made by hand")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use common::{Bench, cx};
use netfs::File;
use netfs_memory::MemoryFs;

const LEN: usize = 16 << 10;
/// After which the others do not go on any more.
const WATCHDOG: Duration = Duration::from_secs(60);

static START: AtomicUsize = AtomicUsize::new(0);
static TOUCHED: AtomicI32 = AtomicI32::new(-1);
static GO_ON: AtomicI32 = AtomicI32::new(-1);
/// One trap at a time.
static ONE: Mutex<()> = Mutex::new(());

extern "C" fn touched(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let start = START.load(Ordering::SeqCst);
    // SAFETY: the kernel gives a valid `info` to a handler with SA_SIGINFO; what is called here may be called
    // within a handler; the mapping at `start` lives as long as `START` says so.
    unsafe {
        let at = (*info).si_addr() as usize;
        if start == 0 || !(start..start + LEN).contains(&at) {
            libc::abort();
        }
        let mut byte = 0u8;
        libc::write(TOUCHED.load(Ordering::SeqCst), (&raw const byte).cast(), 1);
        libc::read(GO_ON.load(Ordering::SeqCst), (&raw mut byte).cast(), 1);
        libc::mprotect(start as *mut libc::c_void, LEN, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// Memory that waits when it is touched.
struct Trap {
    start: *mut libc::c_void,
    touched: [i32; 2],
    go_on: [i32; 2],
}

impl Trap {
    fn new(fill: u8) -> Trap {
        let (mut touched_fds, mut go_on) = ([0; 2], [0; 2]);
        // SAFETY: plain system calls on memory and descriptors that are ours.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let start = libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            std::ptr::write_bytes(start.cast::<u8>(), fill, LEN);
            assert_eq!(libc::pipe(touched_fds.as_mut_ptr()), 0);
            assert_eq!(libc::pipe(go_on.as_mut_ptr()), 0);
            TOUCHED.store(touched_fds[1], Ordering::SeqCst);
            GO_ON.store(go_on[0], Ordering::SeqCst);
            START.store(start as usize, Ordering::SeqCst);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = touched as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
            assert_eq!(libc::mprotect(start, LEN, libc::PROT_NONE), 0);
            Trap { start, touched: touched_fds, go_on }
        }
    }

    /// The memory, for one user.
    #[expect(clippy::mut_from_ref, reason = "one at a time, as each test does")]
    fn buffer(&self) -> &mut [u8] {
        // SAFETY: mapped until drop; who touches it waits until it is accessible. Each test hands it to one thread
        // and looks at it when that has ended.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<u8>(), LEN) }
    }

    fn wait_touched(&self) {
        let mut byte = 0u8;
        // SAFETY: a read into a byte of ours.
        assert_eq!(unsafe { libc::read(self.touched[0], (&raw mut byte).cast(), 1) }, 1);
    }

    fn go_on(&self) {
        let byte = 0u8;
        // SAFETY: a write from a byte of ours.
        assert_eq!(unsafe { libc::write(self.go_on[1], (&raw const byte).cast(), 1) }, 1);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        START.store(0, Ordering::SeqCst);
        // SAFETY: nobody uses them any more.
        unsafe {
            libc::munmap(self.start, LEN);
            [self.touched, self.go_on].concat().into_iter().for_each(|fd| {
                libc::close(fd);
            });
        }
    }
}

// SAFETY: a mapping and descriptors, used as `buffer` says.
unsafe impl Sync for Trap {}

/// `stuck` touches the trap; then `others` go on, to their end; then it does.
fn beside(trap: &Trap, stuck: impl FnOnce() + Send, others: impl FnOnce() + Send) {
    let (ended, went_on) = mpsc::channel();
    std::thread::scope(|s| {
        let stuck = s.spawn(stuck);
        trap.wait_touched();
        let others = s.spawn(move || {
            others();
            ended.send(()).expect("awaited");
        });
        let late = went_on.recv_timeout(WATCHDOG).is_err();
        trap.go_on();
        stuck.join().expect("no panic");
        others.join().expect("no panic");
        assert!(!late, "somebody waited for a page fault of another's");
    });
}

fn bed() -> (Arc<MemoryFs>, Bench, File) {
    let fs = MemoryFs::builder().file("f", 10 * LEN as u64).file("g", LEN as u64);
    let fs = fs.build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    (fs, bench, file)
}

/// What must go on: hits and misses of the file, writes to it unless `writing`, its upload, and eviction.
fn everything_else(bench: &Bench, writing: bool) {
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    let mut buf = vec![0; LEN];
    for offset in [0, 5 * LEN as u64] {
        assert_eq!(file.blocking().read_at(offset, &mut buf).expect("read"), LEN);
    }
    let other = bench.mount.blocking().open_rw("g", &cx()).expect("open");
    assert_eq!(other.blocking().write_at(0, b"other").expect("write"), 5);
    other.blocking().fsync().expect("fsync");
    if !writing {
        assert_eq!(file.blocking().write_at(0, b"written").expect("write"), 7);
    }
    file.blocking().fsync().expect("fsync");
    bench.netfs().drop_memory();
    assert_eq!(file.blocking().read_at(0, &mut buf).expect("read"), LEN);
}

#[test]
fn row_51_a_page_fault_in_a_readers_buffer_holds_up_nobody() {
    let _one = ONE.lock().expect("no panic");
    for in_memory in [true, false] {
        let (fs, bench, file) = bed();
        let expected = fs.expected("f", 0, LEN).expect("f");
        if in_memory {
            file.blocking().read_at(0, &mut vec![0; LEN]).expect("read");
        }
        let trap = Trap::new(0);
        let reading = || {
            assert_eq!(file.blocking().read_at(0, trap.buffer()).expect("read"), LEN);
        };
        beside(&trap, reading, || everything_else(&bench, false));
        let mut written = expected.clone();
        written[..7].copy_from_slice(b"written");
        // Page by page it is what it was before or after the write.
        assert!(trap.buffer() == expected || trap.buffer() == written);
        drop((trap, file));
        bench.shutdown();
    }
}

#[test]
fn row_51_a_page_fault_in_a_writers_buffer_holds_up_nobody_but_the_files_writers() {
    let _one = ONE.lock().expect("no panic");
    for in_memory in [true, false] {
        let (fs, bench, file) = bed();
        if in_memory {
            file.blocking().read_at(0, &mut vec![0; LEN]).expect("read");
        }
        let trap = Trap::new(7);
        let writing = || {
            assert_eq!(file.blocking().write_at(0, trap.buffer()).expect("write"), LEN);
        };
        beside(&trap, writing, || everything_else(&bench, true));
        file.blocking().fsync().expect("fsync");
        assert!(fs.expected("f", 0, LEN).expect("f") == [7; LEN]);
        drop((trap, file));
        bench.shutdown();
    }
}
