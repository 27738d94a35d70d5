//! The writer's side of the page cache.
//!
//! - [`modify`] decides how a write changes one folio (rows 51 to 58);
//! - [`buffered`] does it, with the [`memory`] it takes;
//! - [`direct`] writes past the caches;
//! - [`resize`] cuts and extends files; [`hole`] makes zeros and reserves space.

pub(crate) mod buffered;
pub(crate) mod direct;
pub(crate) mod hole;
mod memory;
pub(crate) mod modify;
pub(crate) mod resize;
