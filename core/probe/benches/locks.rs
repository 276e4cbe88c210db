//! What hooks of waits cost: `cargo bench -p everprof-probe --bench locks`; with `-- threads`, the cases of several threads alone.
//!
//! Each figure is of rounds with the hooks and without them in turns, so that what else the machine does is the same for both;
//! the best and the middle of the rounds. A free lock is taken and given back by one thread; a wait is one for a word that
//! changes by the time, once without a sample and once with the stack of one.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::lock::{self, Config};
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::{regs, scratch, unwind};

const ROUNDS: usize = 201;
const PAIRS: u32 = 20_000;

struct OfC<T>(UnsafeCell<T>);
// SAFETY: locks of C are for several threads.
unsafe impl<T> Sync for OfC<T> {}

static MUTEX: OfC<libc::pthread_mutex_t> = OfC(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
static RWLOCK: OfC<libc::pthread_rwlock_t> = OfC(UnsafeCell::new(libc::PTHREAD_RWLOCK_INITIALIZER));

fn config(threshold: u64, c_locks: bool) -> Config {
    Config { threshold, max_words: 1024, c_locks }
}

/// Nanoseconds each time, of so many.
fn time(times: u32, work: &dyn Fn()) -> f64 {
    let begin = Instant::now();
    for _ in 0..times {
        work();
    }
    begin.elapsed().as_nanos() as f64 / f64::from(times)
}

/// Without hooks, with those of Rust's locks alone, with all, and with all while none is sampled.
fn compare(name: &str, times: u32, threshold: u64, ring: &'static Ring, work: &dyn Fn()) {
    let mut found: [Vec<f64>; 4] = Default::default();
    let mut buffer = vec![0; MAX_STACK_WORDS];
    for _ in 0..ROUNDS {
        found[0].push(time(times, work));
        lock::start(config(threshold, false), ring);
        found[1].push(time(times, work));
        lock::start(config(threshold, true), ring);
        found[2].push(time(times, work));
        lock::set_threshold(0);
        found[3].push(time(times, work));
        lock::stop();
        ring.drain(&mut buffer, |_, _| {});
    }
    let [without, rust, all, off] = found.map(|mut times| {
        times.sort_by(f64::total_cmp);
        (times[0], times[ROUNDS / 2])
    });
    print!("{name:34}");
    for (what, (best, middle)) in
        [("without", without), ("c_locks=off", rust), ("all", all), ("threshold 0", off)]
    {
        print!("  {what} {best:8.2} {middle:8.2} ({:+.2})", best - without.0);
    }
    println!();
}

fn main() {
    let ring = prepare();
    if !std::env::args().any(|argument| argument == "threads") {
        one_thread(ring);
    }
    several_threads(ring);
}

fn one_thread(ring: &'static Ring) {
    println!("nanoseconds: best and middle of {ROUNDS} rounds, and what is added to the best without hooks");
    let of_std = Mutex::new(0_u64);
    compare("std Mutex, free", PAIRS, 100_000, ring, &|| *black_box(&of_std).lock().unwrap() += 1);
    let of_others = parking_lot::Mutex::new(0_u64);
    compare("parking_lot Mutex, free", PAIRS, 100_000, ring, &|| *black_box(&of_others).lock() += 1);
    compare("pthread_mutex, free", PAIRS, 100_000, ring, &|| {
        let lock = black_box(MUTEX.0.get());
        // SAFETY: the mutex is initialised.
        unsafe { libc::pthread_mutex_lock(lock) };
        // SAFETY: this thread holds it.
        unsafe { libc::pthread_mutex_unlock(lock) };
    });
    compare("pthread_rwlock, to read, free", PAIRS, 100_000, ring, &|| {
        let lock = black_box(RWLOCK.0.get());
        // SAFETY: the lock is initialised.
        unsafe { libc::pthread_rwlock_rdlock(lock) };
        // SAFETY: this thread holds it.
        unsafe { libc::pthread_rwlock_unlock(lock) };
    });
    compare("syscall(SYS_gettid)", PAIRS / 10, 100_000, ring, &|| {
        // SAFETY: no preconditions.
        black_box(unsafe { libc::syscall(libc::SYS_gettid) });
    });
    let word = AtomicU32::new(0);
    let wait = |expected: u32| {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 1 };
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word and the time are live.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, &raw const time) };
    };
    // All that is done for a wait but the sample: the kernel does not let it sleep.
    compare("a futex that has changed", PAIRS / 10, u64::MAX / 2, ring, &|| wait(1));
    sample(ring, &|| wait(0));
}

fn several_threads(ring: &'static Ring) {
    let (of_std, of_others) = (Mutex::new(()), parking_lot::Mutex::new(()));
    for threads in [2, 4, 8, 16, 32] {
        contended("std Mutex", threads, ring, &|| drop(of_std.lock().unwrap()));
        contended("parking_lot Mutex", threads, ring, &|| drop(of_others.lock()));
        contended("pthread_mutex", threads, ring, &|| {
            // SAFETY: the mutex is initialised.
            unsafe { libc::pthread_mutex_lock(MUTEX.0.get()) };
            // SAFETY: this thread holds it.
            unsafe { libc::pthread_mutex_unlock(MUTEX.0.get()) };
        });
    }
}

/// What a sample costs, with its stack: by the hooks' own account of their time.
fn sample(ring: &'static Ring, wait: &dyn Fn()) {
    lock::start(config(1, false), ring);
    let (mut best, mut sum) = (u64::MAX, 0);
    let (begin, first) = (Instant::now(), regs::ticks());
    for _ in 0..ROUNDS {
        let before = lock::cost();
        wait();
        let ticks = lock::cost() - before;
        (best, sum) = (best.min(ticks), sum + ticks);
        ring.drain(&mut [0; MAX_STACK_WORDS], |_, _| {});
    }
    let nanos_per_tick = begin.elapsed().as_nanos() as f64 / regs::ticks().wrapping_sub(first) as f64;
    lock::stop();
    let [best, mean] = [best as f64, sum as f64 / ROUNDS as f64].map(|ticks| ticks * nanos_per_tick);
    println!("a sample of a wait, with its stack: {best:.0} ns best, {mean:.0} ns mean");
}

/// How often so many threads take a lock together in a while, with hooks and without in turns.
fn contended(name: &str, threads: usize, ring: &'static Ring, work: &(dyn Fn() + Sync)) {
    let (over, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut with, mut without) = (0, 0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    (0..32).for_each(|_| work());
                    taken.fetch_add(32, Ordering::Relaxed);
                }
            });
        }
        let during = |sum: &mut u64| {
            let before = taken.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
            *sum += taken.load(Ordering::Relaxed) - before;
        };
        let mut buffer = vec![0; MAX_STACK_WORDS];
        for _ in 0..10 {
            during(&mut without);
            lock::start(config(100_000, true), ring);
            during(&mut with);
            lock::stop();
            ring.drain(&mut buffer, |_, _| {});
        }
        over.store(true, Ordering::Relaxed);
    });
    let ratio = with as f64 / without as f64;
    println!("{name}, {threads} threads: taken {ratio:.3} times as often with hooks");
}

fn prepare() -> &'static Ring {
    let (send, facts) = std::sync::mpsc::channel();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        send.send(Facts::here().unwrap()).unwrap();
        let _ = until_done.recv();
    });
    assert!(thread_block::learn(&Facts::here().unwrap(), &facts.recv().unwrap()));
    drop(done);
    other.join().unwrap();
    unwind::refresh();
    assert!(scratch::prepare());
    Box::leak(Box::new(Ring::new(1 << 20).unwrap()))
}
