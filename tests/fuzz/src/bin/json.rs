//! libFuzzer on the target `json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pelton_fuzz::targets::json(bytes));
