//! The accounts of the heap and of waits for locks on request: recordings, snapshots, changes while it runs, the governor,
//! the peak, and room for blocks. Each case is a process of its own.
//!
//! Most of it allocates by an allocator that has no memory: addresses that nobody looks behind, so that terabytes are had in
//! a moment, and everything is known of them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{directory, flush, remove, stop};
use everprof::profile::{Kind, Profile};
use everprof::{ErrorKind, Profiler, store};

#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

const CASES: &[(&str, fn())] = &[
    ("a_recording_has_what_was_allocated_in_it_and_lives", recording_of_the_heap),
    ("a_recording_of_waits_hooks_for_as_long_as_it_lasts", recording_of_waits),
    ("a_snapshot_adds_up_the_periods_and_has_what_lives", snapshots),
    ("who_asks_for_what_is_not_there_is_told_so", refusals),
    ("profiles_are_right_across_changes_while_it_runs", changes),
    ("what_cannot_change_is_an_error_and_nothing_changes", wrong_changes),
    ("threads_change_options_at_once_and_none_is_lost", changes_at_once),
    ("a_forked_child_goes_on_with_what_was_set", changes_and_forks),
    ("the_peak_of_a_period_is_its_highest_state", peak),
    ("more_blocks_than_there_is_room_for_are_told_less_precisely", room),
    ("the_governor_takes_fewer_samples_and_sums_stay_right", governor),
    ("recordings_of_accounts_come_and_go_at_any_time", storm),
];

fn main() {
    common::main("accounts", CASES, 2);
}

/// Addresses without memory.
struct NoMemory;

static NEXT: AtomicUsize = AtomicUsize::new(1 << 46);

// SAFETY: it is used by this file alone, which reads and writes nothing at what it gets.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size().next_multiple_of(16);
        std::ptr::without_provenance_mut(NEXT.fetch_add(size, Ordering::Relaxed))
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

static BIG: everprof::Allocator<NoMemory> = everprof::Allocator::with(NoMemory);

/// A block of [`BIG`].
struct Block(usize, Layout);

impl Block {
    fn new(size: usize) -> Block {
        let layout = Layout::from_size_align(size, 16).unwrap();
        // SAFETY: the size is not 0.
        Block(unsafe { BIG.alloc(layout) } as usize, layout)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated so.
        unsafe { BIG.dealloc(std::ptr::without_provenance_mut(self.0), self.1) };
    }
}

macro_rules! sites {
    ($($name:ident)+) => {$(
        #[inline(never)]
        fn $name(size: usize, count: usize) -> Vec<Block> {
            let chunk = (500.0 / (1.0 - (-(size as f64) / MEAN).exp())) as usize;
            let mut blocks = Vec::with_capacity(count);
            for number in 0..count {
                blocks.push(Block::new(size));
                if number % chunk == chunk - 1 {
                    // The ring has room for a thousand samples or two, and is empty when this answers.
                    let _ = everprof::snapshot(Kind::Heap);
                }
            }
            black_box(stringify!($name));
            blocks
        }
    )+};
}

sites! { first second third }

const MEAN: f64 = 65_536.0;

fn starting(name: &str, kinds: &str) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let builder = Profiler::builder().dir(&dir).set("kinds", kinds).set("interval_bytes", "64KiB");
    let builder = builder.set("symbolize", "names").set("period_s", "3600").set("cpu_budget_percent", "100");
    let profiler = builder.start().unwrap();
    assert_eq!(profiler.stats().last_problem, None);
    (profiler, dir)
}

/// The sums of the samples that have a function in their stacks.
fn of(profile: &Profile, function: &str) -> Vec<i64> {
    let mut sums = vec![0; profile.sample_types.len()];
    for sample in profile.samples() {
        let lines = profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines);
        let mut names = lines.map(|line| profile.text(profile.get_function(line.function).name));
        if names.any(|name| name.ends_with(function)) {
            sums.iter_mut().zip(sample.values).for_each(|(sum, value)| *sum += value);
        }
    }
    sums
}

/// `told` objects of `count` that were allocated, each of so many bytes, where one in `mean` was a sample: within four
/// standard deviations, and one for rounding.
#[track_caller]
fn about(told: i64, count: usize, size: usize, mean: f64) {
    let chance = 1.0 - (-(size as f64) / mean).exp();
    let sigma = (count as f64 * (1.0 - chance) / chance).sqrt();
    assert!((told as f64 - count as f64).abs() <= 4.0 * sigma + 2.0, "{told} of {count}, sigma {sigma:.1}");
}

fn recording_of_the_heap() {
    let (profiler, dir) = starting("recorded", "cpu");
    let before = first(4096, 5_000);
    assert_eq!(everprof_probe::heap::interval(), 0);
    let outer = everprof::record(Kind::Heap).unwrap();
    assert_eq!(everprof_probe::heap::interval(), 64 << 10);
    let kept = second(4096, 5_000);
    let inner = everprof::record(Kind::Alloc).unwrap();
    let gone = third(4096, 5_000);
    let inner = inner.finish().unwrap();
    // A period ends in it: it goes on.
    flush(&profiler);
    drop(gone);
    let more = third(4096, 2_000);
    let outer = outer.finish().unwrap();
    assert_eq!(everprof_probe::heap::interval(), 0, "nothing is sampled any more");
    assert_eq!(everprof_probe::heap::count_live(), 0, "nothing is followed any more");
    assert_eq!(outer.sample_types, Kind::Heap.sample_types());
    assert!(outer.duration_nanos > inner.duration_nanos && inner.duration_nanos > 0);
    assert!(outer.time_nanos <= inner.time_nanos && outer.time_nanos > 1_600_000_000_000_000_000);
    assert_eq!(of(&outer, "first"), [0; 4], "from before the recording");
    let [kept_told, third_told] = ["second", "third"].map(|name| of(&outer, name));
    about(kept_told[0], 5_000, 4096, MEAN);
    assert_eq!(kept_told[..2], kept_told[2..], "all of it lives");
    about(third_told[0], 7_000, 4096, MEAN);
    about(third_told[2], 2_000, 4096, MEAN);
    assert_eq!(of(&inner, "second"), [0; 2]);
    about(of(&inner, "third")[0], 5_000, 4096, MEAN);
    assert!(store::list(&dir, &store::Query::default().kind("heap")).unwrap_or_default().is_empty());
    flush(&profiler);
    assert_eq!(profiler.stats().alloc_sources, "", "nor is it said to be");
    drop((before, kept, more));
    stop(profiler);
    remove(&dir);
}

fn recording_of_waits() {
    let (profiler, dir) = starting("waits", "cpu");
    let held = Mutex::new(());
    let contend = || {
        thread::scope(|scope| {
            let guard = held.lock().unwrap();
            let waiter = scope.spawn(|| drop(held.lock().unwrap()));
            thread::sleep(Duration::from_millis(50));
            drop(guard);
            waiter.join().unwrap();
        });
    };
    contend();
    let recordings = [Kind::Lock, Kind::Mutex, Kind::Block].map(|kind| everprof::record(kind).unwrap());
    contend();
    let [lock, mutex, block] = recordings.map(|recording| recording.finish().unwrap());
    for profile in [&lock, &mutex] {
        let waited = profile.totals()[1];
        assert!((20_000_000..2_000_000_000).contains(&waited), "{waited} ns: one of two waits");
    }
    // With the wait for the end of the thread.
    assert!(block.totals()[1] >= lock.totals()[1]);
    contend();
    flush(&profiler);
    assert_eq!(profiler.stats().lock_threshold, Duration::ZERO, "the hooks are out");
    assert_eq!(profiler.stats().lock_slots, 0);
    let samples = profiler.stats().lock_samples;
    contend();
    flush(&profiler);
    assert_eq!(profiler.stats().lock_samples, samples);
    stop(profiler);
    remove(&dir);
}

fn snapshots() {
    let (profiler, dir) = starting("snapshots", "cpu,heap,alloc,mutex");
    let mut kept = Vec::new();
    for round in 0..3 {
        kept.push(first(4096, 4_000));
        drop(second(4096, 2_000));
        if round < 2 {
            flush(&profiler);
        }
    }
    let now = everprof::snapshot(Kind::Heap).unwrap();
    let again = everprof::snapshot(Kind::Alloc).unwrap();
    flush(&profiler);
    let periods = store::list(&dir, &store::Query::default().kind("heap")).unwrap();
    let periods: Vec<Profile> = periods.iter().map(|entry| store::read(&entry.path).unwrap()).collect();
    assert_eq!(periods.len(), 3);
    for (name, count) in [("first", 12_000), ("second", 6_000)] {
        let told = of(&now, name);
        about(told[0], count, 4096, MEAN);
        let sum: i64 = periods.iter().map(|period| of(period, name)[0]).sum();
        // Each row of each period is rounded by itself.
        assert!((told[0] - sum).abs() <= 6, "{name}: {told:?} of {sum}");
        assert_eq!(of(&again, name)[0], told[0]);
    }
    assert_eq!(of(&now, "second")[2..], [0, 0]);
    let (live, last) = (of(&now, "first"), of(&periods[2], "first"));
    assert_eq!(live[2..], last[2..], "what lives now is what lives at the end of the period");
    about(live[2], 12_000, 4096, MEAN);
    for period in &periods {
        assert!(period.duration_nanos > 0 && period.time_nanos > 1_600_000_000_000_000_000);
    }
    // Merged, periods of one process have the level of the last.
    let entries = store::list(&dir, &store::Query::default().kind("heap")).unwrap();
    let merged = store::merge(&entries).unwrap().profile;
    let told = of(&merged, "first");
    assert_eq!(told[2..], last[2..]);
    about(told[0], 12_000, 4096, MEAN);
    drop(kept);
    assert_eq!(of(&everprof::snapshot(Kind::Heap).unwrap(), "first")[2..], [0, 0]);
    assert_eq!(everprof::snapshot(Kind::Mutex).unwrap().sample_types, Kind::Mutex.sample_types());
    stop(profiler);
    remove(&dir);
}

fn refusals() {
    let of_kind = |kind| everprof::snapshot(kind).unwrap_err();
    assert_eq!(of_kind(Kind::Heap).kind(), ErrorKind::Unavailable, "nothing runs");
    assert_eq!(everprof::set("rate_hz", "19").unwrap_err().kind(), ErrorKind::Unavailable);
    let (profiler, dir) = starting("refusals", "cpu");
    for kind in
        [Kind::Heap, Kind::Alloc, Kind::Peak, Kind::Lock, Kind::Mutex, Kind::Block, Kind::Cpu, Kind::Wall]
    {
        let error = of_kind(kind);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("record"), "it says what to do: {error}");
    }
    // What is switched off is so for recordings as well, and they say what to do.
    for (option, kind) in [("interval_bytes", Kind::Heap), ("lock_threshold_ns", Kind::Lock)] {
        everprof::set(option, "off").unwrap();
        let error = everprof::record(kind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(option), "{error}");
    }
    stop(profiler);
    remove(&dir);
}

fn changes() {
    let (profiler, dir) = starting("changes", "cpu,alloc");
    let size = 1 << 14;
    let mut variance = 0.0;
    let mut count = 0;
    // Small enough that a thread meets a change within each chunk of its own.
    for (round, mean) in
        ["64KiB", "256KiB", "128KiB", "1MiB", "64KiB"].into_iter().cycle().take(60).enumerate()
    {
        everprof::set("interval_bytes", mean).unwrap();
        let many = if round % 2 == 0 { 2_000 } else { 200 };
        drop(first(size, many));
        let bytes: f64 = mean.trim_end_matches("KiB").parse().unwrap_or(1024.0) * 1024.0;
        let chance = 1.0 - (-(size as f64) / bytes).exp();
        variance += many as f64 * (1.0 - chance) / chance;
        count += many;
    }
    everprof::set("interval_bytes", "off").unwrap();
    // The rest of a chunk may still be a sample.
    drop(second(size, 20_000));
    everprof::set("interval_bytes", "64KiB").unwrap();
    drop(third(size, 5_000));
    assert_eq!(profiler.stats().alloc_lost, 0);
    flush(&profiler);
    let entries = store::list(&dir, &store::Query::default().kind("alloc")).unwrap();
    let profile = store::read(&entries[0].path).unwrap();
    let told = of(&profile, "first")[0] as f64;
    // Of each change up to 64 KiB of the thread are of the setting before.
    let room = 4.0 * f64::sqrt(variance) + 60.0 * 4.0;
    assert!((told - count as f64).abs() < room, "{told} of {count}, {room}");
    assert!(of(&profile, "second")[0] <= 64, "{:?}", of(&profile, "second"));
    about(of(&profile, "third")[0], 5_000, size, MEAN);
    // Kinds come and go; a period has those that it began with.
    everprof::set("kinds", "cpu,heap,mutex").unwrap();
    let kept = first(size, 1_000);
    flush(&profiler);
    let heap = store::list(&dir, &store::Query::default().kind("heap")).unwrap();
    assert_eq!(heap.len(), 1);
    about(of(&store::read(&heap[0].path).unwrap(), "first")[2], 1_000, size, MEAN);
    everprof::set("kinds", "cpu").unwrap();
    assert_eq!(everprof_probe::heap::interval(), 0);
    drop(first(size, 1_000));
    flush(&profiler);
    let heap = store::list(&dir, &store::Query::default().kind("heap")).unwrap();
    assert_eq!(heap.len(), 2, "the change has ended a period, which has the heap");
    drop(kept);
    // The rest of what is live.
    for (name, value) in [("rate_hz", "19"), ("wall_rate_hz", "5"), ("period_s", "1800"), ("log", "warn")] {
        everprof::set(name, value).unwrap();
    }
    assert_eq!(profiler.stats().wanted_rate_hz.round(), 19.0);
    stop(profiler);
    remove(&dir);
}

fn wrong_changes() {
    let (profiler, dir) = starting("wrong", "cpu");
    for (name, value, in_it) in [
        ("rate", "5", "did you mean"),
        ("rate_hz", "0", "whole number"),
        ("interval_bytes", "1KiB", "64KiB"),
        ("kinds", "cpu,heaps", "give one or more"),
        ("max_frames", "64", "cannot change while the profiler runs"),
        ("dir", "/tmp", "cannot change while the profiler runs"),
    ] {
        for error in [everprof::set(name, value).unwrap_err(), profiler.set(name, value).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
            assert!(error.to_string().contains(in_it), "{error}");
        }
    }
    assert_eq!(profiler.stats().wanted_rate_hz.round(), 99.0);
    everprof::set("rate_hz", "99").unwrap();
    // What is as it is may always be said.
    everprof::set("max_frames", "1024").unwrap();
    stop(profiler);
    remove(&dir);
}

fn changes_at_once() {
    let (profiler, dir) = starting("at-once", "cpu");
    thread::scope(|scope| {
        for (name, last) in
            [("rate_hz", "50"), ("interval_bytes", "2MiB"), ("lock_threshold_ns", "77"), ("period_s", "99")]
        {
            scope.spawn(move || {
                for round in 0..20 {
                    let value = if round % 2 == 0 {
                        last.to_string()
                    } else {
                        everprof::Options::default().get(name).unwrap()
                    };
                    everprof::set(name, &value).unwrap();
                }
                everprof::set(name, last).unwrap();
            });
        }
    });
    assert_eq!(profiler.stats().wanted_rate_hz.round(), 50.0);
    let recordings = [everprof::record(Kind::Heap).unwrap(), everprof::record(Kind::Lock).unwrap()];
    flush(&profiler);
    let stats = profiler.stats();
    assert_eq!((stats.interval_bytes, stats.lock_threshold), (2 << 20, Duration::from_nanos(77)));
    drop(recordings);
    stop(profiler);
    remove(&dir);
}

fn changes_and_forks() {
    let (profiler, dir) = starting("forked", "cpu");
    everprof::set("kinds", "cpu,heap").unwrap();
    everprof::set("interval_bytes", "128KiB").unwrap();
    // SAFETY: the child does what any process may, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let goes_on = || {
            let kept = first(1 << 14, 1_000);
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while profiler.stats().interval_bytes != 128 << 10 {
                if std::time::Instant::now() > deadline || profiler.flush().is_err() {
                    return false;
                }
            }
            let more = second(1 << 14, 10_000);
            let told = everprof::snapshot(Kind::Heap).map(|profile| of(&profile, "second")[2]);
            drop((kept, more));
            told.is_ok_and(|told| (7_000..13_000).contains(&told))
        };
        let code = i32::from(!goes_on());
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the status is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    stop(profiler);
    remove(&dir);
}

fn peak() {
    let (profiler, dir) = starting("peak", "cpu,heap,peak");
    let base = first(1 << 16, 500);
    {
        let high = second(1 << 16, 4_000);
        let recording = everprof::record(Kind::Peak).unwrap();
        let higher = third(1 << 16, 1_000);
        drop(higher);
        drop(high);
        let told = recording.finish().unwrap();
        about(of(&told, "third")[0], 1_000, 1 << 16, MEAN);
        about(of(&told, "second")[0], 4_000, 1 << 16, MEAN);
    }
    let later = third(1 << 16, 2_000);
    flush(&profiler);
    drop(later);
    flush(&profiler);
    let profiles = |kind: &str| -> Vec<Profile> {
        let found = store::list(&dir, &store::Query::default().kind(kind)).unwrap();
        found.iter().map(|entry| store::read(&entry.path).unwrap()).collect()
    };
    let (peaks, heaps) = (profiles("peak"), profiles("heap"));
    assert_eq!((peaks.len(), peaks[0].sample_types.clone()), (2, Kind::Peak.sample_types()));
    for (name, count) in [("first", 500), ("second", 4_000), ("third", 1_000)] {
        about(of(&peaks[0], name)[0], count, 1 << 16, MEAN);
    }
    assert_eq!(of(&heaps[0], "second")[2], 0, "the end of the period knows nothing of it");
    // The next period has its own, which is its beginning.
    about(of(&peaks[1], "third")[0], 2_000, 1 << 16, MEAN);
    assert_eq!(of(&peaks[1], "second")[0], 0);
    assert!(
        peaks[0].comments.iter().any(|comment| comment.starts_with("peak at ")),
        "{:?}",
        peaks[0].comments
    );
    let merged = store::merge(&store::list(&dir, &store::Query::default().kind("peak")).unwrap()).unwrap();
    assert_eq!(of(&merged.profile, "second"), of(&peaks[0], "second"), "of several periods the highest");
    assert_eq!(merged.profile.totals(), peaks[0].totals());
    drop(base);
    stop(profiler);
    remove(&dir);
}

fn room() {
    let (profiler, dir) = starting("room", "cpu,heap");
    // A hundred thousand blocks that are all samples at the mean that was asked for: there is room for a third of them.
    let (size, count) = (1 << 18, 100_000);
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.extend(first(size, count / 20));
    }
    flush(&profiler);
    let stats = profiler.stats();
    assert!(stats.interval_bytes > 64 << 10, "{stats:?}");
    assert!(everprof_probe::heap::count_live() < everprof_probe::heap::ROOM * 5 / 8);
    let entries = store::list(&dir, &store::Query::default().kind("heap")).unwrap();
    let profile = store::read(&entries[0].path).unwrap();
    let told = of(&profile, "first");
    let all = profile.totals()[2] as f64;
    let mean = stats.interval_bytes as f64;
    let chance = 1.0 - (-(size as f64) / mean).exp();
    let sigma = (count as f64 * (1.0 - chance) / chance).sqrt();
    // What found no place is told by a frame.
    let live = told[2] as f64 + stats.alloc_unfollowed as f64;
    assert!(
        (live - count as f64).abs() < 5.0 * sigma + stats.alloc_unfollowed as f64,
        "{told:?}, sigma {sigma}, {stats:?}"
    );
    assert!(all >= told[2] as f64);
    assert!(
        told[0] as f64 + stats.alloc_lost as f64 > 0.99 * count as f64,
        "allocations are told as they were"
    );
    drop(kept);
    // And it comes back.
    let again = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(250));
        flush(&profiler);
        profiler.stats().interval_bytes == 64 << 10
    });
    assert!(again, "{:?}", profiler.stats());
    stop(profiler);
    remove(&dir);
}

fn governor() {
    let (profiler, dir) = starting("governor", "cpu,alloc");
    everprof::set("cpu_budget_percent", "0.5").unwrap();
    let (size, begin) = (1 << 14, std::time::Instant::now());
    let allocated = AtomicU64::new(0);
    let held_up = |wanted: fn(u64) -> bool, work: bool| {
        (0..600).any(|_| {
            if work {
                drop(first(size, 20_000));
                allocated.fetch_add(20_000, Ordering::Relaxed);
            } else {
                thread::sleep(Duration::from_millis(50));
            }
            wanted(profiler.stats().interval_bytes)
        })
    };
    assert!(held_up(|interval| interval > 64 << 10, true), "{:?}", profiler.stats());
    let stats = profiler.stats();
    assert!(stats.throttled && stats.hooks_time > Duration::ZERO && stats.own_cpu() > stats.hooks_time);
    drop(first(size, 20_000));
    let count = allocated.load(Ordering::Relaxed) + 20_000;
    // It comes back once the work is done.
    everprof::set("cpu_budget_percent", "100").unwrap();
    assert!(held_up(|interval| interval == 64 << 10, false), "{:?}, {:?}", begin.elapsed(), profiler.stats());
    flush(&profiler);
    let entries = store::list(&dir, &store::Query::default().kind("alloc")).unwrap();
    let profile = store::read(&entries[0].path).unwrap();
    let lost: i64 = of(&profile, "[lost: too many samples of allocations at once]")[0];
    let told = of(&profile, "first")[0];
    let off = ((told + lost) as f64 / count as f64 - 1.0).abs();
    // Of at least a sixteenth of the samples that there would be; losses are told within a twentieth.
    let sigma = (1.0 / (count as f64 * size as f64 / (64.0 * MEAN))).sqrt();
    assert!(off < 4.0 * sigma + 0.05 * lost as f64 / count as f64, "{told} and {lost} of {count}, {sigma}");
    stop(profiler);
    remove(&dir);
}

fn storm() {
    let (profiler, dir) = starting("storm", "cpu");
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut kept = Vec::new();
                while done.load(Ordering::Relaxed) < 3 {
                    kept.extend((0..100).map(|_| Block::new(4096)));
                    if kept.len() > 10_000 {
                        kept.clear();
                    }
                }
            });
        }
        for number in 0..3 {
            let done = &done;
            scope.spawn(move || {
                let kinds = [Kind::Heap, Kind::Lock, Kind::Alloc, Kind::Cpu, Kind::Peak, Kind::Block];
                for round in 0..60 {
                    let kind = kinds[(round + number) % kinds.len()];
                    let recording = everprof::record(kind).unwrap();
                    if round % 7 == 3 {
                        drop(recording);
                    } else {
                        recording.finish().unwrap();
                    }
                    if round % 10 == 5 {
                        let kinds = if round % 20 == 5 { "cpu,heap,mutex" } else { "cpu" };
                        everprof::set("kinds", kinds).unwrap();
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    everprof::set("kinds", "cpu").unwrap();
    assert_eq!(everprof_probe::heap::interval(), 0);
    stop(profiler);
    remove(&dir);
}
