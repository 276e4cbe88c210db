//! What is told of the time after the last look at a thread, which nobody has seen.
//!
//! The kernel knows when a thread was born, and nobody when it ended: some time after the last look that found it. Of lives
//! so short that most of them are met by no look at all, each that is met has to stand for those that are not. Now a
//! thread is met at a moment of our own, whatever it does. If its life is shorter than the time between that moment and the
//! one before at which all were known, it was met with a chance as large as its life is a part of that time; so it is
//! told as if it had lived so long, and over many what is told comes to what was lived. A longer life is told as long
//! as it was: it goes on to be looked at, and each look stands for the time since the one before. Both in one: what is
//! told at the end is what the last look before the thread was so old lacked to that age. To tell half of the time between
//! two looks instead told short ones at half. For long lives it is right, and does not ask for rounds that are alike: where
//! threads come, we look sooner than where they go.
//!
//! A thread that has announced itself was not met by chance: it is told from its birth, and from its first look on as if it
//! had been born then.

/// The kernel tells births to so many nanoseconds.
const UNIT: u64 = 10_000_000;

/// No thread stands for more than that, in nanoseconds. Threads are looked for more often, but on a machine that has no
/// processor for us; there a few that happen to be met would tell of seconds each.
const LONGEST_ROUND: u64 = 500_000_000;

/// A life that is longer than so many rounds and one is a long one.
const LONG: u64 = 3;

/// What is known of when threads can have come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought {
    /// Since when there are looks.
    pub(super) began: u64,
    /// This is the first one: what threads have done by now is not ours to tell.
    pub(super) is_first: bool,
    /// When all threads that lived were known, which have been looked at since; and when it was looked for those who were
    /// not known then.
    pub(super) last: u64,
    pub(super) census: u64,
    /// The same by a round that came when it was due, and not because somebody had announced himself; and whether this is
    /// one.
    pub(super) by_clock: u64,
    pub(super) is_by_clock: bool,
    /// Whether this is a round in which all are known.
    pub(super) is_search: bool,
}

/// What is told at the end of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// Half of the time between the last look and the next: it was there when the looks began.
    #[default]
    Half,
    /// Nothing: it was looked at then because it had announced itself, and by no round of the clock since.
    Announced(u64),
    /// So much.
    Nanos(u64),
    /// What lacks from when it was `seen` to then; it was met after a `round` of that length.
    Until { then: u64, seen: u64, round: u64 },
}

impl Sought {
    /// A thread is looked at for the first time that was born then, as the kernel says: from when on it is told, and what at
    /// its end.
    pub(super) fn meet(&self, born: u64, now: u64, is_announced: bool) -> (u64, Rest) {
        // If it had been there at the last look, it would have been found, unless its id was overlooked.
        let born = if born.saturating_add(UNIT) >= self.last { born.max(self.last) } else { born };
        let from = born.max(self.began).min(now);
        let round = self.round();
        let until = Rest::Until { then: from + round, seen: now, round };
        (from, if is_announced { Rest::Announced(now) } else { until })
    }

    /// What is told of a thread that was met, and gone by the time that it was looked at.
    pub(super) fn missed(&self) -> Rest {
        Rest::Nanos(self.round())
    }

    /// The time between the two moments at which all are known.
    fn round(&self) -> u64 {
        self.census.saturating_sub(self.last).min(LONGEST_ROUND)
    }

    /// The same thread is looked at again.
    pub(super) fn meet_again(&self, rest: &mut Rest, now: u64) {
        match rest {
            Rest::Announced(at) if self.is_by_clock => {
                // From then on it stands for a round, of which all since is told.
                *rest = Rest::Nanos(at.saturating_sub(self.by_clock));
            }
            Rest::Until { then, seen, round } if now < *then && !self.is_round_like(*round) => *seen = now,
            _ => {}
        }
    }
}

impl Sought {
    /// Whether this look would have met the thread as well, and comes after a time like that, as chance spreads it: then it
    /// stands for that time itself. Where threads come, looks come sooner than while nothing happened.
    fn is_round_like(&self, round: u64) -> bool {
        self.is_search && 3 * self.census.saturating_sub(self.last) >= round
    }
}

impl Rest {
    /// What is told of a thread that was there at `last`, and is gone `now`.
    pub(super) fn nanos(self, last: u64, now: u64) -> u64 {
        match self {
            Rest::Half => now.saturating_sub(last) / 2,
            Rest::Announced(_) => 0,
            Rest::Nanos(nanos) => nanos,
            Rest::Until { then, round, .. } if last >= then.saturating_add(LONG * round) => {
                now.saturating_sub(last) / 2
            }
            Rest::Until { then, seen, .. } => then.saturating_sub(seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::random::Random;

    const MILLI: u64 = 1_000_000;

    /// Lives of one length that begin at any time; rounds at distances that chance decides, in some of which new threads are
    /// found; and what is told of all: what was lived, within three standard deviations.
    fn told(life: u64, announced: bool, searches: u64, hurry: u64) {
        const LIVES: u32 = 50_000;
        let mut random = Random::new();
        let mut below = |limit: u64| u64::from(random.below(limit as u32));
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..LIVES {
            // Long after the beginning: the first round after its birth may be anywhere.
            let birth = 1_500 * MILLI + below(600 * MILLI);
            let end = birth + life;
            let mut sought = Sought {
                began: 0,
                is_first: false,
                last: 0,
                by_clock: 0,
                is_by_clock: true,
                is_search: true,
                census: 0,
            };
            let mut met: Option<(u64, Rest)> = None;
            let (mut now, mut seen) = (0, 0);
            // Its own look comes within a millisecond.
            let own = birth + below(MILLI);
            while now <= end {
                let gap = 20 * MILLI + below(40 * MILLI);
                now += if met.is_some() { gap / hurry } else { gap };
                if announced && met.is_none() && (own..end).contains(&own.min(now)) {
                    met = Some(sought.meet(birth, own, true));
                    seen = own;
                }
                let is_search = below(searches) == 1;
                (sought.is_search, sought.census) = (is_search, now);
                if (birth..=end).contains(&now) {
                    match &mut met {
                        Some((_, rest)) => {
                            sought.meet_again(rest, now);
                            seen = now;
                        }
                        None if is_search => {
                            met = Some(sought.meet(birth, now, announced));
                            seen = now;
                        }
                        None => {}
                    }
                }
                sought.by_clock = now;
                if is_search {
                    sought.last = now;
                }
            }
            let told = met.map_or(0, |(from, rest)| seen - from + rest.nanos(seen, now)) as f64;
            sum += told;
            squares += told * told;
        }
        let n = f64::from(LIVES);
        let mean = sum / n;
        let sigma = ((squares / n - mean * mean) / n).sqrt();
        let off = (mean - life as f64).abs();
        // Where rounds in which new threads are found mix with others, it is some too much, and where they come at very
        // different distances some too little, of lives that are about as long as they.
        let some = if searches > 1 || hurry > 1 { 0.04 * life as f64 } else { 0.01 * life as f64 };
        assert!(off < 3.0 * sigma + some, "{life} {announced} {searches} {hurry}: {mean}, sigma {sigma}");
    }

    fn told_of_all(announced: bool) {
        // Rounds of the clock are not hurried for who announces himself.
        let ways = |life| [(life, 1, 1), (life, 4, 1), (life, 1, if announced { 1 } else { 5 })];
        for (life, searches, hurry) in [2, 5, 30, 60, 120, 400].into_iter().flat_map(ways) {
            // One in four hundred is more than three off by chance: then once more is enough.
            let tried = std::panic::catch_unwind(|| told(life * MILLI, announced, searches, hurry));
            if tried.is_err() {
                told(life * MILLI, announced, searches, hurry);
            }
        }
    }

    #[test]
    fn lives_of_any_length_are_told_as_long_as_they_were() {
        told_of_all(false);
    }

    /// What is lived before the announcement is told as it was.
    #[test]
    fn so_are_those_of_threads_that_announce_themselves() {
        told_of_all(true);
    }

    #[test]
    fn one_that_was_overlooked_is_told_from_its_birth() {
        let sought = Sought {
            began: 5,
            is_first: false,
            last: 900 * MILLI,
            by_clock: 0,
            is_by_clock: true,
            is_search: true,
            census: 950 * MILLI,
        };
        let (from, rest) = sought.meet(100 * MILLI, 950 * MILLI, false);
        assert_eq!((from, rest.nanos(950, 960)), (100 * MILLI, 0));
        let (from, rest) = sought.meet(895 * MILLI, 950 * MILLI, false);
        assert_eq!((from, rest.nanos(950, 960)), (900 * MILLI, 0), "the kernel does not know better");
        assert_eq!(sought.meet(2, 950 * MILLI, false).0, 5, "but not from before the looks");
    }
}
