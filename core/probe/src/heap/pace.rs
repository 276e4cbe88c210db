//! When an allocation is sampled: how many bytes each thread has to go until then.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::own::Own;
use crate::poisson;

/// A thread looks after so many bytes whether the settings have changed.
const CHUNK: u64 = 64 << 10;

/// The mean distance of samples in bytes; 0: there are none.
static INTERVAL: AtomicU64 = AtomicU64::new(0);
/// Changes with it. Never 0, so that a thread's first allocation finds that it knows an older one.
static SETTING: AtomicU32 = AtomicU32::new(1);

/// Sets the mean distance of samples in bytes; 0: none are taken. Each thread follows within 64 KiB of its allocations.
pub(super) fn set_interval(bytes: u64) {
    INTERVAL.store(bytes, Ordering::Release);
    let next = |setting: u32| Some(setting.wrapping_add(1).max(1));
    let _ = SETTING.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
}

/// The mean distance of samples in bytes; 0: there are none.
pub(super) fn interval() -> u64 {
    INTERVAL.load(Ordering::Acquire)
}

/// Counts an allocation; true where it has passed the end of the chunk, which is for [`cross`] to judge.
#[inline(always)]
pub(super) fn count(own: &Own, bytes: usize) -> bool {
    let left = own.countdown.get().wrapping_sub(bytes as i64);
    own.countdown.set(left);
    left < 0
}

/// Whether the allocation that has just passed the end of the chunk is one to sample, and then the mean distance in force.
/// Each byte has the same chance to be the one that makes it so, so an allocation of `n` bytes is sampled with the
/// probability `1 - exp(-n / mean)`.
pub(super) fn cross(own: &Own) -> Option<u64> {
    let passed = own.countdown.get().unsigned_abs();
    let setting = SETTING.load(Ordering::Acquire);
    let interval = interval();
    let known = own.setting.replace(setting) == setting;
    if interval == 0 {
        go(own, CHUNK);
        return None;
    }
    // Of a Poisson process nothing that was is remembered: under a new setting, the distance is drawn anew.
    let ahead = if known { own.rest.get() } else { poisson::distance(own.random(), interval) };
    if passed <= ahead {
        go(own, ahead - passed);
        return None;
    }
    go(own, poisson::distance(own.random(), interval));
    Some(interval)
}

/// Makes what the calling thread draws a sequence that is known, from now on. For tests.
pub(super) fn seed(own: &Own, seed: u64) {
    own.seed(seed);
    own.setting.set(0);
    own.countdown.set(0);
}

fn go(own: &Own, bytes: u64) {
    let chunk = bytes.min(CHUNK);
    own.countdown.set(chunk as i64);
    own.rest.set(bytes - chunk);
}
