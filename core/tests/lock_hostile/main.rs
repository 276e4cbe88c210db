//! Hooks of waits in bad company: starts and stops while threads wait, forks, signals everywhere, thresholds that change. Each
//! case is a process of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

mod abrupt;
#[allow(dead_code)]
#[path = "../malloc/c.rs"]
mod c;
#[path = "../common/mod.rs"]
mod common;
mod gone;
mod jumps;
mod waits;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof_probe::lock::{self, Config};
use everprof_probe::ring::Ring;
use everprof_probe::sample::LOCK_WORDS;

use common::{directory, flush, kind_of, remove, stop};
use waits::{OfC, drain, futex_wait, prepare};

// In the way of everything, as a program would have it that is profiled with all kinds.
#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

const CASES: &[(&str, fn())] = &[
    ("start_and_stop_race_with_those_who_wait", start_and_stop_race),
    ("stop_while_threads_wait", stop_while_threads_wait),
    ("weights_are_exact_while_the_threshold_changes", changing_threshold),
    ("all_waits_of_a_lock_are_one", one_wait_for_each_lock),
    ("lost_samples_are_told", lost_samples),
    ("fork_while_others_wait", fork_while_others_wait),
    ("signals_inside_of_everything", signals_inside_of_everything),
    ("a_handler_that_jumps_out_of_a_sample_leaves_nothing_behind", jumps::jumps_leave_nothing_behind),
    ("waits_end_abruptly_as_without_hooks", abrupt::ends_are_as_without_hooks),
    ("mutexes_are_gone_once_they_are_given_back", gone::mutexes_are_gone),
];

fn main() {
    common::main("lock_hostile", CASES, 2);
}

const STARTS: u32 = 1000;

fn config(threshold: u64) -> Config {
    Config { threshold, max_words: 200, c_locks: true }
}

fn start_and_stop_race() {
    let ring = prepare();
    let (over, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (over, turns) = (&over, &turns);
        for of in [waits::ALL, waits::ALL].concat() {
            scope.spawn(move || of(over, turns));
        }
        let mut first = None;
        for round in 0..STARTS {
            let patched = lock::start(config(1 + u64::from(round % 3) * 50_000), ring);
            // Every slot held the C library's own function again.
            assert_eq!((patched.unchanged, patched.refused), (0, 0), "{round}: {patched:?}");
            assert_eq!(*first.get_or_insert(patched.changed), patched.changed);
            if round % 4 == 0 {
                thread::sleep(Duration::from_micros(u64::from(round % 7) * 50));
            }
            lock::stop();
            drain(ring);
        }
        let before = turns.load(Ordering::SeqCst);
        while turns.load(Ordering::SeqCst) < before + 100 {
            thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
    });
}

fn stop_while_threads_wait() {
    let ring = prepare();
    static OF_C: OfC = OfC::new();
    let (of_rust, pair) = (Mutex::new(()), (Mutex::new(false), Condvar::new()));
    let (held, of_c) = (of_rust.lock().unwrap(), OF_C.lock());
    lock::start(config(1), ring);
    thread::scope(|scope| {
        scope.spawn(|| drop(of_rust.lock().unwrap()));
        scope.spawn(|| drop(OF_C.lock()));
        scope.spawn(|| drop(pair.1.wait_while(pair.0.lock().unwrap(), |done| !*done).unwrap()));
        thread::sleep(Duration::from_millis(50));
        lock::stop();
        drain(ring);
        // Who waits now began before this start.
        lock::start(config(1), ring);
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
        drop(of_c);
        drop(held);
        thread::sleep(Duration::from_millis(50));
    });
    let told = drain(ring);
    let long = told.waits.iter().filter(|[nanos, ..]| *nanos > 40_000_000).count();
    // The end of the scope, for which this thread has waited, was no time to speak of.
    assert_eq!(long, 0, "{told:?}");
    lock::stop();
}

fn changing_threshold() {
    const WAITS: u64 = 4_000;
    const THREADS: u64 = 4;
    const THRESHOLDS: [u64; 4] = [1_000, 60_000, 400_000, 1_500_000];
    let ring = prepare();
    lock::start(config(THRESHOLDS[3]), ring);
    let (nanos, over, word) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let mut told = waits::Told::default();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..WAITS {
                    let begin = Instant::now();
                    futex_wait(&word, Duration::from_micros(50));
                    nanos.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
                over.fetch_add(1, Ordering::SeqCst);
            });
        }
        let mut round = 0;
        while over.load(Ordering::SeqCst) < THREADS as u32 {
            lock::set_threshold(THRESHOLDS[round % THRESHOLDS.len()]);
            thread::sleep(Duration::from_millis(3));
            told.add(drain(ring));
            round += 1;
        }
        assert!(round > 20, "{round}");
    });
    told.add(drain(ring));
    lock::set_threshold(0);
    assert_eq!(lock::threshold(), 0);
    futex_wait(&word, Duration::from_millis(5));
    assert!(drain(ring).waits.is_empty());
    lock::stop();
    let of_word = told.waits.iter().filter(|[_, _, address, ..]| *address == word.as_ptr() as u64);
    let (mut count, mut sum, mut variance) = (0.0, 0.0, 0.0);
    for [nanos, threshold, ..] in of_word {
        let weight = (*threshold as f64 / *nanos as f64).max(1.0);
        let told = *nanos as f64 * weight;
        (count, sum) = (count + weight, sum + told);
        // Of each sample: its share of the variance of a sum of such.
        variance += told * told * (1.0 - 1.0 / weight);
    }
    let truth = nanos.load(Ordering::Relaxed) as f64;
    assert_eq!(lock::take_lost()[0], 0);
    // The program's clock runs some microseconds longer.
    let room = 4.0 * variance.sqrt() + 0.02 * truth + 3_000.0 * (WAITS * THREADS) as f64;
    assert!((sum - truth).abs() < room, "{sum} of {truth} ns, sigma {}", variance.sqrt());
    let mean = truth / (WAITS * THREADS) as f64;
    let room = 4.0 * variance.sqrt() / mean + 0.15 * (WAITS * THREADS) as f64;
    assert!((count - (WAITS * THREADS) as f64).abs() < room, "{count} waits");
}

/// Of std's mutex another thread may take the lock before the one that was woken: it sleeps again, and waits on.
fn one_wait_for_each_lock() {
    let ring = prepare();
    let (lock, takes) = (Mutex::new(()), AtomicU64::new(0));
    lock::start(config(1), ring);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let held = lock.lock().unwrap();
                    thread::sleep(Duration::from_micros(30));
                    drop(held);
                    takes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let told = drain(ring);
    let address = (&raw const lock).addr() as u64;
    let is_again = |object: u64| object & everprof_probe::sample::AGAIN != 0;
    let of_lock = told.waits.iter().filter(|[_, _, at, ..]| at.abs_diff(address) < 16);
    let again: Vec<bool> = of_lock.map(|[_, _, _, object, _]| is_again(*object)).collect();
    let first = again.iter().filter(|again| !**again).count();
    // Those that sleep again are many: who lets the lock go takes it at once.
    assert!(first as u64 <= takes.load(Ordering::Relaxed), "{first} waits");
    assert!(first > 0 && first < again.len(), "{first} of {}", again.len());
    lock::stop();
}

fn lost_samples() {
    const WAITS: usize = 3_000;
    const THRESHOLD: u64 = 500_000;
    prepare();
    // Too small for all of them, and nobody empties it.
    let ring: &'static Ring = Box::leak(Box::new(Ring::new(0).unwrap()));
    lock::start(config(THRESHOLD), ring);
    let word = AtomicU32::new(0);
    let mut truth = 0.0;
    for _ in 0..WAITS {
        let begin = Instant::now();
        futex_wait(&word, Duration::from_micros(200));
        truth += begin.elapsed().as_nanos() as f64;
    }
    lock::stop();
    let (told, [samples, count, nanos]) = (drain(ring), lock::take_lost());
    assert!(samples > 0, "{} told", told.waits.len());
    let weighed = |[nanos, threshold, ..]: &[u64; LOCK_WORDS]| (*nanos).max(*threshold) as f64;
    let sum = told.waits.iter().map(weighed).sum::<f64>() + nanos as f64;
    let all = (told.waits.len() as u64 + samples) as f64;
    // Each sample stands for half a millisecond, and they come no less evenly than in a Poisson process.
    let room = 4.0 * all.sqrt() * THRESHOLD as f64 + 0.05 * truth;
    assert!((sum - truth).abs() < room, "{sum} of {truth} ns");
    assert!(count >= samples);
}

fn fork_while_others_wait() {
    let dir = directory("fork");
    let builder = Profiler::builder().dir(&dir).set("kinds", "cpu,lock,mutex,block").set("period_s", "3600");
    let profiler = builder.set("lock_threshold_ns", "1000").start().unwrap();
    let (over, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (over, turns) = (&over, &turns);
        for of in [waits::ALL, waits::ALL].concat() {
            scope.spawn(move || of(over, turns));
        }
        for _ in 0..25 {
            // SAFETY: the child runs ordinary code, as programs that fork do; the C library makes that work.
            let child = unsafe { libc::fork() };
            if child == 0 {
                in_the_child();
            }
            let mut status = 0;
            // SAFETY: the pointer is to a live value.
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!(status, 0, "the child of a fork");
        }
        over.store(true, Ordering::SeqCst);
    });
    flush(&profiler);
    assert!(kind_of(&dir, "lock").iter().map(|lock| lock.totals()[1]).sum::<i64>() > 0);
    stop(profiler);
    remove(&dir);
}

/// Waits of all kinds, with threads of its own; and ends.
fn in_the_child() -> ! {
    static OF_C: OfC = OfC::new();
    let held = (Mutex::new(()), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let (lock, of_c) = (held.0.lock().unwrap(), OF_C.lock());
            held.1.wait();
            thread::sleep(Duration::from_millis(2));
            drop((lock, of_c));
        });
        held.1.wait();
        drop((held.0.lock().unwrap(), OF_C.lock()));
    });
    // SAFETY: ends the child, which must not run the parent's exit handlers of tests.
    unsafe { libc::_exit(0) }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

/// A handler that waits as well, wherever it has interrupted the thread: in a hook, in malloc, in another wait.
extern "C" fn waits_in_handler(_: libc::c_int) {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let before = *waits::errno();
    futex_wait(&WORD, Duration::from_micros(10));
    HANDLED.fetch_add(1, Ordering::Relaxed);
    *waits::errno() = before;
}

fn signals_inside_of_everything() {
    static OF_C: OfC = OfC::new();
    let dir = directory("signals");
    let builder = Profiler::builder().dir(&dir).set("kinds", "cpu,wall,alloc,heap,lock,mutex,block");
    let builder = builder.rate_hz(1000).set("cpu_budget_percent", "100").set("period_s", "3600");
    let profiler = builder.set("interval_bytes", "64KiB").set("lock_threshold_ns", "1").start().unwrap();
    let handler = waits_in_handler as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing that a handler must not do.
    unsafe { libc::signal(libc::SIGUSR2, handler as usize) };
    let (over, lock) = (AtomicBool::new(false), Mutex::new(Vec::<Box<[u8]>>::new()));
    let ids = Arc::new(Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for number in 0..6_usize {
            let (over, lock, ids) = (&over, &lock, ids.clone());
            scope.spawn(move || {
                // SAFETY: no preconditions.
                ids.lock().unwrap().push(unsafe { libc::pthread_self() });
                while !over.load(Ordering::Relaxed) {
                    // Malloc inside of a contended lock, and a free.
                    let mut blocks = lock.lock().unwrap();
                    blocks.push(vec![number as u8; 100 + 50 * number].into());
                    if blocks.len() > 200 {
                        blocks.clear();
                    }
                    drop(blocks);
                    waits::with_errno(77, || drop(OF_C.lock()));
                }
            });
        }
        while ids.lock().unwrap().len() < 6 {
            thread::yield_now();
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            for id in ids.lock().unwrap().iter() {
                // SAFETY: the threads live until the end of the scope.
                unsafe { libc::pthread_kill(*id, libc::SIGUSR2) };
            }
            thread::sleep(Duration::from_micros(500));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(HANDLED.load(Ordering::Relaxed) > 100);
    flush(&profiler);
    for kind in ["cpu", "wall", "alloc", "heap", "lock", "mutex", "block"] {
        let total: i64 = kind_of(&dir, kind).iter().map(|profile| profile.totals()[1]).sum();
        assert!(total > 0, "{kind}");
    }
    stop(profiler);
    remove(&dir);
}
