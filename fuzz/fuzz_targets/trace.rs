//! Trace parsers: text of any kind is a trace or an error that says why not.
#![no_main]

#[path = "check/trace.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::trace(data));
