//! Sums of profiles that have levels: what lived at a moment. Those of one process do not add up from period to period.
//!
//! Profiles come instance by instance, in the order of their times. What flowed adds up; of the levels of an instance one is
//! held, which joins the sum when the instance is over. So a sum over a service is the level of all its instances; of those
//! that were there at the end, where it is the level of the end: a service that was started anew has no two heaps.

use std::path::Path;

use super::merge::Skipped;
use super::{Entry, Levels};
use crate::encode::pprof::Read;
use crate::error::Result;
use crate::profile::{Kind, Loose, Profile, ValueType};

/// Tags that tell one process from another.
const OF_INSTANCE: [&str; 4] = ["service", "host", "pod", "instance"];

/// The entries in the order in which [`Sum`] wants them; as they are, where their kinds have no levels.
pub(super) fn in_order(entries: &mut [&Entry]) {
    let is_any = |of: &ValueType| of.is_level() || counts_threads(of);
    let has_levels = |entry: &&Entry| {
        Kind::from_name(&entry.kind).is_none_or(|kind| kind.sample_types().iter().any(is_any))
    };
    if entries.iter().any(has_levels) {
        entries.sort_by_key(|entry| (instance(entry), entry.time_nanos));
    }
}

/// Snapshots of threads are of a moment as well.
fn counts_threads(of: &ValueType) -> bool {
    of.unit == "count" && matches!(of.name.as_str(), "threads" | "goroutine")
}

pub(super) fn instance(entry: &Entry) -> [Option<&String>; 4] {
    OF_INSTANCE.map(|key| entry.tags.get(key))
}

/// Several profiles in one, or none where none could be read.
pub(super) struct Sum<'e> {
    pub(super) profile: Option<Profile>,
    pub(super) count: usize,
    pub(super) skipped: Vec<Skipped>,
    levels: Levels,
    /// Whether snapshots of threads add up nevertheless, for who knows how many there are.
    adds_snapshots: bool,
    /// When the last of the profiles ends.
    end: i64,
    /// Whose levels these are.
    of: Option<&'e Entry>,
    held: Option<Held>,
}

/// The levels of one instance as far as it came.
struct Held {
    profile: Profile,
    /// What is held is that which ranks highest.
    rank: i128,
    count: i64,
    /// The instance had ended before the last of all profiles did, of which the level is told.
    is_over: bool,
}

impl<'e> Sum<'e> {
    /// Sums up the next of what is read, one for each of `entries`, which are [`in_order`].
    pub(super) fn of(
        entries: &[&'e Entry],
        levels: Levels,
        adds_snapshots: bool,
        next: &mut dyn FnMut() -> Option<Result<Read>>,
    ) -> Self {
        let end = last_end(entries);
        let (profile, skipped, of, held) = (None, Vec::new(), None, None);
        let mut sum = Self { profile, count: 0, skipped, levels, adds_snapshots, end, of, held };
        for entry in entries {
            let Some(read) = next() else { break };
            match read.and_then(|read| sum.add(entry, read)) {
                Ok(()) => sum.count += 1,
                Err(reason) => sum.skip(&entry.path, reason),
            }
        }
        sum.let_go();
        sum
    }

    fn skip(&mut self, path: &Path, reason: crate::Error) {
        self.skipped.push(Skipped { path: path.to_path_buf(), reason });
    }

    fn add(&mut self, entry: &'e Entry, mut read: Read) -> Result<()> {
        let types = &read.profile.sample_types;
        let is_level: Vec<bool> = types.iter().map(|of| self.is_level(of)).collect();
        if !is_level.contains(&true) {
            return self.take_in(&read.profile, &read.samples);
        }
        let width = types.len();
        let part = |levels: bool| read.samples.only(width, |place| is_level[place] == levels);
        let (flows, levels) = (part(false), part(true));
        self.take_in(&read.profile, &flows)?;
        if self.of.is_none_or(|of| instance(of) != instance(entry)) {
            self.let_go();
            self.of = Some(entry);
        }
        // What there is of it besides was added with what flowed.
        (read.profile.time_nanos, read.profile.duration_nanos) = (0, 0);
        self.hold(entry, &read.profile, &levels);
        Ok(())
    }

    fn is_level(&self, of: &ValueType) -> bool {
        of.is_level() || !self.adds_snapshots && counts_threads(of)
    }

    fn take_in(&mut self, profile: &Profile, samples: &Loose) -> Result<()> {
        match &mut self.profile {
            Some(sum) => sum.merge_loose(profile, samples),
            None => {
                self.profile = Some(Profile::of_loose(profile, samples));
                Ok(())
            }
        }
    }

    fn hold(&mut self, entry: &Entry, profile: &Profile, levels: &Loose) {
        let types = &profile.sample_types;
        let most = || {
            let totals = levels.totals(types.len());
            let ranks = |of: &ValueType| of.is_level() && of.unit == "bytes" || counts_threads(of);
            let ranking = types.iter().zip(totals).filter(|(of, _)| ranks(of));
            ranking.map(|(_, total)| i128::from(total)).sum()
        };
        let is_peak = types.iter().any(|of| of.name.starts_with("peak_"));
        let rank = match self.levels {
            Levels::Latest if !is_peak => i128::from(entry.time_nanos),
            Levels::Mean => 0,
            _ => most(),
        };
        let is_over = self.levels == Levels::Latest && !is_peak && is_last_before(entry, self.end);
        match &mut self.held {
            Some(held) if self.levels == Levels::Mean => {
                // Of the same types as those before, since what flowed was taken in.
                let _ = held.profile.merge_loose(profile, levels);
                held.count += 1;
            }
            Some(held) if held.rank > rank => {}
            held => {
                let profile = Profile::of_loose(profile, levels);
                *held = Some(Held { profile, rank, count: 1, is_over });
            }
        }
    }

    /// The instance is over.
    fn let_go(&mut self) {
        let (Some(mut held), Some(sum)) = (self.held.take(), &mut self.profile) else { return };
        if held.is_over {
            return;
        }
        held.profile.divide(held.count);
        let _ = sum.merge(&held.profile);
    }
}

/// When the last of them ends.
pub(super) fn last_end(entries: &[&Entry]) -> i64 {
    entries.iter().map(|entry| end(entry)).max().unwrap_or(0)
}

/// Whether the instance whose last profile this is was over before `until`: its next one would have ended by then.
pub(super) fn is_last_before(entry: &Entry, until: i64) -> bool {
    let period = entry.duration_nanos.max(0);
    period > 0 && end(entry).saturating_add(period).saturating_add(period / 4) < until
}

fn end(entry: &Entry) -> i64 {
    entry.time_nanos.saturating_add(entry.duration_nanos.max(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::encode::pprof::{self, Limits};

    /// A period of an instance with so many bytes allocated and alive.
    fn period(kind: Kind, instance: &str, time: i64, values: &[i64]) -> (Entry, Read) {
        let mut profile = Profile::new(kind);
        profile.time_nanos = time;
        profile.duration_nanos = 10;
        let (stack, labels) = (profile.stack(&[]), profile.labels(&[]));
        profile.add(stack, labels, values);
        let tags = BTreeMap::from([("instance".to_owned(), instance.to_owned())]);
        let entry = Entry {
            path: format!("{instance}-{time}").into(),
            kind: kind.name().to_owned(),
            tags: Arc::new(tags),
            time_nanos: time,
            duration_nanos: 10,
            bytes: 0,
        };
        (entry, pprof::decode_loose(&pprof::encode(&profile), Limits::default()).unwrap())
    }

    fn sum(kind: Kind, levels: Levels, periods: &[(&str, i64, Vec<i64>)]) -> Profile {
        let made = periods.iter().map(|(instance, time, values)| period(kind, instance, *time, values));
        let (entries, mut reads): (Vec<Entry>, Vec<Option<Read>>) =
            made.map(|(entry, read)| (entry, Some(read))).unzip();
        let mut order: Vec<&Entry> = entries.iter().collect();
        in_order(&mut order);
        let mut next =
            order.iter().map(|wanted| entries.iter().position(|entry| std::ptr::eq(entry, *wanted)));
        let sum = Sum::of(&order, levels, false, &mut || Some(Ok(reads[next.next()??].take()?)));
        assert_eq!((sum.count, sum.skipped.len()), (periods.len(), 0));
        sum.profile.unwrap()
    }

    #[test]
    fn what_flows_adds_up_and_of_levels_one_moment_of_each_instance_does() {
        // As a listing has them: by time.
        let periods: Vec<(&str, i64, Vec<i64>)> = [
            ("a", 10, 100, 7),
            ("b", 12, 50, 1_000),
            ("a", 20, 100, 90),
            ("b", 22, 50, 400),
            ("a", 30, 100, 20),
            ("b", 32, 50, 601),
        ]
        .into_iter()
        .map(|(instance, time, flows, level)| (instance, time, vec![flows, 10 * flows, level, 10 * level]))
        .collect();
        for (levels, level) in [
            (Levels::Latest, 20 + 601),
            (Levels::Highest, 90 + 1_000),
            // 117 / 3 and 2,001 / 3.
            (Levels::Mean, 39 + 667),
        ] {
            let told = sum(Kind::Heap, levels, &periods);
            assert_eq!(told.totals(), [450, 4_500, level, 10 * level], "{levels:?}");
            assert_eq!((told.time_nanos, told.duration_nanos), (10, 60));
        }
        let peaks: Vec<(&str, i64, Vec<i64>)> =
            periods.iter().map(|(of, at, of_heap)| (*of, *at, of_heap[2..].to_vec())).collect();
        assert_eq!(sum(Kind::Peak, Levels::Latest, &peaks).totals(), [1_090, 10_900]);
        assert_eq!(
            sum(Kind::Alloc, Levels::Latest, &peaks).totals(),
            [2_118, 21_180],
            "nothing of it is a level"
        );
    }

    #[test]
    fn an_instance_that_is_over_has_no_level_at_the_end() {
        let heap = |instance, time, live: i64| (instance, time, vec![1, 10, live, 10 * live]);
        // Started anew after 20; then two side by side, of which one ends a little earlier.
        let mut periods = vec![heap("old", 0, 500), heap("old", 10, 600)];
        periods.extend([heap("new", 25, 3), heap("new", 35, 4), heap("new", 45, 5), heap("beside", 40, 70)]);
        assert_eq!(sum(Kind::Heap, Levels::Latest, &periods).totals(), [6, 60, 75, 750]);
        let highest = sum(Kind::Heap, Levels::Highest, &periods).totals();
        assert_eq!(highest, [6, 60, 675, 6_750], "each at its own time");
    }

    #[test]
    fn snapshots_of_threads_are_levels() {
        let periods: Vec<_> = [("a", 10, 7), ("a", 20, 9), ("b", 20, 100), ("a", 30, 8), ("b", 30, 90)]
            .map(|(instance, time, threads)| (instance, time, vec![threads]))
            .into();
        for (levels, threads) in [(Levels::Latest, 98), (Levels::Highest, 109), (Levels::Mean, 8 + 95)] {
            assert_eq!(sum(Kind::Threads, levels, &periods).totals(), [threads], "{levels:?}");
        }
    }
}
