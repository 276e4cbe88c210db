//! Waits of tasks: read from their cells, and told in the period in which they passed.
//!
//! On our thread, each time the rings are emptied. A wait that has ended is told from where it was told last to its end;
//! one that goes on when a period ends is told up to then, and goes on in the next. So a task that waits for hours is in
//! each profile of that time.

use std::collections::HashMap;

use everprof_probe::awaiting::{self, Begun, CELLS, STACKS, Wait};
use everprof_probe::os::monotonic;

use super::random::Random;
use super::sampler::Sampler;
use crate::aggregate::{Key, Sums, Waited};
use crate::labels::{self, LabelSet};

/// Where more cells are in use than this, half of the waits that go on are given up, and the others stand for them.
const CROWDED: usize = CELLS / 2;

/// The waits that go on.
#[derive(Debug)]
pub(super) struct Awaits {
    open: HashMap<Wait, Told>,
    round: u32,
    random: Random,
}

/// What is known of a wait that goes on.
#[derive(Debug)]
struct Told {
    /// Up to when it was told, on the monotonic clock.
    until: u64,
    /// How many waits it stands for beyond those that it stood for at first; 0 where it is given up.
    factor: u64,
    /// Kept from the first look on: the set may be gone by the time the wait ends.
    labels: Option<LabelSet>,
    round: u32,
}

impl Awaits {
    /// Begins to tell waits, where there is memory for it.
    pub(super) fn begin() -> Option<Self> {
        if !awaiting::prepare() {
            return None;
        }
        // Those of a profiler that was stopped.
        awaiting::forget_all();
        labels::tick(true);
        Some(Self { open: HashMap::new(), round: 0, random: Random::new() })
    }

    /// About how many bytes it holds.
    pub(super) fn memory(&self) -> usize {
        self.open.capacity() * (size_of::<(Wait, Told)>() + 1)
    }
}

impl Drop for Awaits {
    fn drop(&mut self) {
        labels::tick(false);
        awaiting::forget_all();
    }
}

impl Sampler {
    /// Tells the waits of tasks that have ended, and at the end of a period also what has passed of the others.
    pub(super) fn read_awaits(&mut self, period_ends: bool) {
        let Some(mut awaits) = self.awaits.take() else { return };
        labels::tick(true);
        awaits.round = awaits.round.wrapping_add(1);
        let (round, now) = (awaits.round, monotonic());
        let crowded = awaiting::taken() > CROWDED;
        awaiting::each(|begun| {
            let told = awaits.open.entry(begun.wait).or_insert_with(|| Told {
                until: begun.begin,
                factor: 1,
                labels: labels::resolve(begun.labels),
                round,
            });
            told.round = round;
            let thinned = crowded && begun.end.is_none();
            if begun.end.is_some() || period_ends || thinned {
                self.tell(begun, told, begun.end.unwrap_or(now));
            }
            if thinned {
                // Each stays with an even chance, and stands for two from now on: which ones is left to chance, not sums.
                told.factor *= if awaits.random.below(2) == 1 { 2 } else { 0 };
            }
            told.factor != 0
        });
        awaits.open.retain(|_, told| told.round == round);
        self.awaits = Some(awaits);
    }

    /// Tells what has passed of a wait up to `until`.
    fn tell(&mut self, begun: &Begun<'_>, told: &mut Told, until: u64) {
        let passed = until.saturating_sub(told.until);
        told.until = told.until.max(until);
        let nanos = passed.saturating_mul(u64::from(begun.weight)).saturating_mul(told.factor);
        if nanos == 0 {
            return;
        }
        let epoch = self.modules.epoch_of(begun.generation);
        let mut places = begun.stacks().map(|(own, shared)| self.stack(epoch, &[own, shared].concat()));
        let stack = places.next().unwrap_or_default();
        let mut others = [0; STACKS - 1];
        others.iter_mut().zip(places).for_each(|(other, place)| *other = place + 1);
        let key = Key {
            stack,
            thread: self.thread_number("".into(), None),
            labels: told.labels.clone().map_or(0, |set| self.sums.intern_labels(set)),
            unclaimed: false,
            trace_id: if begun.trace.1 == 0 { 0 } else { begun.trace.0 },
            span_id: begun.trace.1,
        };
        self.sums.add_wait(key, Waited::task(begun.registered, others), Sums { count: 1, nanos });
    }
}
