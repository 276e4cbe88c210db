//! The truth of CPU totals: what a profile sums up to is what the kernel says the process used.
//!
//! Each case runs in a process of its own (this binary again, with the case's name), so that nothing else uses CPU
//! time there. Ground truth is the process's CPU clock, read at the same two moments as everprof's; the tolerance
//! covers the moments between the reads, not sampling noise, because weights make the sum exact.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof::profile::{LabelValue, Profile};
use everprof_probe::os::Clock;

use common::{burn, directory, profiles, time_in};

const CASES: &[(&str, fn())] = &[
    ("steady_1_99", || run("steady_1_99", 99, || threads(1, || burn(Duration::from_millis(1500))))),
    ("steady_1_1000", || run("steady_1_1000", 1000, || threads(1, || burn(Duration::from_millis(1500))))),
    ("steady_8_99", || run("steady_8_99", 99, || threads(8, || burn(Duration::from_millis(400))))),
    ("steady_8_1000", || run("steady_8_1000", 1000, || threads(8, || burn(Duration::from_millis(400))))),
    ("steady_32_99", || run("steady_32_99", 99, || threads(32, || burn(Duration::from_millis(100))))),
    ("steady_32_1000", || run("steady_32_1000", 1000, || threads(32, || burn(Duration::from_millis(100))))),
    ("bursts_1_99", || run("bursts_1_99", 99, || threads(1, bursts))),
    ("bursts_8_1000", || run("bursts_8_1000", 1000, || threads(8, bursts))),
    ("short_99", || run("short_99", 99, short_lived)),
    ("short_1000", || run("short_1000", 1000, short_lived)),
];

fn main() {
    // A second chance: the clocks of a machine that others use as well are read with gaps between them.
    common::main("truth", CASES, 2);
}

fn run(name: &str, rate: u32, work: fn()) {
    let dir = directory(name);
    let profiler = Profiler::builder().dir(&dir).rate_hz(rate).set("symbolize", "names").start().unwrap();
    let before = Clock::Process.now().unwrap();
    work();
    let used = Clock::Process.now().unwrap() - before;
    profiler.flush().unwrap();
    let stats = profiler.stats();
    profiler.stop().unwrap();
    let profiles = profiles(&dir);
    std::fs::remove_dir_all(&dir).unwrap();
    let total: i64 = profiles.iter().map(|profile| profile.totals()[1]).sum();
    let of_workers: i64 = profiles.iter().map(|profile| time_in(profile, "burn")).sum();
    let ratio = total as f64 / used as f64;
    let worked = of_workers as f64 / used as f64;
    let by_name: BTreeMap<String, i64> = profiles.iter().flat_map(by_thread_name).collect();
    println!(
        "{name}: profile {:.3} of {:.3} s, ratio {ratio:.4}, in the workers' function {worked:.4}; {} samples at {:.0} Hz, lost {}, by thread {by_name:?}",
        total as f64 / 1e9,
        used as f64 / 1e9,
        stats.samples,
        stats.effective_rate_hz,
        stats.lost,
    );
    if worked < 0.95 {
        for profile in &profiles {
            println!("{}", everprof::store::top(profile).unwrap().render(14));
        }
    }
    // Starting and flushing the profiler is CPU time that the profile has and the work has not: a few milliseconds.
    assert!((0.98..1.04).contains(&ratio), "the total is off: {ratio}");
    assert!(worked > 0.95, "the workers have {worked} of it");
}

fn by_thread_name(profile: &Profile) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels);
        let name = labels.iter().find(|label| label.key == "thread_name").map(|label| match &label.value {
            LabelValue::Text(name) => name.clone(),
            LabelValue::Number(..) => String::new(),
        });
        *sums.entry(name.unwrap_or_default()).or_default() += sample.values[1];
    }
    sums
}

fn threads(count: usize, work: fn()) {
    let threads: Vec<_> = (0..count).map(|_| thread::spawn(work)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn bursts() {
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        burn(Duration::from_millis(1));
        thread::sleep(Duration::from_millis(1));
    }
}

/// 400 threads of 5 ms CPU time each, one after the other.
fn short_lived() {
    for _ in 0..400 {
        thread::spawn(|| burn(Duration::from_millis(5))).join().unwrap();
    }
}
