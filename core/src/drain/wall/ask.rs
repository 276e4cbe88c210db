//! Questions to threads that wait: signals, where a look from outside does not tell enough.
//!
//! A signal costs the thread a switch, and a call that cannot be begun again fails with EINTR. So it is the last means:
//! where the kernel does not tell the system call (gVisor, a kernel without the file, a sandbox), or the stack cannot be
//! read, or its walk has lost its way. A thread is asked once for each of its waits, and not again before it has run by
//! itself; what it runs to answer does not count as that (see `Watched`). Stacks that the thread itself cannot tell
//! either are not asked for again. With `wall_signal = never` nobody is asked at all.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use everprof_probe::sigprof;

use super::place::{Place, Why};

/// Stacks that are remembered as beyond help. With more of them, nobody is asked for the sake of a whole stack.
const MOST_HOPELESS: usize = 4096;

/// A question may get lost where the same signal is pending; after so many nanoseconds it is asked again.
const FORGETTING: u64 = 60_000_000_000;
/// Questions have numbers below this one; those from it on are of snapshots.
pub(crate) const FIRST_NUMBER: u32 = 1 << 30;
/// Signals from this number on are queued: none gets lost, and more of them would pile up.
pub(crate) const FIRST_QUEUED: i32 = 32;

/// Who asks, and what came of it.
#[derive(Debug)]
pub(super) struct Questions {
    allowed: bool,
    number: u32,
    /// Signals sent.
    pub(super) sent: u64,
    /// Looks at threads that wait of which the kernel did not tell where, or not their stacks.
    pub(super) untold: u64,
    /// Stacks, as seen from outside, of which the thread's own walk knew no more.
    hopeless: HashSet<u64>,
    news: Option<Why>,
    has_told: bool,
}

/// Whether a thread is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    No,
    /// By this number, at this time; `hash` is of the stack as it was seen from outside.
    Sent { number: u32, at: u64, hash: u64 },
    /// It has answered. What it ran for that, the next look finds out.
    Answered,
}

impl Questions {
    pub(super) fn new(allowed: bool) -> Self {
        let hopeless = HashSet::new();
        Self { allowed, number: 0, sent: 0, untold: 0, hopeless, news: None, has_told: false }
    }

    /// Whether answers may come.
    pub(super) fn are_open(&self) -> bool {
        self.sent > 0
    }

    /// Asks thread `tid` which waits at `place`, as far as that is known, if it is worth it. One that has been `asked`
    /// before and does not answer holds the signal back: what is known from outside has to be enough.
    pub(super) fn ask(&mut self, tid: u32, place: &Place, why: Why, asked: Asked, now: u64) -> Asked {
        let hash = hash(&place.words);
        if why == Why::NoRoom {
            // Not for long, and no reason to interrupt anybody.
            self.untold += 1;
            return asked;
        }
        if why == Why::NotWhole {
            if self.hopeless.contains(&hash) || self.hopeless.len() >= MOST_HOPELESS {
                return Asked::No;
            }
        } else {
            self.untold += 1;
            self.news = Some(why).filter(|_| !self.has_told);
        }
        if !self.allowed {
            return Asked::No;
        }
        if let Asked::Sent { at, .. } = asked
            && (now.saturating_sub(at) < FORGETTING || sigprof::signal() >= FIRST_QUEUED)
        {
            return asked;
        }
        self.number = self.number.wrapping_add(1) & (FIRST_NUMBER - 1);
        if !sigprof::ask(tid, self.number.max(1)) {
            return Asked::No;
        }
        self.sent += 1;
        Asked::Sent { number: self.number.max(1), at: now, hash }
    }

    /// A question for the sake of the stack `hash` has brought `place`.
    pub(super) fn answered(&mut self, hash: u64, place: &Place) {
        if place.is_cut() {
            self.hopeless.insert(hash);
        }
    }

    /// What is to be said once, and that waits are known less well for it.
    pub(super) fn news(&mut self) -> Option<String> {
        let why = self.news.take()?;
        self.has_told = true;
        let what = match why {
            Why::Unreadable => "the kernel does not let the stacks of threads that wait be read",
            _ => "the kernel does not tell where threads wait: there is no /proc/self/task/TID/syscall",
        };
        let so = if self.allowed {
            "each is asked by a signal, once for each wait, which wall_signal=never forbids"
        } else {
            "with wall_signal=never their stacks are not known"
        };
        Some(format!("{what}; {so}"))
    }
}

fn hash(words: &[u64]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_where_that_is_forbidden_and_the_reason_is_said_once() {
        let mut questions = Questions::new(false);
        let place = Place::unknown();
        assert_eq!(questions.ask(1, &place, Why::NotWhole, Asked::No, 7), Asked::No);
        assert!(questions.news().is_none(), "that a stack is not whole is told by its mark");
        assert_eq!(questions.ask(1, &place, Why::Untold, Asked::No, 7), Asked::No);
        assert!(questions.news().is_some_and(|news| news.contains("wall_signal=never")));
        assert_eq!(questions.ask(1, &place, Why::Untold, Asked::No, 8), Asked::No);
        assert_eq!((questions.news(), questions.untold, questions.sent), (None, 2, 0));
    }

    #[test]
    fn who_cannot_be_looked_at_for_the_moment_is_not_asked() {
        let mut questions = Questions::new(true);
        let (place, own) = (Place::unknown(), everprof_probe::os::gettid());
        assert_eq!(questions.ask(own, &place, Why::NoRoom, Asked::No, 7), Asked::No);
        let sent = Asked::Sent { number: 3, at: 5, hash: 1 };
        assert_eq!(questions.ask(own, &place, Why::NoRoom, sent, 7), sent);
        assert_eq!((questions.sent, questions.untold, questions.news()), (0, 2, None));
    }

    #[test]
    fn a_stack_that_the_thread_cannot_tell_either_is_not_asked_for_again() {
        let mut questions = Questions::new(true);
        let place = Place::unknown();
        questions.answered(hash(&place.words), &place);
        assert_eq!(questions.ask(u32::MAX >> 1, &place, Why::NotWhole, Asked::No, 7), Asked::No);
        assert_eq!(questions.sent, 0);
    }
}
