//! Clocks that jump: a machine that was suspended, and a wall clock that is put right.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{burn, directory, flush, profiles, remove, start, stop};
use everprof::profile::Profile;

fn main() {
    let cases: &[(&str, fn())] = &[
        ("no_profile_stands_for_a_suspension", no_profile_stands_for_a_suspension),
        ("a_clock_that_is_put_back_is_followed", a_clock_that_is_put_back_is_followed),
    ];
    common::main("clocks", cases, 2);
}

/// How far the wall clock is ahead of the system's, in seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The C library's, with a wall clock of our own. A suspended machine looks just so: the wall clock goes on, the monotonic one
/// does not.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: i32, time: *mut libc::timespec) -> i32 {
    // SAFETY: the kernel writes where the caller said.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        time.tv_sec += AHEAD.load(Ordering::SeqCst);
    }
    result as i32
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Those so far, in the order of their times.
fn sorted(dir: &std::path::Path) -> Vec<Profile> {
    let mut found = profiles(dir);
    found.sort_by_key(|profile| profile.time_nanos);
    found
}

fn no_profile_stands_for_a_suspension() {
    let dir = directory("suspended");
    let begun = now();
    let profiler = start(&dir, 1000);
    burn(Duration::from_millis(300));
    AHEAD.store(3_600, Ordering::SeqCst);
    assert!(now() - begun > 3_500_000_000_000, "this clock is not the one in use");
    // Noticed within moments, where the period would have gone on for a minute.
    let waiting = Instant::now();
    while profiles(&dir).is_empty() {
        assert!(waiting.elapsed() < Duration::from_secs(20), "not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    burn(Duration::from_millis(300));
    flush(&profiler);
    let found = sorted(&dir);
    let [before, .., after] = found.as_slice() else { panic!("{} profiles", found.len()) };
    let end = before.time_nanos + before.duration_nanos;
    assert!(before.time_nanos >= begun && end < begun + 30_000_000_000, "{} {end}", before.time_nanos);
    assert!(common::time_in(before, "burn") > 200_000_000);
    assert!(after.time_nanos >= begun + 3_500_000_000_000 && after.duration_nanos < 60_000_000_000);
    assert!(common::time_in(after, "burn") > 200_000_000);
    stop(profiler);
    remove(&dir);
}

fn a_clock_that_is_put_back_is_followed() {
    let dir = directory("back");
    AHEAD.store(7_200, Ordering::SeqCst);
    let profiler = start(&dir, 1000);
    burn(Duration::from_millis(100));
    flush(&profiler);
    AHEAD.store(0, Ordering::SeqCst);
    burn(Duration::from_millis(100));
    flush(&profiler);
    let right = now();
    burn(Duration::from_millis(100));
    flush(&profiler);
    let found = sorted(&dir);
    assert_eq!(found.len(), 3);
    assert!((found[0].time_nanos - right).abs() < 30_000_000_000, "{} at {right}", found[0].time_nanos);
    stop(profiler);
    remove(&dir);
}
