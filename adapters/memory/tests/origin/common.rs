//! What every test of the origin needs: calling it as the core does, without a runtime.

use std::{fmt::Debug, future::Future, sync::Arc};

use futures_util::FutureExt;
use netfs::{
    Errno, Result,
    remote::{
        Change, Cred, Cx, Facts, Finished, Found, LookupReply, Outcome, ReadSub, RemoteFile,
        RemoteFs, Version, WriteFinished, WriteOutcome, WriteSub,
    },
};
use netfs_memory::{MemoryFile, MemoryFs};

pub(crate) fn cx(uid: u32) -> Cx {
    Cx::new(Cred::new(uid, uid))
}

/// The result of a call that has nothing to wait for.
pub(crate) fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("the call waits although nothing holds it")
}

/// Reads as a user with no special rights.
pub(crate) fn read(fs: &MemoryFs, path: &str, offset: u64, len: usize) -> (Finished, Vec<u8>) {
    read_file(fs.file(path).unwrap(), offset, len, cx(1000))
}

pub(crate) fn read_file(
    file: Arc<MemoryFile>,
    offset: u64,
    len: usize,
    cx: Cx,
) -> (Finished, Vec<u8>) {
    // As the core must: limits are asked before each read.
    let _ = file.limits();
    let (sub, done) = ReadSub::detached(offset, len, cx);
    now(file.read(sub));
    done.wait()
}

pub(crate) fn validate(fs: &MemoryFs, path: &str) -> Result<Facts> {
    now(fs.file(path)?.validate(cx(1000)))
}

pub(crate) fn root(fs: &Arc<MemoryFs>) -> Found<MemoryFile> {
    now(Arc::clone(fs).root(cx(1000))).unwrap()
}

pub(crate) fn lookup(
    fs: &Arc<MemoryFs>,
    dir: &str,
    name: &'static str,
    uid: u32,
) -> Result<LookupReply<MemoryFile>> {
    now(Arc::clone(fs).lookup(fs.file(dir)?, name.into(), cx(uid)))
}

pub(crate) fn errno<T>(result: Result<T>) -> Option<Errno> {
    result.err().map(|e| e.errno())
}

pub(crate) fn failed_with(outcome: &Outcome) -> Option<Errno> {
    match outcome {
        Outcome::Failed(e) => Some(e.errno()),
        _ => None,
    }
}

/// Whether the outcome is of this kind; prints it if not.
pub(crate) fn assert_outcome(found: &Outcome, name: &str) {
    assert!(starts_with(found, name), "outcome is {found:?}, expected {name}");
}

fn starts_with(value: &impl Debug, name: &str) -> bool {
    format!("{value:?}").starts_with(name)
}

/// Writes as root, without an open.
pub(crate) fn write(fs: &MemoryFs, path: &str, offset: u64, bytes: &[u8]) -> WriteFinished {
    write_file(fs.file(path).unwrap(), offset, bytes, cx(0))
}

pub(crate) fn write_file(
    file: Arc<MemoryFile>,
    offset: u64,
    bytes: &[u8],
    cx: Cx,
) -> WriteFinished {
    let _ = file.limits();
    let (sub, done) = WriteSub::detached(offset, bytes, cx);
    now(file.write(sub));
    done.wait()
}

/// What a write failed with.
pub(crate) fn write_errno(finished: &WriteFinished) -> Option<Errno> {
    match &finished.outcome {
        WriteOutcome::Failed(e) => Some(e.errno()),
        _ => None,
    }
}

/// The versions that a reply states, before and after.
pub(crate) fn versions(change: &Change) -> (Option<Version>, Option<Version>) {
    (change.before.clone(), change.after.version.clone())
}

/// From one number to another.
pub(crate) fn from_to(before: u64, after: u64) -> (Option<Version>, Option<Version>) {
    (Some(Version::from_u64(before)), Some(Version::from_u64(after)))
}
