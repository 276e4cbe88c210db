//! The text of `/proc/self/maps`: a module never ends before it begins.
#![no_main]

use everprof::symbolize::maps;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for module in maps::parse(text, None) {
        assert!(module.start <= module.end);
        let _ = (module.name(), module.offset(module.start), module.contains(module.end));
    }
});
