//! The main job as a user sees it: start, work, stop; and the profile in the directory says what the work was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::time::Duration;

use everprof::profile::{Label, Profile, Sample};
use everprof::{ErrorKind, Labels, Profiler, TraceContext};

use common::{burn, directory, flush, profiles, stop, time_in};

/// One test at a time: a process has one profiler.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn the_hot_function_is_in_the_profile_of_the_directory() {
    let _one = ONE.lock().unwrap_or_else(|error| error.into_inner());
    let dir = directory("hot");
    let profiler = Profiler::builder().dir(&dir).service("api-test").tag("team", "a").start().unwrap();
    std::thread::Builder::new()
        .name("burner".into())
        .spawn(|| burn(Duration::from_millis(700)))
        .unwrap()
        .join()
        .unwrap();
    let again = Profiler::start().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyRunning);
    stop(profiler);
    let profiles = profiles(&dir);
    let profile = profiles.iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    assert_eq!(profile.tags.get("service").map(String::as_str), Some("api-test"));
    assert_eq!(profile.tags.get("team").map(String::as_str), Some("a"));
    let hot = time_in(profile, "common::burn");
    let burner = Label::text("thread_name", "burner");
    assert!(profile.samples().any(|sample| profile.get_labels(sample.labels).contains(&burner)));
    let total = profile.totals()[1];
    assert!(hot * 10 > total * 8, "burn has {hot} of {total} ns");
    assert!(total > 400_000_000, "{total}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn it_starts_again_after_a_stop_and_can_change_its_rate() {
    let _one = ONE.lock().unwrap_or_else(|error| error.into_inner());
    let dir = directory("again");
    for _ in 0..3 {
        let profiler = Profiler::builder().dir(&dir).start().unwrap();
        profiler.set("rate_hz", "200").unwrap();
        assert_eq!(profiler.set("rate_hz", "0").unwrap_err().kind(), ErrorKind::InvalidOption);
        assert_eq!(profiler.set("dir", "/tmp").unwrap_err().kind(), ErrorKind::InvalidOption);
        burn(Duration::from_millis(200));
        flush(&profiler);
        let stats = profiler.stats();
        assert!(stats.samples > 5 && stats.wanted_rate_hz == 200.0, "{stats:?}");
    }
    assert!(profiles(&dir).len() >= 3);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_wrong_option_is_an_error_that_names_it() {
    let error = Profiler::builder().set("rate_hz", "fast").start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("rate_hz"), "{error}");
}

/// Nanoseconds of the samples that carry a label.
fn time_with(profiles: &[Profile], label: &Label) -> i64 {
    let carries = |profile: &Profile, sample: &Sample<'_>| profile.get_labels(sample.labels).contains(label);
    profiles
        .iter()
        .flat_map(|profile| {
            profile.samples().filter(|sample| carries(profile, sample)).map(|sample| sample.values[1])
        })
        .sum()
}

#[test]
fn labels_say_whose_work_it_was() {
    let _one = ONE.lock().unwrap_or_else(|error| error.into_inner());
    let dir = directory("labels");
    let profiler = Profiler::builder().dir(&dir).rate_hz(500).start().unwrap();
    let (a, b) = (Labels::new([("tenant", "a")]), Labels::new([("tenant", "b")]));
    let trace =
        TraceContext::from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    for _ in 0..10 {
        a.run(|| burn(Duration::from_millis(60)));
        b.run(|| everprof::with_labels([("stage", "deep")], || burn(Duration::from_millis(20))));
    }
    {
        let _trace = trace.enter();
        std::thread::spawn(everprof::labels::inherit(|| burn(Duration::from_millis(600)))).join().unwrap();
    }
    stop(profiler);
    let profiles = profiles(&dir);
    let of_a = time_with(&profiles, &Label::text("tenant", "a"));
    let of_b = time_with(&profiles, &Label::text("tenant", "b"));
    // 600 and 200 ms, sampled about every 4 ms: three standard deviations are 25 % of the smaller one.
    assert!((400_000_000..800_000_000).contains(&of_a), "{of_a}");
    assert!((120_000_000..300_000_000).contains(&of_b), "{of_b}");
    // A sample can fall between the two scopes, both on the way in and on the way out.
    let deep = time_with(&profiles, &Label::text("stage", "deep"));
    assert!(deep <= of_b && of_b - deep < of_b / 4, "{deep} of {of_b}");
    let traced = time_with(&profiles, &Label::text("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"));
    // What a thread uses until it is found carries no labels: up to one round of the drain.
    assert!(traced > 250_000_000, "{traced}");
    assert_eq!(traced, time_with(&profiles, &Label::text("span_id", "00f067aa0ba902b7")));
    std::fs::remove_dir_all(&dir).unwrap();
}
