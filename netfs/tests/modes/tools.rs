//! What these tests share.

use std::sync::Arc;

use netfs::{Errno, File, OpenOptions, Result};
use netfs_memory::MemoryFs;

use crate::common::{Bench, cx};

pub(crate) const MIB: usize = 1 << 20;

/// A file of 3 MiB with its pattern, and an empty one.
pub(crate) fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("f", 3 * MIB as u64).bytes("empty", "").build().expect("build")
}

pub(crate) fn rw() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

pub(crate) fn open(bench: &Bench, path: &str, options: &OpenOptions) -> File {
    bench.mount.blocking().open_with(path, options, &cx()).expect("open")
}

#[track_caller]
pub(crate) fn errno<T>(result: Result<T>) -> Errno {
    result.map(drop).expect_err("an error").errno()
}

pub(crate) fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    let n = file.blocking().read_at(offset, &mut buf).expect("read");
    buf.truncate(n);
    buf
}
