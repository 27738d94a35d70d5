//! Object-safe face of [`RemoteFs`], so that the core is not generic over its adapters.

use std::any::Any;

use bytes::Bytes;

use super::{
    AccessMask, BoxFuture, Change, Created, Cx, DirEntry, DirPage, Facts, Found, LookupReply,
    NameChange, NewFile, OpenIntent, OpenToken, RemoteFile, RemoteFs, RenameHow, SetAttr, StatFs,
    VolumeId,
};
use crate::{
    coherency::VolumeEvents,
    error::{Errno, Error, Result},
    sync::Arc,
};

pub(crate) type DynFile = Arc<dyn RemoteFile>;

/// A found file with its adapter type erased.
pub(crate) struct DynFound {
    pub(crate) file: DynFile,
    pub(crate) facts: Facts,
}

/// A file that was made, and what the reply said of its directory.
pub(crate) struct DynCreated {
    pub(crate) found: DynFound,
    pub(crate) dir: Option<Change>,
}

pub(crate) struct DynLookup {
    pub(crate) found: Option<DynFound>,
    pub(crate) dir: Option<Facts>,
}

pub(crate) struct DynDirEntry {
    pub(crate) name: Bytes,
    pub(crate) cookie: u64,
    pub(crate) kind: super::FileKind,
    pub(crate) ino: u64,
    pub(crate) plus: Option<DynFound>,
}

pub(crate) struct DynDirPage {
    pub(crate) entries: Vec<DynDirEntry>,
    pub(crate) eof: bool,
    pub(crate) dir: Option<Facts>,
}

/// See [`RemoteFs`]; a file that belongs to another adapter is refused with `EINVAL`.
pub(crate) trait DynRemoteFs: Send + Sync {
    fn volume_id(&self) -> VolumeId;
    fn volume_coherency(&self) -> Bytes;
    fn attach(&self, events: VolumeEvents);
    fn root(&self, cx: Cx) -> BoxFuture<'static, Result<DynFound>>;
    fn by_key(&self, key: Bytes, cx: Cx) -> BoxFuture<'static, Result<DynFound>>;
    fn lookup(&self, dir: &DynFile, name: Bytes, cx: Cx) -> BoxFuture<'static, Result<DynLookup>>;
    fn readdir(
        &self,
        dir: &DynFile,
        cookie: u64,
        plus: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DynDirPage>>;
    fn getattr(&self, file: &DynFile, cx: Cx) -> BoxFuture<'static, Result<Facts>>;
    fn readlink(
        &self,
        file: &DynFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Facts>)>>;
    fn access(&self, file: &DynFile, mask: AccessMask, cx: Cx) -> BoxFuture<'static, Result<bool>>;
    fn open(
        &self,
        file: &DynFile,
        intent: OpenIntent,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(OpenToken, Option<Facts>)>>;
    fn create(
        &self,
        dir: &DynFile,
        name: Bytes,
        what: NewFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DynCreated>>;
    fn link(
        &self,
        file: &DynFile,
        dir: &DynFile,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>>;
    fn remove(
        &self,
        dir: &DynFile,
        name: Bytes,
        dir_wanted: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>>;
    fn rename(
        &self,
        from: (&DynFile, Bytes),
        to: (&DynFile, Bytes),
        how: RenameHow,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>>;
    fn set_attr(&self, file: &DynFile, set: SetAttr, cx: Cx) -> BoxFuture<'static, Result<Change>>;
    fn statfs(&self, cx: Cx) -> BoxFuture<'static, Result<StatFs>>;
}

/// The adapter behind its erased face.
pub(crate) struct Erased<F>(pub(crate) Arc<F>);

impl<F: RemoteFs> Erased<F> {
    fn own(file: &DynFile) -> Result<Arc<F::File>> {
        let any: Arc<dyn Any + Send + Sync> = file.clone();
        any.downcast().map_err(|_| Error::new(Errno::EINVAL, "a file of another adapter"))
    }
}

fn found<T: RemoteFile>(f: Found<T>) -> DynFound {
    DynFound { file: f.file, facts: f.facts }
}

fn failed<T: Send + 'static>(e: Error) -> BoxFuture<'static, Result<T>> {
    Box::pin(async move { Err(e) })
}

macro_rules! own {
    ($file:expr) => {
        match Self::own($file) {
            Ok(f) => f,
            Err(e) => return failed(e),
        }
    };
}

impl<F: RemoteFs> DynRemoteFs for Erased<F> {
    fn volume_id(&self) -> VolumeId {
        self.0.volume_id()
    }

    fn volume_coherency(&self) -> Bytes {
        self.0.volume_coherency()
    }

    fn attach(&self, events: VolumeEvents) {
        self.0.attach(events);
    }

    fn root(&self, cx: Cx) -> BoxFuture<'static, Result<DynFound>> {
        let fut = Arc::clone(&self.0).root(cx);
        Box::pin(async move { fut.await.map(found) })
    }

    fn by_key(&self, key: Bytes, cx: Cx) -> BoxFuture<'static, Result<DynFound>> {
        let fut = Arc::clone(&self.0).by_key(key, cx);
        Box::pin(async move { fut.await.map(found) })
    }

    fn lookup(&self, dir: &DynFile, name: Bytes, cx: Cx) -> BoxFuture<'static, Result<DynLookup>> {
        let fut = Arc::clone(&self.0).lookup(own!(dir), name, cx);
        Box::pin(async move {
            let LookupReply { found: f, dir } = fut.await?;
            Ok(DynLookup { found: f.map(found), dir })
        })
    }

    fn readdir(
        &self,
        dir: &DynFile,
        cookie: u64,
        plus: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DynDirPage>> {
        let fut = Arc::clone(&self.0).readdir(own!(dir), cookie, plus, cx);
        Box::pin(async move {
            let DirPage { entries, eof, dir } = fut.await?;
            let entries = entries.into_iter().map(erase_entry).collect();
            Ok(DynDirPage { entries, eof, dir })
        })
    }

    fn getattr(&self, file: &DynFile, cx: Cx) -> BoxFuture<'static, Result<Facts>> {
        Arc::clone(&self.0).getattr(own!(file), cx)
    }

    fn readlink(
        &self,
        file: &DynFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Facts>)>> {
        Arc::clone(&self.0).readlink(own!(file), cx)
    }

    fn access(&self, file: &DynFile, mask: AccessMask, cx: Cx) -> BoxFuture<'static, Result<bool>> {
        Arc::clone(&self.0).access(own!(file), mask, cx)
    }

    fn open(
        &self,
        file: &DynFile,
        intent: OpenIntent,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(OpenToken, Option<Facts>)>> {
        Arc::clone(&self.0).open(own!(file), intent, cx)
    }

    fn create(
        &self,
        dir: &DynFile,
        name: Bytes,
        what: NewFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DynCreated>> {
        let fut = Arc::clone(&self.0).create(own!(dir), name, what, cx);
        Box::pin(async move {
            let Created { found: f, dir } = fut.await?;
            Ok(DynCreated { found: found(f), dir })
        })
    }

    fn link(
        &self,
        file: &DynFile,
        dir: &DynFile,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        Arc::clone(&self.0).link(own!(file), own!(dir), name, cx)
    }

    fn remove(
        &self,
        dir: &DynFile,
        name: Bytes,
        dir_wanted: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        Arc::clone(&self.0).remove(own!(dir), name, dir_wanted, cx)
    }

    fn rename(
        &self,
        from: (&DynFile, Bytes),
        to: (&DynFile, Bytes),
        how: RenameHow,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        Arc::clone(&self.0).rename((own!(from.0), from.1), (own!(to.0), to.1), how, cx)
    }

    fn set_attr(&self, file: &DynFile, set: SetAttr, cx: Cx) -> BoxFuture<'static, Result<Change>> {
        Arc::clone(&self.0).set_attr(own!(file), set, cx)
    }

    fn statfs(&self, cx: Cx) -> BoxFuture<'static, Result<StatFs>> {
        Arc::clone(&self.0).statfs(cx)
    }
}

fn erase_entry<T: RemoteFile>(e: DirEntry<T>) -> DynDirEntry {
    DynDirEntry {
        name: e.name,
        cookie: e.cookie,
        kind: e.kind,
        ino: e.ino,
        plus: e.plus.map(found),
    }
}
