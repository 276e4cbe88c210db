//! The heads of requests to the pull side, and what they ask for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    #[cfg(fuzzing)]
    everprof::fuzz_head(bytes);
    // As lints see it, there is no such function.
    #[cfg(not(fuzzing))]
    let _ = bytes;
});
