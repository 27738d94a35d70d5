//! What this client does to a file beside what else it is doing to it: names, attributes, sizes, opens.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod fronts;
mod kept;
mod names;
mod opens;
mod tools;
mod unpolled;
mod uploads;
mod waits;
