//! Truth of the profiles of waits for locks, in a program that times its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Condvar, Mutex, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::{Kind, Profile};
use everprof::{Profiler, store};

const THREADS: usize = 4;
const ROUNDS: u32 = 8;

/// Takes a lock of its own, holds it for so long, and adds to `waited` how long it took to get.
type Site = fn(hold: Duration, waited: &AtomicU64);

fn timed<T>(waited: &AtomicU64, take: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let held = take();
    waited.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
    held
}

macro_rules! sites {
    ($($name:ident: $lock:ident $take:ident;)+) => {
        $(#[inline(never)]
        fn $name(hold: Duration, waited: &AtomicU64) {
            static LOCK: $lock<()> = $lock::new(());
            let held = timed(waited, || LOCK.$take().unwrap());
            thread::sleep(hold);
            drop(held);
            std::hint::black_box(stringify!($name));
        })+
        const SITES: &[(&str, Site)] = &[$((stringify!($name), $name)),+];
    };
}

sites! {
    s00: Mutex lock; s01: Mutex lock; s02: Mutex lock; s03: Mutex lock; s04: Mutex lock;
    s05: Mutex lock; s06: Mutex lock; s07: Mutex lock; s08: Mutex lock; s09: Mutex lock;
    s10: RwLock write; s11: RwLock write; s12: RwLock write; s13: RwLock write; s14: RwLock write;
    s15: RwLock write; s16: RwLock write; s17: RwLock write; s18: RwLock write; s19: RwLock write;
}

fn hold_of(site: usize) -> Duration {
    Duration::from_micros(500 + 250 * site as u64)
}

/// Waits and nanoseconds by the site in the stack.
fn by_site(profile: &Profile) -> BTreeMap<String, [i64; 2]> {
    let mut sums: BTreeMap<String, [i64; 2]> = BTreeMap::new();
    for sample in profile.samples() {
        let lines = profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines);
        let mut names = lines.map(|line| profile.text(profile.get_function(line.function).name));
        let known = |name: &&str| name.starts_with('s') && SITES.iter().any(|(site, _)| site == name);
        let site = names.find_map(|name| name.rsplit("::").next().filter(known)).unwrap_or("elsewhere");
        let sum = sums.entry(site.to_owned()).or_default();
        *sum = [sum[0] + sample.values[0], sum[1] + sample.values[1]];
    }
    sums
}

fn profile(dir: &Path, kind: Kind) -> Profile {
    let found = store::list(dir, &store::Query::default().kind(kind.name())).unwrap();
    store::read(&found[0].path).unwrap()
}

/// Waits that are no contention: a condition, a channel, a parked thread, a join.
fn idle() {
    let (pair, done) = ((Mutex::new(false), Condvar::new()), AtomicBool::new(false));
    let (send, receive) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (lock, condition) = &pair;
            drop(condition.wait_while(lock.lock().unwrap(), |ready| !*ready).unwrap());
        });
        scope.spawn(move || receive.recv().unwrap());
        let parked = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                thread::park();
            }
        });
        thread::sleep(Duration::from_millis(300));
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
        send.send(()).unwrap();
        done.store(true, Ordering::SeqCst);
        parked.thread().unpark();
    });
}

#[test]
fn sites_are_told_as_long_as_they_waited() {
    let dir = std::env::temp_dir().join(format!("everprof-test-{}-lock", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let builder = Profiler::builder().dir(&dir).set("kinds", "lock,mutex,block").set("period_s", "3600");
    let profiler = builder.start().unwrap();
    assert_eq!(profiler.stats().last_problem, None);
    let waited: Vec<AtomicU64> = SITES.iter().map(|_| AtomicU64::new(0)).collect();
    let begin = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for (number, (_, site)) in SITES.iter().enumerate() {
                    begin.wait();
                    (0..ROUNDS).for_each(|_| site(hold_of(number), &waited[number]));
                }
            });
        }
    });
    idle();
    // On a machine with much to do, names take longer than a flush waits for them.
    assert!((0..30).any(|_| profiler.flush().is_ok()));
    let (lock, mutex, block) =
        (profile(&dir, Kind::Lock), profile(&dir, Kind::Mutex), profile(&dir, Kind::Block));
    let (by_waiter, by_holder) = (by_site(&lock), by_site(&mutex));
    for (number, (name, _)) in SITES.iter().enumerate() {
        let truth = waited[number].load(Ordering::Relaxed) as f64;
        let told = by_waiter.get(*name).map_or(0.0, |sum| sum[1] as f64);
        // The clock of the program runs while it looks at it, at most some microseconds for each time.
        let room = 0.05 * truth + 20_000.0 * f64::from(ROUNDS) * THREADS as f64;
        assert!((told - truth).abs() <= room, "{name}: {told} of {truth} ns");
        let ended = by_holder.get(*name).map_or(0.0, |sum| sum[1] as f64);
        assert!(
            (ended - told).abs() <= 0.05 * told + 1_000_000.0,
            "{name}: {ended} of {told} ns by who held it"
        );
    }
    let elsewhere = by_waiter.get("elsewhere").map_or(0, |sum| sum[1]);
    assert!(elsewhere < 50_000_000, "{elsewhere} ns of contention where there is none");
    // Three waits of 300 ms.
    assert!(block.totals()[1] - lock.totals()[1] > 850_000_000, "{:?} {:?}", block.totals(), lock.totals());
    std::fs::remove_dir_all(dir).unwrap();
}
