//! Waits that are no contention, and those that are part of others.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::LabelValue;
use everprof::{Labels, Profiler};

use super::{profile, start, unknown, waits_in};
use crate::common::{by_labels, directory, flush, kind_of, names, remove};

const HOLD: Duration = Duration::from_millis(100);
const NANOS: i64 = 100_000_000;

/// Has somebody call `end` after a while, while `wait` waits for it.
fn until(wait: impl FnOnce(), end: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(HOLD);
            end();
        });
        wait();
    });
}

pub(crate) fn idle_waits() {
    let dir = directory("idle");
    let profiler = start(&dir, &[]);
    let pair = (Mutex::new(false), Condvar::new());
    let notify = || {
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
    };
    until(|| drop(pair.1.wait_while(pair.0.lock().unwrap(), |done| !*done).unwrap()), notify);
    let pair = (parking_lot::Mutex::new(false), parking_lot::Condvar::new());
    let notify = || {
        *pair.0.lock() = true;
        pair.1.notify_all();
    };
    until(|| pair.1.wait_while(&mut pair.0.lock(), |done| !*done), notify);
    let (send, receive) = mpsc::channel();
    until(|| receive.recv().unwrap(), || send.send(()).unwrap());
    let (send, receive) = mpsc::sync_channel(0);
    until(|| send.send(()).unwrap(), move || receive.recv().unwrap());
    let (send, receive) = crossbeam_channel::bounded(1);
    until(|| receive.recv().unwrap(), || send.send(()).unwrap());
    let group = crossbeam_utils::sync::WaitGroup::new();
    let other = group.clone();
    until(|| group.wait(), || drop(other));
    let parker = crossbeam_utils::sync::Parker::new();
    let unparker = parker.unparker().clone();
    until(|| parker.park(), || unparker.unpark());
    let barrier = Barrier::new(2);
    until(|| _ = barrier.wait(), || _ = barrier.wait());
    let (this, done) = (thread::current(), AtomicBool::new(false));
    let parks = || {
        while !done.load(Ordering::SeqCst) {
            thread::park();
        }
    };
    let unparks = || {
        done.store(true, Ordering::SeqCst);
        this.unpark();
    };
    until(parks, unparks);
    thread::spawn(|| thread::sleep(HOLD)).join().unwrap();
    thread::sleep(HOLD);
    let told: i64 = {
        flush(&profiler);
        kind_of(&dir, "lock").iter().map(|lock| lock.totals()[1]).sum()
    };
    assert!(told < NANOS / 10, "{told} ns of contention");
    let block = profile(&profiler, &dir, "block");
    let by_cause = by_labels(&block, ["wait"]);
    // Of `until`, all waits of which are short, the ends of scopes are joins.
    for (cause, times) in [("condition", 3), ("channel", 3), ("barrier", 2), ("park", 1), ("join", 1)] {
        let nanos = by_cause.get(&[cause.to_string()]).copied().unwrap_or_default();
        let expected = times * NANOS;
        assert!(
            (nanos - expected).abs() < expected / 2,
            "{cause}: {nanos} of {expected} ns: {}",
            unknown(&block)
        );
    }
    assert_eq!(by_cause.get(&["unknown".to_string()]), None, "{}", unknown(&block));
    drop(profiler);
    remove(&dir);
}

#[inline(never)]
fn waits_and_relocks(pair: &(Mutex<bool>, Condvar)) {
    drop(pair.1.wait_while(pair.0.lock().unwrap(), |done| !*done).unwrap());
    std::hint::black_box(());
}

#[inline(never)]
fn waits_and_relocks_in_parking_lot(pair: &(parking_lot::Mutex<bool>, parking_lot::Condvar)) {
    pair.1.wait_while(&mut pair.0.lock(), |done| !*done);
    std::hint::black_box(());
}

/// How long it takes to do something, in nanoseconds.
fn nanos_of(work: impl FnOnce()) -> i64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_nanos() as i64
}

/// Who notifies holds the lock on for a while: for that the other one waits then.
pub(crate) fn conditions() {
    let dir = directory("relock");
    let profiler = start(&dir, &[]);
    let (held, waited) = (AtomicI64::new(0), AtomicI64::new(0));
    let pair = (Mutex::new(false), Condvar::new());
    let notify = || {
        let mut lock = pair.0.lock().unwrap();
        *lock = true;
        pair.1.notify_all();
        held.store(nanos_of(|| thread::sleep(HOLD)), Ordering::SeqCst);
    };
    until(|| waited.store(nanos_of(|| waits_and_relocks(&pair)), Ordering::SeqCst), notify);
    let pair = (parking_lot::Mutex::new(false), parking_lot::Condvar::new());
    let notify = || {
        let mut lock = pair.0.lock();
        *lock = true;
        pair.1.notify_all();
        thread::sleep(HOLD);
    };
    let mut in_parking_lot = 0;
    until(|| in_parking_lot = nanos_of(|| waits_and_relocks_in_parking_lot(&pair)), notify);
    let (lock, block) = (profile(&profiler, &dir, "lock"), profile(&profiler, &dir, "block"));
    let about = |[_, told]: [i64; 2], truth: i64| {
        let room = truth / 10 + NANOS / 5;
        assert!((told - truth).abs() < room, "{told} of {truth} ns: {}", unknown(&block));
    };
    about(waits_in(&lock, "waits_and_relocks"), held.load(Ordering::SeqCst));
    about(waits_in(&block, "waits_and_relocks"), waited.load(Ordering::SeqCst));
    // Its condition hands waiters over to the lock, so that they sleep once, and their functions tell the first reason.
    about(waits_in(&block, "waits_and_relocks_in_parking_lot"), in_parking_lot);
    drop(profiler);
    remove(&dir);
}

#[inline(never)]
fn wait_for_once(once: &Once) {
    once.call_once(|| ());
    std::hint::black_box(());
}

#[inline(never)]
fn wait_for_once_lock(once: &OnceLock<()>) {
    once.get_or_init(|| ());
    std::hint::black_box(());
}

#[inline(never)]
fn wait_for_lazy_lock(lazy: &LazyLock<()>) {
    LazyLock::force(lazy);
    std::hint::black_box(());
}

#[inline(never)]
fn wait_for_parking_once(once: &parking_lot::Once) {
    once.call_once(|| ());
    std::hint::black_box(());
}

/// Has a thread initialise something for a while, and this one wait for that.
fn initialise(first: impl FnOnce(&dyn Fn()) + Send, wait: impl FnOnce()) {
    let begun = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            first(&|| {
                begun.wait();
                thread::sleep(HOLD);
            });
        });
        begun.wait();
        wait();
    });
}

pub(crate) fn initialisations() {
    static LAZY: LazyLock<()> = LazyLock::new(|| {
        BEGUN.wait();
        thread::sleep(HOLD);
    });
    static BEGUN: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    let dir = directory("once");
    let profiler = start(&dir, &[]);
    let once = Once::new();
    initialise(|work| once.call_once(work), || wait_for_once(&once));
    let once = OnceLock::new();
    initialise(|work| _ = once.get_or_init(work), || wait_for_once_lock(&once));
    let once = parking_lot::Once::new();
    initialise(|work| once.call_once(work), || wait_for_parking_once(&once));
    thread::scope(|scope| {
        scope.spawn(|| LazyLock::force(&LAZY));
        BEGUN.wait();
        wait_for_lazy_lock(&LAZY);
    });
    let lock = profile(&profiler, &dir, "lock");
    for site in ["wait_for_once", "wait_for_once_lock", "wait_for_lazy_lock", "wait_for_parking_once"] {
        let [count, nanos] = waits_in(&lock, site);
        assert!((NANOS / 2..NANOS * 3).contains(&nanos), "{site}: {nanos} ns");
        assert!((1..=2).contains(&count), "{site}: {count} waits");
    }
    let by_cause = by_labels(&lock, ["wait"]);
    // Of other locks, which a barrier has, moments.
    let others: i64 = by_cause.iter().filter(|(cause, _)| cause[0] != "once").map(|(_, nanos)| nanos).sum();
    assert!(others < NANOS / 10, "{by_cause:?}");
    drop(profiler);
    remove(&dir);
}

async fn wait_for_a_lock_of_tokio(lock: Arc<tokio::sync::Mutex<()>>) {
    drop(lock.lock().await);
}

async fn wait_for_a_permit(permits: Arc<tokio::sync::Semaphore>) {
    drop(permits.acquire().await.unwrap());
}

async fn wait_for_a_reader(lock: Arc<tokio::sync::RwLock<()>>) {
    drop(lock.write().await);
}

fn tasks(dir: &Path) -> Profiler {
    let builder = Profiler::builder().dir(dir).set("kinds", "cpu,wall,lock,block").set("period_s", "3600");
    builder.set("symbolize", "names").set("cpu_budget_percent", "100").start().unwrap()
}

/// A lock of tokio's makes a task wait and no thread: its waits are in the wall profile, with the task's stack, and in no
/// profile of threads' waits.
pub(crate) fn locks_of_tokio() {
    const WAIT: Duration = Duration::from_millis(1500);
    let dir = directory("tokio");
    let profiler = tasks(&dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let readers = Arc::new(tokio::sync::RwLock::new(()));
        let held = (lock.lock().await, permits.acquire().await.unwrap(), readers.read().await);
        let labels = || Labels::new([("task", "waits")]);
        let tasks = [
            tokio::spawn(labels().wrap(wait_for_a_lock_of_tokio(lock.clone()))),
            tokio::spawn(labels().wrap(wait_for_a_permit(permits.clone()))),
            tokio::spawn(labels().wrap(wait_for_a_reader(readers.clone()))),
        ];
        tokio::time::sleep(WAIT).await;
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
    });
    flush(&profiler);
    let wall = kind_of(&dir, "wall").remove(0);
    let awaiting = LabelValue::Text("awaiting".into());
    for function in ["wait_for_a_lock_of_tokio", "wait_for_a_permit", "wait_for_a_reader"] {
        let waits = wall.samples().filter(|sample| {
            let labels = wall.get_labels(sample.labels);
            let is_wait = labels.iter().any(|label| label.key == "state" && label.value == awaiting);
            let stack = names(&wall, wall.get_stack(sample.stack));
            is_wait && stack.iter().any(|name| name.contains(function))
        });
        let nanos: i64 = waits.map(|sample| sample.values[1]).sum();
        let expected = WAIT.as_nanos() as i64;
        assert!((nanos - expected).abs() < expected / 4, "{function}: {nanos} ns");
    }
    let told: i64 = kind_of(&dir, "lock").iter().map(|lock| lock.totals()[1]).sum();
    assert!(told < WAIT.as_nanos() as i64 / 20, "{told} ns of contention of threads");
    drop(profiler);
    remove(&dir);
}
