//! Recordings: profiles of a stretch, beside the periods, which must not notice them.
//!
//! Each case runs in a process of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::thread;
use std::time::Duration;

use everprof::profile::{Kind, Profile};
use everprof::{ErrorKind, Profiler};

use common::{burn, directory, flush, kind_of, profiles, stop, time_in};

const CASES: &[(&str, fn())] = &[
    ("a_recording_has_what_was_done_in_it", one),
    ("a_recording_looks_at_waits_where_the_periods_do_not", of_waits),
    ("who_asks_at_the_wrong_time_is_told_so", wrong_times),
];

fn main() {
    common::main("recording", CASES, 2);
}

fn start(name: &str, kinds: &str) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let profiler = Profiler::builder()
        .dir(&dir)
        .rate_hz(500)
        .set("kinds", kinds)
        .set("symbolize", "names")
        .set("cpu_budget_percent", "100")
        .start()
        .unwrap();
    (profiler, dir)
}

#[inline(never)]
fn before() {
    burn(Duration::from_millis(300));
}

#[inline(never)]
fn within() {
    burn(Duration::from_millis(500));
}

#[inline(never)]
fn after() {
    burn(Duration::from_millis(300));
}

fn seconds(profile: &Profile, function: &str) -> f64 {
    time_in(profile, function) as f64 / 1e9
}

fn one() {
    let (profiler, dir) = start("one", "cpu");
    before();
    let recording = everprof::record(Kind::Cpu).unwrap();
    within();
    let profile = recording.finish().unwrap();
    after();
    let of = |function| seconds(&profile, function);
    let (before, within, after) = (of("recording::before"), of("recording::within"), of("recording::after"));
    println!("{before} {within} {after} in {} s", profile.duration_nanos as f64 / 1e9);
    // A sample stands for what was used since the one before it: 4 ms by the kernel's tick, and more where it is late.
    assert!(before < 0.03 && after == 0.0 && (0.45..0.56).contains(&within));
    assert!((0.49..5.0).contains(&(profile.duration_nanos as f64 / 1e9)));
    assert!(profile.tags.contains_key("service") && profile.tags.contains_key("effective_rate_hz"));
    flush(&profiler);
    let periods = profiles(&dir);
    assert_eq!(periods.len(), 1, "a recording begins no new period");
    let all: f64 = ["before", "within", "after"]
        .map(|function| seconds(&periods[0], &format!("recording::{function}")))
        .iter()
        .sum();
    assert!((1.05..1.15).contains(&all), "{all}");
    stop(profiler);
    std::fs::remove_dir_all(dir).unwrap();
}

fn of_waits() {
    let (profiler, dir) = start("waits", "cpu");
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let recording = everprof::record(Kind::Wall).unwrap();
    thread::sleep(Duration::from_millis(500));
    let profile = recording.finish().unwrap();
    let slept = seconds(&profile, "sleep");
    println!("{slept} s asleep in {} s", profile.duration_nanos as f64 / 1e9);
    assert!((0.8..1.3).contains(&slept), "two threads slept");
    assert!(profile.verdict().is_ok());
    flush(&profiler);
    assert!(kind_of(&dir, "wall").is_empty());
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

fn wrong_times() {
    assert_eq!(everprof::record(Kind::Cpu).unwrap_err().kind(), ErrorKind::Unavailable);
    let (profiler, dir) = start("wrong", "cpu");
    let all: Vec<_> = (0..16).map(|_| everprof::record(Kind::Cpu).unwrap()).collect();
    let error = everprof::record(Kind::Cpu).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("16"), "{error}");
    drop(all);
    let recording = everprof::record(Kind::Cpu).unwrap();
    stop(profiler);
    let error = recording.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("stopped"), "{error}");
    let _ = std::fs::remove_dir_all(dir);
}
