//! Truth of the profiles of waits, in programs that time their own: each case in a process of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod idle;
mod sites;

use std::path::Path;

use everprof::Profiler;
use everprof::profile::{LabelValue, Profile};

use common::{flush, kind_of, names};

const CASES: &[(&str, fn())] = &[
    ("one_thread_waits_for_nothing", || sites::contend(1, 4)),
    ("two_threads", || sites::contend(2, 6)),
    ("eight_threads", || sites::contend(8, 2)),
    ("thirty_two_threads", || sites::contend(32, 1)),
    ("idle_waits_are_no_contention", idle::idle_waits),
    ("the_lock_of_a_condition_is_contention_and_the_condition_is_not", idle::conditions),
    ("initialisations_are_waited_for", idle::initialisations),
    ("locks_of_c_are_left_alone_where_asked", sites::without_c),
    ("tasks_wait_for_locks_of_tokio", idle::locks_of_tokio),
];

fn main() {
    common::main("lock_truth", CASES, 2);
}

/// A profiler of waits, of which the period is as long as the case.
fn start(dir: &Path, more: &[(&str, &str)]) -> Profiler {
    let builder = Profiler::builder().dir(dir).set("kinds", "cpu,lock,mutex,block").set("period_s", "3600");
    let builder = builder.set("symbolize", "names").set("cpu_budget_percent", "100");
    let profiler =
        more.iter().fold(builder, |builder, (key, value)| builder.set(*key, *value)).start().unwrap();
    assert_eq!(profiler.stats().last_problem, None);
    profiler
}

/// What the period tells, of one kind.
fn profile(profiler: &Profiler, dir: &Path, kind: &str) -> Profile {
    if kind_of(dir, kind).is_empty() {
        flush(profiler);
    }
    let mut found = kind_of(dir, kind);
    assert_eq!(found.len(), 1, "{:?}", profiler.stats());
    found.remove(0)
}

/// What a profile has of waits for something unknown, for a message.
fn unknown(profile: &Profile) -> String {
    let stacks = profile.samples().filter_map(|sample| {
        let labels = profile.get_labels(sample.labels);
        let cause = labels.iter().find(|label| label.key == "wait").map(|label| &label.value);
        let is_there = cause == Some(&LabelValue::Text("unknown".into()));
        let is_there = is_there || std::env::var_os("ALL_WAITS").is_some();
        let stack = names(profile, profile.get_stack(sample.stack));
        is_there.then(|| format!("{} ns {cause:?}: {:?}", sample.values[1], &stack[..stack.len().min(9)]))
    });
    stacks.collect::<Vec<_>>().join("\n")
}

/// Waits and nanoseconds of the stacks with a function that is called so.
fn waits_in(profile: &Profile, function: &str) -> [i64; 2] {
    let is_there = |name: &str| name.split("::").any(|part| part == function);
    profile.samples().fold([0, 0], |sum, sample| {
        let is_in = names(profile, profile.get_stack(sample.stack)).into_iter().any(is_there);
        if is_in { [sum[0] + sample.values[0], sum[1] + sample.values[1]] } else { sum }
    })
}
