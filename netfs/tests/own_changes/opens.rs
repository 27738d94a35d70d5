//! What an open was granted, and by whom.

use netfs::{OpenOptions, coherency::Recalled, remote::PromiseKind};
use netfs_memory::{MemoryFs, Op};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{as_user, promised},
};

#[test]
fn n_c25_a_file_that_is_only_written_is_read_where_the_server_lets_it_and_not_flushed() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 65536).build().expect("build");
    let bench = Bench::new(&fs, None);
    let how = OpenOptions::new().write(true);
    let file = bench.mount.blocking().open_with("f", &how, &cx()).expect("open");
    let before = fs.counts();
    for i in 0..64 {
        file.blocking().write_at(i * 60, b"x").expect("write");
    }
    let calls = fs.counts().since(&before);
    assert_eq!((calls.calls(Op::Write), calls.calls(Op::Read)), (0, 1));
    drop(file);
    bench.shutdown();
}

#[test]
fn p_d27_a_recall_is_answered_through_every_mount_that_has_the_file_open() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).mode("f", 0o666);
    let fs = fs.build().expect("build");
    let bench = Bench::new(&fs, None);
    let other = block_on(bench.netfs().mount(fs.client(), &cx())).expect("mount");
    let first = bench.mount.blocking().open_rw("f", &as_user(1)).expect("open");
    let second = other.blocking().open_rw("f", &as_user(2)).expect("open");
    let again = other.blocking().open_rw("f", &as_user(3)).expect("open");
    let _ = fs.take_calls();
    for ticket in fs.recall("f", PromiseKind::Read).expect("recall") {
        assert!(matches!(block_on(ticket), Recalled::Released));
    }
    let calls = fs.take_calls();
    let mut by: Vec<_> =
        calls.iter().filter(|call| call.op == Op::ReleasePromise).map(|call| call.uid).collect();
    by.sort_unstable();
    by.dedup();
    assert_eq!(by, [1, 3]);
    drop((first, second, again, other));
    bench.shutdown();
}
