//! libFuzzer on the target `letters`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pelton_fuzz::targets::letters(bytes));
