//! A handler that jumps out of the middle of a sample.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use everprof_probe::{lock, sampling, scratch};

use super::c::{Library, compile};
use super::waits::{drain, prepare};
use super::{config, directory, remove};

/// Samples that are left before it is enough.
const LEFT: u64 = 100;

static JUMPS: AtomicU64 = AtomicU64::new(0);

/// Asked after each jump.
extern "C" fn enough() -> i32 {
    let jumps = JUMPS.fetch_add(1, Ordering::Relaxed);
    i32::from(sampling::taken_over() >= LEFT || jumps > 200_000)
}

pub(crate) fn jumps_leave_nothing_behind() {
    let dir = directory("jumps");
    let library = compile(&dir, "jumps", include_str!("jumps.c"), &["-pthread"]);
    let library = Library::open(&library, libc::RTLD_NOW);
    // SAFETY: the type that it has there.
    let jumps: extern "C" fn(extern "C" fn() -> i32) -> i64 = unsafe { library.find("jumps") };
    // SAFETY: as above.
    let waits: extern "C" fn(i64) = unsafe { library.find("waits") };
    // SAFETY: as above.
    let waits_below: extern "C" fn(i64) = unsafe { library.find("waits_below") };
    let ring = prepare();
    // Each wait is a sample.
    lock::start(config(1), ring);
    thread::spawn(move || {
        assert!(jumps(enough) > 0);
        assert!(sampling::taken_over() >= LEFT, "{} jumps", JUMPS.load(Ordering::Relaxed));
        drain(ring);
        // It goes on being sampled, and is not held up by what was left; the last sample too may have been left.
        waits_below(50);
        waits(50);
        let told = drain(ring);
        let lost = lock::take_lost();
        assert!(told.waits.len() >= 95, "{} of 100 waits, {lost:?} lost", told.waits.len());
    })
    .join()
    .unwrap();
    drain(ring);
    // As are others.
    thread::spawn(move || waits(100)).join().unwrap();
    let told = drain(ring);
    assert!(told.waits.len() >= 100, "{} of 100 waits", told.waits.len());
    // Nothing is claimed any more.
    assert!((0..100).any(|_| {
        thread::sleep(Duration::from_millis(1));
        scratch::idle()
    }));
    lock::stop();
    remove(&dir);
}
