//! What one thread has used of the processors, and what of that its samples stand for.
//!
//! A thread's CPU clock is exact and can be read from outside while the thread lives. Its samples stand for whole
//! periods, so that they are off by up to one period and one tick at each end. At the end of a period the book says by
//! how much, and the thread's samples are weighed anew. Of a thread that ended, the clock is gone: what it used since
//! the last look lies within bounds, which its timer has drawn.

/// The books of one thread. Every time is CPU time of the thread in nanoseconds, unless said.
#[derive(Debug)]
pub(super) struct Book {
    /// What profiles have told, or is older than the profiler.
    told: u64,
    /// What the thread had used at the last look, and when that was on the monotonic clock.
    seen: u64,
    seen_at: u64,
    /// How its timer was armed last; none without a timer.
    timing: Option<Timing>,
    /// What samples since the last balance stand for, and of that what came by the timer.
    sampled: u64,
    timed: u64,
    /// What the thread's timer had accounted for at the last balance.
    credited: u64,
    /// What no signal can have come for since the last balance: the thread had no timer, or one was armed anew.
    excused: u64,
    /// What was told to have no samples, though a signal for it may come yet.
    written_off: u64,
    /// The thread's number in the profile that its latest sample since the last balance was counted under.
    number: Option<u32>,
}

/// A timer as it was armed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// What the thread had used before and after that: our thread may have lost the processor in between.
    pub(super) from: u64,
    pub(super) until: u64,
    /// From then to the first expiry.
    pub(super) first: u32,
    pub(super) period: u32,
    /// What the slot was credited with then.
    pub(super) credited: u64,
}

/// What a book comes to at the end of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Balance {
    /// To be added to what the thread's samples stand for.
    pub(super) correction: i64,
    /// Signals for this much never came.
    pub(super) missed: u64,
    /// Samples for this much were lost.
    pub(super) lost: u64,
    /// Where there were samples: the number they were counted under.
    pub(super) number: Option<u32>,
}

/// What a thread may have used by its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Certainly this much.
    pub(super) low: u64,
    /// Hardly more than this.
    pub(super) high: u64,
    /// Certainly no more than this.
    pub(super) at_most: u64,
}

impl Book {
    /// Opens the books of a thread that has used `used` so far; of that, `told` is nobody's business.
    pub(super) fn open(used: u64, told: u64, now: u64, credited: u64) -> Self {
        Self {
            told,
            seen: used,
            seen_at: now,
            timing: None,
            sampled: 0,
            timed: 0,
            credited,
            excused: used.saturating_sub(told),
            written_off: 0,
            number: None,
        }
    }

    /// What the thread had used at the last look.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The number that samples since the last balance were counted under, where there were any.
    pub(super) fn number(&self) -> Option<u32> {
        self.number
    }

    /// Notes what the thread has used by `now`.
    pub(super) fn look(&mut self, used: u64, now: u64) {
        if self.timing.is_none() {
            self.excused += used.saturating_sub(self.seen);
        }
        self.seen = self.seen.max(used);
        self.seen_at = now;
    }

    /// Notes that the timer was armed, or with `None` that there is none from now on. What it had not accounted for by
    /// then, no signal will come for.
    pub(super) fn arm(&mut self, timing: Option<Timing>, tick: u64) {
        if let Some(before) = self.timing {
            self.excused += u64::from(before.period) + tick;
        }
        if let Some(now) = timing {
            let since = if self.timing.is_some() { now.from } else { self.seen };
            self.excused += now.until.saturating_sub(since);
            self.seen = self.seen.max(now.until);
        }
        self.timing = timing;
    }

    /// Counts a sample under `number` and returns what it stands for: of a signal that comes very late, a part may have
    /// been written off.
    pub(super) fn count(&mut self, nanos: u64, period: u64, by_timer: bool, number: u32) -> u64 {
        let old = self.written_off.min(nanos.saturating_sub(period));
        self.written_off -= old;
        self.sampled += nanos - old;
        self.number = Some(number);
        if by_timer {
            // With what was written off, which the slot was credited with as well.
            self.timed += nanos;
        }
        nanos - old
    }

    /// What the thread may have used by its end, `now` at the latest, given what its timer has accounted for.
    pub(super) fn bounds(&self, credited: u64, tick: u64, now: u64) -> Bounds {
        // No thread uses more than all of the time.
        let at_most = self.seen + now.saturating_sub(self.seen_at);
        let Some(timing) = self.timing else {
            return Bounds { low: self.seen, high: at_most, at_most };
        };
        // The next expiry did not come, or came after the last tick.
        let after = u64::from(timing.first) + credited.saturating_sub(timing.credited);
        let next = timing.until + after;
        let last = (timing.from + after).saturating_sub(timing.period.into());
        let low = if credited > timing.credited { last } else { 0 };
        let low = low.clamp(self.seen, at_most);
        let high = (next + tick).clamp(low, at_most);
        // Ticks come late on a virtual machine that has to wait for its processor.
        let late = high + 4 * (u64::from(timing.period) + tick);
        // A thread that holds the signal back is seen long past its next expiry.
        let behind = self.seen.saturating_sub(next);
        let is_deaf = behind > 4 * (u64::from(timing.period) + tick) && behind > self.seen / 3;
        Bounds { low, high, at_most: if is_deaf { at_most } else { late.min(at_most) } }
    }

    /// Samples of the timer that were dropped, or have not been read yet, as of what its timer has accounted for.
    pub(super) fn dropped(&self, credited: u64) -> u64 {
        credited.saturating_sub(self.credited).saturating_sub(self.timed)
    }

    /// Closes the books over what the thread has used by now, and goes on with new ones. `part_lost` of the dropped
    /// samples were really lost; more than `patience` without a signal is told as time that has none, where the thread
    /// `is_deaf` to it.
    pub(super) fn balance(
        &mut self,
        used: u64,
        credited: u64,
        part_lost: f64,
        patience: u64,
        is_deaf: impl FnOnce() -> bool,
    ) -> Balance {
        let due = used.saturating_sub(self.told);
        // What a thread that ended used after the last look is an estimate, which accuses nobody.
        self.excused += used.saturating_sub(self.seen);
        let dropped = (self.dropped(credited) as f64 * part_lost) as u64;
        let excess = due.saturating_sub(self.sampled).saturating_sub(dropped).saturating_sub(self.excused);
        // A busy virtual machine loses expiries, a tenth of them and more; the others are as good a sample then.
        let missed = if excess > patience && excess > due / 3 && is_deaf() { excess } else { 0 };
        // Of what signals came for, the samples and the losses have their parts.
        let came_for = due - missed;
        let lost = part_of(came_for, dropped, self.sampled + dropped);
        let balance = Balance {
            correction: (came_for - lost) as i64 - self.sampled as i64,
            missed,
            lost,
            number: self.number,
        };
        if self.timing.is_some() {
            self.written_off += missed;
        }
        self.told = used;
        (self.sampled, self.timed, self.excused, self.number) = (0, 0, 0, None);
        self.credited = credited;
        balance
    }

    /// Whether more than `patience` was used without a signal, by what its timer has accounted for.
    pub(super) fn is_behind(&self, credited: u64, patience: u64) -> bool {
        let due = self.seen.saturating_sub(self.told);
        let came = credited.saturating_sub(self.credited);
        let excess = due.saturating_sub(came).saturating_sub(self.excused);
        excess > patience && excess > due / 3
    }

    /// Takes back that this much was told: nothing of the period could stand for it, and what comes next may.
    pub(super) fn carry(&mut self, nanos: u64) {
        self.told = self.told.saturating_sub(nanos);
        self.excused += nanos;
    }
}

/// The part of `total` that `own` of `all` has.
pub(super) fn part_of(total: u64, own: u64, all: u64) -> u64 {
    (u128::from(own) * u128::from(total) / u128::from(all.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 4;

    fn timed(period: u32) -> Book {
        let mut book = Book::open(100, 100, 0, 0);
        book.arm(Some(Timing { from: 100, until: 100, first: 7, period, credited: 0 }), TICK);
        book
    }

    #[test]
    fn samples_are_corrected_to_what_the_clock_says() {
        let mut book = timed(10);
        (0..3).for_each(|_| assert_eq!(book.count(10, 10, true, 5), 10));
        let balance = book.balance(134, 30, 0.0, 56, || true);
        assert_eq!(balance, Balance { correction: 4, missed: 0, lost: 0, number: Some(5) });
        book.count(10, 10, true, 5);
        assert_eq!(book.balance(137, 40, 0.0, 56, || true).correction, -7, "told before the sample came");
        assert_eq!(book.balance(140, 40, 0.0, 56, || true).correction, 3);
        book.carry(3);
        assert_eq!(book.balance(141, 40, 0.0, 56, || true).correction, 4, "what was carried is told once");
    }

    #[test]
    fn a_thread_that_holds_the_signal_back_is_told_and_settled_later() {
        let mut book = timed(10);
        book.count(10, 10, true, 5);
        book.look(1_110, 2_000);
        let balance = book.balance(1_110, 10, 0.0, 56, || true);
        assert_eq!((balance.missed, balance.correction), (1_000, 0));
        // All that was held back comes at once, and some more.
        assert_eq!(book.count(1_020, 10, true, 5), 20);
        assert_eq!(book.balance(1_140, 1_030, 0.0, 56, || true).correction, 10);
    }

    #[test]
    fn a_thread_that_no_tick_has_met_for_long_is_not_called_deaf() {
        let mut book = timed(10);
        book.count(10, 10, true, 5);
        book.look(1_110, 2_000);
        let balance = book.balance(1_110, 10, 0.0, 56, || false);
        assert_eq!((balance.missed, balance.correction), (0, 1_000), "its samples stand for it");
    }

    #[test]
    fn a_thread_is_behind_when_it_has_used_much_more_than_signals_came_for() {
        let mut book = timed(10);
        book.look(150, 2_000);
        assert!(!book.is_behind(0, 56), "that is nothing unusual");
        book.look(260, 3_000);
        assert!(book.is_behind(0, 56) && !book.is_behind(120, 56));
        book.balance(260, 120, 0.0, 56, || false);
        assert!(!book.is_behind(120, 56), "it is told");
    }

    #[test]
    fn what_was_lost_is_not_told_twice() {
        let mut book = timed(10);
        book.count(30, 10, true, 5);
        let balance = book.balance(200, 90, 1.0, 56, || true);
        assert_eq!((balance.lost, balance.correction), (66, 4), "of 100, six of nine periods were lost");
    }

    #[test]
    fn the_end_of_a_thread_lies_between_its_expiries() {
        let bounds = |low, high, at_most| Bounds { low, high, at_most };
        let book = timed(10);
        assert_eq!(book.bounds(0, TICK, 1_000), bounds(100, 111, 167), "before the first expiry and a tick");
        assert_eq!(book.bounds(20, TICK, 1_000), bounds(117, 131, 187));
        let mut seen = timed(10);
        seen.look(124, 500);
        assert_eq!(seen.bounds(20, TICK, 1_000), bounds(124, 131, 187));
        assert_eq!(seen.bounds(20, TICK, 503), bounds(124, 127, 127), "in 3 ns it can have used 3");
        let mut deaf = timed(10);
        deaf.look(300, 500);
        assert_eq!(deaf.bounds(0, TICK, 600), bounds(300, 300, 400));
    }
}
