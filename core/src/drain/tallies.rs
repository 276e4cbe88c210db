//! What an account has counted, for each of those who ask for it: the period at hand, the time since the account began, and
//! recordings that begin and end when they like.
//!
//! Our thread. What comes is counted once, in what is `fresh`, and handed on to the others when one of them is read or the
//! fresh part has grown: a sample costs the same however many recordings there are. Each of them has so many places at most.
//! Of more, those that weigh least are summed up and told as one frame, so that an account which runs for ever stays small,
//! and its sum stays right.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use super::setup::wall_clock;
use super::sites::Same;

/// Places of a tally at most; when there are more, the heaviest [`KEPT`] stay.
const MOST: usize = 8 << 10;
const KEPT: usize = 6 << 10;
/// The fresh part is handed on when it has so many.
const MOST_FRESH: usize = 512;

/// What is counted of a place.
pub(super) trait Amounts: Copy + Default {
    fn add(&mut self, more: Self);
    /// What it weighs beside that of other places.
    fn weight(&self) -> f64;
}

/// What things are counted by.
pub(super) trait Place: Clone + Eq + Hash {
    /// The same place without the trace that it was met in; none where it was met in none.
    fn untraced(&self) -> Option<Self>;
}

impl Place for Same {
    fn untraced(&self) -> Option<Self> {
        Same::untraced(self)
    }
}

/// What was counted since it began.
#[derive(Clone, Debug)]
pub(super) struct Tally<K, A> {
    pub(super) rows: HashMap<K, A>,
    /// Of the places that there was no room for.
    pub(super) rest: A,
    /// What lost samples stood for.
    pub(super) lost: A,
    pub(super) samples: u64,
    /// How many places are told without their trace, since there were too many.
    untraced: u64,
    began: Instant,
    began_at: i64,
}

impl<K: Place, A: Amounts> Tally<K, A> {
    fn new() -> Self {
        let (rest, lost) = Default::default();
        let (began, began_at) = (Instant::now(), wall_clock());
        Self { rows: HashMap::new(), rest, lost, samples: 0, untraced: 0, began, began_at }
    }

    /// When it began, in nanoseconds since the epoch, and for how long it has counted.
    pub(super) fn span(&self) -> (i64, i64) {
        (self.began_at, self.began.elapsed().as_nanos() as i64)
    }

    fn take_in(&mut self, more: &Self) {
        for (key, amount) in &more.rows {
            self.rows.entry(key.clone()).or_default().add(*amount);
        }
        self.rest.add(more.rest);
        self.lost.add(more.lost);
        self.samples += more.samples;
        if self.rows.len() > MOST {
            self.untrace(KEPT);
            self.fold(KEPT);
        }
    }

    /// Forgets the traces of the lightest places that have one, until there are `kept` places or no traces.
    fn untrace(&mut self, kept: usize) {
        let mut traced: Vec<(K, K, A)> = Vec::new();
        for (key, amount) in &self.rows {
            traced.extend(key.untraced().map(|twin| (key.clone(), twin, *amount)));
        }
        traced.sort_by(|(.., one), (.., other)| one.weight().total_cmp(&other.weight()));
        for (key, twin, amount) in traced {
            if self.rows.len() <= kept {
                break;
            }
            self.rows.remove(&key);
            self.rows.entry(twin).or_default().add(amount);
            self.untraced += 1;
        }
    }

    /// Sums up all but the heaviest `kept` places.
    fn fold(&mut self, kept: usize) {
        let mut weights: Vec<f64> = self.rows.values().map(Amounts::weight).collect();
        let Some(beyond) = weights.len().checked_sub(kept).filter(|beyond| *beyond > 0) else { return };
        let (_, least, _) = weights.select_nth_unstable_by(beyond - 1, f64::total_cmp);
        let (least, rest) = (*least, &mut self.rest);
        // Of those that weigh the same, as many as there is room for.
        let mut room = kept - self.rows.values().filter(|amount| amount.weight() > least).count();
        self.rows.retain(|_, amount| {
            let stays = match amount.weight().total_cmp(&least) {
                Ordering::Greater => true,
                Ordering::Equal if room > 0 => {
                    room -= 1;
                    true
                }
                _ => false,
            };
            if !stays {
                rest.add(*amount);
            }
            stays
        });
    }
}

/// The tallies of an account.
#[derive(Debug)]
pub(super) struct Tallies<K, A> {
    fresh: Tally<K, A>,
    period: Tally<K, A>,
    total: Tally<K, A>,
    recordings: HashMap<u64, Tally<K, A>>,
}

impl<K: Place, A: Amounts> Default for Tallies<K, A> {
    fn default() -> Self {
        let recordings = HashMap::new();
        Self { fresh: Tally::new(), period: Tally::new(), total: Tally::new(), recordings }
    }
}

impl<K: Place, A: Amounts> Tallies<K, A> {
    /// Counts a sample.
    pub(super) fn add(&mut self, key: K, amount: A) {
        self.fresh.rows.entry(key).or_default().add(amount);
        self.fresh.samples += 1;
        if self.fresh.rows.len() >= MOST_FRESH {
            self.hand_on();
        }
    }

    /// Counts what samples stood for that were lost.
    pub(super) fn lose(&mut self, amount: A) {
        self.fresh.lost.add(amount);
    }

    /// Takes how many places of the period have lost their trace since the last call.
    pub(super) fn take_untraced(&mut self) -> u64 {
        std::mem::take(&mut self.period.untraced)
    }

    /// What was counted in the period, which ends.
    pub(super) fn end_period(&mut self) -> Tally<K, A> {
        self.hand_on();
        std::mem::replace(&mut self.period, Tally::new())
    }

    /// What was counted since the account began.
    pub(super) fn total(&mut self) -> &Tally<K, A> {
        self.hand_on();
        &self.total
    }

    /// Begins to count for a recording.
    pub(super) fn begin(&mut self, id: u64) {
        self.hand_on();
        self.recordings.insert(id, Tally::new());
    }

    /// What was counted for a recording, which ends; none where there is no such.
    pub(super) fn end(&mut self, id: u64) -> Option<Tally<K, A>> {
        self.hand_on();
        self.recordings.remove(&id)
    }

    /// About how many places there are.
    pub(super) fn places(&self) -> usize {
        let own = self.period.rows.len() + self.total.rows.len();
        own + self.recordings.values().map(|tally| tally.rows.len()).sum::<usize>()
    }

    fn hand_on(&mut self) {
        let fresh = std::mem::replace(&mut self.fresh, Tally::new());
        for tally in [&mut self.period].into_iter().chain(self.recordings.values_mut()) {
            tally.take_in(&fresh);
        }
        // What is told of all time is not told of each of its requests.
        let mut untraced = fresh;
        untraced.untrace(0);
        self.total.take_in(&untraced);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    impl Place for u32 {
        fn untraced(&self) -> Option<Self> {
            (*self >= TRACED).then_some(*self % 10)
        }
    }

    /// From here on places of the tests have traces.
    const TRACED: u32 = 1 << 20;

    impl Amounts for u64 {
        fn add(&mut self, more: Self) {
            *self += more;
        }

        fn weight(&self) -> f64 {
            *self as f64
        }
    }

    fn sum(tally: &Tally<u32, u64>) -> u64 {
        tally.rows.values().sum::<u64>() + tally.rest
    }

    #[test]
    fn each_one_is_told_what_came_since_it_began() {
        let mut tallies = Tallies::default();
        tallies.add(1, 10);
        tallies.begin(7);
        tallies.add(1, 5);
        tallies.lose(3);
        assert_eq!(sum(&tallies.end_period()), 15);
        tallies.add(2, 1);
        let recorded = tallies.end(7).unwrap();
        assert_eq!((sum(&recorded), recorded.lost, recorded.samples), (6, 3, 2));
        assert_eq!((sum(tallies.total()), sum(&tallies.end_period())), (16, 1));
        assert!(tallies.end(7).is_none());
    }

    #[test]
    fn of_too_many_places_the_heaviest_stay_and_the_sum_is_right() {
        let mut tallies = Tallies::default();
        let count = 3 * MOST as u32;
        for place in 0..count {
            // The heavy ones come at any time.
            tallies.add(place, if place % 100 == 0 { 1_000 } else { 1 });
        }
        let total = tallies.total();
        assert!(total.rows.len() <= MOST, "{}", total.rows.len());
        assert!((0..count).step_by(100).all(|heavy| total.rows.contains_key(&heavy)));
        let heavy = u64::from(count.div_ceil(100));
        assert_eq!(sum(total), heavy * 1_000 + u64::from(count) - heavy);
        assert_eq!(total.samples, u64::from(count));
    }

    #[test]
    fn traces_give_way_before_places_do() {
        let mut tallies = Tallies::default();
        tallies.add(TRACED, 1_000_000);
        let count = 2 * MOST as u32;
        (1..=count).for_each(|number| tallies.add(TRACED + number, 1));
        assert!(tallies.total().rows.len() == 10 && tallies.total().rest == 0, "{:?}", tallies.total());
        assert!(tallies.take_untraced() > 0 && tallies.take_untraced() == 0);
        let period = tallies.end_period();
        assert!(period.rows.contains_key(&TRACED) && period.rows.len() <= MOST && period.rest == 0);
        assert_eq!(sum(&period), 1_000_000 + u64::from(count));
    }

    #[test]
    fn places_that_all_weigh_the_same_are_bounded_as_well() {
        let mut tallies = Tallies::default();
        (0..2 * MOST as u32).for_each(|place| tallies.add(place, 1));
        assert!((KEPT..=MOST).contains(&tallies.total().rows.len()));
        assert_eq!(sum(tallies.total()), 2 * MOST as u64);
    }
}
