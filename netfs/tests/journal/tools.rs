//! A client with a log, and short forms.

use std::{sync::Arc, time::Duration};

use netfs::{
    Builder, Durability, Errno, File, Mount, Netfs, OpenOptions,
    clock::StepClock,
    dirtylog::{DirtyLog, MemLog},
    remote::{Cx, RemoteFs},
};
use netfs_memory::{Fault, Injected, MemoryFs, Op};

use crate::common::cx;

/// A client with a log. Dropped without more ado it has crashed.
pub(crate) struct Client {
    pub(crate) mount: Mount,
    pub(crate) netfs: Netfs,
    pub(crate) clock: StepClock,
}

pub(crate) fn origin() -> Arc<MemoryFs> {
    let fs = MemoryFs::builder().file("f", 100_000).file("g", 50_000).bytes("empty", "");
    fs.build().expect("build")
}

impl Client {
    pub(crate) fn new(fs: &Arc<MemoryFs>, log: &Arc<MemLog>) -> Client {
        Client::try_new(fs, log).expect("mount")
    }

    pub(crate) fn try_new(fs: &Arc<MemoryFs>, log: &Arc<MemLog>) -> netfs::Result<Client> {
        Client::configured(Arc::clone(fs), log, |b| b)
    }

    /// A client of any server.
    pub(crate) fn configured<F: RemoteFs>(
        fs: Arc<F>,
        log: &Arc<MemLog>,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> netfs::Result<Client> {
        let clock = StepClock::new();
        let log: Arc<dyn DirtyLog> = log.clone();
        // Nothing is uploaded by itself: the clock stands.
        // An inode lives as long as somebody needs it, and no longer.
        let builder = Netfs::builder().memory_bytes(16 << 20).inode_capacity(0).dirty_log(log);
        let netfs = configure(builder.clock(Arc::new(clock.clone()))).build()?;
        let mount = netfs.blocking_mount(fs, &cx())?;
        Ok(Client { mount, netfs, clock })
    }

    pub(crate) fn open(&self, path: &str, durability: Durability) -> File {
        self.open_as(path, durability, &cx())
    }

    pub(crate) fn open_as(&self, path: &str, durability: Durability, cx: &Cx) -> File {
        let how = OpenOptions::new().read(true).write(true).durability(durability);
        self.mount.blocking().open_with(path, &how, cx).expect("open")
    }

    pub(crate) fn crash(self, log: &MemLog) {
        drop(self);
        log.restart();
    }

    pub(crate) fn shutdown(self) {
        drop(self.mount);
        assert!(self.netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
    }
}

pub(crate) fn write(file: &File, offset: u64, bytes: &[u8]) {
    let n = file.blocking().write_at(offset, bytes).expect("write");
    assert_eq!(n, bytes.len());
}

pub(crate) fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    let n = file.blocking().read_at(offset, &mut buf).expect("read");
    buf.truncate(n);
    buf
}

pub(crate) fn fsync(file: &File) {
    pollster::block_on(file.fsync()).expect("fsync");
}

pub(crate) fn no_writes(fs: &MemoryFs) -> Injected {
    fs.inject(Fault::on(Op::Write).errno(Errno::EIO).always())
}

/// The log of a client that has crashed, with "ours" at 10 of "f" and of "g".
pub(crate) fn crashed_with_both(fs: &Arc<MemoryFs>, log: &Arc<MemLog>) {
    let client = Client::new(fs, log);
    for name in ["f", "g"] {
        let file = client.open(name, Durability::Journal);
        write(&file, 10, b"ours");
        fsync(&file);
    }
    client.crash(log);
}
