//! Who holds the file: an origin in memory, or a directory of a real file system.

use std::sync::Arc;

use netfs::{
    Mount, Netfs,
    remote::{Cred, Cx, IoLimits, Promise, PromiseKind},
};
use netfs_local::LocalFs;
use netfs_memory::MemoryFs;

use crate::subject::Style;

/// Where the file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OriginKind {
    Memory,
    Local,
}

pub(crate) enum Origin {
    Memory(Arc<MemoryFs>),
    Local(tempfile::TempDir),
}

/// The file's name.
pub(crate) const NAME: &str = "exercised";

pub(crate) fn cx() -> Cx {
    Cx::new(Cred::new(0, 0))
}

impl Origin {
    pub(crate) fn new(style: &Style) -> Origin {
        match style.origin {
            OriginKind::Memory => {
                let promise = Promise::UntilBroken { kind: PromiseKind::Read };
                let fs = MemoryFs::builder().promise(promise).file(NAME, 0).build().expect("built");
                fs.configure(|settings| {
                    settings.unstable = style.unstable;
                    let (rsize, wsize) = (style.rsize, style.wsize);
                    let upload_unit = style.unit;
                    settings.limits = IoLimits { rsize, wsize, upload_unit, ..settings.limits };
                });
                Origin::Memory(fs)
            }
            OriginKind::Local => {
                let dir = tempfile::tempdir().expect("a directory");
                std::fs::write(dir.path().join(NAME), b"").expect("an empty file");
                Origin::Local(dir)
            }
        }
    }

    pub(crate) fn mount(&self, netfs: &Netfs, style: &Style) -> Mount {
        let mounted = match self {
            Origin::Memory(fs) => pollster::block_on(netfs.mount(Arc::clone(fs), &cx())),
            Origin::Local(dir) => {
                let local = LocalFs::builder(dir.path()).writable(true);
                let local = local.rsize(style.rsize).wsize(style.wsize).open().expect("opened");
                pollster::block_on(netfs.mount(local, &cx()))
            }
        };
        mounted.expect("mounted")
    }

    /// What the origin holds.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Origin::Memory(fs) => {
                let snapshot = fs.snapshot(NAME).expect("it exists");
                snapshot.content.read(0, snapshot.content.size() as usize)
            }
            Origin::Local(dir) => std::fs::read(dir.path().join(NAME)).expect("it exists"),
        }
    }
}
