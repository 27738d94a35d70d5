//! Ways to open a file and to write to it, on a memory origin and on a directory.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod direct;
mod groups;
mod lent;
mod open;
mod pieces;
mod quick;
mod synced;
mod tools;
