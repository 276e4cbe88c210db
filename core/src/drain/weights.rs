//! What samples stand for in the end: brought to what their threads have used.

use std::collections::HashMap;

use super::book::part_of;
use super::period::Period;
use crate::aggregate::{Key, Sums};

/// What samples stand for in the end, so that those of each thread stand for what it has used.
pub(super) struct Weights<'p> {
    period: &'p Period,
    /// Nanoseconds that the samples of a thread stand for by themselves.
    by_thread: HashMap<u32, u64>,
    /// Nanoseconds of unmet threads that samples of discovered ones speak for, by themselves.
    discovered: u64,
}

impl<'p> Weights<'p> {
    /// Of a closed period.
    pub(super) fn of(period: &'p Period) -> Self {
        let mut weights = Self { period, by_thread: HashMap::new(), discovered: 0 };
        for (key, sums) in period.sums.rows() {
            *weights.by_thread.entry(key.thread).or_default() += sums.nanos;
            weights.discovered += if key.unclaimed { sums.count } else { 0 };
        }
        weights
    }

    /// What the samples of `key`, which say `sums` by themselves, stand for.
    pub(super) fn weigh(&self, key: &Key, sums: Sums) -> Sums {
        let all = self.of_thread(key.thread);
        let correction = self.period.corrections.get(&key.thread).copied().unwrap_or_default();
        let nanos = part_of(all.saturating_add_signed(correction), sums.nanos, all);
        if !key.unclaimed {
            return Sums { nanos, ..sums };
        }
        let nanos = nanos + part_of(self.period.unmet, sums.count, self.discovered);
        let step = u64::from(self.period.sampling_period.max(1));
        Sums { count: (nanos + step / 2) / step, nanos }
    }

    /// What the samples of a thread stand for by themselves.
    pub(super) fn of_thread(&self, thread: u32) -> u64 {
        self.by_thread.get(&thread).copied().unwrap_or_default()
    }
}
