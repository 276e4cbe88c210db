//! Allocations of C and of a Rust program whose allocator is the system's: C's functions, hooked in all libraries. Each case
//! runs in a process of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;

mod c;
mod calls;
mod early;
mod others;
mod truth;

use std::path::Path;

use everprof::profile::{Kind, Profile};
use everprof::{Profiler, store};

const CASES: &[(&str, fn())] = &[
    ("sites_of_c_are_told_as_they_are", truth::sites_of_c),
    ("calls_of_the_c_library_and_tables_are_seen", truth::other_ways),
    ("rust_on_the_systems_allocator_is_told_once", truth::rust),
    ("mappings_count_where_they_are_wanted", truth::mappings),
    ("calls_answer_as_without_hooks", calls::answer_as_ever),
    ("slots_are_given_back", calls::slots_are_given_back),
    ("slots_of_many_libraries_are_hooked_and_read_only_again", calls::many),
    ("blocks_that_are_freed_with_their_size_are_gone", calls::sized),
    ("the_first_samples_of_code_have_their_stack", early::first_samples),
    ("words_among_code_are_left_alone", calls::words_among_code),
    ("libraries_that_come_later_are_hooked", calls::later),
    ("blocks_go_back_to_their_allocator", others::own_allocator),
    ("an_allocator_for_the_whole_program_is_called", others::preloaded),
    ("an_allocators_operators_are_counted_once", others::operators),
    ("a_child_has_its_own_heap", others::child),
];

fn main() {
    common::main("malloc", CASES, 2);
}

/// A profiler of allocations alone, that takes a sample every `interval` bytes, with periods that do not end by themselves.
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

/// The profiles of a kind, in the order of their periods.
fn profiles(dir: &Path, kind: Kind) -> Vec<Profile> {
    // Where nothing was sampled, nothing is written.
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
