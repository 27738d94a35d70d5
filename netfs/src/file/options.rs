//! [`OpenOptions`]: for what, and with which promises, a file is opened.

use crate::{
    coherency::Origin,
    error::{Errno, Error, Result},
    remote::OpenIntent,
};

/// When the calls that write to a file return, as `open(2)` has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Sync {
    /// Once the bytes are in memory; [`File::fsync`](crate::File::fsync) makes them safe.
    #[default]
    None,
    /// Once the bytes, and the size if they made the file longer, are on the server's stable storage
    /// (`O_DSYNC`).
    Data,
    /// The same, with all of the file's attributes (`O_SYNC`). Servers keep those with the data, so that
    /// the two levels cost the same.
    Full,
}

/// What of an open file's writes outlives what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Bytes are in the memory of this process until they are uploaded; an fsync uploads them.
    #[default]
    Memory,
    /// An fsync makes a log on the local disk durable, from which the bytes are uploaded even after a
    /// crash; the upload follows. Without such a log it uploads, as `Memory` does:
    /// [`File::durability`](crate::File::durability) tells.
    Journal,
    /// Every write is on the server's stable storage when it returns: implies [`Sync::Full`].
    Remote,
}

/// How to open a file, in the manner of [`std::fs::OpenOptions`]: everything is off until it is asked for.
///
/// ```
/// use netfs::{Netfs, OpenOptions, Sync, remote::{Cred, Cx}};
/// use netfs_memory::MemoryFs;
///
/// let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
/// let origin = MemoryFs::builder().build()?;
/// let cx = Cx::new(Cred::new(0, 0));
/// let mount = netfs.blocking_mount(origin.clone(), &cx)?;
/// let log = OpenOptions::new().append(true).create(true).mode(0o640).sync(Sync::Data);
/// let file = mount.blocking().open_with("log", &log, &cx)?;
/// file.blocking().append(b"one line\n")?; // on the server when this returns
/// origin.verify("log", 0, b"one line\n")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) append: bool,
    pub(crate) truncate: bool,
    pub(crate) create: bool,
    pub(crate) create_new: bool,
    pub(crate) mode: u32,
    pub(crate) sync: Sync,
    pub(crate) write_through: bool,
    pub(crate) direct: bool,
    pub(crate) durability: Durability,
    pub(crate) close_flush: bool,
    pub(crate) origin: Option<Origin>,
    /// For bytes that were accepted before a restart: they go in whatever has become of the file since.
    pub(crate) replays: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

impl OpenOptions {
    /// Nothing asked for: neither reading nor writing, which no open accepts.
    #[must_use]
    pub const fn new() -> OpenOptions {
        OpenOptions {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            mode: 0o666,
            sync: Sync::None,
            write_through: false,
            direct: false,
            durability: Durability::Memory,
            close_flush: true,
            origin: None,
            replays: false,
        }
    }

    /// For reading. Without it every read is `EBADF`.
    #[must_use]
    pub const fn read(mut self, read: bool) -> OpenOptions {
        self.read = read;
        self
    }

    /// For writing.
    #[must_use]
    pub const fn write(mut self, write: bool) -> OpenOptions {
        self.write = write;
        self
    }

    /// For writing at the end of the file: every write goes there, whatever offset it names (as `pwrite(2)`
    /// on Linux).
    #[must_use]
    pub const fn append(mut self, append: bool) -> OpenOptions {
        self.append = append;
        self
    }

    /// Cuts the file to nothing, on the server too, before the open returns.
    #[must_use]
    pub const fn truncate(mut self, truncate: bool) -> OpenOptions {
        self.truncate = truncate;
        self
    }

    /// Makes the file if there is none.
    #[must_use]
    pub const fn create(mut self, create: bool) -> OpenOptions {
        self.create = create;
        self
    }

    /// Makes the file, and fails with `EEXIST` if the name exists: the server decides, in one step.
    /// [`create`](OpenOptions::create) and [`truncate`](OpenOptions::truncate) are ignored then.
    #[must_use]
    pub const fn create_new(mut self, create_new: bool) -> OpenOptions {
        self.create_new = create_new;
        self
    }

    /// Permission bits (0o7777) of a file that is made; 0o666 if nothing is said. No mask is applied: a
    /// front has its callers'.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// When writes return.
    #[must_use]
    pub const fn sync(mut self, sync: Sync) -> OpenOptions {
        self.sync = sync;
        self
    }

    /// Writes go through the page cache to the server and return once it has them, on stable storage as with
    /// [`Sync::Data`]: a write that was only acknowledged would have to be kept here to be sent again.
    #[must_use]
    pub const fn write_through(mut self, write_through: bool) -> OpenOptions {
        self.write_through = write_through;
        self
    }

    /// Unbuffered: reads come from the server, writes go to it straight from the caller's bytes, neither
    /// leaves anything in memory or on disk (rows 46, 86). Offsets and lengths need no alignment.
    #[must_use]
    pub const fn direct(mut self, direct: bool) -> OpenOptions {
        self.direct = direct;
        self
    }

    /// What of the writes outlives what.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> OpenOptions {
        self.durability = durability;
        self
    }

    /// Whether [`File::close`](crate::File::close) uploads what was written (close-to-open, the default).
    /// Without it that is left to the flusher and to fsync.
    #[must_use]
    pub const fn close_flush(mut self, close_flush: bool) -> OpenOptions {
        self.close_flush = close_flush;
        self
    }

    /// The front this open is for: it is not told of changes it makes through it, for what it has itself it
    /// knows ([`Node::register_zapper`](crate::Node::register_zapper)).
    #[must_use]
    pub const fn origin(mut self, origin: Origin) -> OpenOptions {
        self.origin = Some(origin);
        self
    }

    /// Refuses what contradicts itself, as [`std::fs::OpenOptions::open`] does.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |told: &'static str| Err(Error::new(Errno::EINVAL, told));
        let made = self.create || self.create_new;
        if self.mode & !0o7777 != 0 {
            return invalid("a file's mode has no bits but 0o7777");
        }
        match (self.read, self.write, self.append) {
            (false, false, false) => invalid("a file is opened for reading, writing or appending"),
            (true, false, false) if made || self.truncate => {
                invalid("to make or to cut a file it is opened for writing")
            }
            (_, _, true) if self.truncate && !self.create_new => {
                invalid("a file that is appended to is not cut")
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn writes(&self) -> bool {
        self.write || self.append
    }

    /// What the server is asked for.
    pub(crate) fn intent(&self) -> OpenIntent {
        match (self.read, self.writes()) {
            (true, true) => OpenIntent::ReadWrite,
            (false, true) => OpenIntent::Write,
            _ => OpenIntent::Read,
        }
    }

    pub(crate) const fn replaying(mut self) -> OpenOptions {
        self.replays = true;
        self
    }

    /// Whether writes go to memory, where they say, and return then.
    pub(crate) fn writes_plainly(&self) -> bool {
        let waits = self.write_through || self.sync_level() > Sync::None;
        self.write && !(self.append || self.direct || waits)
    }

    /// When writes return, with what the durability level implies.
    pub(crate) fn sync_level(&self) -> Sync {
        let implied = if self.durability == Durability::Remote { Sync::Full } else { Sync::None };
        self.sync.max(implied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All combinations of the flags that std has, on a real file: what std refuses for contradicting
    /// itself is refused here.
    #[test]
    fn contradictions_are_those_of_std() {
        let dir = tempfile::tempdir().expect("a directory");
        for bits in 0u32..64 {
            let on = |bit: u32| bits & (1 << bit) != 0;
            let path = dir.path().join(bits.to_string());
            if !on(5) {
                std::fs::write(&path, b"x").expect("a file");
            }
            let theirs = std::fs::OpenOptions::new()
                .read(on(0))
                .write(on(1))
                .append(on(2))
                .truncate(on(3))
                .create(on(4))
                .create_new(on(5))
                .open(&path);
            let ours = OpenOptions::new()
                .read(on(0))
                .write(on(1))
                .append(on(2))
                .truncate(on(3))
                .create(on(4))
                .create_new(on(5))
                .check();
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{bits:06b}: {ours:?}, {theirs:?}");
            assert!(ours.err().is_none_or(|e| e.errno() == Errno::EINVAL));
        }
    }

    #[test]
    fn remote_durability_implies_full_sync() {
        let remote = OpenOptions::new().write(true).durability(Durability::Remote);
        assert_eq!(remote.sync_level(), Sync::Full);
        assert_eq!(remote.sync(Sync::Data).sync_level(), Sync::Full);
        assert_eq!(OpenOptions::new().sync(Sync::Data).sync_level(), Sync::Data);
    }
}
