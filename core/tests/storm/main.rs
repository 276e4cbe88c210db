//! Storms: that a handler may come at any moment, on any thread, as often as it likes, and does no harm.
//!
//! Each case runs in a process of its own. `EVERPROF_SOAK=1` runs the long forms (`make soak`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod all;
mod calls;
mod code;
mod forge;
mod handler;
mod loss;
mod memory;
mod plugin;
mod stacks;

const CASES: &[(&str, fn())] = &[
    ("handler_makes_no_system_call", handler::makes_no_system_call),
    ("seccomp_filter_kills_who_makes_one", handler::filter_kills),
    ("handler_allocates_nothing", handler::allocates_nothing),
    ("handler_is_never_in_malloc_twice", handler::is_never_in_malloc_twice),
    ("handler_waits_for_no_lock", handler::waits_for_no_lock),
    ("handler_code_reaches_nothing_else", code::reaches_nothing_else),
    ("handler_survives_forged_signals", forge::forged_signals),
    ("handler_needs_little_stack", stacks::handler_needs_little_stack),
    ("alternate_stacks_of_all_sizes", stacks::alternate_stacks),
    ("coroutines_on_stacks_of_nobody", stacks::coroutines),
    ("raw_clone_threads", stacks::raw_clone_threads),
    ("tiny_stacks", stacks::tiny_stacks),
    ("signal_held_back_by_a_thread", stacks::signal_held_back),
    ("handlers_that_jump_away", stacks::handlers_that_jump_away),
    ("cancelled_threads", stacks::cancelled_threads),
    ("fault_handlers_are_left_alone", stacks::fault_handlers_are_left_alone),
    ("stack_overflow_is_told_as_ever", stacks::overflow_is_told_as_ever),
    ("errno_is_kept", calls::errno_is_kept),
    ("calls_are_restarted_beside_a_deaf_thread", calls::calls_are_restarted_beside_a_deaf_thread),
    ("calls_are_restarted_while_threads_churn", calls::calls_are_restarted_while_threads_churn),
    ("full_ring_is_told", loss::full_ring_is_told),
    ("no_scratch_is_told", loss::no_scratch_is_told),
    ("memory_at_start_and_with_many_stacks", memory::at_start_and_with_many_stacks),
    ("memory_of_a_thousand_threads", memory::of_a_thousand_threads),
    ("slots_are_given_back", memory::slots_are_given_back),
    ("nothing_grows", memory::nothing_grows),
    ("everything_at_once", all::everything_at_once),
];

fn main() {
    common::main("storm", CASES, 2);
}

/// How much of a storm is wanted: the short form for CI, or the long one.
fn amount(short: u64, long: u64) -> u64 {
    if std::env::var_os("EVERPROF_SOAK").is_some() { long } else { short }
}

/// Says that a case cannot run here, which CI does not accept.
fn skip(what: &str, why: &str) {
    println!("!!! SKIPPED: {what}, because {why}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "nothing is skipped in CI");
}

/// Says that a case says nothing in this build, for a reason that is right in CI too.
fn skip_here(what: &str, why: &str) {
    println!("not checked: {what}: {why}");
}
