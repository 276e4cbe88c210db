//! Chance, for the phases of timers and looks: never in step with what the host does by the clock.

use everprof_probe::os::monotonic;

/// Random numbers for the phases of timers: SplitMix64 (Steele, Lea, Flood 2014), seeded by the standard library's
/// random keys.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(monotonic()))
    }

    /// When a timer of that period expires first. The kernel looks at it at each tick only, so that what is sampled lies
    /// half a tick behind the expiry on average: without this, the beginning of each thread would get less than its part,
    /// which tells in threads that live for a few ticks.
    pub(super) fn first(&mut self, period: u32, tick: u64) -> u32 {
        let late = u32::try_from(tick / 2).unwrap_or(u32::MAX);
        self.below(period).saturating_sub(late).max(1)
    }

    /// A number from 1 to `limit`.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((word ^ (word >> 31)) >> 32) * u64::from(limit)) >> 32) as u32 + 1
    }
}
