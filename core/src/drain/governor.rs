//! The overhead governor: takes samples less often when everprof uses more CPU time than it was given, and more often again.
//!
//! Three things can be taken less often: samples of CPU time, of allocations, and of waits for locks. What costs the most
//! is; all of them come back together. A sample carries what it stands for, so profiles stay right meanwhile. But they tell less:
//! so nothing comes less often that would hardly make a difference. Looks at threads that wait have a part of the budget of their
//! own (`wall`), which no distance of samples has to make up for.

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
/// What costs less than this part of all comes as often as it did.
const LEAST_COST: f64 = 1.0 / 16.0;

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
    pub(super) rests: [bool; 3],
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

    /// What each part cost since `before`, on the program's threads and on ours. What is left of ours, beside looks, is for
    /// samples of CPU time, and for following the threads that these are taken of.
    fn parts(&self, before: &Usage) -> [f64; 3] {
        let since = |of: fn(&Usage) -> u64| of(self).saturating_sub(of(before)) as f64;
        let [of_heap, of_locks] = [since(|usage| usage.accounts[0]), since(|usage| usage.accounts[1])];
        let others = since(|usage| usage.requests) + since(|usage| usage.looks) + of_heap + of_locks;
        let rest = (since(|usage| usage.threads) - others).max(0.0);
        let signals = since(|usage| usage.handler + usage.signals * DELIVERY_NANOS);
        [signals + rest, since(|usage| usage.heap) + of_heap, since(|usage| usage.locks) + of_locks]
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
}

impl Part {
    const ALL: [Part; 3] = [Part::Rate, Part::Heap, Part::Locks];
}

/// The distance of samples: nanoseconds, or bytes. 0: none are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dial {
    wanted: u64,
    now: u64,
    most: u64,
}

impl Dial {
    fn new(wanted: u64, limit: u64) -> Self {
        let most = wanted.saturating_mul(LEAST_PART).min(limit).max(wanted);
        Self { wanted, now: wanted, most }
    }

    /// Less often; false where that cannot be.
    fn slow(&mut self) -> bool {
        let before = self.now;
        self.now = self.now.saturating_mul(2).min(self.most);
        self.now != before
    }

    /// More often; false where it is as it was asked for.
    fn hasten(&mut self) -> bool {
        let before = self.now;
        self.now = (self.now / 2).max(self.wanted);
        self.now != before
    }
}

/// Decides on the distances of samples.
#[derive(Debug)]
pub(super) struct Governor {
    budget: f64,
    dials: [Dial; 3],
    before: Usage,
}

impl Governor {
    /// A governor for a budget, as a fraction, and what was asked for: the period in nanoseconds, the mean distance of samples
    /// of allocations in bytes, and the nanoseconds from which on a wait is a sample; 0 where there are to be none.
    pub(super) fn new(budget: f64, period: u32, interval: u64, threshold: u64) -> Self {
        let dials = [
            Dial::new(period.into(), LONGEST_PERIOD),
            Dial::new(interval, u64::MAX),
            Dial::new(threshold, u64::MAX),
        ];
        Self { budget, dials, before: Usage::default() }
    }

    /// Judges from this moment on.
    pub(super) fn begin(&mut self, now: Usage) {
        self.before = now;
    }

    /// Asks for something else; what was asked for before goes on as it is.
    pub(super) fn want(&mut self, budget: f64, period: u32, interval: u64, threshold: u64) {
        self.budget = budget;
        let new = Governor::new(budget, period, interval, threshold).dials;
        for (dial, new) in self.dials.iter_mut().zip(new) {
            if dial.wanted != new.wanted {
                *dial = new;
            }
        }
    }

    /// The share that may be used.
    pub(super) fn budget(&self) -> f64 {
        self.budget
    }

    /// The period in force, in nanoseconds.
    pub(super) fn period(&self) -> u32 {
        self.dials[0].now as u32
    }

    /// The period that was asked for, in nanoseconds.
    pub(super) fn wanted(&self) -> u32 {
        self.dials[0].wanted as u32
    }

    /// The mean distance of samples of allocations in force, in bytes.
    pub(super) fn interval(&self) -> u64 {
        self.dials[1].now
    }

    /// From how many nanoseconds on a wait is always a sample.
    pub(super) fn threshold(&self) -> u64 {
        self.dials[2].now
    }

    /// Whether samples of this part come less often than was asked for.
    pub(super) fn holds(&self, part: Part) -> bool {
        let Dial { wanted, now, .. } = self.dials[part as usize];
        now > wanted
    }

    /// Whether anything is done less often than was asked for.
    pub(super) fn is_throttled(&self) -> bool {
        Part::ALL.into_iter().any(|part| self.holds(part))
    }

    /// Looks at what was used since the last call, some seconds ago; returns what has changed.
    ///
    /// The budget is a share of the process's CPU time, but of no less than one processor's time: an idle process is
    /// not to be told that a profiler which costs next to nothing costs all that there is.
    pub(super) fn judge(&mut self, now: Usage) -> Vec<Part> {
        if now.wall.saturating_sub(self.before.wall) < LEAST_WINDOW {
            return Vec::new();
        }
        let own = now.own().saturating_sub(self.before.own());
        let process = now.process.saturating_sub(self.before.process);
        let wall = now.wall.saturating_sub(self.before.wall);
        let looks = now.looks.saturating_sub(self.before.looks);
        let costs = now.parts(&self.before);
        self.before = now;
        let share_of = |nanos: u64| nanos as f64 / process.max(wall).max(1) as f64;
        let share = share_of(own);
        if share > self.budget {
            let mut dearest = Part::ALL;
            dearest.sort_by(|a, b| costs[*b as usize].total_cmp(&costs[*a as usize]));
            let mut of_effect =
                dearest.into_iter().filter(|part| costs[*part as usize] >= own as f64 * LEAST_COST);
            return of_effect.find(|part| self.dials[*part as usize].slow()).into_iter().collect();
        }
        // Twice as often costs twice as much, beside looks, which always take their half.
        if share_of(own.saturating_sub(looks)) >= self.budget / 4.0 {
            return Vec::new();
        }
        let are_taken = Part::ALL.into_iter().filter(|part| !now.rests[*part as usize]);
        are_taken.filter(|part| self.dials[*part as usize].hasten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(own_millis: u64, at: u64) -> Usage {
        Usage { threads: own_millis * 1_000_000, process: 0, wall: at * 1_000_000_000, ..Usage::default() }
    }

    fn of_rate(budget: f64, period: u32) -> Governor {
        Governor::new(budget, period, 0, 0)
    }

    /// The period where it has changed.
    fn judged(governor: &mut Governor, now: Usage) -> Option<u32> {
        let changed = governor.judge(now);
        assert!(changed.iter().all(|part| *part == Part::Rate), "{changed:?}");
        (!changed.is_empty()).then(|| governor.period())
    }

    #[test]
    fn the_rate_falls_above_the_budget_and_comes_back() {
        let mut governor = of_rate(0.01, 10_000_000);
        assert_eq!(judged(&mut governor, second(5, 1)), None, "0.5 % is within 1 %");
        assert_eq!(judged(&mut governor, second(25, 2)), Some(20_000_000), "2 % is not");
        assert!(governor.is_throttled());
        assert_eq!(judged(&mut governor, second(26, 3)), Some(10_000_000));
        assert!(!governor.is_throttled());
        assert_eq!(judged(&mut governor, second(27, 4)), None, "never above what was asked for");
        let asked = Usage { requests: 500_000_000, ..second(527, 5) };
        assert_eq!(judged(&mut governor, asked), None, "what was asked for is not the rate's doing");
    }

    #[test]
    fn a_moment_is_not_judged() {
        let mut governor = of_rate(0.01, 10_000_000);
        let moment = |own: u64| Usage { threads: own, wall: own, ..Usage::default() };
        assert_eq!(judged(&mut governor, moment(500_000_000)), None);
        let since = judged(&mut governor, moment(1_000_000_000));
        assert_eq!(since, Some(20_000_000), "since the last judgement");
    }

    #[test]
    fn the_rate_has_a_floor() {
        let mut governor = of_rate(0.01, 10_000_000);
        let last = (1..30).filter_map(|at| judged(&mut governor, second(at * 500, at))).last();
        assert_eq!(last, Some(640_000_000));
    }

    #[test]
    fn what_costs_the_most_comes_less_often() {
        let mut governor = Governor::new(0.01, 10_000_000, 64 << 10, 100_000);
        let at = |at: u64, threads: u64, heap: u64, locks: u64, accounts: [u64; 2]| Usage {
            heap: heap * 1_000_000,
            locks: locks * 1_000_000,
            accounts: accounts.map(|millis| millis * 1_000_000),
            ..second(threads, at)
        };
        assert_eq!(governor.judge(at(1, 1, 20, 5, [0, 0])), [Part::Heap]);
        assert_eq!(governor.interval(), 128 << 10);
        // Our own thread's time is that of those whose samples it counts.
        assert_eq!(governor.judge(at(2, 21, 22, 8, [18, 0])), [Part::Heap]);
        assert_eq!(governor.judge(at(3, 22, 23, 28, [18, 0])), [Part::Locks]);
        assert_eq!(
            (governor.period(), governor.interval(), governor.threshold()),
            (10_000_000, 256 << 10, 200_000)
        );
        assert!(governor.is_throttled() && !governor.holds(Part::Rate));
        // All come back together.
        assert_eq!(governor.judge(at(4, 23, 23, 28, [18, 0])), [Part::Heap, Part::Locks]);
        assert_eq!(governor.judge(at(5, 24, 23, 28, [18, 0])), [Part::Heap]);
        assert!(!governor.is_throttled());
    }

    /// A kind that has duties begins each of them as it ended the one before.
    #[test]
    fn what_rests_is_taken_as_often_as_before_when_it_comes_back() {
        let mut governor = Governor::new(0.01, 10_000_000, 64 << 10, 0);
        let at = |at: u64, heap: u64, rests: bool| Usage {
            heap: heap * 1_000_000,
            rests: [false, rests, false],
            ..second(at, at)
        };
        assert_eq!(governor.judge(at(1, 20, false)), [Part::Heap]);
        for second in 2..10 {
            assert_eq!(governor.judge(at(second, 20, true)), []);
        }
        assert_eq!(governor.interval(), 128 << 10);
        assert_eq!(governor.judge(at(10, 20, false)), [Part::Heap]);
        assert!(!governor.is_throttled());
    }

    #[test]
    fn what_would_make_no_difference_comes_as_often_as_it_did() {
        let mut governor = Governor::new(0.01, 10_000_000, 512 << 10, 100_000);
        // Looks at threads that wait on a machine short of processors, beside thousands of samples of allocations.
        let looks = |at: u64| Usage {
            looks: at * 29_000_000,
            accounts: [at * 1_000_000, 0],
            heap: at * 500_000,
            ..second(at * 31, at)
        };
        for second in 1..30 {
            assert_eq!(governor.judge(looks(second)), [], "{governor:?}");
        }
        assert!(!governor.is_throttled());
        // Where they cost a part that matters, they are what gives way.
        let allocations = Usage { heap: 40_000_000, ..looks(30) };
        assert_eq!(governor.judge(allocations), [Part::Heap]);
        // And they come back, whatever the looks use of their part.
        let rest = Usage {
            threads: 935_000_000,
            looks: 875_000_000,
            heap: 41_000_000,
            wall: 31_000_000_000,
            ..looks(30)
        };
        assert_eq!(governor.judge(rest), [Part::Heap]);
        assert!(!governor.is_throttled());
    }

    #[test]
    fn what_is_off_stays_off_and_what_is_new_begins_as_it_was_asked_for() {
        let mut governor = Governor::new(0.01, 10_000_000, 0, 0);
        let heavy = Usage { heap: 100_000_000, ..second(10, 1) };
        assert_eq!(governor.judge(heavy), [Part::Rate], "there is nothing else to slow down");
        assert_eq!((governor.interval(), governor.threshold()), (0, 0));
        governor.want(0.01, 10_000_000, 1 << 20, 0);
        assert_eq!(
            (governor.period(), governor.interval()),
            (20_000_000, 1 << 20),
            "the rate is held down as it was"
        );
    }
}
