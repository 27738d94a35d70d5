//! A cache that refuses everything: the smallest correct backend, and the one to compare with.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{CacheBackend, CacheVolume, Refusal};
use crate::{remote::VolumeId, sync::Arc};

/// Refuses every volume. A context with it behaves exactly as one without a cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullCache;

impl CacheBackend for NullCache {
    fn name(&self) -> String {
        "null".into()
    }

    fn acquire_volume(
        self: Arc<Self>,
        _id: VolumeId,
        _coherency: Bytes,
    ) -> BoxFuture<'static, Result<Arc<dyn CacheVolume>, Refusal>> {
        Box::pin(async { Err(Refusal::Unsupported) })
    }

    fn withdraw(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
