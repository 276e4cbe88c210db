//! The overhead governor: takes samples less often when everprof uses more CPU time than it was given, and more often again.
//!
//! Four things can be taken less often: samples of CPU time, of allocations, and of waits for locks, and looks at threads that
//! wait. What each of them has cost says how much less often it has to come: what costs the most gives way until the
//! others cost as much, in as few steps as it takes. A sample carries what it stands for, so profiles stay right meanwhile. But they tell less:
//! so nothing comes less often that would hardly make a difference, what has made none is taken back, and all of it comes back, in smaller steps, as far as what
//! it costs leaves room for it.
//!
//! Doubling one distance at a time, as it was at first, took half a minute from ten times the budget where all four cost
//! alike.

use std::time::Duration;

/// Delivering a signal and returning from it, beside the handler itself: 1.5 to 3.6 microseconds measured on virtual
/// machines, where it is dearest.
const DELIVERY_NANOS: u64 = 3_000;
/// Less time than this says nothing: a host that changes the rate or asks for profiles often would be judged by a moment.
const LEAST_WINDOW: u64 = 1_000_000_000;
/// Nothing is done less often than by this factor than what was asked for.
const LEAST_PART: u64 = 64;
/// The longest period of the timers, in nanoseconds.
const LONGEST_PERIOD: u64 = 1_000_000_000;
/// The longest time between two looks at a thread, in nanoseconds.
const LONGEST_LOOK: u64 = 2_000_000_000;
/// What costs less than this part of all comes as often as it did.
const LEAST_COST: f64 = 1.0 / 16.0;
/// The longest step at once: not everything that our thread does comes less often with samples, and two seconds of something
/// else, such as reading what a large library brought along, are not to leave a profile without samples.
const LONGEST_STEP: f64 = 4.0;
/// A part that comes half as often as before, and costs nearly as much, has no more to give: by a fifth of what is to be expected
/// it is told from what chance does.
const LEAST_ANSWER: f64 = 0.2;
/// It is tried again after so many judgements, and each time after twice as many, up to
const LEFT_ALONE: u32 = 8;
const LEFT_ALONE_AT_MOST: u32 = 128;
/// Above the budget, to this part of it: what was measured may have been too little.
const AIM: f64 = 0.8;
/// Things come back until they may take this part of it,
const AIM_BACK: f64 = 0.7;
/// in steps of this at the least, so that small changes make no steps at all, and of this at the most.
const STEPS_BACK: std::ops::RangeInclusive<f64> = 1.2..=2.0;

/// What everprof used and the process had, summed since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU nanoseconds of everprof's own threads.
    pub(super) threads: u64,
    /// Of them, those for what somebody asked for, which the rate has nothing to do with.
    pub(super) requests: u64,
    /// Of them, those for looks at threads that wait, and those for samples of allocations and of waits for locks.
    pub(super) looks: u64,
    pub(super) accounts: [u64; 2],
    /// Nanoseconds inside the handler.
    pub(super) handler: u64,
    /// Signals handled.
    pub(super) signals: u64,
    /// Nanoseconds on the program's threads for samples of allocations, and of waits for locks.
    pub(super) heap: u64,
    pub(super) locks: u64,
    /// Which parts rest at the moment, by [`Part`]: that they cost nothing now says nothing about their next turn.
    pub(super) rests: [bool; 4],
    /// CPU nanoseconds of the process.
    pub(super) process: u64,
    /// Nanoseconds on the monotonic clock.
    pub(super) wall: u64,
}

impl Usage {
    /// What it costs to sample.
    pub(super) fn own(&self) -> u64 {
        let threads = self.threads.saturating_sub(self.requests);
        threads + self.handler + self.signals * DELIVERY_NANOS + self.heap + self.locks
    }

    /// The part of it that delivering the signals cost, by estimate.
    pub(super) fn delivery(&self) -> Duration {
        Duration::from_nanos(self.signals * DELIVERY_NANOS)
    }

    /// What each part cost since `before`, on the program's threads and on ours. What is left of ours is for samples of CPU
    /// time, and for following the threads that these are taken of.
    fn parts(&self, before: &Usage) -> [f64; 4] {
        let since = |of: fn(&Usage) -> u64| of(self).saturating_sub(of(before)) as f64;
        let [of_heap, of_locks] = [since(|usage| usage.accounts[0]), since(|usage| usage.accounts[1])];
        let looks = since(|usage| usage.looks);
        let others = since(|usage| usage.requests) + looks + of_heap + of_locks;
        let rest = (since(|usage| usage.threads) - others).max(0.0);
        let signals = since(|usage| usage.handler + usage.signals * DELIVERY_NANOS);
        [signals + rest, since(|usage| usage.heap) + of_heap, since(|usage| usage.locks) + of_locks, looks]
    }
}

/// What can be done less often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Samples of CPU time.
    Rate = 0,
    /// Samples of allocations.
    Heap = 1,
    /// Samples of waits for locks.
    Locks = 2,
    /// Looks at threads that wait.
    Looks = 3,
}

impl Part {
    const ALL: [Part; 4] = [Part::Rate, Part::Heap, Part::Locks, Part::Looks];
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The share that may be used, as a fraction.
    pub(super) budget: f64,
    /// The period of the timers in nanoseconds.
    pub(super) period: u32,
    /// The mean distance of samples of allocations in bytes, and the nanoseconds from which on a wait is always a sample; 0:
    /// there are none.
    pub(super) interval: u64,
    pub(super) threshold: u64,
    /// Nanoseconds between two looks.
    pub(super) looks: u64,
}

impl Asked {
    fn dials(&self) -> [Dial; 4] {
        [
            Dial::new(self.period.into(), LONGEST_PERIOD),
            Dial::new(self.interval, u64::MAX),
            Dial::new(self.threshold, u64::MAX),
            Dial::new(self.looks, LONGEST_LOOK),
        ]
    }
}

/// The distance of samples: nanoseconds, or bytes. 0: none are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dial {
    wanted: u64,
    now: u64,
    most: u64,
    /// As it was told last.
    told: u64,
    /// What it cost before it was slowed down, and at which distance.
    tried: Option<(f64, u64)>,
    /// It was slowed down in vain, when it cost so much: it is left alone for so many judgements, and the next time for so many.
    vain: Option<(f64, u32)>,
    patience: u32,
}

impl Dial {
    fn new(wanted: u64, limit: u64) -> Self {
        let most = wanted.saturating_mul(LEAST_PART).min(limit).max(wanted);
        let patience = LEFT_ALONE;
        Self { wanted, now: wanted, most, told: wanted, tried: None, vain: None, patience }
    }

    /// Whether it comes less often than was asked for.
    fn is_held(&self) -> bool {
        self.now > self.wanted
    }

    /// Whether it can come less often still.
    fn can_slow(&self) -> bool {
        self.now < self.most && self.vain.is_none()
    }

    /// Less often by that factor, as far as that can be, since it costs so much as it is.
    fn slow(&mut self, factor: f64, cost: f64) {
        self.tried.get_or_insert((cost, self.now));
        self.now = ((self.now as f64 * factor).ceil() as u64).clamp(self.now, self.most);
    }

    /// Looks what it costs now, above the budget: steps that have brought nothing are taken back.
    fn learn(&mut self, cost: f64) {
        self.vain = self.vain.filter(|(before, left)| *left > 1 && cost < 2.0 * before);
        self.vain.iter_mut().for_each(|(_, left)| *left -= 1);
        let Some((before, distance)) = self.tried else { return };
        if cost > 2.0 * before {
            // There is more to do than when it was tried, which says nothing.
            (self.tried, self.patience) = (None, LEFT_ALONE);
        } else if self.now / 2 >= distance {
            let saved = 1.0 - distance as f64 / self.now as f64;
            if cost < before * (1.0 - LEAST_ANSWER * saved) {
                self.tried = Some((cost, self.now));
                return;
            }
            (self.now, self.tried, self.vain) = (distance, None, Some((cost, self.patience)));
            self.patience = (2 * self.patience).min(LEFT_ALONE_AT_MOST);
        }
    }

    /// It fits: what was learned is of another time.
    fn forget(&mut self) {
        (self.tried, self.vain, self.patience) = (None, None, LEFT_ALONE);
    }

    /// More often, but not more than was asked for.
    fn hasten(&mut self, factor: f64) {
        self.now = ((self.now as f64 / factor) as u64).clamp(self.wanted, self.now);
    }
}

/// Decides on the distances of samples.
#[derive(Debug)]
pub(super) struct Governor {
    budget: f64,
    dials: [Dial; 4],
    before: Usage,
}

impl Governor {
    /// A governor for what was asked for.
    pub(super) fn new(asked: Asked) -> Self {
        Self { budget: asked.budget, dials: asked.dials(), before: Usage::default() }
    }

    /// Judges from this moment on.
    pub(super) fn begin(&mut self, now: Usage) {
        self.before = now;
    }

    /// Asks for something else; what was asked for before goes on as it is.
    pub(super) fn want(&mut self, asked: Asked) {
        self.budget = asked.budget;
        for (dial, new) in self.dials.iter_mut().zip(asked.dials()) {
            if dial.wanted != new.wanted {
                *dial = new;
            }
        }
    }

    /// What was asked for.
    pub(super) fn asked(&self) -> Asked {
        let [period, interval, threshold, looks] = self.dials.map(|dial| dial.wanted);
        Asked { budget: self.budget, period: period as u32, interval, threshold, looks }
    }

    /// The period in force, in nanoseconds.
    pub(super) fn period(&self) -> u32 {
        self.dials[0].now as u32
    }

    /// The mean distance of samples of allocations in force, in bytes.
    pub(super) fn interval(&self) -> u64 {
        self.dials[1].now
    }

    /// From how many nanoseconds on a wait is always a sample.
    pub(super) fn threshold(&self) -> u64 {
        self.dials[2].now
    }

    /// Nanoseconds between two looks at a thread.
    pub(super) fn looks(&self) -> u64 {
        self.dials[3].now
    }

    /// Whether samples of this part come less often than was asked for.
    pub(super) fn holds(&self, part: Part) -> bool {
        self.dials[part as usize].is_held()
    }

    /// Whether anything is done less often than was asked for.
    pub(super) fn is_throttled(&self) -> bool {
        Part::ALL.into_iter().any(|part| self.holds(part))
    }

    /// Whether a change of this part is to be told: where it is held from now on, or not any more, and where it comes half or
    /// twice as often as was told last. Many small steps are no news.
    pub(super) fn is_news(&mut self, part: Part) -> bool {
        let dial = &mut self.dials[part as usize];
        let (now, told) = (dial.now, dial.told);
        let is_news = dial.is_held() != (told > dial.wanted) || now / 2 >= told || told / 2 >= now;
        if is_news {
            dial.told = now;
        }
        is_news
    }

    /// Looks at what was used since the last call, some seconds ago; returns what has changed.
    ///
    /// The budget is a share of the process's CPU time, but of no less than one processor's time: an idle process is
    /// not to be told that a profiler which costs next to nothing costs all that there is.
    pub(super) fn judge(&mut self, now: Usage) -> Vec<Part> {
        let since = |of: fn(&Usage) -> u64| of(&now).saturating_sub(of(&self.before));
        if since(|usage| usage.wall) < LEAST_WINDOW {
            return Vec::new();
        }
        let had = since(|usage| usage.process).max(since(|usage| usage.wall));
        let allowed = self.budget * had as f64;
        let own = since(Usage::own) as f64;
        let costs = now.parts(&self.before);
        self.before = now;
        let before = self.dials;
        if own > allowed {
            self.dials.iter_mut().zip(costs).for_each(|(dial, cost)| dial.learn(cost / had as f64));
            self.slow(costs, own, allowed * AIM, had as f64);
        } else {
            self.dials.iter_mut().for_each(Dial::forget);
            self.hasten(costs, allowed * AIM_BACK - own, now.rests);
        }
        Part::ALL
            .into_iter()
            .filter(|part| self.dials[*part as usize].now != before[*part as usize].now)
            .collect()
    }

    /// Everything that costs more than a level to that level: such that all of it comes to `aim`, of the time that the process
    /// `had`.
    fn slow(&mut self, costs: [f64; 4], own: f64, aim: f64, had: f64) {
        let stuck = self.dials.iter().zip(costs).filter(|(dial, _)| !dial.can_slow()).map(|(_, cost)| cost);
        let aim = aim - stuck.sum::<f64>();
        let free = self.dials.iter_mut().zip(costs).filter(|(dial, _)| dial.can_slow());
        let mut free: Vec<_> = free.collect();
        free.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        let level = level(free.iter().map(|(_, cost)| *cost), aim).max(own * LEAST_COST);
        for (dial, cost) in free.into_iter().filter(|(_, cost)| *cost > level) {
            dial.slow((cost / level).min(LONGEST_STEP), cost / had);
        }
    }

    /// What is held comes back by as much as there is `room` for, but for what rests.
    fn hasten(&mut self, costs: [f64; 4], room: f64, rests: [bool; 4]) {
        let held =
            self.dials.iter_mut().zip(costs).zip(rests).filter(|((dial, _), rests)| dial.is_held() && !rests);
        let held: Vec<_> = held.map(|(held, _)| held).collect();
        // Nothing is what costs the least.
        let cost = held.iter().map(|(_, cost)| cost).sum::<f64>().max(1.0);
        let factor = (1.0 + room / cost).min(*STEPS_BACK.end());
        if factor >= *STEPS_BACK.start() {
            held.into_iter().for_each(|(dial, _)| dial.hasten(factor));
        }
    }
}

/// The level to which all that is above it has to come for the sum to be `aim`, of `costs` in ascending order.
fn level(costs: impl ExactSizeIterator<Item = f64>, aim: f64) -> f64 {
    let (mut left, mut count) = (aim, costs.len());
    for cost in costs {
        if cost * count as f64 > left {
            return left / count as f64;
        }
        (left, count) = (left - cost, count - 1);
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests;
