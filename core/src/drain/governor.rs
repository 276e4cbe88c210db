//! The overhead governor: lowers the rate when everprof uses more CPU time than it was given, and raises it again.

use std::time::Duration;

/// Delivering a signal and returning from it, beside the handler itself: 1.5 to 3.6 microseconds measured on virtual
/// machines, where it is dearest.
const DELIVERY_NANOS: u64 = 3_000;
/// Less time than this says nothing: a host that changes the rate or asks for profiles often would be judged by a moment.
const LEAST_WINDOW: u64 = 1_000_000_000;
/// The rate is never lowered further than this part of what was asked for.
const LEAST_PART: u32 = 64;

/// What everprof used and the process had, summed since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU nanoseconds of everprof's own threads.
    pub(super) threads: u64,
    /// Of them, those for what somebody asked for, which the rate has nothing to do with.
    pub(super) requests: u64,
    /// Nanoseconds inside the handler.
    pub(super) handler: u64,
    /// Signals handled.
    pub(super) signals: u64,
    /// CPU nanoseconds of the process.
    pub(super) process: u64,
    /// Nanoseconds on the monotonic clock.
    pub(super) wall: u64,
}

impl Usage {
    /// What it costs to sample.
    pub(super) fn own(&self) -> u64 {
        self.threads.saturating_sub(self.requests) + self.handler + self.signals * DELIVERY_NANOS
    }

    /// The part of it that delivering the signals cost, by estimate.
    pub(super) fn delivery(&self) -> Duration {
        Duration::from_nanos(self.signals * DELIVERY_NANOS)
    }
}

/// Decides on the period of the timers.
#[derive(Debug)]
pub(super) struct Governor {
    budget: f64,
    wanted: u32,
    period: u32,
    before: Usage,
}

impl Governor {
    /// A governor for a budget, as a fraction, and the period that was asked for, in nanoseconds.
    pub(super) fn new(budget: f64, period: u32) -> Self {
        Self { budget, wanted: period, period, before: Usage::default() }
    }

    /// Judges from this moment on.
    pub(super) fn begin(&mut self, now: Usage) {
        self.before = now;
    }

    /// Asks for another period.
    pub(super) fn want(&mut self, period: u32) {
        self.wanted = period;
        self.period = period;
    }

    /// The period in force, in nanoseconds.
    pub(super) fn period(&self) -> u32 {
        self.period
    }

    /// The period that was asked for, in nanoseconds.
    pub(super) fn wanted(&self) -> u32 {
        self.wanted
    }

    /// Whether the period in force is longer than the one that was asked for.
    pub(super) fn is_throttled(&self) -> bool {
        self.period > self.wanted
    }

    /// Looks at what was used since the last call, some seconds ago; returns a new period where it must change.
    ///
    /// The budget is a share of the process's CPU time, but of no less than one processor's time: an idle process is
    /// not to be told that a profiler which costs next to nothing costs all that there is.
    pub(super) fn judge(&mut self, now: Usage) -> Option<u32> {
        if now.wall.saturating_sub(self.before.wall) < LEAST_WINDOW {
            return None;
        }
        let own = now.own().saturating_sub(self.before.own());
        let process = now.process.saturating_sub(self.before.process);
        let wall = now.wall.saturating_sub(self.before.wall);
        self.before = now;
        let share = own as f64 / process.max(wall).max(1) as f64;
        let longest = self.wanted.saturating_mul(LEAST_PART).min(1_000_000_000).max(self.wanted);
        let next = if share > self.budget {
            self.period.saturating_mul(2).min(longest)
        } else if share < self.budget / 4.0 {
            (self.period / 2).max(self.wanted)
        } else {
            self.period
        };
        (next != self.period).then(|| {
            self.period = next;
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(own_millis: u64, at: u64) -> Usage {
        Usage { threads: own_millis * 1_000_000, process: 0, wall: at * 1_000_000_000, ..Usage::default() }
    }

    #[test]
    fn the_rate_falls_above_the_budget_and_comes_back() {
        let mut governor = Governor::new(0.01, 10_000_000);
        assert_eq!(governor.judge(second(5, 1)), None, "0.5 % is within 1 %");
        assert_eq!(governor.judge(second(25, 2)), Some(20_000_000), "2 % is not");
        assert!(governor.is_throttled());
        assert_eq!(governor.judge(second(26, 3)), Some(10_000_000));
        assert!(!governor.is_throttled());
        assert_eq!(governor.judge(second(27, 4)), None, "never above what was asked for");
        let asked = Usage { requests: 500_000_000, ..second(527, 5) };
        assert_eq!(governor.judge(asked), None, "what was asked for is not the rate's doing");
    }

    #[test]
    fn a_moment_is_not_judged() {
        let mut governor = Governor::new(0.01, 10_000_000);
        let moment = |own: u64| Usage { threads: own, wall: own, ..Usage::default() };
        assert_eq!(governor.judge(moment(500_000_000)), None);
        assert_eq!(governor.judge(moment(1_000_000_000)), Some(20_000_000), "since the last judgement");
    }

    #[test]
    fn the_rate_has_a_floor() {
        let mut governor = Governor::new(0.01, 10_000_000);
        let last = (1..30).filter_map(|at| governor.judge(second(at * 500, at))).last();
        assert_eq!(last, Some(640_000_000));
    }
}
