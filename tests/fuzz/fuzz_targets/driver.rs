//! Any behaviour of a card: the driver answers with typed errors, and a reset returns everything.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| dmus_tests::fake_device::drive(script).expect("memory"));
