//! Edges of the core that a careful reader found: each test fails without its fix.

mod common;

use std::{future::Future, pin::pin, sync::Arc, task::Context, time::Duration};

use common::{Bench, cx};
use netfs::{
    MemoryUse, Netfs, ReadOptions,
    clock::{Clock, SystemClock},
    error::Errno,
    fscache::MemCache,
    remote::{Attr, FileKind, Promise, PromiseKind},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

fn until_broken() -> Promise {
    Promise::UntilBroken { kind: PromiseKind::Read }
}

#[test]
fn no_slices_at_the_end_of_a_file_in_memory() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 5000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let all = pollster::block_on(file.read_slices(0, 9000)).unwrap();
    assert_eq!(all.iter().map(|s| s.len()).sum::<usize>(), 5000);
    // Offset 5000 is inside the last page: there is a folio, but no byte of the file.
    assert!(pollster::block_on(file.read_slices(5000, 100)).unwrap().is_empty());
    assert!(file.try_read_slices(5000, 100).unwrap().is_empty());
    assert!(file.try_read_slices(17, 0).unwrap().is_empty());
}

#[test]
fn a_mount_given_up_halfway_does_not_keep_the_volume_in_memory() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 50_000).build().unwrap();
    let netfs = Netfs::builder().memory_bytes(16 << 20).build().unwrap();
    let gate = Gate::new();
    let mount = netfs.blocking_mount(Arc::clone(&fs), &cx()).unwrap();
    let held = fs.inject(Fault::on(Op::Root).hold(&gate, SnapshotAt::Issue));
    {
        let cx = cx();
        let mut second = pin!(netfs.mount(Arc::clone(&fs), &cx));
        let mut task = Context::from_waker(std::task::Waker::noop());
        assert!(second.as_mut().poll(&mut task).is_pending());
        gate.wait_hit();
    }
    fs.remove_fault(&held);
    gate.release();
    fs.wait_idle();
    let file = mount.blocking().open("a", &cx()).unwrap();
    file.blocking().read_at(0, &mut [0; 50_000]).unwrap();
    assert!(netfs.memory().indexed > 0);
    drop(file);
    drop(mount);
    // The fetch's task lets go of the inode on a driver thread, soon after the reader has its bytes.
    let patience = SystemClock.now() + Duration::from_secs(20);
    while netfs.memory().indexed > 0 {
        assert!(SystemClock.now() < patience, "pages stay without a mount: {:?}", netfs.memory());
        std::thread::yield_now();
    }
    netfs.blocking_shutdown(Duration::from_secs(5));
}

#[test]
fn a_file_as_large_as_a_number_can_say_is_read_and_cached() {
    let _ = Attr::plain(FileKind::File, u64::MAX);
    let fs = MemoryFs::builder().promise(until_broken()).file("a", u64::MAX).build().unwrap();
    let bench = Bench::with(&fs, Some(MemCache::new()), |b| b.readahead_max(0));
    let file = bench.open("a");
    let mut buf = vec![0; 10_000];
    for offset in [0, 1 << 40, i64::MAX as u64 - 10_000] {
        assert_eq!(file.blocking().read_at(offset, &mut buf).unwrap(), 10_000);
        fs.verify("a", offset, &buf).unwrap();
    }
    // What was stored is found again: the size is part of the object's identity.
    bench.drain();
    bench.netfs().drop_memory();
    let origin = fs.counts().bytes();
    assert_eq!(file.blocking().read_at(0, &mut buf).unwrap(), 10_000);
    fs.verify("a", 0, &buf).unwrap();
    assert_eq!(fs.counts().bytes(), origin, "a disk hit: {:?}", bench.stats());
    let past = file.blocking().read_at(i64::MAX as u64, &mut buf).map_err(|e| e.errno());
    assert_eq!(past, Err(Errno::EINVAL));
}

#[test]
fn a_deadline_bounds_the_wait_for_the_other_io_mode() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 50_000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let direct = bench.open("a");
    let node = direct.node();
    let late = cx().with_deadline(SystemClock.now() + Duration::from_millis(200));
    let buffered = pollster::block_on(bench.mount.open(&node, &late)).unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let options = ReadOptions { unbuffered: true, ..ReadOptions::default() };
            direct.blocking().read_at_with(0, &mut [0; 5000], options).unwrap()
        });
        gate.wait_hit();
        // Would wait for the direct reader, that is for the server, whatever its deadline says.
        let outcome = buffered.blocking().read_at(0, &mut [0; 5000]).map_err(|e| e.errno());
        gate.release();
        assert_eq!(outcome, Err(Errno::ETIMEDOUT));
        assert_eq!(reader.join().unwrap(), 5000);
    });
}

#[test]
fn a_bypassing_read_counts_what_the_reader_got() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 1 << 20).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let file = bench.open("a");
    let options = ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() };
    assert_eq!(file.blocking().read_at_with(300_000, &mut [0; 4096], options).unwrap(), 4096);
    let stats = bench.stats();
    assert_eq!(stats.read_bytes, 4096);
    assert_eq!(stats.miss_cold_bytes, 4096, "not the whole granule that was fetched for the disk");
}

#[test]
fn a_deleted_file_has_no_attributes() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 1000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let node = bench.mount.blocking().walk("a", &cx()).unwrap();
    fs.send_deleted(node.key());
    let attr = bench.mount.blocking().getattr(&node, &cx()).map_err(|e| e.errno());
    assert_eq!(attr.map(|a| a.size), Err(Errno::ESTALE));
}

#[test]
fn a_server_that_never_answers_a_check_or_a_lookup_holds_nobody_for_ever() {
    let clock = netfs::clock::StepClock::new();
    let fs = MemoryFs::builder().promise(Promise::None).file("a", 1000).build().unwrap();
    let netfs = netfs::Netfs::builder()
        .clock(std::sync::Arc::new(clock.clone()))
        .remote_timeout(std::time::Duration::from_secs(30))
        .build()
        .unwrap();
    let cx = netfs::remote::Cx::new(netfs::remote::Cred::new(0, 0));
    let mount = netfs.blocking_mount(fs.clone(), &cx).unwrap();
    let file = mount.blocking().open("a", &cx).unwrap();
    let gate = netfs_memory::Gate::new();
    let hold = |op| {
        fs.inject(netfs_memory::Fault::on(op).always().hold(&gate, netfs_memory::SnapshotAt::Issue))
    };
    hold(netfs_memory::Op::Validate);
    hold(netfs_memory::Op::Lookup);
    std::thread::scope(|s| {
        let read = s.spawn(|| file.blocking().read_at(0, &mut [0; 10]).unwrap_err().errno());
        let walk = s.spawn(|| mount.blocking().walk("a", &cx).unwrap_err().errno());
        gate.wait_hits(2);
        while !(read.is_finished() && walk.is_finished()) {
            clock.advance(std::time::Duration::from_secs(31));
            std::thread::yield_now();
        }
        assert_eq!(read.join().unwrap(), netfs::Errno::ETIMEDOUT);
        assert_eq!(walk.join().unwrap(), netfs::Errno::ETIMEDOUT);
    });
    gate.release();
}

/// A reply to a read may name a new version and not its size: its bytes must not be cut at the old
/// end, nor the old end be padded with zeros of the new version.
#[test]
fn n_c01_a_new_version_without_a_size_is_not_read_at_the_old_size() {
    let promise = Promise::UntilBroken { kind: netfs::remote::PromiseKind::Read };
    let fs = MemoryFs::builder().promise(promise).file("a", 5_000).build().unwrap();
    let sizeless = netfs_memory::Lie::Custom(std::sync::Arc::new(|facts| {
        (facts.size, facts.attr) = (None, None);
    }));
    fs.inject(netfs_memory::Fault::on(netfs_memory::Op::Read).always().lie(sizeless));
    let netfs = netfs::Netfs::builder().build().unwrap();
    let cx = netfs::remote::Cx::new(netfs::remote::Cred::new(0, 0));
    let mount = netfs.blocking_mount(fs.clone(), &cx).unwrap();
    let file = mount.blocking().open("a", &cx).unwrap();
    // The promise is not broken: the core learns of the change from the read's own reply.
    fs.change("a").silently().rewrite_sized(9_000).unwrap();
    let mut buf = vec![0; 20_000];
    let n = file.blocking().read_at(0, &mut buf).unwrap();
    assert_eq!(n, 9_000);
    fs.verify("a", 0, &buf[..n]).unwrap();
}

/// Replies that overtake each other: the one that names the new version was asked for before the one
/// whose size was adopted last, so its size is not adopted. The new bytes must not be cut at the old end.
#[test]
fn n_c01_a_new_version_whose_size_is_not_adopted_is_not_read_at_the_old_size() {
    let promise = Promise::UntilBroken { kind: netfs::remote::PromiseKind::Read };
    let fs = MemoryFs::builder().promise(promise).file("a", 5_000).build().unwrap();
    let netfs = netfs::Netfs::builder().build().unwrap();
    let cx = netfs::remote::Cx::new(netfs::remote::Cred::new(0, 0));
    let mount = netfs.blocking_mount(fs.clone(), &cx).unwrap();
    let file = mount.blocking().open("a", &cx).unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).times(1).hold(&gate, SnapshotAt::Release));
    let bytes = std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut buf = vec![0; 20_000];
            let n = file.blocking().read_at(0, &mut buf).unwrap();
            buf.truncate(n);
            buf
        });
        gate.wait_hit();
        // Asked for later, answered earlier: the old size, adopted at a later epoch than the read's.
        fs.send_break("a").unwrap();
        mount.blocking().getattr(&file.node(), &cx).unwrap();
        fs.change("a").rewrite_sized(9_000).unwrap();
        gate.release();
        reader.join().unwrap()
    });
    assert_eq!(bytes.len(), 9_000);
    fs.verify("a", 0, &bytes).unwrap();
}
