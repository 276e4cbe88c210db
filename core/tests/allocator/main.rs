//! `everprof::Allocator` and the hooks of C's functions at bad moments: before `main` and after it, in destructors and
//! handlers, on coroutines, in a storm. Each case runs in a process of its own. `EVERPROF_SOAK=1` runs the long form.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

#[path = "../malloc/c.rs"]
mod c;
#[path = "../common/mod.rs"]
mod common;
// Some of it is for the other storms alone.
#[allow(dead_code)]
#[path = "../storm/forge.rs"]
mod forge;

mod edges;
mod life;
mod locked;
mod storm;

use std::path::Path;

use everprof::profile::{Kind, Profile};
use everprof::{Profiler, store};

#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

const CASES: &[(&str, fn())] = &[
    ("what_fails_is_no_sample_and_sizes_do_not_matter", edges::sizes),
    ("zeroed_memory_is_not_touched", edges::zeroed),
    ("a_block_of_another_size_is_another_block", edges::resized),
    ("the_interval_changes_and_sums_stay_right", edges::intervals),
    ("an_allocation_in_an_allocation_is_lost_and_told", edges::within),
    ("a_coroutine_may_go_on_on_another_thread", edges::moved),
    ("rust_and_c_are_told_once_each", edges::once),
    ("before_main", life::before_main),
    ("in_destructors_of_threads", life::destructors),
    ("after_the_last_profile", life::at_exit),
    ("a_child_begins_anew", life::child),
    ("a_signal_in_malloc_in_a_hook_in_a_contended_lock", locked::everything_within_each_other),
    ("storm", storm::storm),
];

/// The loader calls it before `main`.
#[used]
// SAFETY: an array of addresses of functions of this shape.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = life::at_load;

fn main() {
    common::main("allocator", CASES, 2);
}

/// How much of the storm is wanted: the short form for CI, or the long one.
fn amount(short: u64, long: u64) -> u64 {
    if std::env::var_os("EVERPROF_SOAK").is_some() { long } else { short }
}

/// Nothing that was sampled lives any more: a thread gives what std keeps of it back at its very end, which nobody waits for.
fn nothing_lives() -> bool {
    let ends = || {
        std::thread::sleep(std::time::Duration::from_millis(10));
        everprof_probe::heap::count_live() == 0
    };
    (0..500).any(|_| ends())
}

/// A profiler of allocations, that takes a sample every `interval` bytes, with periods that do not end by themselves.
fn start(dir: &Path, interval: u64, options: &[(&str, &str)]) -> Profiler {
    let builder = Profiler::builder().dir(dir).set("kinds", "alloc,heap").set("interval_bytes", "64KiB");
    let mut builder =
        builder.set("period_s", "3600").set("symbolize", "names").set("cpu_budget_percent", "100");
    for (name, value) in options {
        builder = builder.set(*name, *value);
    }
    let profiler = builder.start().unwrap();
    assert_eq!(profiler.stats().last_problem, None);
    // Below what the option accepts.
    everprof_probe::heap::set_interval(interval);
    profiler
}

fn profiles(dir: &Path, kind: Kind) -> Vec<Profile> {
    let found = store::list(dir, &store::Query::default().kind(kind.name())).unwrap_or_default();
    found.iter().map(|entry| store::read(&entry.path).unwrap()).collect()
}

/// What a profile tells of the stacks that hold a function, to the last part of its name.
fn sums(profile: &Profile, function: &str) -> Vec<i64> {
    let mut sums = vec![0; 4];
    for sample in profile.samples() {
        let names = common::names(profile, profile.get_stack(sample.stack));
        if names.iter().any(|name| name.rsplit("::").next() == Some(function)) {
            sums.iter_mut().zip(sample.values).for_each(|(sum, value)| *sum += value);
        }
    }
    sums
}

/// What all profiles of a kind tell of a function.
fn total(dir: &Path, kind: Kind, function: &str) -> Vec<i64> {
    let mut total = vec![0; 4];
    for profile in profiles(dir, kind) {
        total.iter_mut().zip(sums(&profile, function)).for_each(|(total, sum)| *total += sum);
    }
    total
}

/// Whether `told` bytes are what `objects` of a size were, as far as samples with this mean distance can tell: five sigma.
fn is_about(told: i64, objects: u64, size: usize, interval: f64) -> bool {
    let chance = 1.0 - (-(size as f64) / interval).exp();
    let sigma = (objects as f64 * (1.0 - chance) / chance).sqrt() * size as f64;
    (told as f64 - objects as f64 * size as f64).abs() <= 5.0 * sigma + size as f64
}
