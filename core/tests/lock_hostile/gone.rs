//! Locks that are gone as soon as they were given back: who has them next frees them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::lock;
use everprof_probe::sample::ENDED;

use super::config;
use super::waits::{drain, prepare};

const ROUNDS: u64 = 300;
const LEN: usize = 4096;

/// A page with a mutex at its beginning.
fn page() -> usize {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), LEN, protection, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: room for a mutex, which nobody knows yet.
    assert_eq!(unsafe { libc::pthread_mutex_init(page.cast(), std::ptr::null()) }, 0);
    page as usize
}

fn lock(page: usize) {
    // SAFETY: there is a mutex.
    assert_eq!(unsafe { libc::pthread_mutex_lock(page as *mut libc::pthread_mutex_t) }, 0);
}

fn unlock(page: usize) {
    // SAFETY: the calling thread holds it.
    assert_eq!(unsafe { libc::pthread_mutex_unlock(page as *mut libc::pthread_mutex_t) }, 0);
}

pub(crate) fn mutexes_are_gone() {
    let ring = prepare();
    lock::start(config(1), ring);
    let (mut ended, mut releases) = (0, 0);
    let waited = AtomicU64::new(0);
    for _ in 0..ROUNDS {
        let page = page();
        lock(page);
        let is_there = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                is_there.store(true, Ordering::SeqCst);
                let begin = Instant::now();
                lock(page);
                waited.fetch_add(u64::from(begin.elapsed() > Duration::from_micros(200)), Ordering::Relaxed);
                unlock(page);
                // SAFETY: who had it before gave it back, and nobody else knows it.
                assert_eq!(unsafe { libc::munmap(page as *mut libc::c_void, LEN) }, 0);
            });
            while !is_there.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            thread::sleep(Duration::from_micros(500));
            unlock(page);
        });
        let told = drain(ring);
        ended += told.waits.iter().filter(|[.., object, _]| object & ENDED != 0).count() as u64;
        releases += told.releases;
    }
    lock::stop();
    let waited = waited.load(Ordering::Relaxed);
    assert!(waited > ROUNDS / 2, "{waited} waits");
    assert!(ended >= waited * 9 / 10 && releases >= waited * 9 / 10, "{ended} {releases} of {waited}");
}
