//! What reading a directory costs: its list, its sum, and its page over time.
//!
//! `cargo bench -p everprof --bench store`: of a month of periods of five minutes, 10,000 stacks of 30 frames each, some
//! three-hour stretches (STRETCHES, 10), each of 36 files. What a file costs does not hang on how many there are, so a
//! month of 240 stretches takes 24 times as long.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use everprof::encode::flamegraph::PageOptions;
use everprof::encode::{Encoded, Set, pprof};
use everprof::profile::Kind;
use everprof::store::{Directory, Query, Retention, list, merge, timeline};

#[path = "../tests/formats/profiles.rs"]
mod profiles;

const STACKS: usize = 10_000;
const FILES: i64 = 36;
const PERIOD: i64 = 300_000_000_000;
const START: i64 = 1_788_220_800_000_000_000;

fn main() {
    let stretches: i64 = std::env::var("STRETCHES").map_or(10, |text| text.parse().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-store");
    let _ = std::fs::remove_dir_all(&folder);
    let files = write(&folder, stretches);
    line("list", files, || list(&folder, &Query::default()).unwrap().len());
    let entries = list(&folder, &Query::default()).unwrap();
    let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    println!("{files} files of {} bytes on average", bytes / files);
    line("decode each", files, || {
        let read =
            |entry: &everprof::store::Entry| pprof::decode(&std::fs::read(&entry.path).unwrap()).unwrap();
        entries.iter().map(|entry| read(entry).samples().len()).sum()
    });
    line("merge all", files, || merge(&entries).unwrap().profile.samples().len());
    line("timeline", files, || {
        timeline(&folder, &Query::default(), PageOptions::default()).unwrap().html.len()
    });
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Stretches from one end of a month to the other; each file has 10,000 of 12,000 stacks.
fn write(folder: &Path, stretches: i64) -> u64 {
    let base = profiles::large(STACKS + STACKS / 5, 30);
    let samples: Vec<_> = base.samples().map(|sample| (sample.stack, sample.labels)).collect();
    let mut directory = Directory::new(folder, Retention { age: Duration::MAX, bytes: u64::MAX });
    let mut count = 0;
    for stretch in 0..stretches {
        for file in 0..FILES {
            let at = (stretch * 240 / stretches) * FILES + file;
            let first = (at as usize * 97) % (STACKS / 5);
            let kept: HashSet<_> = samples[first..first + STACKS].iter().copied().collect();
            let mut profile = base.filter(|sample| kept.contains(&(sample.stack, sample.labels)));
            (profile.time_nanos, profile.duration_nanos) = (START + at * PERIOD, PERIOD);
            let tags: BTreeMap<String, String> = [("service", "shop"), ("version", "1.0"), ("instance", "a")]
                .map(|(k, v)| (k.into(), v.into()))
                .into();
            profile.tags = tags.clone();
            let profiles = vec![Encoded::pprof(Kind::Cpu, &profile)];
            let (time_nanos, duration_nanos) = (profile.time_nanos, PERIOD);
            directory
                .write(&Set {
                    tags,
                    sequence: at as u64,
                    time_nanos,
                    duration_nanos,
                    profiles,
                    ..Set::default()
                })
                .unwrap();
            count += 1;
        }
    }
    count
}

/// Prints what `work` takes for each file, by the clock and in processor time, and how far memory rises.
fn line(what: &str, files: u64, work: impl FnOnce() -> usize) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (memory, cpu, begun) = (status("VmRSS:"), cpu_millis(), Instant::now());
    let size = std::hint::black_box(work());
    let (took, cpu) = (begun.elapsed().as_secs_f64() * 1e3, cpu_millis() - cpu);
    let each = |millis: f64| millis / files as f64;
    println!(
        "{what:<12} {:>8.2} ms a file, {:>8.2} ms of processors, memory {:+} MiB, {size}",
        each(took),
        each(cpu),
        (status("VmHWM:") - memory) / 1024
    );
}

/// Processor time of all threads of this process.
fn cpu_millis() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}

fn status(field: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
