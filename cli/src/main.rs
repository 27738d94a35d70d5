//! The `netfs` command.
fn main() {}
