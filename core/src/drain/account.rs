//! Where CPU time went that no thread's own timer has seen.
//!
//! The process's CPU clock counts everything, also what threads used before they were discovered, after their last
//! expiry, or in a life too short to be discovered at all. What the threads' own timers account for is known. The
//! difference has two parts. What threads used without a timer is spread over the samples that were taken of them when
//! they were discovered. What is left is the time between the last expiry and the end of threads that had a timer, less
//! than a period and a tick each; it is spread over the samples of threads that ended. So totals are those of
//! `getrusage`, and short threads have stacks.
//!
//! A timer on the process's CPU clock was tried in place of discovery. Its signal goes to a thread of the kernel's
//! choice: where the one that runs holds signals back, as the C library does while it starts and ends threads, to a
//! sleeping one, whose `poll` then fails with EINTR.

/// More than this many times what it stands for by itself a sample of a discovery is not stretched: a handful of samples
/// must not stand for seconds that they say nothing about.
const STRETCH_MAX: u64 = 16;

/// The balance of one process.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// CPU time of the process when the account was opened.
    opened_at: u64,
    /// Unclaimed time that earlier periods were charged with.
    charged: u64,
}

/// How the unclaimed time of a period is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unclaimed {
    /// Nanoseconds to spread over the samples of discovered threads, in proportion.
    pub(super) sampled: u64,
    /// Nanoseconds to spread over the samples of threads that ended, in proportion.
    pub(super) at_exit: u64,
    /// Nanoseconds that have no sample to go to: a visible frame.
    pub(super) unsampled: u64,
}

impl Account {
    /// Opens it at the process's CPU time.
    pub(super) fn open(process: u64) -> Self {
        Self { opened_at: process, charged: 0 }
    }

    /// Unclaimed CPU time since the last [`Account::charge`], given the process's CPU time and what the threads' own
    /// timers cover of it.
    pub(super) fn unclaimed(&self, process: u64, covered: u64) -> u64 {
        self.unclaimed_ever(process, covered).saturating_sub(self.charged)
    }

    /// Unclaimed CPU time since the account was opened.
    pub(super) fn unclaimed_ever(&self, process: u64, covered: u64) -> u64 {
        process.saturating_sub(self.opened_at).saturating_sub(covered)
    }

    /// Settles the unclaimed time, for which samples of discovered threads stand with `nominal` nanoseconds, while
    /// threads ended that may have used up to `exits` nanoseconds after their timers' last expiry.
    pub(super) fn charge(&mut self, process: u64, covered: u64, nominal: u64, exits: u64) -> Unclaimed {
        let unclaimed = self.unclaimed(process, covered);
        self.charged += unclaimed;
        let at_exit = unclaimed.saturating_sub(nominal).min(exits);
        let sampled = (unclaimed - at_exit).min(nominal.saturating_mul(STRETCH_MAX));
        Unclaimed { sampled, at_exit, unsampled: unclaimed - at_exit - sampled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_timer_covers_is_charged_once() {
        let mut account = Account::open(1_000);
        assert_eq!(account.unclaimed(5_000, 3_500), 500);
        assert_eq!(
            account.charge(5_000, 3_500, 400, 0),
            Unclaimed { sampled: 500, at_exit: 0, unsampled: 0 }
        );
        assert_eq!(account.unclaimed(5_000, 3_500), 0);
        assert_eq!(account.charge(6_000, 4_000, 0, 0), Unclaimed { sampled: 0, at_exit: 0, unsampled: 500 });
    }

    #[test]
    fn what_ended_threads_may_have_used_last_goes_to_them() {
        let mut account = Account::open(0);
        let unclaimed = account.charge(1_000, 0, 400, 500);
        assert_eq!(unclaimed, Unclaimed { sampled: 500, at_exit: 500, unsampled: 0 });
    }

    #[test]
    fn few_samples_are_not_stretched_over_much_time() {
        let mut account = Account::open(0);
        assert_eq!(
            account.charge(2_000, 0, 100, 0),
            Unclaimed { sampled: 1_600, at_exit: 0, unsampled: 400 }
        );
    }

    #[test]
    fn clocks_read_at_slightly_different_times_do_no_harm() {
        let mut account = Account::open(0);
        assert_eq!(account.charge(1_000, 1_010, 100, 0), Unclaimed::default());
        assert_eq!(account.charge(2_000, 1_990, 100, 0).sampled, 10);
    }
}
