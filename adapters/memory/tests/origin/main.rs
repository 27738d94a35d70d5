//! The origin as the core meets it: through `RemoteFs` and `RemoteFile`.

#![expect(clippy::unwrap_used, reason = "a helper whose step fails ends its test")]

mod changes;
mod common;
mod faults;
mod model;
mod namespace;
mod reads;
mod time;
