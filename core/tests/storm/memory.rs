//! What the profiler takes: memory at its start, for many stacks and for many threads; descriptors; and nothing more
//! however long it runs.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use everprof::{Labels, Profiler};
use everprof_probe::os::gettid;
use everprof_probe::thread::{Slot, find};

use crate::amount;
use crate::common::{burn, directory};
use crate::forge::{expire, timed_slot};

/// Resident memory of this process that belongs to it alone, in KiB: pages of files are the kernel's to take back.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Two functions call each other in every order: each path through them is a stack of its own.
#[inline(never)]
fn left(path: u32, depth: u32, slot: &Slot) -> u32 {
    black_box(step(path, depth, slot)) + 1
}

#[inline(never)]
fn right(path: u32, depth: u32, slot: &Slot) -> u32 {
    black_box(step(path, depth, slot)) + 2
}

#[inline(always)]
fn step(path: u32, depth: u32, slot: &Slot) -> u32 {
    if depth == 0 {
        return u32::from(expire(slot));
    }
    if path & 1 == 0 { left(path >> 1, depth - 1, slot) } else { right(path >> 1, depth - 1, slot) }
}

pub(crate) fn at_start_and_with_many_stacks() {
    let dir = directory("memory");
    // The test's own needs come first.
    thread::spawn(|| burn(Duration::from_millis(10))).join().unwrap();
    let before = resident();
    let profiler = Profiler::builder().dir(&dir).set("cpu_budget_percent", "100").start().unwrap();
    burn(Duration::from_millis(500));
    let started = resident();
    let slot = timed_slot(gettid());
    for path in 0..10_000 {
        black_box(left(path, 14, slot));
        if path % 40 == 0 {
            // Not faster than the rings are emptied.
            thread::sleep(Duration::from_millis(20));
        }
    }
    thread::sleep(Duration::from_millis(300));
    let many = resident();
    let flushed = profiler.flush();
    let stats = profiler.stats();
    let after = resident();
    println!(
        "resident: {} KiB more at the start, {} with 10,000 stacks ({} samples, lost {}), {} after the profile was written ({flushed:?})",
        started - before,
        many - before,
        stats.samples,
        stats.lost,
        after - before
    );
    crate::common::stop(profiler);
    assert!(stats.samples - stats.lost > 9_900, "{stats:?}");
    assert!(started - before <= 8 << 10 && many - before <= 16 << 10);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A thousand threads that do a little and then rest; returns the resident memory while they live.
fn thousand_threads() -> i64 {
    let barrier = Arc::new(Barrier::new(1001));
    let threads: Vec<_> = (0..1000)
        .map(|_| {
            let barrier = barrier.clone();
            let work = move || {
                burn(Duration::from_micros(100));
                barrier.wait();
                barrier.wait();
            };
            thread::Builder::new().stack_size(64 << 10).spawn(work).unwrap()
        })
        .collect();
    barrier.wait();
    thread::sleep(Duration::from_millis(1500));
    let memory = resident();
    barrier.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    memory
}

pub(crate) fn of_a_thousand_threads() {
    let dir = directory("threads");
    thousand_threads();
    let base = resident();
    let without = thousand_threads() - base;
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    burn(Duration::from_millis(500));
    let started = resident();
    let with = thousand_threads() - started;
    println!("1,000 threads: {without} KiB without the profiler, {with} KiB with it");
    crate::common::stop(profiler);
    assert!(with - without <= 16 * 1000, "more than 16 KiB for each");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Threads that set a label, which makes a slot, and end at once: hardly any is met before.
pub(crate) fn slots_are_given_back() {
    let dir = directory("slots");
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    let labels = Labels::new([("life", "short")]);
    let mut ids = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..amount(20_000, 200_000) / 10 {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(|| labels.run(gettid))).collect();
            ids.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        });
        memory.push(resident());
    }
    // A look that found much to do is followed by the next one after 10 seconds at the latest.
    let kept = || ids.iter().filter(|tid| find(**tid).is_some()).count();
    (0..150).take_while(|_| kept() > 0).for_each(|_| thread::sleep(Duration::from_millis(100)));
    let kept = kept();
    let grown = memory[memory.len() - 1] - memory[memory.len() / 3];
    println!("{} threads are gone, {kept} of them still have a slot; {grown} KiB more", ids.len());
    assert!(kept == 0 && find(gettid()).is_some());
    // Slots lie in 4 MiB, of which more and more pages are touched as ids count up.
    assert!(grown <= 4 << 10, "{grown} KiB");
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

pub(crate) fn nothing_grows() {
    let dir = directory("growth");
    let profiler = Profiler::builder().dir(&dir).set("period_s", "1").set("rate_hz", "997").start().unwrap();
    let mut seen = Vec::new();
    for _ in 0..amount(15, 600) {
        thread::spawn(|| burn(Duration::from_millis(300))).join().unwrap();
        thread::sleep(Duration::from_millis(700));
        seen.push((resident(), descriptors()));
    }
    let middle = seen[seen.len() / 3];
    let last = *seen.last().unwrap();
    println!(
        "after a third {middle:?} (KiB, descriptors), at the end {last:?}; {} exported",
        profiler.stats().exported
    );
    crate::common::stop(profiler);
    assert!(last.0 - middle.0 <= 2 << 10, "{seen:?}");
    assert!(seen.iter().all(|(_, descriptors)| *descriptors <= middle.1 + 2), "{seen:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}
