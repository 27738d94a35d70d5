//! See `cachefiles::fuzzing::header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cachefiles::fuzzing::header(data));
