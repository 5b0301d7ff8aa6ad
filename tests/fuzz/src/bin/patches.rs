//! libFuzzer on the target `patches`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pelton_fuzz::targets::patches(bytes));
