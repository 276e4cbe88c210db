//! Code on stacks of its own making: its leaf is always in the profile, and its callers once the stack is registered.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use everprof::profile::Profile;
use everprof::{StackRange, Stats};

use common::{burn, directory, names, profiles, stop, time_in};

/// One test at a time: a process has one profiler.
static ONE: Mutex<()> = Mutex::new(());

const SIZE: usize = 256 << 10;

thread_local! {
    static BODY: Cell<fn()> = const { Cell::new(|| ()) };
}

extern "C" fn entry() {
    BODY.get()();
}

/// Runs `body` on a new stack, between two pages that nobody can read, by the C library's own means.
fn on_a_new_stack(register: bool, body: fn()) {
    const GUARD: usize = 64 << 10;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a mapping of the kernel's choice touches nothing.
    let all = unsafe { libc::mmap(std::ptr::null_mut(), SIZE + 2 * GUARD, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(all, libc::MAP_FAILED);
    let start = all as usize + GUARD;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the pages are those just mapped.
    assert_eq!(unsafe { libc::mprotect(start as *mut c_void, SIZE, writable) }, 0);
    // SAFETY: the memory is unmapped after the registration has ended.
    let registered = register.then(|| unsafe { StackRange::register(start..start + SIZE) }.unwrap());
    BODY.set(body);
    // SAFETY: all zero is a context that `getcontext` fills in.
    let mut here: libc::ucontext_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut there: libc::ucontext_t = unsafe { std::mem::zeroed() };
    // SAFETY: the context is ours to write.
    assert_eq!(unsafe { libc::getcontext(&mut there) }, 0);
    there.uc_stack = libc::stack_t { ss_sp: start as *mut c_void, ss_flags: 0, ss_size: SIZE };
    there.uc_link = &mut here;
    // SAFETY: the context has a stack and a successor, and the function takes no arguments.
    unsafe { libc::makecontext(&mut there, entry, 0) };
    // SAFETY: the other context comes back here when the function returns.
    assert_eq!(unsafe { libc::swapcontext(&mut here, &there) }, 0);
    drop(registered);
    // SAFETY: the mapping was made above, and nobody runs on it any more.
    unsafe { libc::munmap(all, SIZE + 2 * GUARD) };
}

/// The profile of `work` at a rate, and what the profiler said of itself.
fn profile(name: &str, rate: u32, work: impl FnOnce()) -> (Profile, Stats) {
    let dir = directory(name);
    let profiler = common::start(&dir, rate);
    work();
    common::flush(&profiler);
    let stats = profiler.stats();
    stop(profiler);
    let profile = profiles(&dir).into_iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    (profile, stats)
}

#[inline(never)]
fn root_of_coroutine() {
    burn(Duration::from_millis(600));
    black_box(());
}

#[test]
fn a_registered_stack_is_complete() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (profile, stats) = profile("registered", 250, || on_a_new_stack(true, root_of_coroutine));
    let (root, burnt) = (time_in(&profile, "root_of_coroutine"), time_in(&profile, "burn"));
    let incomplete = time_in(&profile, "[incomplete");
    eprintln!("{root} of {burnt} ns to the root, incomplete {incomplete}; {stats:?}");
    assert!(burnt > 400_000_000 && root * 1000 >= burnt * 995, "{root} of {burnt} ns");
    assert!(incomplete * 100 < burnt, "{incomplete} of {burnt} ns");
    assert_eq!(stats.incomplete_unknown_stack, 0);
}

#[test]
fn a_stack_that_nobody_told_of_shows_its_leaf_and_is_counted() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (profile, stats) = profile("unknown", 250, || on_a_new_stack(false, root_of_coroutine));
    let (root, incomplete) = (time_in(&profile, "root_of_coroutine"), time_in(&profile, "[incomplete"));
    assert_eq!(root, 0);
    assert!(incomplete > 400_000_000, "{incomplete} ns");
    let has_leaf = |sample: everprof::profile::Sample| {
        names(&profile, profile.get_stack(sample.stack)).first().is_some_and(|leaf| !leaf.starts_with('['))
    };
    assert!(profile.samples().all(has_leaf), "the leaf is always there");
    // Signals, of which a busy machine with a slow tick sends few: what they stand for is told above.
    let (unknown, all) = (stats.incomplete_unknown_stack, stats.samples);
    assert!(unknown > 5 && unknown * 10 > all * 8, "{stats:?}");
    assert!(stats.incomplete >= stats.incomplete_unknown_stack);
}

#[inline(never)]
fn short_coroutine() {
    for number in 0..20_000_u64 {
        black_box(number);
    }
}

/// Stacks that come, are run on and go, on two threads at once, under as many signals as there can be.
#[test]
fn stacks_come_and_go_under_fire() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (profile, stats) = profile("churn", 10_000, || {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_millis(1500) {
                        on_a_new_stack(true, short_coroutine);
                    }
                });
            }
        });
    });
    // Under an emulator a signal may show a stack pointer of the instruction before or after the change of stacks.
    assert!(stats.incomplete_unknown_stack * 20 <= stats.samples, "{stats:?}");
    assert!(time_in(&profile, "short_coroutine") > 100_000_000);
    let incomplete = time_in(&profile, "[incomplete");
    let whole = profile.totals()[1];
    eprintln!("incomplete {incomplete} of {whole} ns");
    // What is left are the instructions in which the C library changes from one stack to another; an emulator, which the
    // tests on aarch64 run under, takes long over them.
    let least = if cfg!(target_arch = "x86_64") { 50 } else { 8 };
    assert!(incomplete * least < whole, "{incomplete} of {whole} ns");
}
