//! Ways to open a file and to write to it, on a memory origin and on a directory.

#[path = "../common/mod.rs"]
mod common;

mod open;
mod tools;
