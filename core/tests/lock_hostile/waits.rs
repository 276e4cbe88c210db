//! Threads that wait in all ways, and what the hooks tell of them.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{LOCK_WORDS, Source};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::{scratch, unwind};

/// What was in a ring.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) waits: Vec<[u64; LOCK_WORDS]>,
    pub(crate) releases: u64,
}

impl Told {
    pub(crate) fn add(&mut self, more: Told) {
        self.waits.extend(more.waits);
        self.releases += more.releases;
    }
}

pub(crate) fn drain(ring: &Ring) -> Told {
    let mut told = Told::default();
    ring.drain(&mut vec![0; MAX_STACK_WORDS], |header, words| {
        if header.source == Source::Lock as u8 {
            assert!(words.len() > LOCK_WORDS, "a wait without a stack");
            told.waits.push(words[..LOCK_WORDS].try_into().unwrap());
        } else if header.source != 0 {
            // One of no source is a sample that was never made.
            assert_eq!(header.source, Source::Release as u8);
            told.releases += 1;
        }
    });
    told
}

/// What the probe needs before waits can be sampled, which the profiler does otherwise.
pub(crate) fn prepare() -> &'static Ring {
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

/// Sleeps until the time is over: nobody wakes the word.
pub(crate) fn futex_wait(word: &AtomicU32, time: Duration) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.as_nanos() as _ };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word and the time are live.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 0, &raw const time) };
}

/// A mutex of C.
pub(crate) struct OfC(UnsafeCell<libc::pthread_mutex_t>);
// SAFETY: a mutex of C is for several threads.
unsafe impl Sync for OfC {}

/// It is held.
pub(crate) struct Held<'l>(&'l OfC);

impl OfC {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER))
    }

    pub(crate) fn lock(&self) -> Held<'_> {
        // SAFETY: the mutex is initialised.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.0.get()) }, 0);
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: this thread holds it.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.0.0.get()) }, 0);
    }
}

/// The calling thread's `errno`.
pub(crate) fn errno() -> &'static mut i32 {
    // SAFETY: always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the calling thread's own value, of which no reference is kept.
    unsafe { &mut *errno }
}

/// Runs `work`, which leaves `errno` as it is.
pub(crate) fn with_errno(number: i32, work: impl FnOnce()) {
    *errno() = number;
    work();
    assert_eq!(*errno(), number);
}

/// What a thread does until it is over; it counts its turns.
pub(crate) type Work = fn(&AtomicBool, &AtomicU64);

pub(crate) const ALL: [Work; 4] = [on_mutexes, on_conditions, on_mutexes_of_c, on_parking_lot];

fn turn(over: &AtomicBool, turns: &AtomicU64) -> bool {
    turns.fetch_add(1, Ordering::SeqCst);
    !over.load(Ordering::SeqCst)
}

fn on_mutexes(over: &AtomicBool, turns: &AtomicU64) {
    static LOCK: Mutex<u64> = Mutex::new(0);
    while turn(over, turns) {
        let mut held = LOCK.lock().unwrap();
        *held += 1;
        thread::sleep(Duration::from_micros(20));
    }
}

fn on_parking_lot(over: &AtomicBool, turns: &AtomicU64) {
    static LOCK: parking_lot::Mutex<u64> = parking_lot::Mutex::new(0);
    while turn(over, turns) {
        let mut held = LOCK.lock();
        *held += 1;
        thread::sleep(Duration::from_micros(20));
    }
}

fn on_mutexes_of_c(over: &AtomicBool, turns: &AtomicU64) {
    static LOCK: OfC = OfC::new();
    while turn(over, turns) {
        let held = LOCK.lock();
        thread::sleep(Duration::from_micros(20));
        drop(held);
    }
}

fn on_conditions(over: &AtomicBool, turns: &AtomicU64) {
    static PAIR: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());
    while turn(over, turns) {
        let mut held = PAIR.0.lock().unwrap();
        *held += 1;
        PAIR.1.notify_one();
        drop(PAIR.1.wait_timeout(held, Duration::from_micros(200)).unwrap());
    }
}
