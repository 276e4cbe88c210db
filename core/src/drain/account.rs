//! Where CPU time went that no clock of a living thread shows.
//!
//! The process's CPU clock counts everything, also what threads used that are gone: it less the clocks of the living is
//! what all threads together had used by their ends. At each look at the threads the difference to the look before
//! belongs to the few that ended in between. Of those that were known, the bounds are known too
//! ([`super::book::Book::bounds`]); what goes beyond them was used in lives too short to be met at all. So totals are
//! those of `getrusage`, and each thread's time is its own within a period and a tick.
//!
//! A timer on the process's CPU clock was tried in place of discovery. Its signal goes to a thread of the kernel's
//! choice: where the one that runs holds signals back, as the C library does while it starts and ends threads, to a
//! sleeping one, whose `poll` then fails with EINTR.

use super::book::{Bounds, part_of};

/// More than this many times what it speaks for by itself a sample of a discovery is not stretched: a handful of samples
/// must not stand for seconds that they say nothing about.
const STRETCH_MAX: u64 = 16;

/// The balance of one process, in nanoseconds of CPU time.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// What threads that are gone had used, as far as it was settled.
    settled: u64,
    /// What threads used that were never met, and no period was charged with.
    unmet: u64,
    /// The same since the account was opened, charged or not.
    unmet_ever: u64,
}

/// How the time of threads that were never met is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unmet {
    /// Nanoseconds to spread over the samples of discovered threads.
    pub(super) sampled: u64,
    /// Nanoseconds that have no sample to go to: a visible frame.
    pub(super) unsampled: u64,
}

impl Account {
    /// Opens it when threads that are gone have used `gone`.
    pub(super) fn open(gone: u64) -> Self {
        Self { settled: gone, ..Self::default() }
    }

    /// Threads that are gone have used `gone` by now, and those of the given bounds are gone since the last look.
    /// Returns what each of them had used by its end.
    ///
    /// The clocks are read one after the other, so `gone` may be a little too low; what is missing comes with a later
    /// look.
    pub(super) fn settle(&mut self, gone: u64, bounds: &[Bounds]) -> Vec<u64> {
        let sum = |of: &dyn Fn(&Bounds) -> u64| -> u64 { bounds.iter().map(of).sum() };
        let rest = gone.saturating_sub(self.settled).saturating_sub(sum(&|bound| bound.low));
        // First what is likely, then what is possible.
        let (likely, possible) =
            (sum(&|bound| bound.high - bound.low), sum(&|bound| bound.at_most - bound.high));
        let (near, far) = (rest.min(likely), rest.saturating_sub(likely).min(possible));
        let unmet = rest - near - far;
        self.unmet += unmet;
        self.unmet_ever += unmet;
        let end = |bound: &Bounds| {
            bound.low
                + part_of(near, bound.high - bound.low, likely)
                + part_of(far, bound.at_most - bound.high, possible)
        };
        let ends: Vec<u64> = bounds.iter().map(end).collect();
        self.settled += ends.iter().sum::<u64>() + unmet;
        ends
    }

    /// What threads used that were never met, since the account was opened.
    pub(super) fn unmet_ever(&self) -> u64 {
        self.unmet_ever
    }

    /// Adds what known threads used that had no samples, nor had any other of their names.
    pub(super) fn add(&mut self, nanos: u64) {
        self.unmet += nanos;
    }

    /// Charges a period with what is open, of which samples that speak for `discovered` nanoseconds may stand for some.
    /// What no sample can stand for is left for the next one where it is less than `least`.
    pub(super) fn charge(&mut self, discovered: u64, least: u64) -> Unmet {
        let sampled = self.unmet.min(discovered * STRETCH_MAX);
        let unsampled = self.unmet - sampled;
        let unsampled = if unsampled < least { 0 } else { unsampled };
        self.unmet -= sampled + unsampled;
        Unmet { sampled, unsampled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(low: u64, high: u64) -> Bounds {
        Bounds { low, high, at_most: high + 10 }
    }

    #[test]
    fn what_ended_threads_used_lies_within_their_bounds() {
        let mut account = Account::open(1_000);
        assert_eq!(
            account.settle(1_160, &[bound(100, 120)]),
            [130],
            "30 more were used by threads never met"
        );
        assert_eq!(account.charge(100, 100), Unmet { sampled: 30, unsampled: 0 });
        assert_eq!(account.settle(1_370, &[bound(100, 110), bound(90, 120)]), [105, 105]);
        assert_eq!(account.charge(100, 0), Unmet::default());
    }

    #[test]
    fn clocks_read_at_slightly_different_times_do_no_harm() {
        let mut account = Account::open(1_000);
        assert_eq!(account.settle(990, &[]), []);
        assert_eq!(account.settle(1_090, &[bound(95, 99)]), [95], "told a little too much");
        assert_eq!(account.settle(1_100, &[]), []);
        assert_eq!(account.unmet_ever(), 5, "and only once");
    }

    #[test]
    fn few_samples_are_not_stretched_over_much_time() {
        let mut account = Account::open(0);
        account.settle(2_000, &[]);
        assert_eq!(account.charge(100, 100), Unmet { sampled: 1_600, unsampled: 400 });
    }

    #[test]
    fn less_than_a_period_waits_for_the_last() {
        let mut account = Account::open(0);
        account.settle(60, &[]);
        assert_eq!(account.charge(0, 100), Unmet::default());
        account.add(20);
        assert_eq!(account.charge(0, 0), Unmet { sampled: 0, unsampled: 80 });
    }
}
