//! What a page knows, as JSON: any number of profiles over shared tables, apart from how they are shown.
//!
//! A page of one profile has one, a differential page two (before, after); a timeline will have more. Small tables are
//! JSON; the two large ones are base64 of varints, read once by `data.js`:
//!
//! - `frames`: for each frame its name, file and module (places in `strings`), its line (zigzag) and its flags;
//! - `samples`: sorted by stack, root first; for each sample how many frames it shares with the one before, how many
//!   follow and which, the number of its profile, of its label set, and a value (zigzag) for each sample type.
//!
//! So a frame that many stacks share is written once: 100,000 stacks of 30 frames take a few megabytes. Values are exact: sums that
//! a JavaScript number could not hold (from 2^52, which the nanoseconds of 64 busy processors reach in 20 hours) are
//! marked `wide` for their sample type, and the page adds them up as 64-bit integers.

use std::ops::Range;

use super::frames::{Reader, Tables};
use super::text::{Base64, json_string};
use crate::profile::{Profile, ValueType};

/// JavaScript numbers are exact up to 2^53; half of it, since zigzag doubles a value.
const EXACT_LIMIT: i128 = 1 << 52;

/// Appends the JSON of a page that shows `profiles`; `view` names the page's script what to make of them.
pub(super) fn write(out: &mut String, view: &str, title: &str, orientation: &str, profiles: &[&Profile]) {
    let types = common_types(profiles);
    let totals: Vec<Vec<Total>> = profiles.iter().map(|profile| totals(profile, &types)).collect();
    let mut tables = Tables::default();
    let rows = Rows::read(profiles, &types, &mut tables);

    out.push_str("{\"format\":1,\"view\":");
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
    out.push_str(&format!(",\"frame_count\":{},\"frames\":\"", tables.frames().len()));
    write_frames(out, &tables);
    out.push_str(&format!("\",\"sample_count\":{},\"samples\":\"", rows.rows.len()));
    let nodes = rows.write(out, types.len());
    out.push_str(&format!("\",\"node_count\":{nodes}}}"));
}

/// The sample types that every profile has, in the order of the last; if there is none, all types of the last.
fn common_types(profiles: &[&Profile]) -> Vec<ValueType> {
    let Some(last) = profiles.last() else { return Vec::new() };
    let everywhere = |value_type: &&ValueType| profiles.iter().all(|p| p.sample_types.contains(*value_type));
    let common: Vec<ValueType> = last.sample_types.iter().filter(everywhere).cloned().collect();
    if common.is_empty() { last.sample_types.clone() } else { common }
}

/// Where the page's sample types stand in `profile`.
fn columns(profile: &Profile, types: &[ValueType]) -> Vec<Option<usize>> {
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
    columns(profile, types).into_iter().map(total).collect()
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
        ",\"start\":\"{}\",\"duration\":\"{}\",\"period\":\"{}\",\"period_name\":",
        profile.time_nanos, profile.duration_nanos, profile.period
    ));
    json_string(out, &profile.period_type.name);
    out.push_str(",\"period_unit\":");
    json_string(out, &profile.period_type.unit);
    out.push_str(",\"totals\":");
    list(out, totals, |out, total| out.push_str(&format!("\"{}\"", total.sum)));
    out.push('}');
}

fn write_frames(out: &mut String, tables: &Tables) {
    let mut bytes = Base64::new(out);
    for frame in tables.frames() {
        for place in [frame.name, frame.file, frame.module] {
            bytes.varint(place.into());
        }
        bytes.signed(frame.line);
        bytes.byte(frame.flags);
    }
    bytes.finish();
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

/// The samples of all profiles: stacks end to end in one buffer, four bytes a frame.
struct Rows {
    frames: Vec<u32>,
    values: Vec<i64>,
    rows: Vec<Row>,
}

struct Row {
    stack: Range<usize>,
    profile: u32,
    labels: u32,
}

impl Rows {
    fn read<'p>(profiles: &[&'p Profile], types: &[ValueType], tables: &mut Tables<'p>) -> Self {
        let mut read = Self { frames: Vec::new(), values: Vec::new(), rows: Vec::new() };
        for (number, &profile) in profiles.iter().enumerate() {
            let columns = columns(profile, types);
            let mut reader = Reader::new(profile);
            for sample in profile.samples() {
                let start = read.frames.len();
                reader.stack(tables, profile.get_stack(sample.stack), &mut read.frames);
                let labels = reader.labels(tables, sample.labels);
                read.values.extend(columns.iter().map(|column| column.map_or(0, |at| sample.values[at])));
                read.rows.push(Row { stack: start..read.frames.len(), profile: number as u32, labels });
            }
        }
        read
    }

    /// Writes the samples and returns how many distinct frames-in-place they have: the nodes of their tree.
    fn write(&self, out: &mut String, width: usize) -> usize {
        let stack = |row: usize| &self.frames[self.rows[row].stack.clone()];
        let key = |row: usize| (self.rows[row].profile, self.rows[row].labels);
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_unstable_by(|&a, &b| stack(a).cmp(stack(b)).then_with(|| key(a).cmp(&key(b))));

        let mut bytes = Base64::new(out);
        let mut before: &[u32] = &[];
        let mut nodes = 0;
        for row in order {
            let stack = stack(row);
            let shared = before.iter().zip(stack).take_while(|(a, b)| a == b).count();
            bytes.varint(shared as u64);
            bytes.varint((stack.len() - shared) as u64);
            stack[shared..].iter().for_each(|&frame| bytes.varint(frame.into()));
            bytes.varint(self.rows[row].profile.into());
            bytes.varint(self.rows[row].labels.into());
            self.values[row * width..(row + 1) * width].iter().for_each(|&value| bytes.signed(value));
            nodes += stack.len() - shared;
            before = stack;
        }
        bytes.finish();
        nodes
    }
}
