//! Waits of tasks: read from their cells, and told in the period in which they passed.
//!
//! On our thread, each time the rings are emptied. A wait that has ended is told from where it was told last to its end;
//! one that goes on when a period ends is told up to then, and goes on in the next. So a task that waits for hours is in
//! each profile of that time. Where there are too many, [`Crowd`] decides which of them stand for the others.

mod crowd;

use std::collections::HashMap;

use everprof_probe::awaiting::{self, Begun, STACKS, Wait};
use everprof_probe::os::monotonic;
use everprof_probe::unwind;

use super::sampler::Sampler;
use crate::aggregate::{Key, Sums, Waited};
use crate::labels::{self, LabelSet};
use crowd::Crowd;

/// The waits that go on.
#[derive(Debug)]
pub(super) struct Awaits {
    open: HashMap<Wait, Told>,
    round: u32,
    /// On the monotonic clock; what was before is nobody's business.
    since: u64,
    crowd: Crowd,
}

/// What is known of a wait that goes on.
#[derive(Debug)]
struct Told {
    /// Up to when it was told, on the monotonic clock.
    until: u64,
    /// How many waits it stands for; 0 where it has ended or is given up.
    weight: u32,
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
        unwind::begin_in_ours();
        // Those of a profiler that was stopped.
        awaiting::forget_all();
        let since = monotonic();
        let crowd = Crowd::new(since);
        labels::tick(crowd.least());
        Some(Self { open: HashMap::new(), round: 0, since, crowd })
    }

    /// About how many bytes it holds.
    pub(super) fn memory(&self) -> usize {
        self.open.capacity() * (size_of::<(Wait, Told)>() + 1) + awaiting::memory()
    }
}

impl Drop for Awaits {
    fn drop(&mut self) {
        labels::stop_ticking();
        awaiting::forget_all();
    }
}

impl Sampler {
    /// Tells the waits of tasks that have ended, and at the end of a period also what has passed of the others.
    pub(super) fn read_awaits(&mut self, period_ends: bool) {
        let Some(mut awaits) = self.awaits.take() else { return };
        self.read_cells(&mut awaits, period_ends, false);
        let share = f64::from(self.governor.asked().period) / f64::from(self.governor.period().max(1));
        let open = awaits.open.values().map(|told| told.weight).filter(|weight| *weight > 0).collect();
        if awaits.crowd.judge(open, monotonic(), share.min(1.0)) {
            self.read_cells(&mut awaits, false, true);
        }
        labels::tick(awaits.crowd.least());
        self.awaits = Some(awaits);
    }

    fn read_cells(&mut self, awaits: &mut Awaits, period_ends: bool, thin: bool) {
        awaits.round = awaits.round.wrapping_add(1);
        let (round, since, now) = (awaits.round, awaits.since, monotonic());
        awaiting::each(|begun| {
            let told = awaits.open.entry(begun.wait).or_insert_with(|| {
                awaits.crowd.begun(begun.weight);
                Told {
                    until: begun.begin.max(since),
                    weight: begun.weight,
                    labels: labels::resolve(begun.labels),
                    round,
                }
            });
            told.round = round;
            let thins = thin && told.weight < awaits.crowd.least();
            if begun.end.is_some() || period_ends || thins {
                self.tell(begun, told, begun.end.unwrap_or(now));
            }
            if begun.end.is_some() {
                told.weight = 0;
            } else if thins {
                told.weight = awaits.crowd.thinned(told.weight);
            }
            told.weight != 0
        });
        // Also those given up stay for a round: one that is just being ended is handed out once more.
        awaits.open.retain(|_, told| told.round == round);
    }

    /// Tells what has passed of a wait up to `until`.
    fn tell(&mut self, begun: &Begun<'_>, told: &mut Told, until: u64) {
        let passed = until.saturating_sub(told.until);
        told.until = told.until.max(until);
        let nanos = passed.saturating_mul(u64::from(told.weight));
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
            trace: self.sums.intern_trace(begun.trace),
        };
        self.sums.add_wait(key, Waited::task(begun.registered, others), Sums { count: 1, nanos });
    }
}
