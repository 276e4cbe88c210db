//! What grows: places whose blocks survive and become more, period after period, told apart from caches that are full.
//!
//! What lives long is not yet a leak: a cache lives as long as the process. So is not what grows: a cache that fills does.
//! A leak is both, for as long as one looks. So of each place the bytes of blocks that have survived some periods already are
//! looked at over time. It grows if
//!
//! - its bytes rose and fell in an order that chance does not make: by Mann and Kendall's test for a trend, one-sided, to
//!   which a cache that is renewed all the time is nothing but noise;
//! - and its growth in the later half of the time is at least a quarter of all of it, and a sample's worth: which that of a
//!   cache that has filled up is not.
//!
//! The last period of a process that ended is left out. A place is the innermost three functions of the application in a
//! stack. Every instance is judged by itself, since a new process begins anew; what it grows by adds up over those that do
//! and are there at the end. Of those that were over before, the one that grew fastest is told where no other does.

use std::collections::{BTreeMap, HashMap};

use super::levels::{instance, is_last_before, last_end};
use super::merge::read_loose;
use super::table;
use super::{Entry, Skipped};
use crate::error::Result;
use crate::profile::{Label, LabelValue, Profile, is_of_application};

/// Functions that make a place.
const NEAR: usize = 3;
/// With fewer periods, nothing is said.
const FEWEST: usize = 5;
/// One-sided, one in twenty.
const TREND: f64 = 1.645;
/// Of all growth, this part at least is in the later half.
const LATER: f64 = 0.25;
/// Moments that are looked at, of each instance: levels say the same at fewer of them.
const MOMENTS: usize = 96;
/// Places that are followed, of each instance: those with the most bytes.
const MOST_PLACES: usize = 4_096;

/// What grows in a directory: from [`leaks`].
#[derive(Clone, Debug, Default)]
pub struct Leaks {
    /// Places that grow, the fastest first.
    pub growing: Vec<Growing>,
    /// For how many ends of periods the blocks had survived that were looked at, at least.
    pub survived: i64,
    /// How many profiles were read.
    pub count: usize,
    /// How many instances had enough of them to say something.
    pub instances: usize,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
}

/// A place that grows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Growing {
    /// The functions that make it, innermost first: the one that allocates, and its callers.
    pub functions: Vec<String>,
    /// Bytes an hour, in the later half of the time, over all instances that grow and are there at the end; where there are
    /// none of these, of the one that grew fastest.
    pub bytes_per_hour: f64,
    /// The bytes of its surviving blocks at the end, over the same instances.
    pub live_bytes: i64,
    /// How many instances it grows in.
    pub instances: usize,
    /// Its surviving bytes at the end of each period, of the instance that grows fastest.
    pub over_time: Vec<i64>,
}

/// What grows in the profiles of kind `heap` among `entries`: of blocks that have survived `survived` ends of periods at
/// least, 1 for all but those of the last period. See the module's head for what counts.
///
/// Five periods of an instance are needed; the longer the time, the surer. Of more than 96 as many are read, spread over the
/// time, one file after the other.
///
/// ```no_run
/// use everprof::store::{self, Query};
/// let heaps = store::list("everprof", &Query::default().kind("heap"))?;
/// println!("{}", store::leaks(&heaps, 1).render(10));
/// # Ok::<(), everprof::Error>(())
/// ```
pub fn leaks<'e>(entries: impl IntoIterator<Item = &'e Entry>, survived: i64) -> Leaks {
    let mut by_instance: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
    let entries: Vec<&Entry> = entries.into_iter().filter(|entry| entry.kind == "heap").collect();
    let end = last_end(&entries);
    for entry in entries {
        by_instance.entry(instance(entry)).or_default().push(entry);
    }
    let mut found = Leaks { survived, ..Leaks::default() };
    let mut growing: HashMap<Vec<String>, Found> = HashMap::new();
    for mut entries in by_instance.into_values() {
        entries.sort_by_key(|entry| entry.time_nanos);
        let is_over = entries.last().is_some_and(|last| is_last_before(last, end));
        let entries = spread(in_operation(&entries));
        let series = Series::read(&entries, survived, &mut found);
        if series.ends.len() < FEWEST {
            continue;
        }
        found.instances += 1;
        for (functions, bytes) in series.places {
            let Some(per_hour) = growth(&bytes, &series.ends, series.sample) else { continue };
            let live = bytes.last().copied().unwrap_or_default();
            growing.entry(functions).or_default().add(Growth {
                bytes_per_hour: per_hour,
                live_bytes: live,
                over_time: bytes,
                is_over,
            });
        }
    }
    found.growing = growing.into_iter().map(|(functions, found)| found.growing(functions)).collect();
    found.growing.sort_by(|a, b| {
        b.bytes_per_hour.total_cmp(&a.bytes_per_hour).then_with(|| a.functions.cmp(&b.functions))
    });
    found
}

/// All but the end of a process, which gives back what it has held, leaks included, and leaves a shorter period than the others.
fn in_operation<'s, 'e>(entries: &'s [&'e Entry]) -> &'s [&'e Entry] {
    let Some((last, before)) = entries.split_last() else { return entries };
    let mut lengths: Vec<i64> = before.iter().map(|entry| entry.duration_nanos).collect();
    lengths.sort_unstable();
    match lengths.get(lengths.len() / 2) {
        Some(usual) if before.len() >= FEWEST && last.duration_nanos < usual / 10 * 9 => before,
        _ => entries,
    }
}

/// What grows at a place, in each of the instances.
#[derive(Default)]
struct Found(Vec<Growth>);

struct Growth {
    bytes_per_hour: f64,
    live_bytes: i64,
    over_time: Vec<i64>,
    /// The instance was over before the others.
    is_over: bool,
}

impl Found {
    fn add(&mut self, growth: Growth) {
        self.0.push(growth);
    }

    fn growing(mut self, functions: Vec<String>) -> Growing {
        let instances = self.0.len();
        self.0.sort_by(|a, b| {
            a.is_over.cmp(&b.is_over).then_with(|| b.bytes_per_hour.total_cmp(&a.bytes_per_hour))
        });
        let there = self.0.iter().filter(|growth| !growth.is_over).count();
        self.0.truncate(there.max(1));
        Growing {
            functions,
            bytes_per_hour: self.0.iter().map(|growth| growth.bytes_per_hour).sum(),
            live_bytes: self.0.iter().fold(0, |sum, growth| sum.saturating_add(growth.live_bytes)),
            instances,
            over_time: self.0.into_iter().next().map(|growth| growth.over_time).unwrap_or_default(),
        }
    }
}

/// So many of the entries at even distances, with the first and the last.
fn spread<'e>(entries: &[&'e Entry]) -> Vec<&'e Entry> {
    let last = entries.len().saturating_sub(1);
    let shown = entries.len().min(MOMENTS);
    (0..shown).filter_map(|at| entries.get(at * last / (shown - 1).max(1))).copied().collect()
}

impl Leaks {
    /// The first `rows` places as plain text.
    pub fn render(&self, rows: usize) -> String {
        let of = match (self.count, self.instances) {
            (0, _) => return "There are no profiles of kind heap: set kinds=cpu,heap.\n".to_owned(),
            (count, 0) => {
                return format!(
                    "{count} profiles of the heap are too few: an instance needs {FEWEST} periods.\n"
                );
            }
            (count, 1) => format!("{count} profiles"),
            (count, instances) => format!("{count} profiles of {instances} instances"),
        };
        let periods = if self.survived == 1 { "period" } else { "periods" };
        let blocks = format!("blocks that survived {} {periods}, in {of}", self.survived.max(0));
        if self.growing.is_empty() {
            return format!("Nothing grows: {blocks}.\n");
        }
        let lines: Vec<Vec<String>> = self.growing.iter().take(rows).map(Growing::row).collect();
        format!("What grows: {blocks}\n") + &table::render(&["an hour", "live", "over time", "place"], &lines)
    }
}

impl Growing {
    fn row(&self) -> Vec<String> {
        let names: Vec<String> = self.functions.iter().map(|name| table::one_line(name)).collect();
        let instances =
            if self.instances > 1 { format!(" ({} instances)", self.instances) } else { String::new() };
        vec![
            format!("+{}", table::amount(self.bytes_per_hour, "bytes")),
            table::amount(self.live_bytes as f64, "bytes"),
            sketch(&self.over_time),
            format!("{}{instances}", names.join(" < ")),
        ]
    }
}

/// A line of eighths of a block.
fn sketch(values: &[i64]) -> String {
    const SHOWN: usize = 16;
    const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().max().unwrap_or_default().max(1);
    let shown = values.len().min(SHOWN);
    let level =
        |at: usize| values.get(at * (values.len() - 1) / (shown - 1).max(1)).copied().unwrap_or_default();
    let eighth = |value: i64| (value.max(0) as f64 / most as f64 * 7.0).round() as usize;
    (0..shown).map(|at| EIGHTHS.get(eighth(level(at))).copied().unwrap_or('▁')).collect()
}

/// The surviving bytes of each place of one instance, at the end of each period.
struct Series {
    /// In nanoseconds since the epoch.
    ends: Vec<i64>,
    places: HashMap<Vec<String>, Vec<i64>>,
    /// What one sample stands for at least.
    sample: i64,
}

impl Series {
    fn read(entries: &[&Entry], survived: i64, found: &mut Leaks) -> Self {
        let mut series = Self { ends: Vec::new(), places: HashMap::new(), sample: 0 };
        for entry in entries {
            match read(entry) {
                Ok(profile) => series.add(entry, &profile, survived),
                Err(reason) => {
                    found.skipped.push(Skipped { path: entry.path.clone(), reason });
                    continue;
                }
            }
            found.count += 1;
        }
        let periods = series.ends.len();
        series.places.values_mut().for_each(|bytes| bytes.resize(periods, 0));
        series
    }

    fn add(&mut self, entry: &Entry, profile: &Profile, survived: i64) {
        let Ok(place) = profile.find_sample_type(Some("inuse_space")) else { return };
        let before = self.ends.len();
        self.ends.push(entry.time_nanos.saturating_add(entry.duration_nanos));
        self.sample = self.sample.max(profile.period);
        let mut names = HashMap::new();
        for sample in profile.samples() {
            let value = sample.values.get(place).copied().unwrap_or_default();
            if value == 0 || age(profile.get_labels(sample.labels)) < survived {
                continue;
            }
            let functions =
                names.entry(sample.stack).or_insert_with(|| near(profile, profile.get_stack(sample.stack)));
            let bytes = match self.places.get_mut(functions) {
                Some(bytes) => bytes,
                None => self.places.entry(functions.clone()).or_default(),
            };
            bytes.resize(before + 1, 0);
            bytes[before] = bytes[before].saturating_add(value);
        }
        if self.places.len() > 2 * MOST_PLACES {
            self.forget_small();
        }
    }

    fn forget_small(&mut self) {
        let most = |bytes: &Vec<i64>| bytes.iter().copied().max().unwrap_or_default();
        let mut sizes: Vec<i64> = self.places.values().map(most).collect();
        let beyond = sizes.len().saturating_sub(MOST_PLACES);
        let (_, least, _) = sizes.select_nth_unstable(beyond);
        let least = *least;
        self.places.retain(|_, bytes| most(bytes) >= least);
    }
}

fn read(entry: &Entry) -> Result<Profile> {
    let read = read_loose(&entry.path)?;
    Ok(Profile::of_loose(&read.profile, &read.samples))
}

/// For how many ends of periods a sample's blocks have survived.
fn age(labels: &[Label]) -> i64 {
    labels.iter().find(|label| label.key == "age").map_or(0, |label| match label.value {
        LabelValue::Number(age, _) => age,
        LabelValue::Text(_) => 0,
    })
}

/// The innermost functions of the application; where there are none, the leaf.
fn near(profile: &Profile, stack: &[crate::profile::LocationId]) -> Vec<String> {
    let lines = || stack.iter().flat_map(|id| &profile.get_location(*id).lines);
    let name = |function| profile.text(profile.get_function(function).name);
    let mut near: Vec<String> = Vec::with_capacity(NEAR);
    for own in lines().map(|line| name(line.function)).filter(|name| is_of_application(name)) {
        if near.last().is_none_or(|last| last != own) {
            near.push(own.to_owned());
        }
        if near.len() == NEAR {
            break;
        }
    }
    if near.is_empty() {
        near.extend(lines().next().map(|leaf| name(leaf.function).to_owned()));
    }
    near
}

/// By how many bytes an hour a place grows in the later half of the time; none where it does not, or no longer.
fn growth(bytes: &[i64], ends: &[i64], sample: i64) -> Option<f64> {
    let (first, last) = (*bytes.first()?, *bytes.last()?);
    let middle = bytes.len() / 2;
    let (half, at_half) = (*bytes.get(middle)?, *ends.get(middle)?);
    let (all, later) = (last.saturating_sub(first), last.saturating_sub(half));
    let hours = (ends.last()?.saturating_sub(at_half)) as f64 / 3.6e12;
    let grows = all > 0
        && later >= sample.max(1)
        && later as f64 >= LATER * all as f64
        && hours > 0.0
        && trend(bytes) > TREND;
    grows.then(|| later as f64 / hours)
}

/// Mann and Kendall's test: how surely later values are larger, in standard deviations of what chance gives.
fn trend(values: &[i64]) -> f64 {
    let n = values.len() as f64;
    let mut score = 0i64;
    for (at, earlier) in values.iter().enumerate() {
        score += values[at + 1..].iter().map(|later| (later - earlier).signum()).sum::<i64>();
    }
    // Values that are equal tell less.
    let mut ties: HashMap<i64, f64> = HashMap::new();
    values.iter().for_each(|value| *ties.entry(*value).or_default() += 1.0);
    let spread = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let variance = (spread(n) - ties.values().map(|count| spread(*count)).sum::<f64>()) / 18.0;
    if variance > 0.0 { (score - score.signum()) as f64 / variance.sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: i64 = 512 << 10;
    const MIB: i64 = 1 << 20;

    fn grows(bytes: &[i64]) -> Option<f64> {
        let ends: Vec<i64> = (1..=bytes.len() as i64).map(|minute| minute * 60_000_000_000).collect();
        growth(bytes, &ends, SAMPLE)
    }

    #[test]
    fn a_leak_grows_and_caches_do_not() {
        let leak: Vec<i64> = (0..20).map(|period| period * MIB).collect();
        let per_hour = grows(&leak).unwrap_or_default();
        assert!((per_hour - 60.0 * MIB as f64).abs() < 1.0, "{per_hour}");
        let filled: Vec<i64> = (0..20).map(|period: i64| period.min(8) * 100 * MIB).collect();
        assert_eq!(grows(&filled), None, "a cache that is full");
        assert_eq!(grows(&[700 * MIB; 20]), None, "what was there from the beginning");
        let falls: Vec<i64> = (0..20).map(|period| (20 - period) * MIB).collect();
        assert_eq!(grows(&falls), None);
        assert_eq!(grows(&leak[..3]), None, "three values have no trend");
        assert!(grows(&leak[..5]).is_some());
    }

    /// Of a thousand caches that are renewed all the time, one in twenty may look as if it grew, and half of those stand at
    /// their ends as they stood in their middles.
    #[test]
    fn what_chance_does_is_hardly_ever_taken_for_growth() {
        let mut state = 3;
        let mut random = || {
            state = everprof_probe::poisson::next(state);
            (everprof_probe::poisson::bits(state) >> 40) as i64
        };
        let taken = (0..1_000).filter(|_| {
            let values: Vec<i64> = (0..20).map(|_| 500 * MIB + random() % (100 * MIB)).collect();
            grows(&values).is_some()
        });
        let taken = taken.count();
        assert!(taken < 60, "{taken}");
    }

    #[test]
    fn a_slow_leak_in_a_noisy_place_is_found() {
        let mut state = 9;
        let mut random = || {
            state = everprof_probe::poisson::next(state);
            (everprof_probe::poisson::bits(state) >> 40) as i64
        };
        let values: Vec<i64> = (0..30).map(|period| period * 4 * MIB + random() % (30 * MIB)).collect();
        assert!(grows(&values).is_some(), "{values:?}");
    }

    #[test]
    fn what_a_process_gives_back_in_its_end_is_no_sign() {
        let entry = |minute: i64, seconds: i64| Entry {
            time_nanos: minute * 60_000_000_000,
            duration_nanos: seconds * 1_000_000_000,
            ..Entry::default()
        };
        let entries: Vec<Entry> =
            [60, 60, 59, 60, 60, 12].into_iter().zip(0..).map(|(seconds, at)| entry(at, seconds)).collect();
        let entries: Vec<&Entry> = entries.iter().collect();
        assert_eq!(in_operation(&entries).len(), 5, "the last one is cut short");
        assert_eq!(in_operation(&entries[..5]).len(), 5, "it still runs, or was killed");
        assert_eq!(in_operation(&entries[1..]).len(), 5, "too few to leave one out");
        assert!(in_operation(&[]).is_empty());
    }

    #[test]
    fn what_grows_in_instances_that_are_over_does_not_add_up() {
        let growing = |of: &[(i64, bool)]| {
            let mut found = Found::default();
            for (live_bytes, is_over) in of {
                let (bytes_per_hour, over_time) = (*live_bytes as f64, vec![*live_bytes]);
                found.add(Growth { bytes_per_hour, live_bytes: *live_bytes, over_time, is_over: *is_over });
            }
            let told = found.growing(Vec::new());
            (told.bytes_per_hour, told.live_bytes, told.instances, told.over_time)
        };
        assert_eq!(growing(&[(9, true), (2, false), (3, false), (5, true)]), (5.0, 5, 4, vec![3]));
        assert_eq!(growing(&[(5, true), (9, true)]), (9.0, 9, 2, vec![9]), "as fast as it was");
    }

    #[test]
    fn a_sketch_shows_the_way() {
        assert_eq!(sketch(&[0, 1, 2, 3, 4, 5, 6, 7]), "▁▂▃▄▅▆▇█");
        assert_eq!((sketch(&[]), sketch(&[5]), sketch(&[-3, 0])), (String::new(), "█".into(), "▁▁".into()));
    }
}
