//! The hooks of waits: what Rust's locks and those of C tell, and that taking them out leaves nothing behind.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::lock::{self, Config, Object};
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{ENDED, LOCK_WORDS, Source};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::{scratch, unwind};

#[derive(Default, Debug)]
struct Seen {
    waits: Vec<[u64; LOCK_WORDS]>,
    releases: Vec<u64>,
    deepest: usize,
}

fn drain(ring: &Ring) -> Seen {
    let mut seen = Seen::default();
    ring.drain(&mut [0; MAX_STACK_WORDS], |header, words| {
        if header.source == Source::Lock as u8 {
            seen.waits.push(words[..LOCK_WORDS].try_into().unwrap());
            seen.deepest = seen.deepest.max(words.len() - LOCK_WORDS);
        } else {
            assert_eq!(header.source, Source::Release as u8);
            seen.releases.push(words[0]);
        }
    });
    seen
}

/// One thread holds the lock for `hold`, another one waits for it. Returns how long that waited.
fn contend(hold: Duration) -> Duration {
    let (lock, ready) = (Arc::new(Mutex::new(0)), Arc::new(Barrier::new(2)));
    let holder = thread::spawn({
        let (lock, ready) = (lock.clone(), ready.clone());
        move || {
            let held = lock.lock().unwrap();
            ready.wait();
            thread::sleep(hold);
            drop(held);
        }
    });
    ready.wait();
    let begin = Instant::now();
    *lock.lock().unwrap() += 1;
    let waited = begin.elapsed();
    holder.join().unwrap();
    waited
}

/// One test, since the hooks are one for the process.
#[test]
fn waits_are_told_with_who_ended_them() {
    learn_threads();
    unwind::refresh();
    assert!(scratch::prepare());
    let ring: &'static Ring = Box::leak(Box::new(Ring::new(0).unwrap()));
    let config = Config { threshold: 1_000_000, max_words: 200, c_locks: true };
    let patched = lock::start(config, ring);
    assert!(patched.changed > 0 && patched.refused == 0, "{patched:?}");
    let again = lock::start(config, ring);
    assert_eq!((again.changed, again.unchanged), (0, patched.changed));

    let waited = contend(Duration::from_millis(50));
    let seen = drain(ring);
    // The barrier and the join wait as well.
    let (wait, number) = seen
        .waits
        .iter()
        .filter(|[_, _, _, object, _]| object & !ENDED == Object::Futex as u64)
        .map(|[nanos, _, _, _, number]| (Duration::from_nanos(*nanos), *number))
        .min_by_key(|(nanos, _)| nanos.abs_diff(waited))
        .unwrap();
    assert!(wait.abs_diff(waited) < waited / 10, "{wait:?} of {waited:?}: {seen:?}");
    assert!(seen.releases.contains(&number), "nobody ended {number}: {seen:?}");
    assert!(seen.deepest > 5);
    of_c(ring);

    lock::stop();
    contend(Duration::from_millis(10));
    let (pair, condition) = (Mutex::new(()), Condvar::new());
    let _ = condition.wait_timeout(pair.lock().unwrap(), Duration::from_millis(5)).unwrap();
    let seen = drain(ring);
    assert!(seen.waits.is_empty() && seen.releases.is_empty(), "{seen:?}");
}

fn learn_threads() {
    let (send, facts) = std::sync::mpsc::channel();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        send.send(Facts::here().unwrap()).unwrap();
        let _ = until_done.recv();
    });
    assert!(thread_block::learn(&Facts::here().unwrap(), &facts.recv().unwrap()));
    drop(done);
    other.join().unwrap();
}

/// The locks of C, as this executable calls them.
fn of_c(ring: &'static Ring) {
    struct Shared(std::cell::UnsafeCell<libc::pthread_mutex_t>);
    // SAFETY: a mutex of C is for several threads.
    unsafe impl Sync for Shared {}
    static LOCK: Shared = Shared(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
    // SAFETY: the mutex was initialised.
    assert_eq!(unsafe { libc::pthread_mutex_lock(LOCK.0.get()) }, 0);
    static IS_THERE: AtomicBool = AtomicBool::new(false);
    let other = thread::spawn(|| {
        IS_THERE.store(true, Ordering::SeqCst);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutex_lock(LOCK.0.get()) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(LOCK.0.get()) }, 0);
    });
    while !IS_THERE.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(60));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_mutex_unlock(LOCK.0.get()) }, 0);
    other.join().unwrap();
    let seen = drain(ring);
    let of_lock: Vec<_> =
        seen.waits.iter().filter(|words| words[3] & !ENDED == Object::Mutex as u64).collect();
    assert_eq!(of_lock.len(), 1, "{seen:?}");
    assert!((20_000_000..500_000_000).contains(&of_lock[0][0]), "{seen:?}");
    // Who held it was seen to let it go, and has told.
    assert!(of_lock[0][3] & ENDED != 0 && seen.releases.contains(&of_lock[0][4]), "{seen:?}");
}
