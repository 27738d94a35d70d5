//! See `cachefiles::fuzzing::content_map`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cachefiles::fuzzing::content_map(data));
