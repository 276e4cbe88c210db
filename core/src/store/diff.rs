//! Before and after: which functions cost more than they did.
//!
//! # How two profiles are made comparable
//!
//! - **Different lengths**: values are divided by the duration ([`Normalise::ByTime`]), so they read as cost
//!   per second. The duration of merged profiles is the sum of theirs, so the cost is that of one process. A
//!   profile without a duration (a snapshot) can only be compared by its total.
//! - **Levels**, such as the live heap, are of a moment: they are compared as they are.
//! - **Different load**: by time, twice the requests cost twice the CPU, and every function grows.
//!   [`Normalise::ByTotal`] compares shares instead, which tell a change of the mix from a change of the
//!   load, but not which function saved what another now takes.
//! - **Different rates**: nanoseconds and bytes are comparable at any rate. Counts of samples are not, and
//!   refused.
//! - **Different versions**: a function is its name and file. One that was moved to another file is
//!   recognised while its name is unique in both profiles.
//!
//! # Noise
//!
//! Samples are drawn at random, so every value has a spread even where nothing changed. `z` is the difference
//! in units of its own standard deviation, as Poisson's law has it for the number of signals behind the value.
//! Where one signal stands for several periods (rates above the kernel's tick) there are fewer of them than
//! samples; the tag `effective_rate_hz` tells how many. A profile without it is taken to have one a sample.
//! Chance is all that `z` knows of: two runs of one program may differ by their load or their machine, and
//! that is a difference. A regression is only called that from 4 standard deviations up.

use std::collections::{BTreeMap, HashMap};

use super::functions::{self, Cost, Costs, Identity};
use super::table;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Profile, ValueType};

/// What the two profiles are made comparable by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalise {
    /// Cost per second of the period; of levels, such as the live heap, what there is.
    #[default]
    ByTime,
    /// Share of the profile's total.
    ByTotal,
}

/// Two profiles side by side, function by function.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// What the values count.
    pub sample_type: ValueType,
    /// How the values were made comparable: per second, or as shares between 0 and 1.
    pub normalise: Normalise,
    /// All of the profile before.
    pub total_before: f64,
    /// All of the profile after.
    pub total_after: f64,
    /// One row a function, those whose own cost grew the most first.
    pub rows: Vec<Change>,
}

/// One function before and after, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its name; the name of its object file in brackets where it has none.
    pub function: String,
    /// Its source file, without what differs from build to build; or empty.
    pub file: String,
    /// What it costs by itself.
    pub own: Pair,
    /// What it costs with all it calls.
    pub total: Pair,
}

/// A value before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
    /// The difference in standard deviations: noise stays between -3 and 3 nearly always.
    pub z: f64,
}

impl Pair {
    /// By how much it grew; negative where it shrank.
    pub fn growth(&self) -> f64 {
        self.after - self.before
    }
}

/// From this many standard deviations a difference is not noise: chance does it to one in 30,000.
const SIGNIFICANT: f64 = 4.0;
/// Less than this share of the whole is not worth a name.
const SMALLEST_SHARE: f64 = 0.005;
/// Less than this part of what it cost before is a change of the load, not of the function.
const SMALLEST_GROWTH: f64 = 0.1;
/// What matters less than this beside the worst regression is its shadow.
const SMALLEST_WEIGHT: f64 = 0.05;

/// The standard library did not change between two versions of a program: what grew there is called more by
/// something else, so it counts for this much when the one to look at first is chosen.
const STANDARD_LIBRARY_WEIGHT: f64 = 0.1;

/// Compares two profiles by time in their default sample type, or by their totals where one has no duration.
///
/// # Errors
/// As [`Diff::of`].
///
/// ```
/// use everprof::profile::{Kind, Profile};
/// let (before, after) = (Profile::new(Kind::Cpu), Profile::new(Kind::Cpu));
/// assert!(everprof::store::diff(&before, &after).unwrap().regressed().is_empty());
/// ```
pub fn diff(before: &Profile, after: &Profile) -> Result<Diff> {
    Diff::of(before, after, None, Normalise::ByTime)
}

impl Diff {
    /// Compares two profiles in one sample type (`None`: the default one).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] where the two do not have that sample type in the same unit, or where it
    /// counts samples that were taken at different rates.
    pub fn of(before: &Profile, after: &Profile, name: Option<&str>, normalise: Normalise) -> Result<Diff> {
        let place = after.find_sample_type(name)?;
        let value_type = after.sample_types[place].clone();
        let place_before = before.find_sample_type(Some(&value_type.name))?;
        comparable(before, after, &value_type, &before.sample_types[place_before])?;
        let costs = [Costs::of(before, place_before, true), Costs::of(after, place, true)];
        let durations = [before.duration_nanos, after.duration_nanos];
        // A level is of a moment, and compares as it is.
        let is_level = value_type.is_level();
        let is_timeless = !is_level && durations.iter().any(|nanos| *nanos <= 0);
        let normalise = if is_timeless { Normalise::ByTotal } else { normalise };
        let base = |side: usize| match normalise {
            Normalise::ByTime if is_level => 1.0,
            Normalise::ByTime => durations[side] as f64 / 1e9,
            Normalise::ByTotal => (costs[side].total as f64).max(1.0),
        };
        let sides = [Side::new(&costs[0], base(0)), Side::new(&costs[1], base(1))];
        let pair = |before: i64, after: i64| compare([before as f64, after as f64], &sides, normalise);
        let (total_before, total_after) = (sides[0].rate(costs[0].total), sides[1].rate(costs[1].total));
        let mut rows: Vec<Change> = matched(costs)
            .into_iter()
            .map(|(Identity { name, file }, [before, after])| Change {
                function: name,
                file,
                own: pair(before.own, after.own),
                total: pair(before.total, after.total),
            })
            .collect();
        let order = |row: &Change| (row.own.growth(), row.total.growth());
        rows.sort_by(|a, b| {
            let ((own_a, total_a), (own_b, total_b)) = (order(a), order(b));
            let names = || (&a.function, &a.file).cmp(&(&b.function, &b.file));
            own_b.total_cmp(&own_a).then(total_b.total_cmp(&total_a)).then_with(names)
        });
        Ok(Diff { sample_type: value_type, normalise, total_before, total_after, rows })
    }

    /// The functions that cost more than before, the one to look at first.
    ///
    /// Their cost, with what they call, grew by more than noise explains, by more than a tenth, and by more
    /// than half a per cent of the whole. A slow function makes all its callers grow as well; what tells it
    /// from them is how much of its cost is new. So the growth of each is weighed with the cube of that part,
    /// and what then weighs less than a twentieth of the first is left out. Functions of Rust's standard
    /// library come after the program's own.
    pub fn regressed(&self) -> Vec<&Change> {
        let whole = self.total_before.max(self.total_after);
        let weight = |row: &Change| {
            let is_standard = row.file.starts_with(functions::STANDARD_LIBRARY);
            let factor = if is_standard { STANDARD_LIBRARY_WEIGHT } else { 1.0 };
            factor * row.total.growth() * (row.total.growth() / row.total.after).powi(3)
        };
        let mut rows: Vec<(f64, &Change)> = self
            .rows
            .iter()
            .filter(|row| row.total.z >= SIGNIFICANT)
            .filter(|row| row.total.growth() >= SMALLEST_SHARE * whole)
            .filter(|row| row.total.growth() >= SMALLEST_GROWTH * row.total.before)
            .map(|row| (weight(row), row))
            .collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let heaviest = rows.first().map_or(0.0, |row| row.0);
        rows.retain(|row| row.0 >= SMALLEST_WEIGHT * heaviest);
        rows.into_iter().map(|row| row.1).collect()
    }

    /// The first `rows` rows as plain text. `!` marks the functions that regressed; `z` is the difference of
    /// the functions' own cost in standard deviations.
    pub fn render(&self, rows: usize) -> String {
        let regressed = self.regressed();
        let is_regressed = |row: &Change| regressed.iter().any(|other| std::ptr::eq(*other, row));
        let amount = |value: f64| match self.normalise {
            Normalise::ByTime => table::amount(value, &self.sample_type.unit),
            Normalise::ByTotal => table::percent(value, 1.0),
        };
        let lines: Vec<Vec<String>> = self
            .rows
            .iter()
            .take(rows)
            .map(|row| {
                vec![
                    amount(row.own.before),
                    amount(row.own.after),
                    signed(row.own.growth(), &amount),
                    format!("{:+.1}", row.own.z),
                    amount(row.total.before),
                    amount(row.total.after),
                    signed(row.total.growth(), &amount),
                    if is_regressed(row) { "!".into() } else { String::new() },
                    table::one_line(&row.function),
                ]
            })
            .collect();
        let heads = ["self", "after", "change", "z", "total", "after", "change", "", "function"];
        let per = match self.normalise {
            Normalise::ByTime if self.sample_type.is_level() => "at the end",
            Normalise::ByTime => "per second",
            Normalise::ByTotal => "as a share of the total",
        };
        let all = [self.total_before, self.total_after].map(amount).join(" before, ");
        format!("{} {per}: {all} after\n", self.sample_type.name) + &table::render(&heads, &lines)
    }
}

fn signed(value: f64, amount: &impl Fn(f64) -> String) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", amount(value))
}

fn comparable(before: &Profile, after: &Profile, wanted: &ValueType, found: &ValueType) -> Result<()> {
    if wanted.unit != found.unit {
        let message = format!("{} is in {} before and in {} after", wanted.name, found.unit, wanted.unit);
        return Err(Error::new(ErrorKind::InvalidData, message));
    }
    if wanted.name == "samples" && before.period != after.period {
        let message = format!(
            "samples were taken every {} {} before and every {} after, so their counts cannot be compared; compare {}",
            before.period, before.period_type.unit, after.period, after.default_sample_type
        );
        return Err(Error::new(ErrorKind::InvalidData, message));
    }
    Ok(())
}

/// One of the two profiles, as the comparison of a value needs it.
struct Side {
    /// What values are divided by.
    base: f64,
    /// The value of one signal.
    weight: f64,
}

impl Side {
    fn new(costs: &Costs, base: f64) -> Self {
        Self { base, weight: costs.total as f64 / costs.signals.max(1.0) }
    }

    fn rate(&self, value: i64) -> f64 {
        value as f64 / self.base
    }
}

/// The two values normalised, with the difference in standard deviations. The spread is that of one common
/// rate: were nothing changed, both profiles would have been drawn from it.
fn compare(values: [f64; 2], sides: &[Side; 2], normalise: Normalise) -> Pair {
    let [before, after] = [values[0] / sides[0].base, values[1] / sides[1].base];
    let rate = (values[0] + values[1]) / (sides[0].base + sides[1].base);
    // Of a share only what is left of the whole can vary.
    let free = match normalise {
        Normalise::ByTime => 1.0,
        Normalise::ByTotal => (1.0 - rate).max(0.0),
    };
    let spread = |side: &Side| rate * free * side.weight / side.base;
    let deviation = (spread(&sides[0]) + spread(&sides[1])).max(0.0).sqrt();
    let z = if deviation > 0.0 { (after - before) / deviation } else { 0.0 };
    Pair { before, after, z }
}

/// The costs of each function in both profiles. Functions that only one has under their file are matched by
/// name, where each side has one such function.
fn matched([before, after]: [Costs; 2]) -> BTreeMap<Identity, [Cost; 2]> {
    let mut rows: BTreeMap<Identity, [Cost; 2]> = BTreeMap::new();
    for (side, costs) in [before, after].into_iter().enumerate() {
        for (identity, cost) in costs.by_function {
            if (cost.own, cost.total) != (0, 0) {
                rows.entry(identity).or_default()[side] = cost;
            }
        }
    }
    let mut alone: HashMap<&str, [Vec<&Identity>; 2]> = HashMap::new();
    for (identity, [before, after]) in &rows {
        match (before.total != 0, after.total != 0) {
            (true, false) => alone.entry(&identity.name).or_default()[0].push(identity),
            (false, true) => alone.entry(&identity.name).or_default()[1].push(identity),
            _ => {}
        }
    }
    let moved: Vec<(Identity, Identity)> = alone
        .into_values()
        .filter_map(|[before, after]| match (before.as_slice(), after.as_slice()) {
            ([before], [after]) => Some(((*before).clone(), (*after).clone())),
            _ => None,
        })
        .collect();
    for (from, to) in moved {
        if let Some([cost, _]) = rows.remove(&from) {
            rows.entry(to).or_default()[0] = cost;
        }
    }
    rows
}
