//! Losses: what a handler had to drop, by reason. Each becomes a visible frame of the profile, so that the totals of
//! CPU time stay true and nobody takes a gap for silence.

use core::sync::atomic::{AtomicU64, Ordering};

/// Why a sample was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Loss {
    /// The ring had no room: our thread did not get to run in time.
    RingFull,
    /// Every scratch buffer was taken: more handlers at once than there are buffers.
    NoScratch,
}

impl Loss {
    /// Every reason, in the order of declaration.
    pub const ALL: [Loss; 2] = [Loss::RingFull, Loss::NoScratch];

    /// The name in the profile's frame and in the statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Loss::RingFull => "lost: ring full",
            Loss::NoScratch => "lost: too many handlers at once",
        }
    }
}

static COUNTS: [Count; Loss::ALL.len()] =
    [const { Count { samples: AtomicU64::new(0), nanos: AtomicU64::new(0) } }; 2];

struct Count {
    samples: AtomicU64,
    nanos: AtomicU64,
}

/// Counts a dropped sample that stood for `samples` periods and `nanos` nanoseconds. For handlers.
pub fn count(loss: Loss, samples: u64, nanos: u64) {
    if let Some(count) = COUNTS.get(loss as usize) {
        count.samples.fetch_add(samples, Ordering::Relaxed);
        count.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// Takes what was lost for a reason since the last call: periods and nanoseconds. Our thread.
pub fn take(loss: Loss) -> (u64, u64) {
    let Some(count) = COUNTS.get(loss as usize) else { return (0, 0) };
    (count.samples.swap(0, Ordering::Relaxed), count.nanos.swap(0, Ordering::Relaxed))
}
