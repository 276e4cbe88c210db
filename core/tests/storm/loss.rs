//! What is lost is told: as a frame of the profile, with its weight, so that totals stay.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use everprof::profile::Profile;
use everprof_probe::os::{Clock, gettid};
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::scratch;
use everprof_probe::thread::Slot;

use crate::common::{profiles, time_in};
use crate::forge::{expire_until, timed_slot, unbounded};

static STOP: AtomicBool = AtomicBool::new(false);
static RELEASE: AtomicBool = AtomicBool::new(false);

#[inline(never)]
fn lossy_spin() {
    while !STOP.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// Nanoseconds that this process has used.
fn used() -> i64 {
    Clock::Process.now().unwrap() as i64
}

/// Samples a spinning thread while `during` has its way; the profile must tell every nanosecond that the process used,
/// though the signals that `during` makes up stand for far more.
fn lose(name: &str, frame: &str, during: impl FnOnce(&'static Slot)) {
    let (profiler, dir) = unbounded(name, 1000);
    let begin = used();
    let (send, tid) = mpsc::channel();
    let spinner = thread::spawn(move || {
        send.send(gettid()).unwrap();
        lossy_spin();
    });
    let slot = timed_slot(tid.recv().unwrap());
    during(slot);
    expire_until(&[slot], 10);
    let before = used() - begin;
    crate::common::flush(&profiler);
    let after = used() - begin;
    let stats = profiler.stats();
    STOP.store(true, Ordering::Relaxed);
    spinner.join().unwrap();
    crate::common::stop(profiler);
    let whole: Vec<Profile> = profiles(&dir);
    let first = whole.iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    let (lost, kept) = (time_in(first, frame), time_in(first, "lossy_spin"));
    println!(
        "{name}: lost {lost} ns in {} periods, kept {kept} ns, total {} of {before}..{after} ns used",
        stats.lost,
        first.totals()[1]
    );
    // Samples of the process-wide timer are lost without time.
    assert!(lost > 0 && kept > 0 && lost <= stats.lost as i64 * 1_000_000, "{stats:?}");
    // The profiler's start, some milliseconds, is in the total as well.
    let total = first.totals()[1];
    let bounds = before - before / 50..=after + 100_000_000;
    assert!(bounds.contains(&total), "{total} is not within {before}..{after}");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The drain waits for the loader's lock, which somebody holds for long, until the rings are full.
pub(crate) fn full_ring_is_told() {
    lose("ring-full", "lost: ring full", |slot| {
        let holder = thread::spawn(|| {
            unsafe extern "C" fn hold(_: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
                while !RELEASE.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                1
            }
            // SAFETY: the callback has the right type, and ends.
            unsafe { libc::dl_iterate_phdr(Some(hold), std::ptr::null_mut()) };
        });
        thread::sleep(Duration::from_millis(300));
        expire_until(&[slot], 10_000);
        RELEASE.store(true, Ordering::Relaxed);
        holder.join().unwrap();
        // Until the drain has emptied the rings.
        thread::sleep(Duration::from_millis(500));
    });
}

/// Every buffer is taken, as if as many handlers had lost the processor in their middle.
pub(crate) fn no_scratch_is_told() {
    lose("no-scratch", "lost: too many handlers at once", |slot| {
        let mut taken: Vec<_> = std::iter::from_fn(|| scratch::claim(0)).collect();
        assert!(taken.iter_mut().all(|scratch| scratch.parts().1.len() == MAX_STACK_WORDS));
        expire_until(&[slot], 1_000);
        taken.clear();
    });
}
