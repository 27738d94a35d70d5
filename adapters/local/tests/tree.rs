//! The adapter against real directories.

#[cfg(test)]
#[path = "tree/bed.rs"]
mod bed;
#[cfg(test)]
#[path = "tree/changes.rs"]
mod changes;
#[cfg(test)]
#[path = "tree/content.rs"]
mod content;
#[cfg(test)]
#[path = "tree/handles.rs"]
mod handles;
#[cfg(test)]
#[path = "tree/namespace.rs"]
mod namespace;
#[cfg(test)]
#[path = "tree/rights.rs"]
mod rights;
#[cfg(test)]
#[path = "tree/versions.rs"]
mod versions;
#[cfg(test)]
#[path = "tree/writes.rs"]
mod writes;
