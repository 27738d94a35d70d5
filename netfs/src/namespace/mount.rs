//! One adapter's view of its volume.

use std::{fmt, future::Future};

use bytes::Bytes;

use super::{
    BlockingMount,
    access::AccessCache,
    dentry::{Cached, Dentries},
    volume::Volume,
};
use crate::{
    coherency::{Epoch, Origin, Validity, ZapRegistration, Zapper},
    driver, errand,
    error::{Errno, Error, Result},
    file::{File, OpenOptions},
    inode::{Inode, MAX_LATE, Verdict},
    remote::{
        AccessMask, Attr, Cx, DynFile, DynFound, DynRemoteFs, Facts, FileKind, StatFs, Version,
        VolumeId,
    },
    sync::{Arc, atomic::Ordering},
    writeback::quiet::Overtaken,
};

/// An inode seen through a mount: cheap to clone, good for as long as it is held.
#[derive(Clone)]
pub struct Node {
    pub(crate) inode: Arc<Inode>,
    pub(crate) remote: DynFile,
}

impl Node {
    /// The file's key within its volume.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.inode.key
    }

    /// A number that identifies the inode in this process, never reused.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inode.id
    }

    /// Registers a front that hands out pages of this file (a mapping, a kernel's page cache): it is
    /// asked to take them back when the server breaks its promise. Dropping the registration ends it.
    ///
    /// `origin` names the front, so that it is not asked about changes it made itself.
    pub fn register_zapper(&self, origin: Origin, zapper: Arc<dyn Zapper>) -> ZapRegistration {
        self.inode.cell.register_zapper(origin, zapper)
    }

    /// The number of the last zap of this file; grows. A front reads it before it looks whether the
    /// file is valid, and again before it hands a page out.
    #[must_use]
    pub fn zap_generation(&self) -> u64 {
        self.inode.cell.generation()
    }

    /// What kind of file it is, if any reply has said so.
    #[must_use]
    pub fn kind(&self) -> Option<FileKind> {
        self.inode.kind()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, {:?})", self.inode.id, self.inode.kind())
    }
}

/// What a name stands for.
#[derive(Clone)]
pub(super) struct Named {
    /// `None`: there is no such name.
    pub(super) node: Option<Node>,
    /// The version of the directory under which that is so, if it is known.
    pub(super) version: Option<Version>,
}

impl Named {
    pub(super) fn id(&self) -> Option<u64> {
        self.node.as_ref().map(Node::id)
    }
}

/// One entry of a directory listing.
#[derive(Clone, Debug)]
pub struct DirListEntry {
    /// The name.
    pub name: Bytes,
    /// Position after this entry.
    pub cookie: u64,
    /// What kind of file it is.
    pub kind: FileKind,
    /// A number that identifies the file within its volume.
    pub ino: u64,
    /// The node, if the server sent it along.
    pub node: Option<Node>,
}

/// A mounted adapter. Cheap to clone.
///
/// Every call takes a [`Cx`]: who asks. Rights are checked with the server, or its cached answer,
/// before anything cached is used.
#[derive(Clone)]
pub struct Mount(Arc<Shared>);

/// A volume, counted as mounted for as long as this lives: also if mounting fails halfway or its
/// future is dropped, for a count too high would keep the volume's inodes for good.
struct Counted(Arc<Volume>);

impl Counted {
    fn new(volume: Arc<Volume>) -> Counted {
        volume.mounts.fetch_add(1, Ordering::AcqRel);
        Counted(volume)
    }
}

impl std::ops::Deref for Counted {
    type Target = Arc<Volume>;
    fn deref(&self) -> &Arc<Volume> {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.mount_gone();
    }
}

struct Shared {
    volume: Counted,
    fs: Arc<dyn DynRemoteFs>,
    root: Node,
    dentries: Dentries,
    access: AccessCache,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.dentries.clear();
        self.access.clear();
    }
}

impl Mount {
    pub(crate) async fn new(
        volume: Arc<Volume>,
        fs: Arc<dyn DynRemoteFs>,
        cx: &Cx,
    ) -> Result<Mount> {
        // From here on counted, whatever becomes of this future.
        let counted = Counted::new(volume);
        let volume = &counted.0;
        let epoch = volume.cell().sample();
        let cached = Arc::clone(volume);
        let root = fs.root(cx.clone());
        let reply = async move {
            cached.open_cache().await;
            root.await
        };
        let found = on_driver(volume, reply).await?;
        let (root, _) = admit(volume, found, &epoch)?;
        let capacity = volume.core().options.dentry_capacity;
        let (dentries, access) = (Dentries::new(capacity), AccessCache::new(capacity));
        Ok(Mount(Arc::new(Shared { volume: counted, fs, root, dentries, access })))
    }

    pub(crate) fn fs(&self) -> &Arc<dyn DynRemoteFs> {
        &self.0.fs
    }

    pub(super) fn volume(&self) -> &Arc<Volume> {
        &self.0.volume
    }

    pub(super) fn dentries(&self) -> &Dentries {
        &self.0.dentries
    }

    pub(super) fn access_cache(&self) -> &AccessCache {
        &self.0.access
    }

    /// Runs an adapter's future on the driver: a caller that goes away only detaches.
    pub(super) async fn on_driver<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        on_driver(&self.0.volume, work).await
    }

    /// The same calls for threads.
    #[must_use]
    pub fn blocking(&self) -> BlockingMount<'_> {
        BlockingMount(self)
    }

    /// Which volume is mounted.
    #[must_use]
    pub fn volume_id(&self) -> &VolumeId {
        self.0.volume.id()
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Node {
        self.0.root.clone()
    }

    /// Fails with `EACCES` unless the caller has every right in `mask`.
    pub(super) async fn require(&self, node: &Node, mask: AccessMask, cx: &Cx) -> Result<()> {
        if self.access(node, mask, cx).await? {
            return Ok(());
        }
        Err(Error::new(Errno::EACCES, "the server refuses this access to these credentials"))
    }

    /// Looks up one name in a directory; `Ok(None)` if there is none.
    ///
    /// # Errors
    /// `EINVAL` for a name that is empty, `.`, `..` or contains `/` or NUL; `ENAMETOOLONG` above 255
    /// bytes; `EACCES` without search permission; `ENOTDIR`; what the adapter returned.
    pub async fn lookup(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<Option<Node>> {
        Ok(self.look(dir, name, cx).await?.node)
    }

    /// The same, and under which version of the directory.
    pub(super) async fn look(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<Named> {
        check_name(name)?;
        require_dir(dir)?;
        self.require(dir, AccessMask::EXEC, cx).await?;
        let name = Bytes::copy_from_slice(name);
        let counters = &self.0.volume.core().counters;
        match self.0.dentries.get(&dir.inode, &name) {
            Cached::Found(node, version) => {
                counters.dentry_hits.inc();
                return Ok(Named { node: Some(node), version });
            }
            Cached::Negative(version) => {
                counters.negative_hits.inc();
                return Ok(Named { node: None, version });
            }
            Cached::Unknown => {}
        }
        counters.lookups.inc();
        let epoch = self.sample();
        let reply = self.0.fs.lookup(&dir.remote, name.clone(), cx.clone());
        let reply = self.on_driver(reply).await?;
        let node = match reply.found {
            Some(found) => Some(admit(&self.0.volume, found, &epoch)?.0),
            None => None,
        };
        let version = self.remember_names(dir, reply.dir, epoch, [(name, node.clone())]);
        Ok(Named { node, version })
    }

    pub(super) fn sample(&self) -> Epoch {
        self.0.volume.cell().sample()
    }

    /// Caches names under the directory version their reply stated. Without one they are cached only
    /// under the version the directory is known to have and no event since the request. Returns the version
    /// of the directory under which they stand for that, if it is known.
    pub(super) fn remember_names(
        &self,
        dir: &Node,
        facts: Option<Facts>,
        epoch: Epoch,
        names: impl IntoIterator<Item = (Bytes, Option<Node>)>,
    ) -> Option<Version> {
        let version = match &facts {
            Some(facts) => {
                if dir.inode.apply(facts, &epoch, &[]) == Verdict::Late {
                    return None;
                }
                facts.version.clone()
            }
            // The reply did not say which version of the directory it saw: it holds only while no
            // event comes, which a versionless entry means.
            None => None,
        };
        // Names without a version count as content of an unknown one: when a check cannot confirm the
        // directory, they go with it.
        let now = dir.inode.cell.version();
        if version.is_none() && !dir.inode.cell.is_current(None, &epoch) {
            return None;
        }
        for (name, node) in names {
            self.0.dentries.put(&dir.inode, name, version.clone(), epoch, node);
        }
        version.or(now)
    }

    /// Walks a path of `/`-separated names from the root. Symbolic links are not followed; an empty
    /// path is the root.
    ///
    /// # Errors
    /// `ENOENT` naming the component that does not exist, and those of [`lookup`](Mount::lookup).
    pub async fn walk(&self, path: impl AsRef<[u8]>, cx: &Cx) -> Result<Node> {
        let mut node = self.root();
        for name in path.as_ref().split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            node = self.lookup(&node, name, cx).await?.ok_or_else(|| {
                let name = String::from_utf8_lossy(name).into_owned();
                Error::new(Errno::ENOENT, format!("no such file or directory: {name:?}"))
            })?;
        }
        Ok(node)
    }

    /// Attributes, from the cache while the server vouches for them.
    ///
    /// # Errors
    /// `ESTALE` if the file was deleted on the server; what the adapter returned.
    pub async fn getattr(&self, node: &Node, cx: &Cx) -> Result<Attr> {
        let inode = &node.inode;
        if inode.cell.valid_now() == Validity::Valid
            && let Some(attr) = inode.attr()
        {
            inode.core.counters.attr_hits.inc();
            return Ok(attr);
        }
        if let Some(attr) = self.getattr_once(node, cx).await? {
            return Ok(attr);
        }
        // Uploads overtake it: it may have to queue with them.
        let (mount, node, cx) = (self.clone(), node.clone(), cx.clone());
        let again = async move {
            let mut quiet = node.inode.quiet(Overtaken::Check, MAX_LATE);
            while quiet.again().await {
                if let Some(attr) = mount.getattr_once(&node, &cx).await? {
                    return Ok(attr);
                }
            }
            node.inode.check_exists()?;
            let told = "the file changes faster than it can be checked; try again";
            Err(Error::new(Errno::ESTALE, told))
        };
        errand::accompany(&inode.core.driver, again).await
    }

    /// `None`: what is known may be from a reply that was asked for before this call, which is not good enough
    /// for a caller who came after a change.
    async fn getattr_once(&self, node: &Node, cx: &Cx) -> Result<Option<Attr>> {
        let inode = &node.inode;
        inode.check_exists()?;
        let epoch = self.sample();
        let reply = self.0.fs.getattr(&node.remote, cx.clone());
        let facts = self.on_driver(reply).await.inspect_err(|e| {
            if e.errno() == Errno::ESTALE {
                inode.mark_deleted();
            }
        })?;
        if inode.apply(&facts, &epoch, &[]) == Verdict::Late {
            return Ok(None);
        }
        let none = || Error::new(Errno::EIO, "the adapter's getattr reply had no attributes");
        inode.attr().map(Some).ok_or_else(none)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` if it is not a link; what the adapter returned.
    pub async fn readlink(&self, node: &Node, cx: &Cx) -> Result<Bytes> {
        let inode = &node.inode;
        if node.kind().is_some_and(|k| k != FileKind::Symlink) {
            return Err(Error::new(Errno::EINVAL, "not a symbolic link"));
        }
        inode.ensure_valid(&node.remote, cx).await?;
        if let Some(target) = inode.cached_symlink() {
            return Ok(target);
        }
        let epoch = self.sample();
        let reply = self.0.fs.readlink(&node.remote, cx.clone());
        let (target, facts) = self.on_driver(reply).await?;
        let version = facts.as_ref().and_then(|f| f.version.clone());
        let late = facts.is_some_and(|f| inode.apply(&f, &epoch, &[]) == Verdict::Late);
        if !late {
            inode.store_symlink(epoch, version, target.clone());
        }
        Ok(target)
    }

    /// A run of directory entries after `cookie` (0 = from the start); an empty run is the end.
    ///
    /// # Errors
    /// `EACCES` without read permission; `ENOTDIR`; what the adapter returned.
    pub async fn readdir(
        &self,
        dir: &Node,
        cookie: u64,
        plus: bool,
        cx: &Cx,
    ) -> Result<Vec<DirListEntry>> {
        require_dir(dir)?;
        self.require(dir, AccessMask::READ, cx).await?;
        let epoch = self.sample();
        let reply = self.0.fs.readdir(&dir.remote, cookie, plus, cx.clone());
        let page = self.on_driver(reply).await?;
        let mut out = Vec::with_capacity(page.entries.len());
        let mut names = Vec::new();
        for entry in page.entries {
            let node = match entry.plus {
                Some(found) => Some(admit(&self.0.volume, found, &epoch)?.0),
                None => None,
            };
            if let Some(node) = &node {
                names.push((entry.name.clone(), Some(node.clone())));
            }
            let (name, kind) = (entry.name, entry.kind);
            out.push(DirListEntry { name, cookie: entry.cookie, kind, ino: entry.ino, node });
        }
        if out.is_empty() && !page.eof {
            return Err(Error::new(Errno::EIO, "the adapter sent an empty page before the end"));
        }
        self.remember_names(dir, page.dir, epoch, names);
        Ok(out)
    }

    /// Opens a file for reading: revalidates it (close-to-open), checks the right to read, and asks
    /// the server for an open where the protocol has one.
    ///
    /// # Errors
    /// `EACCES`; `EISDIR` for a directory (see [`open_single`](Mount::open_single)); `ESTALE`; what
    /// the adapter returned.
    pub async fn open(&self, node: &Node, cx: &Cx) -> Result<File> {
        if node.kind() == Some(FileKind::Dir) {
            return Err(Error::new(Errno::EISDIR, "is a directory"));
        }
        self.open_single(node, cx).await
    }

    /// Opens a regular file for reading and writing: the short form of
    /// [`open_node_with`](Mount::open_node_with).
    ///
    /// ```
    /// use netfs::{Netfs, remote::{Cred, Cx}};
    /// use netfs_memory::MemoryFs;
    ///
    /// let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
    /// let origin = MemoryFs::builder().bytes("greeting", "Hello!").build()?;
    /// let cx = Cx::new(Cred::new(0, 0));
    /// let mount = netfs.blocking_mount(origin.clone(), &cx)?;
    /// let file = mount.blocking().open_rw("greeting", &cx)?;
    /// file.blocking().write_at(5, b", world!")?; // in memory; nothing was read or sent
    /// let mut buf = [0; 16];
    /// let n = file.blocking().read_at(0, &mut buf)?;
    /// assert_eq!(&buf[..n], b"Hello, world!");
    /// file.blocking().fsync()?; // on the server
    /// origin.verify("greeting", 0, b"Hello, world!")?;
    /// # drop((file, mount));
    /// # assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(5)).is_nothing());
    /// # Ok::<(), netfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Mount::open); `EACCES` without the right to write, `EROFS` if the adapter cannot.
    pub async fn open_rw(&self, node: &Node, cx: &Cx) -> Result<File> {
        if node.kind() != Some(FileKind::File) {
            return Err(Error::new(Errno::EISDIR, "only a regular file can be written to"));
        }
        self.open_any(node, &OpenOptions::new().read(true).write(true), false, cx).await
    }

    /// Opens a directory or symbolic link whose content is one blob to be read whole with
    /// [`File::read_single`] (an AFS directory, say).
    ///
    /// # Errors
    /// As [`open`](Mount::open).
    pub async fn open_single(&self, node: &Node, cx: &Cx) -> Result<File> {
        self.open_any(node, &OpenOptions::new().read(true), false, cx).await
    }

    /// Space and file counts.
    ///
    /// # Errors
    /// What the adapter returned.
    pub async fn statfs(&self, cx: &Cx) -> Result<StatFs> {
        let reply = self.0.fs.statfs(cx.clone());
        self.on_driver(reply).await
    }
}

/// Puts a found file into the inode table, then applies its facts: events that come in between find
/// the inode (A1.22).
pub(super) fn admit(
    volume: &Arc<Volume>,
    found: DynFound,
    epoch: &Epoch,
) -> Result<(Node, Verdict)> {
    let key = found.file.key();
    if key.is_empty() || key.len() > 255 {
        return Err(Error::new(
            Errno::EIO,
            format!("the adapter's file key has {} bytes; 1 to 255 are allowed", key.len()),
        ));
    }
    let inode = volume.inode(key);
    let verdict = inode.apply(&found.facts, epoch, &[]);
    Ok((Node { inode, remote: found.file }, verdict))
}

async fn on_driver<T: Send + 'static>(
    volume: &Volume,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let core = Arc::clone(volume.core());
    to_its_end(volume, async move { core.answered(work).await }).await
}

/// Runs work on the driver that bounds its calls itself.
pub(super) async fn to_its_end<T: Send + 'static>(
    volume: &Volume,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    volume.core().check_open()?;
    volume.core().driver.spawn(work).await.map_err(|join| {
        if driver::panicked(&join) {
            Error::new(Errno::EIO, "the adapter panicked; see its log")
        } else {
            Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down")
        }
    })?
}

pub(super) fn require_dir(node: &Node) -> Result<()> {
    match node.kind() {
        Some(FileKind::Dir) | None => Ok(()),
        Some(_) => Err(Error::new(Errno::ENOTDIR, "not a directory")),
    }
}

pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        return Err(Error::new(Errno::ENAMETOOLONG, "a name has at most 255 bytes"));
    }
    let bad = name.is_empty() || name == b"." || name == b"..";
    if bad || name.iter().any(|&b| b == 0 || b == b'/') {
        return Err(Error::new(Errno::EINVAL, "not a name: empty, '.', '..', or has '/' or NUL"));
    }
    Ok(())
}
