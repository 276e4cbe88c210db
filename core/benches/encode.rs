//! What encoding costs: CPU time, bytes and memory for a large profile, 10,000 stacks of 30 frames.
//!
//! `cargo bench -p everprof --bench encode`. The figures are the best of several rounds of CPU time of this
//! thread, so that what else runs on the machine hardly matters.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::hint::black_box;
use std::io::Write;

use everprof::encode::{Dialect, pprof};
use everprof::profile::Kind;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

#[path = "../tests/formats/profiles.rs"]
mod profiles;
#[path = "../tests/formats/proto.rs"]
mod proto;

const ROUNDS: usize = 15;

fn main() {
    let profile = profiles::large(10_000, 30);
    // First of all, while no memory that was freed is at hand.
    println!("peak memory of encode and gzip: {:+} KiB", peak_kib(|| pprof::encode(&profile)));
    let gzip = pprof::encode(&profile);
    println!("peak memory of decoding it: {:+} KiB", peak_kib(|| pprof::decode(&gzip).unwrap()));
    let raw = pprof::encode_uncompressed(&profile);
    println!(
        "{} samples, {} locations, {} functions, {} bytes of pprof",
        profile.samples().len(),
        profile.locations().len(),
        profile.functions().len(),
        raw.len()
    );
    line("build the model", || profiles::large(10_000, 30).samples().len());
    line("encode, uncompressed", || pprof::encode_uncompressed(&profile).len());
    line("encode and gzip: pprof::encode", || pprof::encode(&profile).len());
    let made = [(Kind::Cpu, profile.clone())];
    for dialect in [Dialect::Pyroscope, Dialect::Parca, Dialect::Otlp] {
        line(&format!("the same in the dialect {dialect:?}"), || {
            dialect.encode(&made).iter().map(|encoded| encoded.bytes.len()).sum()
        });
    }
    for level in 1..=6 {
        line(&format!("gzip alone, level {level}"), || {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::new(level));
            gzip.write_all(&raw).unwrap();
            gzip.finish().unwrap().len()
        });
    }
    let structs = proto::Profile::decode(raw.as_slice()).unwrap();
    line("prost, from structs that are built already", || structs.encode_to_vec().len());
    line("decode from gzip", || pprof::decode(&gzip).unwrap().samples().len());
}

/// Prints the CPU time of the fastest round of `work`, and what it returns.
fn line(what: &str, mut work: impl FnMut() -> usize) {
    let mut best = u64::MAX;
    let mut size = 0;
    for _ in 0..ROUNDS {
        let before = cpu_nanos();
        size = black_box(work());
        best = best.min(cpu_nanos() - before);
    }
    println!("{what:<45} {:>8.2} ms {size:>9}", best as f64 / 1e6);
}

/// CPU time of this thread.
fn cpu_nanos() -> u64 {
    // The file is brought up to date when the thread gives the processor away.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// How far the peak of resident memory rises during `work`.
fn peak_kib<T>(work: impl FnOnce() -> T) -> i64 {
    let status = |field: &str| -> i64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let result = black_box(work());
    let peak = status("VmHWM:");
    drop(result);
    peak - before
}
