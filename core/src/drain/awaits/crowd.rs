//! Which waits of tasks are told where there are too many of them.
//!
//! On our thread. No more than [`MOST_OPEN`] waits that go on are held, and about [`MOST_A_SECOND`] begin to be told; with
//! more, the *least* that each stands for is doubled until they fit. New ones that would stand for less are taken with the
//! chance that this leaves (`labels/polls.rs`), and so are those that go on. Whoever is held has thus come through by the
//! weight that it has, whenever it began: long waits are told as well as short ones. Were it always half of the old ones
//! that give way to new ones, those that last would be left to a few of enormous weight.

use everprof_probe::awaiting::CELLS;

use super::super::random::Random;

/// So many waits that go on are held at most.
const MOST_OPEN: usize = CELLS / 2;
/// So many of the whole process begin to be told in a second, about; fewer while the governor holds the rate down.
const MOST_A_SECOND: f64 = 1_000.0;
/// Nanoseconds over which those that begin are counted, at least.
const LEAST_WINDOW: u64 = 100_000_000;
/// The most that each has to stand for.
const MOST_LEAST: u32 = 1 << 24;

#[derive(Debug)]
pub(super) struct Crowd {
    least: u32,
    /// What those stood for that began since `counted_at`, on the monotonic clock.
    begun: Vec<u32>,
    counted_at: u64,
    random: Random,
}

impl Crowd {
    pub(super) fn new(now: u64) -> Self {
        Self { least: 1, begun: Vec::new(), counted_at: now, random: Random::new() }
    }

    /// What each wait stands for at least.
    pub(super) fn least(&self) -> u32 {
        self.least
    }

    /// A wait has begun that stands for so many.
    pub(super) fn begun(&mut self, weight: u32) {
        self.begun.push(weight);
    }

    /// Sets the least by what those stand for that go on; says whether they have to be thinned out by it. `share` is the
    /// part of the usual cost that everprof may have.
    pub(super) fn judge(&mut self, open: Vec<u32>, now: u64, share: f64) -> bool {
        let passed = now.saturating_sub(self.counted_at);
        let before = self.least;
        if passed >= LEAST_WINDOW {
            let room = MOST_A_SECOND * share * passed as f64 / 1e9;
            let is_quiet = (self.begun.len() as f64) < room / 4.0 && open.len() < MOST_OPEN / 4;
            self.least = if is_quiet { (before / 2).max(1) } else { least_for(before, &self.begun, room) };
            self.begun.clear();
            self.counted_at = now;
        }
        let is_crowded = open.len() > MOST_OPEN;
        if is_crowded {
            self.least = self.least.max(least_for(before, &open, 0.75 * MOST_OPEN as f64));
        }
        is_crowded
    }

    /// What a wait stands for once it has been left to chance whether it stays: 0 where it does not.
    pub(super) fn thinned(&mut self, weight: u32) -> u32 {
        match weight {
            enough if enough >= self.least => enough,
            few if self.random.below(self.least) <= few => self.least,
            _ => 0,
        }
    }
}

/// What each has to stand for, so that of waits that stand for so many there is room for those that are left: the least
/// before, or some doublings of it.
fn least_for(mut least: u32, weights: &[u32], room: f64) -> u32 {
    let left = |least: u32| -> f64 {
        weights.iter().map(|weight| (f64::from(*weight) / f64::from(least)).min(1.0)).sum()
    };
    while least < MOST_LEAST && left(least) > room {
        least *= 2;
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits that begin as often as `each_second` says, of two lengths: for each of them, nanoseconds by what is told and
    /// by what is true, summed over `seconds` after as many to settle; and the most that were held.
    fn simulate(each_second: [u32; 2], lengths: [u64; 2], seconds: u64) -> ([f64; 2], usize) {
        const STEP: u64 = 200_000_000;
        let (mut crowd, mut chance) = (Crowd::new(0), Random::new());
        let mut open: Vec<(usize, u64, u32)> = Vec::new();
        let (mut told, mut most) = ([0.0; 2], 0);
        let steps = 2 * seconds * 1_000_000_000 / STEP;
        for now in (1..=steps).map(|step| step * STEP) {
            for kind in [0, 1] {
                for _ in 0..each_second[kind] / 5 {
                    // As `labels/polls.rs` does with a poll that stands for itself.
                    if chance.below(crowd.least()) == 1 {
                        open.push((kind, now + lengths[kind], crowd.least()));
                        crowd.begun(crowd.least());
                    }
                }
            }
            open.retain(|(_, end, _)| *end > now);
            if crowd.judge(open.iter().map(|(.., weight)| *weight).collect(), now, 1.0) {
                open.iter_mut().for_each(|(.., weight)| *weight = crowd.thinned(*weight));
                open.retain(|(.., weight)| *weight > 0);
            }
            most = most.max(open.len());
            if now > steps / 2 * STEP {
                open.iter().for_each(|(kind, _, weight)| told[*kind] += f64::from(*weight));
            }
        }
        let right = |kind: usize| f64::from(each_second[kind]) * lengths[kind] as f64 / 1e9;
        ([0, 1].map(|kind| told[kind] / (steps / 2) as f64 / right(kind)), most)
    }

    #[test]
    fn long_waits_in_a_crowd_are_told_as_well_as_short_ones() {
        const SECOND: u64 = 1_000_000_000;
        for (each_second, lengths) in [
            ([50, 10], [SECOND, 30 * SECOND]),
            ([400, 100], [SECOND, 60 * SECOND]),
            ([20_000, 200], [SECOND, 60 * SECOND]),
            ([5_000, 50], [SECOND, 600 * SECOND]),
        ] {
            let (parts, most) = simulate(each_second, lengths, 2 * lengths[1] / SECOND);
            // Some 500 of all that go on are held at least, and each long one is seen anew twice.
            let held = |kind: usize| {
                let all = [0, 1].map(|kind| f64::from(each_second[kind]) * lengths[kind] as f64);
                500.0 * all[kind] / (all[0] + all[1])
            };
            for kind in [0, 1] {
                assert!(
                    (parts[kind] - 1.0).abs() < 4.0 / (2.0 * held(kind)).sqrt(),
                    "{each_second:?}: {parts:?}"
                );
            }
            assert!(most < MOST_OPEN + 1_500, "{most} held");
        }
    }

    #[test]
    fn the_least_falls_again_and_a_held_down_rate_makes_it_rise() {
        let mut crowd = Crowd::new(0);
        (0..1_000).for_each(|_| crowd.begun(1));
        assert!(
            !crowd.judge(vec![1; 100], 1_000_000_000, 1.0) && crowd.least() == 1,
            "as many as there may be"
        );
        (0..1_000).for_each(|_| crowd.begun(1));
        assert!(!crowd.judge(vec![1; 100], 2_000_000_000, 0.25) && crowd.least() == 4);
        assert!(crowd.judge(vec![4; 3 * MOST_OPEN], 2_000_000_001, 1.0) && crowd.least() == 16);
        assert_eq!(crowd.thinned(20), 20);
        for second in 3..7 {
            crowd.judge(vec![1], second * 1_000_000_000, 1.0);
        }
        assert_eq!(crowd.least(), 1);
    }
}
