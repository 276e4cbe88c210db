//! Storms: that a handler may come at any moment, on any thread, as often as it likes, and does no harm.
//!
//! Each case runs in a process of its own. `EVERPROF_SOAK=1` runs the long forms (`make soak`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod code;
mod forge;
mod handler;
#[allow(dead_code)]
mod plugin;

const CASES: &[(&str, fn())] = &[
    ("handler_makes_no_system_call", handler::makes_no_system_call),
    ("seccomp_filter_kills_who_makes_one", handler::filter_kills),
    ("handler_allocates_nothing", handler::allocates_nothing),
    ("handler_is_never_in_malloc_twice", handler::is_never_in_malloc_twice),
    ("handler_waits_for_no_lock", handler::waits_for_no_lock),
    ("handler_code_reaches_nothing_else", code::reaches_nothing_else),
    ("handler_survives_forged_signals", forge::forged_signals),
];

fn main() {
    common::main("storm", CASES, 1);
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
