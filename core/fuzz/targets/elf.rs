//! A binary and its symbols: any bytes in the place of an ELF file give names or none, and never a panic.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use everprof::symbolize::{Options, Symbolizer, maps};
use libfuzzer_sys::fuzz_target;

/// One file for each fuzzing process, in memory where the system offers that.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("everprof-fuzz-{}.so", std::process::id()))
});

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(&*FILE, bytes).expect("a file to fuzz with");
    let line = format!("10000-90000 r-xp 00000000 00:00 1 {}\n", FILE.display());
    for module in maps::parse(line.as_bytes(), None) {
        let mut symbolizer = Symbolizer::new(Options::default());
        let addresses = [0x10000, 0x10001, 0x11040, 0x20000, 0x8ffff];
        assert_eq!(symbolizer.resolve(&module, &addresses).len(), addresses.len());
    }
});
