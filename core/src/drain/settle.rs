//! The end of a period: what each thread's samples stand for is brought to what the thread has used.

use std::collections::HashMap;
use std::sync::Arc;

use super::book::part_of;
use super::threads::Due;

/// Where to put what is due, found out from what the samples of a period stand for.
#[derive(Debug, Default)]
pub(super) struct Settlement {
    /// Nanoseconds of samples by the thread's number.
    sampled: HashMap<u32, u64>,
    /// Numbers by the thread's name, and the sum of their samples.
    by_name: HashMap<Arc<str>, (u64, Vec<u32>)>,
    corrections: HashMap<u32, i64>,
    /// What is due to a name, and has no number of its own.
    of_names: HashMap<Arc<str>, u64>,
}

/// What becomes of time that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Samples will stand for it.
    Samples,
    /// There is no sample of the thread, nor of one of its name; so many nanoseconds are open.
    Nowhere(u64),
}

impl Settlement {
    /// Of the threads with samples: their names, their numbers, and the nanoseconds of the samples.
    pub(super) fn new(threads: impl IntoIterator<Item = (Arc<str>, u32, u64)>) -> Self {
        let mut settlement = Self::default();
        for (name, number, nanos) in threads.into_iter().filter(|(_, _, nanos)| *nanos > 0) {
            settlement.sampled.insert(number, nanos);
            let (all, numbers) = settlement.by_name.entry(name).or_default();
            *all += nanos;
            numbers.push(number);
        }
        settlement
    }

    /// Places what is due to a thread: with its own samples, else with those of others of its name. A thread's time
    /// alone says which stacks it had as little as one sample does; all of a name together say it.
    pub(super) fn place(&mut self, due: &Due) -> Placed {
        let correction = due.balance.correction;
        if let Some(number) = due.balance.number
            && self.sampled.contains_key(&number)
        {
            *self.corrections.entry(number).or_default() += correction;
            return Placed::Samples;
        }
        let nanos = correction.max(0) as u64;
        if nanos > 0 && !self.by_name.contains_key(&due.name) {
            return Placed::Nowhere(nanos);
        }
        *self.of_names.entry(due.name.clone()).or_default() += nanos;
        Placed::Samples
    }

    /// By the thread's number: what is to be added to its samples, in proportion.
    pub(super) fn corrections(mut self) -> HashMap<u32, i64> {
        for (name, nanos) in self.of_names {
            let Some((all, numbers)) = self.by_name.get(&name) else { continue };
            for number in numbers {
                let own = self.sampled.get(number).copied().unwrap_or_default();
                *self.corrections.entry(*number).or_default() += part_of(nanos, own, *all) as i64;
            }
        }
        self.corrections
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::Balance;
    use super::*;

    fn due(name: &str, number: Option<u32>, correction: i64) -> Due {
        let balance = Balance { correction, number, ..Balance::default() };
        Due { name: name.into(), tid: 1, timed: true, balance }
    }

    #[test]
    fn time_goes_to_the_threads_own_samples_then_to_those_of_its_name() {
        let samples = [("a".into(), 1, 30), ("a".into(), 2, 10), ("b".into(), 3, 0)];
        let mut settlement = Settlement::new(samples);
        assert_eq!(settlement.place(&due("a", Some(1), -5)), Placed::Samples);
        assert_eq!(settlement.place(&due("a", None, 8)), Placed::Samples);
        assert_eq!(settlement.place(&due("b", Some(3), 4)), Placed::Nowhere(4));
        assert_eq!(settlement.place(&due("c", None, 7)), Placed::Nowhere(7));
        assert_eq!(settlement.place(&due("c", None, 0)), Placed::Samples, "nothing is nowhere");
        assert_eq!(settlement.corrections(), HashMap::from([(1, 1), (2, 2)]));
    }
}
