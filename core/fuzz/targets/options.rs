//! Options as text: `name=value,name=value`, and the lines of a file. What is accepted is written out and read again.
#![no_main]

use everprof::Options;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = Options::default();
    let _ = lines.apply_lines(text, "fuzz");
    let Ok(options) = Options::parse(text) else { return };
    let mut again = Options::default();
    for (option, _) in options.iter() {
        // A secret is not among what is listed.
        let value = options.get(option.name).unwrap_or_default();
        again.set(option.name, &value).expect("what an option says of itself is accepted");
    }
    assert!(options.iter().map(|(_, value)| value).eq(again.iter().map(|(_, value)| value)));
});
