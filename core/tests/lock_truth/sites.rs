//! Twenty locks of all kinds, each with a time of its own for which it is held.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::{profile, start, unknown, waits_in};
use crate::common::{directory, remove};

/// Waits that the program has timed: nanoseconds, and how many took longer than [`LONG`]; and for how long it was ready to run
/// meanwhile and had no processor, which is waiting for the lock only in part.
#[derive(Default)]
struct Truth {
    nanos: AtomicU64,
    long: AtomicU64,
    ready: AtomicU64,
}

const LONG: Duration = Duration::from_micros(300);

/// Takes a lock of its own, and holds it for so long.
type Site = fn(hold: Duration, truth: &Truth);

fn timed<T>(truth: &Truth, take: impl FnOnce() -> T) -> T {
    let ready = ready();
    let begin = Instant::now();
    let held = take();
    let waited = begin.elapsed();
    truth.ready.fetch_add(self::ready().saturating_sub(ready), Ordering::Relaxed);
    truth.nanos.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
    truth.long.fetch_add(u64::from(waited > LONG), Ordering::Relaxed);
    held
}

/// Nanoseconds that the calling thread was ready to run and had no processor: the second number of `schedstat`.
fn ready() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    told.split(' ').nth(1).and_then(|nanos| nanos.parse().ok()).unwrap_or_default()
}

/// A lock of C with the face of one of Rust.
struct OfC<T>(UnsafeCell<T>);
// SAFETY: locks of C are for several threads.
unsafe impl<T> Sync for OfC<T> {}

static C_MUTEXES: [OfC<libc::pthread_mutex_t>; 2] =
    [const { OfC(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)) }; 2];
static C_RWLOCKS: [OfC<libc::pthread_rwlock_t>; 2] =
    [const { OfC(UnsafeCell::new(libc::PTHREAD_RWLOCK_INITIALIZER)) }; 2];

fn c_mutex(number: usize, hold: Duration, truth: &Truth) {
    let lock = C_MUTEXES[number].0.get();
    // SAFETY: the mutex is initialised and static.
    assert_eq!(timed(truth, || unsafe { libc::pthread_mutex_lock(lock) }), 0);
    thread::sleep(hold);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_mutex_unlock(lock) }, 0);
}

fn c_rwlock(number: usize, hold: Duration, truth: &Truth) {
    let lock = C_RWLOCKS[number].0.get();
    // SAFETY: the lock is initialised and static.
    assert_eq!(timed(truth, || unsafe { libc::pthread_rwlock_wrlock(lock) }), 0);
    thread::sleep(hold);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_rwlock_unlock(lock) }, 0);
}

macro_rules! sites {
    ($($name:ident: $($lock:ident)::+ $take:ident $($unwrap:ident)?;)+) => {
        $(#[inline(never)]
        fn $name(hold: Duration, truth: &Truth) {
            static LOCK: $($lock)::+<()> = $($lock)::+::new(());
            let held = timed(truth, || LOCK.$take()$(.$unwrap())?);
            thread::sleep(hold);
            drop(held);
            std::hint::black_box(stringify!($name));
        })+
        const OF_RUST: &[(&str, Site)] = &[$((stringify!($name), $name)),+];
    };
}

sites! {
    s00: Mutex lock unwrap; s01: Mutex lock unwrap; s02: Mutex lock unwrap; s03: Mutex lock unwrap;
    s04: RwLock write unwrap; s05: RwLock write unwrap; s06: RwLock write unwrap;
    s07: parking_lot::Mutex lock; s08: parking_lot::Mutex lock; s09: parking_lot::Mutex lock;
    s10: parking_lot::RwLock write; s11: parking_lot::RwLock write;
    s12: parking_lot::FairMutex lock; s13: parking_lot::ReentrantMutex lock;
    s14: parking_lot::FairMutex lock; s15: parking_lot::ReentrantMutex lock;
}

#[inline(never)]
fn s16(hold: Duration, truth: &Truth) {
    c_mutex(0, hold, truth);
}

#[inline(never)]
fn s17(hold: Duration, truth: &Truth) {
    c_mutex(1, hold, truth);
    std::hint::black_box(1);
}

#[inline(never)]
fn s18(hold: Duration, truth: &Truth) {
    c_rwlock(0, hold, truth);
}

#[inline(never)]
fn s19(hold: Duration, truth: &Truth) {
    c_rwlock(1, hold, truth);
    std::hint::black_box(1);
}

const OF_C: &[(&str, Site)] = &[("s16", s16), ("s17", s17), ("s18", s18), ("s19", s19)];

fn hold_of(site: usize) -> Duration {
    Duration::from_micros(500 + 100 * site as u64)
}

/// Has so many threads take each lock so many times.
fn take_all(threads: usize, rounds: u32) -> Vec<(&'static str, Truth)> {
    let sites: Vec<(&str, Site)> = OF_RUST.iter().chain(OF_C).copied().collect();
    let truths: Vec<Truth> = sites.iter().map(|_| Truth::default()).collect();
    // A barrier has a lock of its own, for which its threads fight when it opens.
    let arrived = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for (number, (_, site)) in sites.iter().enumerate() {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < threads * (number + 1) {
                        thread::sleep(Duration::from_micros(200));
                    }
                    (0..rounds).for_each(|_| site(hold_of(number), &truths[number]));
                }
            });
        }
    });
    sites.into_iter().map(|(name, _)| name).zip(truths).collect()
}

pub(crate) fn contend(threads: usize, rounds: u32) {
    let dir = directory(&format!("truth-{threads}"));
    let profiler = start(&dir, &[]);
    let sites = take_all(threads, rounds);
    let [lock, mutex] =
        ["lock", "mutex"].map(|kind| if threads == 1 { None } else { Some(profile(&profiler, &dir, kind)) });
    let (Some(lock), Some(mutex)) = (lock, mutex) else {
        profiler.flush().unwrap();
        let told: i64 = crate::common::kind_of(&dir, "lock").iter().map(|lock| lock.totals()[1]).sum();
        assert_eq!(told, 0);
        drop(profiler);
        return remove(&dir);
    };
    let takes = (threads as u32 * rounds) as f64;
    let mut sum = 0;
    for (name, truth) in &sites {
        let nanos = truth.nanos.load(Ordering::Relaxed) as f64;
        let [count, told] = waits_in(&lock, name);
        // The program's clock runs while it looks at it and while it spins, some microseconds each time; and while others
        // run instead, of whom there are more than processors.
        let ready = truth.ready.load(Ordering::Relaxed) as f64;
        let room = 0.05 * nanos + 15_000.0 * takes * (2.0 + threads as f64) + ready;
        assert!((told as f64 - nanos).abs() <= room, "{name}: {told} of {nanos} ns, {threads} threads");
        // Who held it lets it go before the other one knows.
        let [_, ended] = waits_in(&mutex, name);
        let room = 0.05 * told as f64 + 1_000_000.0;
        assert!((ended - told).abs() as f64 <= room, "{name}: {ended} of {told} ns by who held it");
        // Short waits count as many: some are there that the program does not count.
        let long = truth.long.load(Ordering::Relaxed) as f64;
        let room = 0.15 * long + 3.0 * takes.sqrt();
        assert!(count as f64 >= long - room, "{name}: {count} of {long} waits");
        if OF_RUST[..4].iter().any(|(of_std, _)| of_std == name) {
            assert!(count as f64 <= takes + room, "{name}: {count} waits of {takes}");
        }
        sum += told;
    }
    let elsewhere = lock.totals()[1] - sum;
    assert!(elsewhere < 20_000_000, "{elsewhere} ns of contention where there is none");
    assert_eq!(profiler.stats().lock_lost, 0);
    drop(profiler);
    remove(&dir);
}

/// `c_locks=off`: Rust's locks are seen, those of C are not touched.
pub(crate) fn without_c() {
    let dir = directory("without_c");
    let words = c_slots();
    let profiler = start(&dir, &[("c_locks", "off")]);
    assert_eq!(c_slots(), words);
    let sites = take_all(2, 2);
    let lock = profile(&profiler, &dir, "lock");
    for (name, truth) in &sites {
        let nanos = truth.nanos.load(Ordering::Relaxed) as f64;
        let [_, told] = waits_in(&lock, name);
        let is_of_c = OF_C.iter().any(|(of_c, _)| of_c == name);
        let expected = if is_of_c { 0.0 } else { nanos };
        assert!(
            (told as f64 - expected).abs() <= 0.05 * nanos + 300_000.0,
            "{name}: {told} of {nanos} ns, {}",
            unknown(&profile(&profiler, &dir, "block"))
        );
    }
    drop(profiler);
    remove(&dir);
}

/// The address that this program calls for a mutex of C.
fn c_slots() -> usize {
    let lock: unsafe extern "C" fn(*mut libc::pthread_mutex_t) -> i32 = libc::pthread_mutex_lock;
    std::hint::black_box(lock) as usize
}
