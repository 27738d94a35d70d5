//! What these tests share.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use netfs::{
    Node, Result,
    clock::{Clock, SystemClock},
    remote::{Cred, Cx, Promise, PromiseKind},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::common::{Bench, cx};

/// What is known stays so until somebody says otherwise.
pub(crate) fn promised() -> Promise {
    Promise::UntilBroken { kind: PromiseKind::Read }
}

pub(crate) fn as_user(uid: u32) -> Cx {
    Cx::new(Cred::new(uid, uid))
}

/// For what would hang for ever: it fails then.
pub(crate) fn in_time() -> Cx {
    cx().with_deadline(SystemClock.now() + Duration::from_secs(20))
}

pub(crate) fn walk(bench: &Bench, path: &str) -> Node {
    bench.mount.blocking().walk(path, &cx()).expect("walk")
}

/// The next call of `op` waits at the server.
pub(crate) fn hold(fs: &Arc<MemoryFs>, op: Op) -> Gate {
    let gate = Gate::new();
    fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Issue).times(1));
    gate
}

/// Begins a call, which waits.
pub(crate) fn begun<'a, T>(
    call: impl Future<Output = Result<T>> + 'a,
) -> std::pin::Pin<Box<dyn Future<Output = Result<T>> + 'a>> {
    let mut call = Box::pin(call);
    assert!((&mut call).now_or_never().is_none(), "it did not wait");
    call
}
