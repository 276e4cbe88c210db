//! What a page knows, as JSON: any number of profiles over shared tables, apart from how they are shown.
//!
//! A page of one profile has one, a differential page two (before, after), a timeline one for each kind, instance and stretch
//! of time (see `timeline.rs`). Small tables are
//! JSON, so that a text search of the file finds a function; `packed` is base64 of zlib of varints, column by column,
//! read once by `data.js` (see `columns.rs`).
//!
//! Everything that does not depend on what the user chooses is done here: frames are merged by name into one tree whose
//! nodes stand in the order in which they are drawn, siblings by their names. The page only adds up. Strings are sorted,
//! so that their numbers compare as they do.
//!
//! Values are exact: sums that a JavaScript number could not hold (from 2^52, which the nanoseconds of 64 busy
//! processors reach in 20 hours) are marked `wide` for their sample type, and the page adds them up as 64-bit integers. Only
//! what those could not hold either is `huge`, and rounded.

use super::columns::{self, ROUNDED};
use super::frames::{Doing, Reader, Tables};
use super::rows::{self, Detail, Rows};
use super::text::json_string;
use super::timeline::Times;
use super::tree::Tree;
use crate::profile::{AT_WORK, Activity, CROWDED, MOST, Profile, TASKS, ValueType, WORKS};

/// JavaScript numbers are exact up to 2^53; half of it, since zigzag doubles a value.
const EXACT_LIMIT: i128 = 1 << 52;
/// Sums of 64 bits hold this; what is larger, some 290 years of nanoseconds, is rounded.
const WIDE_LIMIT: i128 = i64::MAX as i128;

/// A page of many periods with more rows than this is large.
const LARGE: usize = 200_000;

/// What is gathered for a page.
pub(super) struct Data<'p> {
    tables: Tables<'p>,
    rows: Rows,
    kinds: Vec<KindOf>,
    profiles: Vec<Described>,
}

/// A kind of profile on a page: its samples have these values.
pub(super) struct KindOf {
    pub(super) name: String,
    pub(super) types: Vec<ValueType>,
    /// The one that is shown first.
    pub(super) shown: usize,
}

impl KindOf {
    pub(super) fn of(name: &str, types: Vec<ValueType>, shown: &str) -> Self {
        let shown = types.iter().position(|value_type| value_type.name == shown).unwrap_or(0);
        Self { name: name.to_owned(), types, shown }
    }
}

/// A profile, but for its samples.
struct Described {
    kind: usize,
    tags: Vec<(String, String)>,
    start: i64,
    duration: i64,
    period: i64,
    periods_per_signal: f64,
    totals: Vec<Total>,
}

struct Total {
    sum: i128,
    /// Sum of the absolute values: what no partial sum can exceed.
    magnitude: i128,
}

impl<'p> Data<'p> {
    pub(super) fn of(profiles: &[&'p Profile]) -> Self {
        let types = common_types(profiles);
        let shown = profiles.last().map_or("", |profile| &profile.default_sample_type);
        let mut data = Self {
            tables: Tables::of_builds(profiles.len() > 1),
            rows: Rows::new(Detail::Whole, types.len()),
            kinds: vec![KindOf::of(shown, types, shown)],
            profiles: Vec::new(),
        };
        for profile in profiles {
            data.add(Reader::borrowing(profile), 0);
        }
        data
    }

    /// Several kinds of profile of the same time, each as it is.
    pub(super) fn of_kinds(profiles: &[(&str, &'p Profile)]) -> Self {
        let mut data = Self {
            tables: Tables::of_builds(false),
            rows: Rows::new(Detail::Whole, 0),
            kinds: Vec::new(),
            profiles: Vec::new(),
        };
        for (name, profile) in profiles {
            let kind = data.kind(name, profile);
            data.add(Reader::borrowing(profile), kind);
        }
        data
    }

    /// The number of a kind, whose first profile says which values it has.
    pub(super) fn kind(&mut self, name: &str, first: &Profile) -> usize {
        self.kinds.iter().position(|known| known.name == name).unwrap_or_else(|| {
            self.rows.widen(first.sample_types.len());
            self.kinds.push(KindOf::of(name, first.sample_types.clone(), &first.default_sample_type));
            self.kinds.len() - 1
        })
    }

    /// Appends the JSON; `view` names the page's script what to make of it.
    pub(super) fn write(
        mut self,
        out: &mut String,
        view: &str,
        title: &str,
        orientation: &str,
        times: Option<&Times>,
    ) {
        self.tables.sort();
        let tree = Tree::of(&self.rows, &self.tables);
        out.push_str("{\"format\":3,\"view\":");
        json_string(out, view);
        out.push_str(",\"title\":");
        json_string(out, title);
        out.push_str(",\"orientation\":");
        json_string(out, orientation);
        self.kinds(out);
        out.push_str(",\"profiles\":");
        list(out, self.profiles.iter().enumerate(), |out, (number, profile)| {
            describe(out, profile, times.map(|times| (times, number)), |column, total| {
                match self.is_rounded(profile.kind, column) {
                    // As the rows add up.
                    true => {
                        (total + i128::from(ROUNDED) / 2).div_euclid(ROUNDED.into()) * i128::from(ROUNDED)
                    }
                    false => total,
                }
            });
        });
        if let Some(times) = times {
            times.write(out);
        }
        out.push_str(",\"strings\":");
        list(out, self.tables.strings(), json_string);
        out.push_str(",\"labels\":");
        list(out, self.tables.label_sets(), |out, set| {
            list(out, set, |out, id| out.push_str(&id.to_string()))
        });
        doings(out, &self.tables);
        out.push_str(&format!(
            ",\"frame_count\":{},\"node_count\":{},\"sample_count\":{},\"packed\":\"",
            self.tables.frames().len(),
            tree.frame.len(),
            self.rows.rows.len()
        ));
        columns::write(out, &self.tables, &tree, &self.rows, |profile, column| {
            self.profiles.get(profile as usize).is_some_and(|profile| self.is_rounded(profile.kind, column))
        });
        out.push_str("\"}");
    }

    /// Whether the times of a kind are told in microseconds: on a page of many periods that is large, of which their last
    /// digits would be the most.
    fn is_rounded(&self, kind: usize, column: usize) -> bool {
        let types = self.kinds.get(kind).and_then(|kind| kind.types.get(column));
        self.is_large() && types.is_some_and(|of| of.unit == "nanoseconds")
    }

    /// Whether it is told in [`ROUNDED`] nanoseconds.
    pub(super) fn is_large(&self) -> bool {
        self.rows.detail != Detail::Whole && self.rows.rows.len() > LARGE
    }

    /// The kinds, and the sample types of all of them one after the other: those of a kind are columns of its samples.
    fn kinds(&self, out: &mut String) {
        // Per column, since kinds share columns: the magnitude of all that one holds.
        let size = |column: usize| {
            let totals = self.profiles.iter().filter_map(|profile| profile.totals.get(column));
            totals.fold(0, |sum: i128, total| sum.saturating_add(total.magnitude))
        };
        let mut first = 0;
        out.push_str(",\"kinds\":");
        list(out, &self.kinds, |out, kind| {
            out.push_str("{\"name\":");
            json_string(out, &kind.name);
            out.push_str(&format!(",\"first\":{first},\"type\":{}}}", first + kind.shown));
            first += kind.types.len();
        });
        let types = self.kinds.iter().zip(0..);
        let types = types
            .flat_map(|(kind, number)| kind.types.iter().enumerate().map(move |(at, of)| (number, at, of)));
        out.push_str(",\"types\":");
        list(out, types, |out, (kind, column, value_type)| {
            out.push_str("{\"name\":");
            json_string(out, &value_type.name);
            out.push_str(",\"unit\":");
            json_string(out, &value_type.unit);
            let size = size(column);
            let rounded = self.is_rounded(kind, column);
            let (wide, huge) = ((EXACT_LIMIT..=WIDE_LIMIT).contains(&size), size > WIDE_LIMIT);
            out.push_str(&format!(
                ",\"kind\":{kind},\"column\":{column},\"wide\":{wide},\"huge\":{huge},\"rounded\":{rounded},\"level\":{}}}",
                value_type.is_level()
            ));
        });
    }

    fn add(&mut self, reader: Reader<'_, 'p>, kind: usize) {
        let profile = reader.profile();
        let columns = rows::places(&profile.sample_types, &self.kinds[kind].types);
        self.profiles.push(Described {
            kind,
            tags: profile.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            start: profile.time_nanos,
            duration: profile.duration_nanos,
            period: profile.period,
            periods_per_signal: profile.periods_per_signal(),
            totals: totals(profile, &columns),
        });
        self.rows.read(reader, self.profiles.len() as u32 - 1, &columns, &mut self.tables);
    }
}

impl Data<'static> {
    /// For many profiles, which need not stay: of each so many rows at most.
    pub(super) fn of_many(rows_each: usize) -> Self {
        Self {
            tables: Tables::of_builds(true),
            rows: Rows::new(Detail::Periods(rows_each), 0),
            kinds: Vec::new(),
            profiles: Vec::new(),
        }
    }

    pub(super) fn set_rows(&mut self, rows_each: usize) {
        self.rows.detail = Detail::Periods(rows_each);
    }

    /// Adds one of them; its number is how many were added before.
    pub(super) fn copy(&mut self, profile: &Profile, kind: usize) {
        self.add(Reader::copying(profile), kind);
        if let Some(described) = self.profiles.last_mut() {
            // Those of its instance are written once.
            described.tags = Vec::new();
        }
    }

    /// Samples whose stacks were cut because there were too many.
    pub(super) fn cut(&self) -> usize {
        self.rows.cut
    }
}

/// What threads did on the wall clock or off the processor, and by which rule that becomes a verdict (see `profile::verdict`): for each label
/// set an activity and a group of threads, -1 where there is none.
fn doings(out: &mut String, tables: &Tables<'_>) {
    if tables.doings().iter().all(Option::is_none) {
        return;
    }
    out.push_str(&format!(
        ",\"at_work\":{AT_WORK},\"works\":{WORKS},\"most\":{MOST},\"crowded\":{CROWDED},\"tasks\":\"{TASKS}\",\"activities\":"
    ));
    list(out, Activity::ALL, |out, activity| json_string(out, activity.name()));
    out.push_str(",\"doings\":");
    list(out, tables.doings(), |out, doing| {
        let activity = |doing: &Doing| Activity::ALL.iter().position(|known| *known == doing.activity);
        let activity = doing.as_ref().and_then(activity).map_or(-1, |place| place as i64);
        let group = doing.as_ref().and_then(|doing| doing.group).map_or(-1, i64::from);
        out.push_str(&format!("{activity},{group}"));
    });
}

/// The sample types that every profile has, in the order of the last; if there is none, all types of the last.
fn common_types(profiles: &[&Profile]) -> Vec<ValueType> {
    let Some(last) = profiles.last() else { return Vec::new() };
    let everywhere = |value_type: &&ValueType| profiles.iter().all(|p| p.sample_types.contains(*value_type));
    let common: Vec<ValueType> = last.sample_types.iter().filter(everywhere).cloned().collect();
    if common.is_empty() { last.sample_types.clone() } else { common }
}

fn totals(profile: &Profile, columns: &[Option<usize>]) -> Vec<Total> {
    let total = |column: &Option<usize>| {
        let mut total = Total { sum: 0, magnitude: 0 };
        let Some(column) = *column else { return total };
        for sample in profile.samples() {
            let value = i128::from(sample.values[column]);
            total.sum += value;
            total.magnitude += value.abs();
        }
        total
    };
    columns.iter().map(total).collect()
}

/// Numbers that may exceed 2^53 are strings here. `times` knows where the profile stands in a timeline.
fn describe(
    out: &mut String,
    profile: &Described,
    times: Option<(&Times, usize)>,
    told: impl Fn(usize, i128) -> i128,
) {
    out.push_str(&format!("{{\"kind\":{}", profile.kind));
    match times {
        Some((times, number)) => times.write_place(out, number),
        None => {
            out.push_str(",\"tags\":");
            tags(out, &profile.tags);
        }
    }
    out.push_str(&format!(
        ",\"start\":\"{}\",\"duration\":\"{}\",\"period\":{},\"periods_per_signal\":{},\"totals\":",
        profile.start, profile.duration, profile.period, profile.periods_per_signal,
    ));
    list(out, profile.totals.iter().enumerate(), |out, (column, total)| {
        out.push_str(&format!("\"{}\"", told(column, total.sum)));
    });
    out.push('}');
}

pub(super) fn tags(out: &mut String, tags: &[(String, String)]) {
    list(out, tags, |out, (key, value)| {
        out.push('[');
        json_string(out, key);
        out.push(',');
        json_string(out, value);
        out.push(']');
    });
}

pub(super) fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}
