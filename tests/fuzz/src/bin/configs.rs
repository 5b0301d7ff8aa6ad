//! libFuzzer on the target `configs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pelton_fuzz::targets::configs(bytes));
