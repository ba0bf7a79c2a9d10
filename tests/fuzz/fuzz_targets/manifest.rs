//! libFuzzer's way to a target; what must hold is said in tests/inputs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| everlog_inputs::files::manifest(data));
