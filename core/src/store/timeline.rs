//! A directory of profiles as one page over time.
//!
//! Called by any program, in any process; reads only. Profiles are read stretch by stretch, by a few threads ahead (see
//! `ahead`), and each sum is given to the page before the next one is made: a month of files takes the memory of one
//! stretch, of one file for each of these threads, and of the page. Where there are more periods than a page has room for,
//! neighbours are summed up; where there are too many instances, those of one version are. The page says what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::ahead::reading;
use super::levels::{Sum, in_order};
use super::{Entry, Levels, Query, Skipped, list};
use crate::encode::flamegraph::{PageOptions, Span, Timeline};
use crate::error::Result;
use crate::profile::Profile;

/// A page that was made of a directory: from [`timeline`].
#[derive(Clone, Debug)]
pub struct TimelinePage {
    /// The page.
    pub html: String,
    /// How many profiles it was made of.
    pub count: usize,
    /// What was summed up or left out, in words; the page says it as well.
    pub notes: Vec<String>,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
}

/// Stretches of time on a page at most.
const SLOTS: usize = 240;
/// Instances on a page at most.
const LANES: usize = 12;
/// Rows on a page at most, all profiles together: about a hundred bytes each while the page is made, five on the page.
const ROWS: usize = 2_400_000;
/// What is older is of a clock that was not set yet: 1 January 2000.
const CLOCK_SET: i64 = 946_684_800_000_000_000;
const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
/// No stretch is longer, whatever a broken file says of its duration: 240 of these reach from 1970 as far as times go.
const LONGEST: i64 = 500 * DAY;
/// Lengths of stretches that read well, in seconds.
const LENGTHS: [i64; 19] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800,
];

/// The profiles of `dir` that `query` asks for, of all kinds and instances, as a page over time.
///
/// Up to 240 periods of one instance are shown as they are. More of them, and those of several instances, are summed up
/// by stretches of time. A file that cannot be read is left out and named in the result. Where `query` finds nothing, the
/// page says so.
///
/// # Errors
/// [`ErrorKind::Storage`](crate::ErrorKind::Storage) where `dir` itself cannot be read.
///
/// ```no_run
/// use everprof::encode::flamegraph::PageOptions;
/// use everprof::store::{self, Query};
/// let hour_ago = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64 - 3_600_000_000_000;
/// let query = Query::default().tag("service", "shop").from_nanos(hour_ago);
/// let made = store::timeline("everprof", &query, PageOptions::default())?;
/// std::fs::write("timeline.html", made.html).unwrap();
/// # Ok::<(), everprof::Error>(())
/// ```
pub fn timeline(dir: impl AsRef<Path>, query: &Query, options: PageOptions) -> Result<TimelinePage> {
    let mut notes = Vec::new();
    let mut entries = list(dir, query)?;
    leave_out_wrong_clocks(&mut entries, &mut notes);
    let lanes = Lanes::of(&entries, &mut notes);
    let slots = Slots::of(&entries, &mut notes);
    let instances = Instances::of(&entries);
    let mut parts: BTreeMap<(i64, &str, usize), Vec<&Entry>> = BTreeMap::new();
    for entry in &entries {
        parts
            .entry((slots.of_entry(entry).start, &entry.kind, lanes.of_entry(entry)))
            .or_default()
            .push(entry);
    }
    let mut page = Timeline::new(options).rows((ROWS / parts.len().max(1)).max(100));
    let (mut count, mut skipped) = (0, Vec::new());
    // By kind first, so that they stand on the page in an order that does not hang on which file is the oldest.
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by_key(|((_, kind, _), _)| *kind);
    parts.iter_mut().for_each(|(_, entries)| in_order(entries));
    let all: Vec<&Path> = parts.iter().flat_map(|(_, entries)| paths(entries)).collect();
    reading(&all, |next| {
        for ((_, kind, lane), entries) in &parts {
            // The page knows how many snapshots there are in a stretch, and shows their mean.
            let sum = Sum::of(entries, Levels::Latest, true, next);
            count += sum.count;
            skipped.extend(sum.skipped);
            let Some(profile) = sum.profile else { continue };
            let profile = lanes.tagged(profile, *lane);
            let spans = entries.iter().map(|entry| instances.span(entry)).collect();
            page.add_sum(kind, &profile, slots.shown(entries), spans);
        }
    });
    if !skipped.is_empty() {
        let plural = if skipped.len() == 1 { "" } else { "s" };
        notes.push(format!("{} file{plural} could not be read", skipped.len()));
    }
    notes.iter().for_each(|note| page.note(note));
    Ok(TimelinePage { html: page.html(), count, notes, skipped })
}

/// Leaves out what a clock that was wrong has dated: one such file would stretch the page over years, in which nothing else is
/// to be seen. Where all is ahead of us, it is our own clock that is wrong.
fn leave_out_wrong_clocks(entries: &mut Vec<Entry>, notes: &mut Vec<String>) {
    let now = UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as i64);
    let is_ahead = |entry: &Entry| entry.time_nanos > now.saturating_add(DAY);
    let is_set = |entry: &Entry| entry.time_nanos >= CLOCK_SET;
    let mut leave_out = |keep: &dyn Fn(&Entry) -> bool, why: &str| {
        let listed = entries.len();
        entries.retain(keep);
        match listed - entries.len() {
            0 => {}
            1 => notes.push(format!("1 profile {why} is left out")),
            left => notes.push(format!("{left} profiles {why} are left out")),
        }
        entries.iter().any(|entry| !is_ahead(entry))
    };
    if leave_out(&is_set, "without a time or of a clock that was not set") {
        leave_out(&|entry| !is_ahead(entry), "of a time that has not come yet");
    }
}

fn paths<'e>(entries: &[&'e Entry]) -> Vec<&'e Path> {
    entries.iter().map(|entry| entry.path.as_path()).collect()
}

fn span(entry: &Entry) -> Range<i64> {
    entry.time_nanos..entry.time_nanos.saturating_add(entry.duration_nanos.clamp(0, LONGEST))
}

/// What runs side by side: processes, each of which has its periods one after the other.
struct Instances(BTreeMap<Vec<String>, u32>);

impl Instances {
    fn of(entries: &[Entry]) -> Self {
        let mut known = BTreeMap::new();
        for entry in entries {
            let next = known.len() as u32;
            known.entry(values(entry, Lanes::WAYS[0])).or_insert(next);
        }
        Self(known)
    }

    fn span(&self, entry: &Entry) -> Span {
        let Range { start, end } = span(entry);
        let instance = self.0.get(&values(entry, Lanes::WAYS[0])).copied().unwrap_or_default();
        Span { instance, start, end }
    }
}

/// Which instances are told apart, by which tags.
struct Lanes {
    keys: &'static [&'static str],
    sets: Vec<Vec<String>>,
}

impl Lanes {
    const WAYS: [&'static [&'static str]; 4] = [
        &["service", "version", "host", "pod", "instance"],
        &["service", "version", "host"],
        &["service", "version"],
        &["service"],
    ];

    /// By instance, or where there are too many, by what still tells the most apart.
    fn of(entries: &[Entry], notes: &mut Vec<String>) -> Self {
        let sets = |keys: &[&str]| entries.iter().map(|entry| values(entry, keys)).collect::<BTreeSet<_>>();
        let instances = sets(Self::WAYS[0]).len();
        for keys in Self::WAYS {
            let sets = sets(keys);
            if sets.len() <= LANES {
                if keys.len() < Self::WAYS[0].len() && sets.len() < instances {
                    notes.push(format!("{instances} instances are summed up by {}", keys.join(" and ")));
                }
                return Self { keys, sets: sets.into_iter().collect() };
            }
        }
        notes.push(format!("{instances} instances of many services are summed up: ask for one service"));
        Self { keys: &[], sets: vec![Vec::new()] }
    }

    fn of_entry(&self, entry: &Entry) -> usize {
        self.sets.binary_search(&values(entry, self.keys)).unwrap_or(0)
    }

    /// A profile with no tags but what tells its lane: others come and go from period to period.
    fn tagged(&self, mut profile: Profile, lane: usize) -> Profile {
        let of_lane = self.keys.iter().zip(self.sets.get(lane).into_iter().flatten());
        let of_lane = of_lane.filter(|(_, value)| !value.is_empty());
        let rate = profile.tags.remove("effective_rate_hz");
        profile.tags = of_lane.map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        profile.tags.extend(rate.map(|rate| ("effective_rate_hz".to_owned(), rate)));
        profile
    }
}

fn values(entry: &Entry, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| entry.tags.get(*key).cloned().unwrap_or_default()).collect()
}

/// The stretches of time of a page.
enum Slots {
    /// Each period as it is.
    Periods,
    /// All of this many nanoseconds.
    Even(i64),
}

impl Slots {
    fn of(entries: &[Entry], notes: &mut Vec<String>) -> Self {
        let starts: BTreeSet<i64> = entries.iter().map(|entry| entry.time_nanos).collect();
        let instances: BTreeSet<Vec<String>> =
            entries.iter().map(|entry| values(entry, &["service", "host", "pod", "instance"])).collect();
        let spans = || entries.iter().map(span);
        let overlap = |starts: &BTreeSet<i64>| {
            spans().any(|span| {
                let mut later = starts.range(span.start.saturating_add(1)..);
                later.next().is_some_and(|next| next.saturating_add(SECOND) < span.end)
            })
        };
        if starts.len() <= SLOTS && (instances.len() <= 1 || !overlap(&starts)) {
            return Slots::Periods;
        }
        let (first, last) = (spans().map(|span| span.start).min(), spans().map(|span| span.end).max());
        let (first, last) = (first.unwrap_or(0), last.unwrap_or(0));
        let mut lengths: Vec<i64> =
            entries.iter().map(|entry| entry.duration_nanos.clamp(SECOND, LONGEST)).collect();
        lengths.sort_unstable();
        let usual = lengths.get(lengths.len() / 2).copied().unwrap_or(SECOND);
        let fits = |length: i64| {
            last.div_euclid(length) - first.div_euclid(length) < SLOTS as i64 && length >= usual
        };
        let known = LENGTHS.iter().map(|seconds| seconds * SECOND).find(|length| fits(*length));
        let longer = || (3..=LONGEST / DAY).map(|days| days * DAY).find(|length| fits(*length));
        let length = known.or_else(longer).unwrap_or(i64::MAX);
        if length > usual + SECOND {
            notes.push(format!("periods are summed up by {}", in_words(length)));
        }
        Slots::Even(length)
    }

    /// Where an entry belongs: to the stretch that has its middle.
    fn of_entry(&self, entry: &Entry) -> Range<i64> {
        match self {
            Slots::Periods => span(entry),
            Slots::Even(length) => {
                let middle = entry.time_nanos.saturating_add(entry.duration_nanos.max(0) / 2);
                let start = middle.div_euclid(*length).saturating_mul(*length);
                start..start.saturating_add(*length)
            }
        }
    }

    /// The stretch of entries that belong to the same.
    fn shown(&self, entries: &[&Entry]) -> Range<i64> {
        match (self, entries.first()) {
            (_, None) => 0..0,
            (Slots::Even(_), Some(entry)) => self.of_entry(entry),
            (Slots::Periods, Some(entry)) => {
                entry.time_nanos
                    ..entries.iter().map(|entry| span(entry).end).max().unwrap_or(entry.time_nanos)
            }
        }
    }
}

fn in_words(nanos: i64) -> String {
    let seconds = nanos / SECOND;
    match seconds {
        0..60 => format!("{seconds} seconds"),
        60..3_600 => format!("{} minutes", seconds / 60),
        3_600..86_400 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
