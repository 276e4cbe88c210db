//! Locks that a runtime makes of semaphores: what a wait was for, its own frames tell; and the lock by which its threads take turns.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use everprof::Profiler;
use everprof::profile::{Label, Profile};
use everprof::symbolize::runtime::{self, FrameNames, RuntimeFrame, RuntimeLabel, RuntimeWait, StackFrame};
use everprof_probe::memory::StackMemory;
use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, Cursor, FrameSource, Frames, Step};

use common::{directory, kind_of, names, stop};

const KIND: u8 = 11;
const HOLD: Duration = Duration::from_millis(60);
const TURN: RuntimeLabel = ("turn", "waiting");

/// The function that the toy runs on all threads.
static RUNS: AtomicU64 = AtomicU64::new(0);
const TAKES_LOCK: u64 = 1;
const ASKS_FOR_WORK: u64 = 2;

struct Toy;

// SAFETY: reads an atomic.
unsafe impl FrameSource for Toy {
    fn owns(&self, _: u64) -> bool {
        false
    }

    fn begin(&self, _: &Regs, _: &mut Cursor) {}

    fn step(&self, _: &mut Cursor, _: &mut Regs, _: &StackMemory, _: &mut Frames<'_>) -> Step {
        Step::Native
    }

    fn end(&self, _: &mut Cursor, _: &StackMemory, out: &mut Frames<'_>) {
        out.push_runtime(KIND, RUNS.load(Ordering::Relaxed), 7);
    }
}

impl FrameNames for Toy {
    fn name(&self, payload: u64, _: u64) -> Option<RuntimeFrame> {
        Some(RuntimeFrame { name: format!("toy_{payload}"), ..RuntimeFrame::default() })
    }

    fn label_of_turn(&self, address: u64) -> Option<RuntimeLabel> {
        (address == SHARED.turn.get() as u64).then_some(TURN)
    }

    fn wait(&self, stack: &[StackFrame]) -> Option<RuntimeWait> {
        assert!(matches!(stack.first(), Some(StackFrame::Native(_))), "the caller comes first: {stack:?}");
        stack.iter().find_map(|frame| match frame {
            StackFrame::Runtime(TAKES_LOCK, 7) => Some(RuntimeWait::Lock),
            StackFrame::Runtime(ASKS_FOR_WORK, 7) => Some(RuntimeWait::Channel),
            _ => None,
        })
    }
}

struct Shared {
    semaphore: UnsafeCell<libc::sem_t>,
    lock: UnsafeCell<libc::pthread_mutex_t>,
    turn: UnsafeCell<libc::pthread_cond_t>,
}

// SAFETY: objects of C's that are for several threads.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared {
    // SAFETY: all zeros are a semaphore of 0 for the threads of a process.
    semaphore: UnsafeCell::new(unsafe { std::mem::zeroed() }),
    lock: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
    turn: UnsafeCell::new(libc::PTHREAD_COND_INITIALIZER),
};

#[inline(never)]
fn waiter() {
    // SAFETY: a semaphore that lives.
    while unsafe { libc::sem_wait(SHARED.semaphore.get()) } != 0 {}
    std::hint::black_box(());
}

#[inline(never)]
fn holder() {
    thread::sleep(HOLD);
    // SAFETY: as above.
    unsafe { libc::sem_post(SHARED.semaphore.get()) };
    std::hint::black_box(());
}

#[inline(never)]
fn takes_turn() {
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + HOLD;
    let until = libc::timespec { tv_sec: until.as_secs() as i64, tv_nsec: i64::from(until.subsec_nanos()) };
    // SAFETY: a mutex that lives.
    unsafe { libc::pthread_mutex_lock(SHARED.lock.get()) };
    // SAFETY: this thread has the mutex, and both live.
    unsafe { libc::pthread_cond_timedwait(SHARED.turn.get(), SHARED.lock.get(), &raw const until) };
    // SAFETY: as above.
    unsafe { libc::pthread_mutex_unlock(SHARED.lock.get()) };
}

fn wait_for(what: u64) {
    RUNS.store(what, Ordering::SeqCst);
    thread::scope(|scope| {
        scope.spawn(waiter);
        holder();
    });
}

/// Milliseconds in a function, by this label.
fn millis(profiles: &[Profile], function: &str, label: (&str, &str)) -> i64 {
    let mut nanos = 0;
    for profile in profiles {
        for sample in profile.samples() {
            let has_label = profile.get_labels(sample.labels).contains(&Label::text(label.0, label.1));
            let stack = names(profile, profile.get_stack(sample.stack));
            let is_in = stack.iter().any(|name| name.rsplit("::").next() == Some(function));
            nanos += if has_label && is_in { sample.values[1] } else { 0 };
        }
    }
    nanos / 1_000_000
}

#[test]
fn a_runtime_tells_what_a_semaphore_is_for() {
    assert!(unwind::set_source(KIND, &Toy));
    runtime::register(KIND, Arc::new(Toy)).unwrap();
    let dir = directory("lock-runtime");
    let builder = Profiler::builder().dir(&dir).set("kinds", "lock,mutex,block,gil").set("period_s", "3600");
    let profiler = builder.start().unwrap();
    assert_eq!(profiler.stats().last_problem, None);
    [TAKES_LOCK, ASKS_FOR_WORK, 3].into_iter().for_each(wait_for);
    takes_turn();
    stop(profiler);
    unwind::unset_source(KIND);
    let [lock, mutex, block] = ["lock", "mutex", "block"].map(|kind| kind_of(&dir, kind));
    let hold = HOLD.as_millis() as i64;
    // A thread that begins late has waited less.
    let seen = |millis: i64| (hold / 2..hold * 20).contains(&millis);
    for (profiles, function) in [(&lock, "waiter"), (&block, "waiter"), (&mutex, "holder")] {
        let told = millis(profiles, function, ("wait", "mutex"));
        assert!(seen(told), "{function}: {told} ms");
        assert!(millis(profiles, "toy_1", ("wait", "mutex")) > 0, "{function} without the toy's frame");
    }
    for wait in ["channel", "semaphore"] {
        let told = millis(&block, "waiter", ("wait", wait));
        assert!(seen(told), "{wait}: {told} ms");
        assert_eq!(millis(&lock, "waiter", ("wait", wait)) + millis(&mutex, "holder", ("wait", wait)), 0);
    }
    let told = millis(&block, "takes_turn", TURN);
    assert!(seen(told), "{told} ms");
    assert_eq!(millis(&lock, "takes_turn", TURN), 0);
    // A wait that ended by its time goes on in the next one.
    let turns = kind_of(&dir, "gil");
    let sum = |value: usize| turns.iter().map(|gil| gil.totals()[value]).sum::<i64>();
    assert_eq!([sum(0), sum(1) / 1_000_000], [0, told]);
    std::fs::remove_dir_all(dir).unwrap();
}
