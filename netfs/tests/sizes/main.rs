//! Sizes, holes, conflicts, hints: what is cached of a file, and what of it goes.

#[path = "../common/mod.rs"]
mod common;
mod conflicts;
mod hints;
mod holes;
mod planned;
mod shrink;
mod tools;
mod turns;
