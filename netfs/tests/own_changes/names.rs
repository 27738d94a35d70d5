//! Names that are moved while others of the same directory are.

use std::{pin::Pin, sync::Arc};

use netfs::{Result, remote::RenameHow};
use netfs_memory::{MemoryFs, Op};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{begun, hold, promised, walk},
};

/// `d/f` and `d/x` of other modes, all names of `d` known.
fn bed() -> (Arc<MemoryFs>, Bench) {
    let fs = MemoryFs::builder().promise(promised()).bytes("d/f", "FFFF").bytes("d/x", "EEEE");
    let fs = fs.mode("d/f", 0o644).mode("d/x", 0o600).dir("e").build().expect("build");
    fs.change("d/y").link("d/x").expect("link");
    let bench = Bench::new(&fs, None);
    for name in ["d/f", "d/x", "d/y", "e"] {
        walk(&bench, name);
    }
    for dir in ["d", "e"] {
        let dir = walk(&bench, dir);
        assert!(bench.mount.blocking().lookup(&dir, b"g", &cx()).expect("lookup").is_none());
    }
    (fs, bench)
}

/// Has `next` begin, which looks its names up, while the two names of `d` change places at the server.
fn beside_an_exchange(
    fs: &Arc<MemoryFs>,
    bench: &Bench,
    next: impl FnOnce() -> Pin<Box<dyn Future<Output = Result<()>>>>,
) {
    let (mount, dir) = (&bench.mount, walk(bench, "d"));
    let gate = hold(fs, Op::Rename);
    let cx = cx();
    let exchange = mount.rename((&dir, b"x"), (&dir, b"f"), RenameHow::Exchange, &cx);
    let exchange = begun(exchange);
    gate.wait_hit();
    let next = begun(next());
    gate.release();
    block_on(exchange).expect("exchange");
    block_on(next).expect("next");
}

fn read(bench: &Bench, name: &str) -> Vec<u8> {
    let file = bench.mount.blocking().open(name, &cx()).expect("open");
    let mut buf = [0; 4];
    file.blocking().read_at(0, &mut buf).expect("read");
    buf.to_vec()
}

#[test]
fn w_11_a_rename_moves_what_the_name_stands_for_once_it_is_its_turn() {
    for to in ["d", "e"] {
        let (fs, bench) = bed();
        let (mount, from, dir) = (bench.mount.clone(), walk(&bench, "d"), walk(&bench, to));
        let (f, x) = (walk(&bench, "d/f"), walk(&bench, "d/x"));
        beside_an_exchange(&fs, &bench, || {
            Box::pin(async move {
                mount.rename((&from, b"f"), (&dir, b"g"), RenameHow::NoReplace, &cx()).await
            })
        });
        let g = format!("{to}/g");
        assert_eq!(fs.expected(&g, 0, 4).expect("moved"), b"EEEE");
        assert_eq!(read(&bench, &g), b"EEEE");
        assert_eq!(read(&bench, "d/x"), b"FFFF");
        // Nor did one get the other's attributes.
        let mode = |node| bench.mount.blocking().getattr(node, &cx()).expect("getattr").mode;
        assert_eq!((mode(&f), mode(&x)), (0o644, 0o600));
        bench.shutdown();
    }
}

#[test]
fn w_11_an_unlink_is_about_what_the_name_stands_for_once_it_is_its_turn() {
    let (fs, bench) = bed();
    let (mount, dir) = (bench.mount.clone(), walk(&bench, "d"));
    let (f, x) = (walk(&bench, "d/f"), walk(&bench, "d/x"));
    beside_an_exchange(&fs, &bench, || {
        Box::pin(async move { mount.unlink(&dir, b"f", &cx()).await })
    });
    assert_eq!(fs.expected("d/y", 0, 4).expect("its other name"), b"EEEE");
    let attr = |node| bench.mount.blocking().getattr(node, &cx()).expect("getattr");
    assert_eq!((attr(&f).mode, attr(&f).nlink), (0o644, 1));
    assert_eq!((attr(&x).mode, attr(&x).nlink), (0o600, 1));
    assert_eq!(read(&bench, "d/x"), b"FFFF");
    assert_eq!(read(&bench, "d/y"), b"EEEE");
    bench.shutdown();
}
