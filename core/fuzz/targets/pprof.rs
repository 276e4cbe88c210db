//! A pprof file: what is read can be written, and reads as the same again.
#![no_main]

use everprof::encode::pprof;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = pprof::decode(bytes) else { return };
    let written = pprof::encode_uncompressed(&profile);
    let again = pprof::decode(&written).expect("our own file is readable");
    assert_eq!(profile.totals(), again.totals());
    assert_eq!(written, pprof::encode_uncompressed(&again), "written twice, the same bytes");
});
