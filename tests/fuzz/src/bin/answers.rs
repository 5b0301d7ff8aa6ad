//! libFuzzer on the target `answers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pelton_fuzz::targets::answers(bytes));
