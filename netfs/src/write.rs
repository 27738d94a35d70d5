//! The writer's side of the page cache.

pub(crate) mod modify;
