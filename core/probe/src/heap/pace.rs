//! When an allocation is sampled: how many bytes each thread has to go until then.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::own::Own;
use crate::poisson;

/// A thread looks after so many bytes whether the settings have changed.
const CHUNK: u64 = 64 << 10;

/// The mean distance of samples in bytes; 0: there are none.
static INTERVAL: AtomicU64 = AtomicU64::new(0);

/// Sets the mean distance of samples in bytes; 0: none are taken. Each thread follows within 64 KiB of its allocations.
pub(super) fn set_interval(bytes: u64) {
    INTERVAL.store(bytes, Ordering::Release);
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

/// Whether the allocation that has just passed the end of the chunk is one to sample, and then the mean distance that it is a
/// sample by. Each byte has the same chance to be the one that makes it so, so an allocation of `n` bytes is sampled with
/// the probability `1 - exp(-n / mean)`.
///
/// The mean by which a distance was drawn holds to the end of the chunk at hand, whatever is set meanwhile: were it drawn anew
/// there, the sample that was due would be lost, and with it what it stands for, of each thread at each change.
pub(super) fn cross(own: &Own) -> Option<u64> {
    let passed = own.countdown.get().unsigned_abs();
    let interval = interval();
    let drawn_by = own.mean.replace(interval);
    let mean = if drawn_by == 0 { interval } else { drawn_by };
    if mean == 0 {
        go(own, CHUNK);
        return None;
    }
    // Of a Poisson process nothing that was is remembered: it may begin at any time, also with a thread's first allocation.
    let ahead = if drawn_by == 0 { poisson::distance(own.random(), interval) } else { own.rest.get() };
    let is_sample = passed > ahead;
    let next = match interval {
        0 => CHUNK,
        _ if is_sample || mean != interval => poisson::distance(own.random(), interval),
        _ => ahead - passed,
    };
    go(own, next);
    is_sample.then_some(mean)
}

/// Makes what the calling thread draws a sequence that is known, from now on. For tests.
pub(super) fn seed(own: &Own, seed: u64) {
    own.seed(seed);
    own.mean.set(0);
    own.countdown.set(0);
}

fn go(own: &Own, bytes: u64) {
    let chunk = bytes.min(CHUNK);
    own.countdown.set(chunk as i64);
    own.rest.set(bytes - chunk);
}
