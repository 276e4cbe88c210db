//! What a page knows, as JSON: any number of profiles over shared tables, apart from how they are shown.
//!
//! A page of one profile has one, a differential page two (before, after); a timeline will have more. Small tables are
//! JSON, so that a text search of the file finds a function; `packed` is base64 of zlib of varints, column by column,
//! read once by `data.js` (see `columns.rs`).
//!
//! Everything that does not depend on what the user chooses is done here: frames are merged by name into one tree whose
//! nodes stand in the order in which they are drawn, siblings by their names. The page only adds up. Strings are sorted,
//! so that their numbers compare as they do.
//!
//! Values are exact: sums that a JavaScript number could not hold (from 2^52, which the nanoseconds of 64 busy
//! processors reach in 20 hours) are marked `wide` for their sample type, and the page adds them up as 64-bit integers.

use super::columns;
use super::frames::{Doing, Tables};
use super::text::json_string;
use super::tree::{Rows, Tree};
use crate::profile::{AT_WORK, Activity, CROWDED, MOST, Profile, TASKS, ValueType};

/// JavaScript numbers are exact up to 2^53; half of it, since zigzag doubles a value.
const EXACT_LIMIT: i128 = 1 << 52;

/// Appends the JSON of a page that shows `profiles`; `view` names the page's script what to make of them.
pub(super) fn write(out: &mut String, view: &str, title: &str, orientation: &str, profiles: &[&Profile]) {
    let types = common_types(profiles);
    let totals: Vec<Vec<Total>> = profiles.iter().map(|profile| totals(profile, &types)).collect();
    let mut tables = Tables::of_builds(profiles.len() > 1);
    let rows = Rows::read(profiles, &types, &mut tables);
    tables.sort();
    let tree = Tree::of(&rows, &tables);

    out.push_str("{\"format\":2,\"view\":");
    json_string(out, view);
    out.push_str(",\"title\":");
    json_string(out, title);
    out.push_str(",\"orientation\":");
    json_string(out, orientation);
    out.push_str(",\"types\":");
    list(out, types.iter().enumerate(), |out, (place, value_type)| {
        let sum: i128 = totals.iter().map(|totals| totals[place].magnitude).sum();
        out.push_str("{\"name\":");
        json_string(out, &value_type.name);
        out.push_str(",\"unit\":");
        json_string(out, &value_type.unit);
        out.push_str(if sum >= EXACT_LIMIT { ",\"wide\":true}" } else { ",\"wide\":false}" });
    });
    let shown = profiles.last().map_or("", |profile| &profile.default_sample_type);
    let shown = types.iter().position(|value_type| value_type.name == shown).unwrap_or(0);
    out.push_str(&format!(",\"type\":{shown},\"profiles\":"));
    list(out, profiles.iter().zip(&totals), |out, (profile, totals)| describe(out, profile, totals));
    out.push_str(",\"strings\":");
    list(out, tables.strings(), json_string);
    out.push_str(",\"labels\":");
    list(out, tables.label_sets(), |out, set| list(out, set, |out, id| out.push_str(&id.to_string())));
    doings(out, &tables);
    out.push_str(&format!(
        ",\"frame_count\":{},\"node_count\":{},\"sample_count\":{},\"packed\":\"",
        tables.frames().len(),
        tree.frame.len(),
        rows.rows.len()
    ));
    columns::write(out, &tables, &tree, &rows);
    out.push_str("\"}");
}

/// What threads did on the wall clock, and by which rule that becomes a verdict (see `profile::verdict`): for each label
/// set an activity and a group of threads, -1 where there is none.
fn doings(out: &mut String, tables: &Tables<'_>) {
    if tables.doings().iter().all(Option::is_none) {
        return;
    }
    out.push_str(&format!(
        ",\"at_work\":{AT_WORK},\"most\":{MOST},\"crowded\":{CROWDED},\"tasks\":\"{TASKS}\",\"activities\":"
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

/// Where the page's sample types stand in `profile`.
pub(super) fn places(profile: &Profile, types: &[ValueType]) -> Vec<Option<usize>> {
    types.iter().map(|wanted| profile.sample_types.iter().position(|own| own == wanted)).collect()
}

struct Total {
    sum: i128,
    /// Sum of the absolute values: what no partial sum can exceed.
    magnitude: i128,
}

fn totals(profile: &Profile, types: &[ValueType]) -> Vec<Total> {
    let total = |column: Option<usize>| {
        let mut total = Total { sum: 0, magnitude: 0 };
        let Some(column) = column else { return total };
        for sample in profile.samples() {
            let value = i128::from(sample.values[column]);
            total.sum += value;
            total.magnitude += value.abs();
        }
        total
    };
    places(profile, types).into_iter().map(total).collect()
}

/// Numbers that may exceed 2^53 are strings here.
fn describe(out: &mut String, profile: &Profile, totals: &[Total]) {
    out.push_str("{\"tags\":");
    list(out, &profile.tags, |out, (key, value)| {
        out.push('[');
        json_string(out, key);
        out.push(',');
        json_string(out, value);
        out.push(']');
    });
    out.push_str(&format!(
        ",\"start\":\"{}\",\"duration\":\"{}\",\"periods_per_signal\":{},\"period\":\"{}\",\"period_name\":",
        profile.time_nanos,
        profile.duration_nanos,
        profile.periods_per_signal(),
        profile.period
    ));
    json_string(out, &profile.period_type.name);
    out.push_str(",\"period_unit\":");
    json_string(out, &profile.period_type.unit);
    out.push_str(",\"totals\":");
    list(out, totals, |out, total| out.push_str(&format!("\"{}\"", total.sum)));
    out.push('}');
}

fn list<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    out.push('[');
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}
