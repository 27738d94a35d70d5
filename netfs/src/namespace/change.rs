//! Changes of names and attributes.
//!
//! As in a kernel one change of a directory's names by this context is under way at a time (its write lock),
//! so that the versions its replies name make a chain. A change that met nobody else's leaves the other names
//! cached: they hold under the new version too. Else they are looked up again.
//!
//! Lock order: the turn of a file that gets or loses a name (its uploads move the same version), then the
//! directories by number ([`held`](super::held)).

use bytes::Bytes;

use super::{
    BlockingMount, Mount, Node,
    held::{Held, Parents, Uploads},
    mount::{admit, check_name, require_dir},
};
use crate::{
    error::{Errno, Error, Result},
    file::{Evicted, OpenOptions, persist_as},
    inode::Inode,
    read::Who,
    remote::{Change, Cx, NewFile, RenameHow, SetAttr},
    sync::{Arc, atomic::Ordering},
    write::resize::Call,
    writeback::{conflict::ConflictPolicy, flush::Turn, groups::What, is_transient, perhaps_done},
};

impl Mount {
    /// Makes an empty regular file with these permission bits (0o7777).
    ///
    /// ```
    /// use netfs::{Netfs, remote::{Cred, Cx, RenameHow}};
    /// use netfs_memory::MemoryFs;
    ///
    /// let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
    /// let origin = MemoryFs::builder().build()?;
    /// let cx = Cx::new(Cred::new(0, 0));
    /// let mount = netfs.blocking_mount(origin.clone(), &cx)?;
    /// let (root, names) = (mount.root(), mount.blocking());
    /// let dir = names.mkdir(&root, b"d", 0o755, &cx)?;
    /// names.create(&dir, b"new", 0o644, &cx)?;
    /// names.rename((&dir, b"new"), (&root, b"f"), RenameHow::NoReplace, &cx)?;
    /// names.rmdir(&root, b"d", &cx)?;
    /// assert!(names.lookup(&root, b"f", &cx)?.is_some());
    /// # drop((dir, root, mount));
    /// # netfs.blocking_shutdown(std::time::Duration::from_secs(5));
    /// # Ok::<(), netfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `EEXIST` if the name exists, `EROFS` if the adapter cannot; those of [`lookup`](Mount::lookup).
    pub async fn create(&self, dir: &Node, name: &[u8], mode: u32, cx: &Cx) -> Result<Node> {
        self.make(dir, name, NewFile::File(mode), cx).await
    }

    /// Makes a directory with these permission bits.
    ///
    /// # Errors
    /// As [`create`](Mount::create).
    pub async fn mkdir(&self, dir: &Node, name: &[u8], mode: u32, cx: &Cx) -> Result<Node> {
        self.make(dir, name, NewFile::Dir(mode), cx).await
    }

    /// Makes a symbolic link to `target`.
    ///
    /// # Errors
    /// As [`create`](Mount::create); `ENAMETOOLONG` for a target the server does not take.
    pub async fn symlink(&self, dir: &Node, name: &[u8], target: &[u8], cx: &Cx) -> Result<Node> {
        self.make(dir, name, NewFile::Symlink(Bytes::copy_from_slice(target)), cx).await
    }

    /// Makes a name.
    pub(super) async fn make(
        &self,
        dir: &Node,
        name: &[u8],
        what: NewFile,
        cx: &Cx,
    ) -> Result<Node> {
        check(dir, name)?;
        let (mount, dir, call_cx) = (self.clone(), dir.clone(), cx.clone());
        let name = Bytes::copy_from_slice(name);
        let (queued, parent) = (self.clone(), dir.clone());
        let locks = async move { queued.parents(&[&parent]).await };
        self.change(cx, locks, move |parents| async move {
            let reply =
                mount.answered(mount.fs().create(&dir.remote, name.clone(), what, call_cx)).await;
            let made = reply.map_err(|e| mount.failed(e, &[(&dir, &name)], None))?;
            let (node, _) = admit(mount.volume(), made.found, &parents.epoch)?;
            let entry = (name, Some(node.clone()));
            mount.learned(&dir, made.dir.as_ref(), &parents, [entry]);
            Ok(node)
        })
        .await
    }

    /// Notes what a change by this client has made of names of `dir`: `None` = there is none any more. Says
    /// whether nobody else has changed any, so that the names were what they were taken for.
    fn learned(
        &self,
        dir: &Node,
        change: Option<&Change>,
        parents: &Parents,
        names: impl IntoIterator<Item = (Bytes, Option<Node>)>,
    ) -> bool {
        let known = parents.known(&dir.inode);
        let alone = dir.inode.changed_names(known, change);
        let now = change.and_then(|change| change.after.version.as_ref());
        let moved = known.zip(now).filter(|_| alone);
        self.dentries().edit(&dir.inode, moved, parents.epoch, names);
        alone
    }

    /// Gives a file another name (a hard link).
    ///
    /// # Errors
    /// `EPERM` for a directory; as [`create`](Mount::create).
    pub async fn link(&self, file: &Node, dir: &Node, name: &[u8], cx: &Cx) -> Result<()> {
        check(dir, name)?;
        let (mount, file, dir, call_cx) = (self.clone(), file.clone(), dir.clone(), cx.clone());
        let name = Bytes::copy_from_slice(name);
        let (queued, of, parent) = (self.clone(), file.clone(), dir.clone());
        let locks = async move {
            let quiet = queued.turn(&of).await?;
            Ok((queued.parents(&[&parent]).await?, quiet))
        };
        self.change(cx, locks, move |(parents, quiet)| async move {
            let _quiet = quiet;
            let call = Call::begin(&file.inode);
            let reply = mount.fs().link(&file.remote, &dir.remote, name.clone(), call_cx);
            let reply = mount.answered(reply).await;
            let done = reply.map_err(|e| mount.failed(e, &[(&dir, &name)], Some(&file)))?;
            mount.learned(&dir, done.dir.as_ref(), &parents, [(name, Some(file.clone()))]);
            renamed(call, &file, done.file.as_ref());
            Ok(())
        })
        .await
    }

    /// Removes the name of anything but a directory. With its last name a file is gone, unless the adapter
    /// keeps it for those who have it open; what was written to it and is not on the server is given up if
    /// nobody has, and is in no [log](crate::Builder::dirty_log) any more.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`; as [`create`](Mount::create). The log's, though the name is gone, if it failed to
    /// forget the file.
    pub async fn unlink(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<()> {
        self.remove(dir, name, false, cx).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`; as [`create`](Mount::create).
    pub async fn rmdir(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<()> {
        self.remove(dir, name, true, cx).await
    }

    async fn remove(&self, dir: &Node, name: &[u8], is_dir: bool, cx: &Cx) -> Result<()> {
        check(dir, name)?;
        let (mount, call_cx) = (self.clone(), cx.clone());
        let place = [(dir.clone(), Bytes::copy_from_slice(name))];
        let locks = self.clone().hold(place, Uploads::Pass, cx.clone());
        self.change(cx, locks, move |(held, place)| async move {
            let Held { mut files, parents, turns: _quiet } = held;
            let file = files.swap_remove(0).ok_or_else(no_name)?;
            let [(dir, name)] = place;
            let call = Call::begin(&file.inode);
            let reply = mount.fs().remove(&dir.remote, name.clone(), is_dir, call_cx);
            let reply = mount.answered(reply).await;
            let done = reply.map_err(|e| mount.failed(e, &[(&dir, &name)], Some(&file)))?;
            let sure = mount.learned(&dir, done.dir.as_ref(), &parents, [(name, None)]);
            drop(parents);
            match &done.gone {
                Some(key) => mount.gone(key).await,
                None => {
                    renamed(call, &file, done.file.as_ref().filter(|_| sure));
                    Ok(())
                }
            }
        })
        .await
    }

    /// Moves a name, as `renameat2(2)`. A file it replaces is as one that was
    /// [unlinked](Mount::unlink).
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST` with [`RenameHow::NoReplace`], `EINVAL` for a directory into itself, `ENOTEMPTY`,
    /// `EISDIR`, `ENOTDIR`; as [`create`](Mount::create).
    pub async fn rename(
        &self,
        from: (&Node, &[u8]),
        to: (&Node, &[u8]),
        how: RenameHow,
        cx: &Cx,
    ) -> Result<()> {
        check(from.0, from.1)?;
        check(to.0, to.1)?;
        let (mount, call_cx) = (self.clone(), cx.clone());
        let place = |(dir, name): (&Node, &[u8])| (dir.clone(), Bytes::copy_from_slice(name));
        let places = [place(from), place(to)];
        let locks = self.clone().hold(places, Uploads::End, cx.clone());
        let work = move |(held, places)| async move {
            mount.rename_here(held, places, how, call_cx).await
        };
        self.change(cx, locks, work).await
    }

    async fn rename_here(
        &self,
        held: Held,
        [from, to]: [(Node, Bytes); 2],
        how: RenameHow,
        cx: Cx,
    ) -> Result<()> {
        let Held { mut files, parents, turns: _quiet } = held;
        let other = files.pop().flatten();
        let file = files.pop().flatten().ok_or_else(no_name)?;
        let call = Call::begin(&file.inode);
        let others_call = other.as_ref().map(|other| Call::begin(&other.inode));
        let places = ((&from.0.remote, from.1.clone()), (&to.0.remote, to.1.clone()));
        let reply = self.answered(self.fs().rename(places.0, places.1, how, cx)).await;
        let done = reply.map_err(|e| {
            let e = self.failed(e, &[], other.as_ref());
            self.failed(e, &[(&from.0, &from.1), (&to.0, &to.1)], Some(&file))
        })?;
        let left = if how == RenameHow::Exchange { other.clone() } else { None };
        // Two names of one file: nothing happens to either.
        let one = other.as_ref().is_some_and(|other| Arc::ptr_eq(&other.inode, &file.inode));
        let left = if one { Some(file.clone()) } else { left };
        let (old, new) = ((from.1, left), (to.1, Some(file.clone())));
        let here = Arc::ptr_eq(&from.0.inode, &to.0.inode);
        let told = |dir: &Node, change| parents.vouches(&dir.inode, change);
        // Both, or neither: what was found in one directory is entered in the other.
        let sure = told(&to.0, &done.dir) && (here || told(&from.0, &done.from));
        let (there, back) = (done.dir.filter(|_| sure), done.from.filter(|_| sure));
        if here {
            self.learned(&to.0, there.as_ref(), &parents, [old, new]);
        } else {
            self.learned(&to.0, there.as_ref(), &parents, [new]);
            self.learned(&from.0, back.as_ref(), &parents, [old]);
        }
        drop(parents);
        renamed(call, &file, done.file.as_ref().filter(|_| sure));
        if let Some(key) = &done.gone {
            return self.gone(key).await;
        }
        if let (Some(other), Some(call), false) = (&other, others_call, one) {
            renamed(call, other, done.other.as_ref().filter(|_| sure));
        }
        Ok(())
    }

    /// Changes attributes other than the size ([`set_len`](Mount::set_len)). What was written to the file is
    /// uploaded first, as the kernel's clients do: an upload afterwards would move the times that are set, or
    /// be refused for the mode. If the server refuses those bytes for good the attributes are changed all the
    /// same, and the next fsync tells of the bytes.
    ///
    /// # Errors
    /// `EPERM` without the right to; `ESTALE` if the file was deleted; `EROFS`; what the adapter returned. If
    /// what was written could not be uploaded for a reason that may pass, that reason, at the latest after
    /// [`Builder::remote_timeout`](crate::Builder::remote_timeout) (`ETIMEDOUT`): then nothing was changed.
    pub async fn set_attr(&self, node: &Node, set: SetAttr, cx: &Cx) -> Result<()> {
        node.inode.check_exists()?;
        let (mount, node, call_cx) = (self.clone(), node.clone(), cx.clone());
        let (queued, of, queued_cx) = (self.clone(), node.clone(), cx.clone());
        let locks = async move { queued.uploaded(&of, &queued_cx).await };
        self.change(cx, locks, move |quiet| async move {
            let _quiet: Turn = quiet;
            let call = Call::begin(&node.inode);
            let reply = mount.answered(mount.fs().set_attr(&node.remote, set, call_cx)).await;
            let change = reply.map_err(|e| mount.failed(e, &[], Some(&node)))?;
            if set.mtime.is_some() {
                // What could not be uploaded does not hide it.
                node.inode.forget_write_time();
            }
            renamed(call, &node, Some(&change));
            Ok(())
        })
        .await
    }

    /// The file's turn, with everything written to it before on the server, or refused for good.
    async fn uploaded(&self, node: &Node, cx: &Cx) -> Result<Turn> {
        if node.inode.pages.dirty_bytes() > 0 {
            let (inode, remote) = (Arc::clone(&node.inode), Arc::clone(&node.remote));
            let who = Who { inode, remote, cx: cx.clone(), origin: None };
            let round = persist_as(&who, What::Range(0..u64::MAX));
            let told = "what was written has not been uploaded; nothing was changed";
            let late = || Err(Error::new(Errno::ETIMEDOUT, told));
            match who.by_call_deadline(round).await.unwrap_or_else(late) {
                Err(error) if is_transient(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "attributes are set over a failed upload"),
                Ok(()) => {}
            }
        }
        self.turn(node).await
    }

    /// Cuts a file at `size`, or extends it by zeros: opens it for writing
    /// ([`File::set_len`](crate::File::set_len)); the right to read is not needed, as for `truncate(2)`.
    ///
    /// # Errors
    /// As [`open_node_with`](Mount::open_node_with) and `File::set_len`.
    pub async fn set_len(&self, node: &Node, size: u64, cx: &Cx) -> Result<()> {
        let how = OpenOptions::new().write(true);
        self.open_node_with(node, &how, cx).await?.set_len(size).await
    }

    /// Lets go of all clean pages of a file, in memory and in the disk cache.
    pub async fn evict(&self, node: &Node) -> Evicted {
        node.inode.evict(0..i64::MAX as u64).await
    }

    /// What becomes of bytes of this volume's files that are dirty when somebody else changes them, for all its
    /// mounts; `None`: as the context says.
    pub fn set_conflict_policy(&self, policy: Option<ConflictPolicy>) {
        self.volume().set_conflict_policy(policy);
    }

    /// Bounds one call to the server.
    async fn answered<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.volume().core().answered(call).await
    }

    /// What a failed change leaves unknown: the names it was about, for they may not be what they were taken for;
    /// and all, if it may have been made.
    fn failed(&self, error: Error, names: &[(&Node, &Bytes)], file: Option<&Node>) -> Error {
        let lost = perhaps_done(&error);
        for (dir, name) in names {
            if lost {
                dir.inode.changed_names(None, None);
            }
            self.dentries().forget(&dir.inode, Bytes::clone(name));
        }
        if let Some(file) = file.filter(|_| lost) {
            file.inode.others_wrote();
        }
        error
    }

    /// A file has lost its last name by our doing.
    ///
    /// # Errors
    /// The log of dirty bytes may bring back what it has of it.
    async fn gone(&self, key: &[u8]) -> Result<()> {
        match self.volume().find(key) {
            Some(inode) => inode.unlinked().await,
            None => Ok(()),
        }
    }
}

impl Inode {
    /// The server says that the last name is gone. Who has the file open may go on as long as the server lets
    /// them (an adapter may have renamed it for them), and is told if not; the last one takes it along.
    async fn unlinked(&self) -> Result<()> {
        self.unlinked.store(true, Ordering::Release);
        // Now, and not when it is closed: nobody can find it after a crash, and the server may use its key for
        // another file as soon as it is gone (L6).
        let forgotten = self.log_removed().await;
        if self.is_open() {
            self.others_wrote();
        } else {
            self.remove();
        }
        forgotten.map_err(|error| {
            let told = "the file is removed, but the log of dirty bytes failed";
            Error::new(
                error.errno(),
                format!("{told}, and may bring back what it has of it: {error}"),
            )
        })
    }

    /// Nobody can read this file any more.
    pub(crate) fn remove(&self) {
        let bytes = self.pages.dirty_bytes();
        self.mark_deleted();
        self.discard_dirty();
        self.nothing_dirty();
        if bytes > 0 {
            self.core.counters.write_removed_bytes.add(bytes);
            tracing::info!(key = ?self.key, bytes, "what was written to a file went with it");
        }
    }
}

/// Takes over what a reply said of a file whose names or attributes were changed.
fn renamed(call: Call<'_>, node: &Node, change: Option<&Change>) {
    let silent = Change::default();
    let change = change.unwrap_or(&silent);
    node.inode.changed_attributes(call.known.as_ref(), change);
    call.end(change);
}

fn check(dir: &Node, name: &[u8]) -> Result<()> {
    check_name(name)?;
    require_dir(dir)?;
    dir.inode.check_exists()
}

fn no_name() -> Error {
    Error::new(Errno::ENOENT, "no such file or directory")
}

impl BlockingMount<'_> {
    /// See [`Mount::create`].
    ///
    /// # Errors
    /// As [`Mount::create`].
    pub fn create(&self, dir: &Node, name: &[u8], mode: u32, cx: &Cx) -> Result<Node> {
        pollster::block_on(self.0.create(dir, name, mode, cx))
    }

    /// See [`Mount::mkdir`].
    ///
    /// # Errors
    /// As [`Mount::mkdir`].
    pub fn mkdir(&self, dir: &Node, name: &[u8], mode: u32, cx: &Cx) -> Result<Node> {
        pollster::block_on(self.0.mkdir(dir, name, mode, cx))
    }

    /// See [`Mount::symlink`].
    ///
    /// # Errors
    /// As [`Mount::symlink`].
    pub fn symlink(&self, dir: &Node, name: &[u8], target: &[u8], cx: &Cx) -> Result<Node> {
        pollster::block_on(self.0.symlink(dir, name, target, cx))
    }

    /// See [`Mount::link`].
    ///
    /// # Errors
    /// As [`Mount::link`].
    pub fn link(&self, file: &Node, dir: &Node, name: &[u8], cx: &Cx) -> Result<()> {
        pollster::block_on(self.0.link(file, dir, name, cx))
    }

    /// See [`Mount::unlink`].
    ///
    /// # Errors
    /// As [`Mount::unlink`].
    pub fn unlink(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<()> {
        pollster::block_on(self.0.unlink(dir, name, cx))
    }

    /// See [`Mount::rmdir`].
    ///
    /// # Errors
    /// As [`Mount::rmdir`].
    pub fn rmdir(&self, dir: &Node, name: &[u8], cx: &Cx) -> Result<()> {
        pollster::block_on(self.0.rmdir(dir, name, cx))
    }

    /// See [`Mount::rename`].
    ///
    /// # Errors
    /// As [`Mount::rename`].
    pub fn rename(
        &self,
        from: (&Node, &[u8]),
        to: (&Node, &[u8]),
        how: RenameHow,
        cx: &Cx,
    ) -> Result<()> {
        pollster::block_on(self.0.rename(from, to, how, cx))
    }

    /// See [`Mount::set_attr`].
    ///
    /// # Errors
    /// As [`Mount::set_attr`].
    pub fn set_attr(&self, node: &Node, set: SetAttr, cx: &Cx) -> Result<()> {
        pollster::block_on(self.0.set_attr(node, set, cx))
    }

    /// See [`Mount::set_len`].
    ///
    /// # Errors
    /// As [`Mount::set_len`].
    pub fn set_len(&self, node: &Node, size: u64, cx: &Cx) -> Result<()> {
        pollster::block_on(self.0.set_len(node, size, cx))
    }

    /// See [`Mount::evict`].
    #[must_use]
    pub fn evict(&self, node: &Node) -> Evicted {
        pollster::block_on(self.0.evict(node))
    }
}
