//! The adapter against real directories.

#[path = "tree/bed.rs"]
mod bed;
#[path = "tree/content.rs"]
mod content;
#[path = "tree/handles.rs"]
mod handles;
#[path = "tree/namespace.rs"]
mod namespace;
#[path = "tree/rights.rs"]
mod rights;
#[path = "tree/versions.rs"]
mod versions;
