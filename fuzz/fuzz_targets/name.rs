//! See `cachefiles::fuzzing::name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cachefiles::fuzzing::name(data));
