//! Building an origin.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use netfs::{
    Result,
    clock::{Clock, SystemClock},
    remote::{FileKind, Promise, VolumeId},
};

use crate::{
    content::Content,
    fault::{Fault, FaultPlan},
    fs::MemoryFs,
    origin::Origin,
    settings::{FileSettings, Link, Settings},
    tree::Tree,
};

/// Builds a [`MemoryFs`]. Parent directories are made as needed; owner is root, mode 0644 or 0755.
///
/// Errors (a path used twice, say) are kept and reported by [`build`](Builder::build).
///
/// ```
/// use netfs_memory::MemoryFs;
/// let fs = MemoryFs::builder()
///     .file("src/main.rs", 5000)
///     .bytes("README", "read me")
///     .sparse("image", 1 << 40, [0..4096, 1 << 30..(1 << 30) + 4096])
///     .symlink("latest", "src")
///     .mode("README", 0o600)
///     .build()?;
/// assert_eq!(fs.expected("README", 0, 7)?, b"read me");
/// # Ok::<(), netfs::Error>(())
/// ```
#[must_use = "call build()"]
pub struct Builder {
    /// Steps are kept until the seed is known.
    steps: Vec<Step>,
    seed: u64,
    volume_id: String,
    clock: Arc<dyn Clock>,
    settings: Settings,
    faults: FaultPlan,
}

type Step = Box<dyn FnOnce(&mut Tree) -> Result<()>>;

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            steps: Vec::new(),
            seed: 0,
            volume_id: "memory:volume".to_owned(),
            clock: Arc::new(SystemClock),
            settings: Settings::default(),
            faults: FaultPlan::default(),
        }
    }

    /// Seed of file numbers (keys) and content. Equal seeds and trees are equal origins.
    pub fn seed(mut self, seed: u64) -> Builder {
        self.seed = seed;
        self
    }

    /// The volume's identity, by default `memory:volume`.
    pub fn volume_id(mut self, id: &str) -> Builder {
        id.clone_into(&mut self.volume_id);
        self
    }

    /// Where latency comes from; by default the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Builder {
        self.clock = Arc::new(clock);
        self
    }

    /// Changes the settings.
    pub fn configure(mut self, change: impl FnOnce(&mut Settings)) -> Builder {
        change(&mut self.settings);
        self
    }

    /// The promise of every reply.
    pub fn promise(self, promise: Promise) -> Builder {
        self.configure(|s| s.promise = promise)
    }

    /// How fast the origin is.
    pub fn link(self, link: Link) -> Builder {
        self.configure(|s| s.link = link)
    }

    /// Adds a fault.
    pub fn fault(mut self, fault: Fault) -> Builder {
        let _ = self.faults.add(fault);
        self
    }

    /// Adds a file of `size` bytes of [pattern](crate::content).
    pub fn file(self, path: impl AsRef<[u8]>, size: u64) -> Builder {
        self.create(path, FileKind::File, move |seed| Content::pattern(seed, 1, size))
    }

    /// Adds `count` pattern files of `size` bytes named `0`, `1`, ... in `dir`.
    pub fn files(mut self, dir: impl AsRef<[u8]>, count: usize, size: u64) -> Builder {
        for i in 0..count {
            let name = format!("/{i}");
            self = self.file([dir.as_ref(), name.as_bytes()].concat(), size);
        }
        self
    }

    /// Adds a file of these bytes.
    pub fn bytes(self, path: impl AsRef<[u8]>, bytes: impl Into<Bytes>) -> Builder {
        let bytes = bytes.into();
        self.create(path, FileKind::File, move |_| Content::literal(bytes))
    }

    /// Adds a file of `size` bytes that has pattern in `data` and holes elsewhere.
    pub fn sparse(
        self,
        path: impl AsRef<[u8]>,
        size: u64,
        data: impl IntoIterator<Item = Range<u64>>,
    ) -> Builder {
        let data: Vec<_> = data.into_iter().collect();
        self.create(path, FileKind::File, move |seed| {
            let mut content = Content::hole(size);
            data.into_iter().for_each(|range| content.put_pattern(range, seed, 1));
            content
        })
    }

    /// Adds a directory.
    pub fn dir(self, path: impl AsRef<[u8]>) -> Builder {
        let path = path.as_ref().to_vec();
        self.step(move |tree| tree.make_dirs(&path).map(drop))
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Builder {
        let target = Bytes::copy_from_slice(target.as_ref());
        self.create(path, FileKind::Symlink, move |_| Content::literal(target))
    }

    /// Sets permission bits of something added before.
    pub fn mode(self, path: impl AsRef<[u8]>, mode: u32) -> Builder {
        let path = path.as_ref().to_vec();
        self.step(move |tree| {
            let id = tree.at(&path)?.id;
            tree.node_mut(id)?.mode = mode & 0o7777;
            Ok(())
        })
    }

    /// Sets owner and group of something added before.
    pub fn owner(self, path: impl AsRef<[u8]>, uid: u32, gid: u32) -> Builder {
        let path = path.as_ref().to_vec();
        self.step(move |tree| {
            let id = tree.at(&path)?.id;
            let node = tree.node_mut(id)?;
            (node.uid, node.gid) = (uid, gid);
            Ok(())
        })
    }

    /// Changes the settings of one file added before.
    pub fn configure_file(
        self,
        path: impl AsRef<[u8]>,
        change: impl FnOnce(&mut FileSettings) + 'static,
    ) -> Builder {
        let path = path.as_ref().to_vec();
        self.step(move |tree| {
            let id = tree.at(&path)?.id;
            change(&mut tree.node_mut(id)?.settings);
            Ok(())
        })
    }

    /// The origin, with one client.
    ///
    /// # Errors
    /// The first step that failed: `EEXIST` for a path added twice, `ENOTDIR` for a file used as a
    /// directory, `ENOENT` for a path that was to be added before, `EINVAL` for a bad path or volume id.
    pub fn build(self) -> Result<Arc<MemoryFs>> {
        let volume_id = VolumeId::new(&self.volume_id)?;
        let mut tree = Tree::new(self.seed);
        for step in self.steps {
            step(&mut tree)?;
        }
        let origin = Origin::new(volume_id, self.clock, tree, self.settings, self.faults);
        Ok(MemoryFs::connect(Arc::new(origin)))
    }

    fn create(
        self,
        path: impl AsRef<[u8]>,
        kind: FileKind,
        content: impl FnOnce(u64) -> Content + 'static,
    ) -> Builder {
        let path = path.as_ref().to_vec();
        self.step(move |tree| tree.create(&path, kind, content).map(drop))
    }

    fn step(mut self, step: impl FnOnce(&mut Tree) -> Result<()> + 'static) -> Builder {
        self.steps.push(Box::new(step));
        self
    }
}
