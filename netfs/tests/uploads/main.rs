//! From dirty bytes to the server: as whom, in calls of which size, and what is told of it.

#[path = "../common/mod.rs"]
mod common;

mod losses;
mod owners;
mod rounds;
mod sizes;
