//! What naming 2,000 addresses costs: CPU time and memory, each case in a process of its own.
//!
//! `cargo bench -p everprof --bench symbolize [-- FILE]`. Without a file the bench names its own code; give a release
//! binary with full debug information for figures that mean something. addr2line reads the same file for comparison.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use everprof::symbolize::{Mode, Options, Symbolizer, maps};

const ADDRESSES: usize = 2000;
const CASES: [&str; 4] = ["names", "lines", "again", "addr2line"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [case, file] = arguments.as_slice()
        && CASES.contains(&case.as_str())
    {
        return measure(case, Path::new(file));
    }
    let own = std::env::current_exe().unwrap();
    let file = arguments.first().map_or(own.clone(), PathBuf::from);
    println!("{ADDRESSES} addresses of {} ({} KiB)", file.display(), file.metadata().unwrap().len() >> 10);
    println!(
        "{:<10} {:>9} {:>8} {:>8} {:>8} {:>12} {:>12} {:>12}",
        "case", "CPU ms", "us/PC", "named", "frames", "peak KiB", "after KiB", "dropped KiB"
    );
    for case in CASES {
        let done = Command::new(&own).arg(case).arg(&file).status().unwrap();
        assert!(done.success());
    }
}

fn measure(case: &str, file: &Path) {
    let mode = if case == "names" { Mode::Names } else { Mode::Lines };
    let module = module_of(file);
    let step = (module.end - module.start) / ADDRESSES as u64;
    let addresses: Vec<u64> = (0..ADDRESSES as u64).map(|at| module.start + at * step + at % 5).collect();
    let (mut named, mut frames) = (0, 0);
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let cpu;
    let after;
    if case == "addr2line" {
        let start = cpu_ns();
        let loader = addr2line::Loader::new(file).unwrap();
        let mut kept = Vec::new();
        for &address in &addresses {
            let mut found =
                loader.find_frames(vaddr(file, address - module.start + module.file_offset)).unwrap();
            let mut any = 0;
            while let Some(frame) = found.next().unwrap() {
                let name = frame.function.map(|name| name.raw_name().unwrap().into_owned());
                let name = name.map(|name| format!("{:#}", rustc_demangle::demangle(&name)));
                kept.push((
                    name,
                    frame.location.and_then(|place| Some((place.file?.to_owned(), place.line))),
                ));
                any += 1;
            }
            frames += any;
            named += usize::from(any > 0);
        }
        cpu = cpu_ns() - start;
        after = memory("VmRSS");
    } else {
        let mut symbolizer = Symbolizer::new(Options { mode, ..Options::default() });
        if case == "again" {
            // The second period: one address in fifty is new.
            let old: Vec<u64> = addresses
                .iter()
                .copied()
                .enumerate()
                .filter(|(at, _)| at % 50 != 0)
                .map(|(_, a)| a)
                .collect();
            drop(symbolizer.resolve(&module, &old));
        }
        let start = cpu_ns();
        let symbols = symbolizer.resolve(&module, &addresses);
        cpu = cpu_ns() - start;
        named = symbols.iter().filter(|symbols| !symbols.is_empty()).count();
        frames = symbols.iter().map(|symbols| symbols.len()).sum();
        after = memory("VmRSS");
        drop((symbols, symbolizer));
    }
    let (peak, dropped) = (memory("VmHWM"), memory("VmRSS"));
    println!(
        "{case:<10} {:>9.2} {:>8.2} {named:>8} {frames:>8} {:>+12} {:>+12} {:>+12}",
        cpu as f64 / 1e6,
        cpu as f64 / 1e3 / ADDRESSES as f64,
        peak - before,
        after - before,
        dropped - before
    );
}

/// A module as it would be if the file were mapped.
fn module_of(file: &Path) -> maps::Module {
    let header = program_headers(file).into_iter().find(|header| header.0 == 1 && header.1 & 1 != 0).unwrap();
    let (_, _, offset, _, size) = header;
    let start = 0x5000_0000_0000 + offset;
    let text = format!("{start:x}-{:x} r-xp {offset:x} 00:00 1 {}\n", start + size, file.display());
    let mut module = maps::parse(text.as_bytes(), None).remove(0);
    // There is no memory to read the build ID from: take the file's word.
    module.build_id = build_id(file);
    module
}

fn build_id(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap();
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let place = bytes.windows(note.len()).position(|window| window == note);
    place.map_or(String::new(), |at| {
        bytes[at + 16..at + 36].iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// Type, flags, offset, address and size of each program header.
fn program_headers(file: &Path) -> Vec<(u32, u32, u64, u64, u64)> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0u8; 4096];
    std::fs::File::open(file).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let count = u16::from_le_bytes([bytes[56], bytes[57]]);
    let place = |at: u16| 64 + 56 * usize::from(at);
    (0..count)
        .map(place)
        .map(|at| (word(at), word(at + 4), long(at + 8), long(at + 16), long(at + 32)))
        .collect()
}

fn vaddr(file: &Path, offset: u64) -> u64 {
    use std::cell::OnceCell;
    thread_local!(static BIAS: OnceCell<u64> = const { OnceCell::new() });
    let bias = || {
        let header =
            program_headers(file).into_iter().find(|header| header.0 == 1 && header.1 & 1 != 0).unwrap();
        header.3 - header.2
    };
    offset + BIAS.with(|held| *held.get_or_init(bias))
}

fn memory(field: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What this thread has used. Not from `schedstat`, which is brought up to date by the tick only.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is written to a place of ours.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
