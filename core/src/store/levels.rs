//! Sums of profiles that have levels: what lived at a moment. Those of one process do not add up from period to period.
//!
//! Profiles come instance by instance, in the order of their times. What flowed adds up; of the levels of an instance one is
//! held, which joins the sum when the instance is over. So a sum over a service is the level of all its instances.

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
    let has_levels = |entry: &&Entry| {
        Kind::from_name(&entry.kind).is_none_or(|kind| kind.sample_types().iter().any(ValueType::is_level))
    };
    if entries.iter().any(has_levels) {
        entries.sort_by_key(|entry| (instance(entry), entry.time_nanos));
    }
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
}

impl<'e> Sum<'e> {
    /// Sums up the next of what is read, one for each of `entries`, which are [`in_order`].
    pub(super) fn of(
        entries: &[&'e Entry],
        levels: Levels,
        next: &mut dyn FnMut() -> Option<Result<Read>>,
    ) -> Self {
        let mut sum = Self { profile: None, count: 0, skipped: Vec::new(), levels, of: None, held: None };
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
        if !types.iter().any(ValueType::is_level) {
            return self.take_in(&read.profile, &read.samples);
        }
        let width = types.len();
        let is_level: Vec<bool> = types.iter().map(ValueType::is_level).collect();
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
            let bytes = types.iter().zip(totals).filter(|(of, _)| of.is_level() && of.unit == "bytes");
            bytes.map(|(_, total)| i128::from(total)).sum()
        };
        let is_peak = types.iter().any(|of| of.name.starts_with("peak_"));
        let rank = match self.levels {
            Levels::Latest if !is_peak => i128::from(entry.time_nanos),
            Levels::Mean => 0,
            _ => most(),
        };
        match &mut self.held {
            Some(held) if self.levels == Levels::Mean => {
                // Of the same types as those before, since what flowed was taken in.
                let _ = held.profile.merge_loose(profile, levels);
                held.count += 1;
            }
            Some(held) if held.rank > rank => {}
            held => *held = Some(Held { profile: Profile::of_loose(profile, levels), rank, count: 1 }),
        }
    }

    /// The instance is over.
    fn let_go(&mut self) {
        let (Some(mut held), Some(sum)) = (self.held.take(), &mut self.profile) else { return };
        held.profile.divide(held.count);
        let _ = sum.merge(&held.profile);
    }
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
        let sum = Sum::of(&order, levels, &mut || Some(Ok(reads[next.next()??].take()?)));
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
}
