//! See `cachefiles::fuzzing::side_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cachefiles::fuzzing::side_file(data));
