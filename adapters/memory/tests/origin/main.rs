//! The origin as the core meets it: through `RemoteFs` and `RemoteFile`.

mod changes;
mod common;
mod faults;
mod model;
mod namespace;
mod reads;
mod time;
