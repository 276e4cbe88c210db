//! A program and the package of what was split off it: any bytes in the place of either give names or none.
//!
//! Input: the length of the program in four bytes, the program, and the package right behind it.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use everprof::symbolize::{Options, Symbolizer, maps};
use libfuzzer_sys::fuzz_target;

/// One file for each fuzzing process, in memory where the system offers that.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("everprof-fuzz-split-{}.so", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let Some((length, bytes)) = input.split_first_chunk::<4>() else { return };
    let length = u32::from_le_bytes(*length) as usize;
    let (program, package) = bytes.split_at(length.min(bytes.len()));
    std::fs::write(&*FILE, program).expect("a file to fuzz with");
    std::fs::write(FILE.with_extension("so.dwp"), package).expect("a file to fuzz with");
    let line = format!("10000-90000 r-xp 00000000 00:00 1 {}\n", FILE.display());
    for module in maps::parse(line.as_bytes(), None) {
        let mut symbolizer = Symbolizer::new(Options::default());
        let addresses: Vec<u64> = (0x11000..0x11200).step_by(5).collect();
        assert_eq!(symbolizer.resolve(&module, &addresses).len(), addresses.len());
    }
});
