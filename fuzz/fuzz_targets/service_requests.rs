//! Fuzz target; what it checks stands in `checks/`.
#![no_main]

#[path = "../checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _understood = checks::service_requests(input);
});
