//! libFuzzer on the target `checkpoints`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pelton_fuzz::targets::checkpoints(bytes));
