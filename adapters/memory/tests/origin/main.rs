//! The origin as the core meets it: through `RemoteFs` and `RemoteFile`.

#![expect(clippy::unwrap_used, reason = "a helper whose step fails ends its test")]

mod changes;
mod client_names;
mod common;
mod faults;
mod model;
mod namespace;
mod reads;
mod time;
mod write_faults;
mod write_model;
mod writes;
