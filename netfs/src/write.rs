//! The writer's side of the page cache.
//!
//! - [`modify`] decides how a write changes one folio (rows 51 to 58);
//! - [`buffered`] does it, with the [`memory`] it takes;
//! - [`quick`] does it for a small one that nothing stands in the way of, without waiting;
//! - [`direct`] writes past the caches;
//! - [`resize`] cuts and extends files; [`hole`] makes zeros and reserves space;
//! - [`locks`] is what these three hold meanwhile.

pub(crate) mod buffered;
pub(crate) mod direct;
pub(crate) mod hole;
pub(crate) mod locks;
mod memory;
pub(crate) mod modify;
pub(crate) mod quick;
pub(crate) mod resize;
