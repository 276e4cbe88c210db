//! Samples: values summed by stack and label set.

use super::LocationId;
use super::table::Table;

/// Handle of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub(super) u32);

impl StackId {
    /// Place among the stacks of its profile, from 0.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Handle of a label set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelsId(pub(super) u32);

impl LabelsId {
    /// Place among the label sets of its profile, from 0.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A key and value of a sample.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// The key, in snake_case where it is ours.
    pub key: String,
    /// The value.
    pub value: LabelValue,
}

/// The value of a [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelValue {
    /// Text.
    Text(String),
    /// A number and its unit, which may be empty.
    Number(i64, String),
}

impl Label {
    /// A label with a text value.
    pub fn text(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: LabelValue::Text(value.into()) }
    }

    /// A label with a number. Where `unit` is empty, the profile names the number by its key, as readers of
    /// pprof do.
    pub fn number(key: impl Into<String>, value: i64, unit: impl Into<String>) -> Self {
        Self { key: key.into(), value: LabelValue::Number(value, unit.into()) }
    }

    /// Gives a number without a unit the one that Go's pprof assumes. A reader drops a 0 without a unit.
    pub(super) fn complete_unit(&mut self) {
        if let LabelValue::Number(_, unit) = &mut self.value
            && unit.is_empty()
        {
            *unit = match self.key.as_str() {
                "request" | "alignment" => "bytes".to_owned(),
                "" => "count".to_owned(),
                key => key.to_owned(),
            };
        }
    }
}

/// A stack with its labels and the values summed for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'p> {
    /// The stack.
    pub stack: StackId,
    /// The label set.
    pub labels: LabelsId,
    /// One value for each sample type.
    pub values: &'p [i64],
}

/// Samples as they came, of a profile that has their locations and label sets: not summed by their stacks yet, which is
/// most of the work, and would be done twice where they go on into a sum.
#[derive(Debug, Default)]
pub(crate) struct Loose {
    locations: Vec<LocationId>,
    /// Where the stack of each ends, and the next begins.
    ends: Vec<usize>,
    labels: Vec<LabelsId>,
    values: Vec<i64>,
}

impl Loose {
    /// Appends to the stack of the sample at hand.
    pub(crate) fn push_location(&mut self, location: LocationId) {
        self.locations.push(location);
    }

    /// Appends to the values of the sample at hand.
    pub(crate) fn push_value(&mut self, value: i64) {
        self.values.push(value);
    }

    /// How many locations and values there are in all, with those of the sample at hand.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.locations.len(), self.values.len())
    }

    /// Ends the sample at hand.
    pub(crate) fn finish(&mut self, labels: LabelsId) {
        self.ends.push(self.locations.len());
        self.labels.push(labels);
    }

    /// Stack, label set and values of each, where a sample has `width` of these.
    pub(crate) fn iter(&self, width: usize) -> impl Iterator<Item = (&[LocationId], LabelsId, &[i64])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).zip(&self.labels).enumerate().map(move |(row, ((start, &end), &labels))| {
            let values = self.values.get(row * width..(row + 1) * width).unwrap_or_default();
            (self.locations.get(start..end).unwrap_or_default(), labels, values)
        })
    }

    /// The same with nothing but the values at places of which `keep` holds; samples that have none left are left out.
    pub(crate) fn only(&self, width: usize, keep: impl Fn(usize) -> bool) -> Loose {
        let mut part = Loose::default();
        for (stack, labels, values) in self.iter(width) {
            if values.iter().enumerate().all(|(place, value)| *value == 0 || !keep(place)) {
                continue;
            }
            part.locations.extend_from_slice(stack);
            part.values
                .extend(values.iter().enumerate().map(|(at, value)| if keep(at) { *value } else { 0 }));
            part.finish(labels);
        }
        part
    }

    /// The sum of each of the `width` values over all samples.
    pub(crate) fn totals(&self, width: usize) -> Vec<i64> {
        let mut totals = vec![0i64; width];
        for (_, _, values) in self.iter(width) {
            for (total, value) in totals.iter_mut().zip(values) {
                *total = total.saturating_add(*value);
            }
        }
        totals
    }
}

/// The values of samples, summed by stack and label set.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    width: usize,
    keys: Table<(StackId, LabelsId)>,
    values: Vec<i64>,
}

impl Samples {
    /// None, of so many values each.
    pub(crate) fn new(width: usize) -> Self {
        Self { width, keys: Table::default(), values: Vec::new() }
    }

    /// Adds to the sample of that stack and label set, which may be handles of two profiles.
    pub(crate) fn add(&mut self, stack: StackId, labels: LabelsId, values: &[i64]) {
        let start = self.keys.intern((stack, labels)) as usize * self.width;
        if self.values.len() == start {
            self.values.resize(start + self.width, 0);
        }
        for (sum, value) in self.values[start..start + self.width].iter_mut().zip(values) {
            *sum = sum.saturating_add(*value);
        }
    }

    /// Divides every value, to the nearest whole.
    pub(super) fn divide(&mut self, by: i64) {
        let half = by / 2;
        let nearest = |value: i64| (value.saturating_add(if value < 0 { -half } else { half })) / by;
        self.values.iter_mut().for_each(|value| *value = nearest(*value));
    }

    /// Makes 0 of the values at places that are not `kept`.
    pub(super) fn keep(&mut self, kept: &[bool]) {
        for (value, kept) in self.values.iter_mut().zip(kept.iter().cycle()) {
            *value *= i64::from(*kept);
        }
    }

    /// Turns the sign of every value.
    pub(super) fn negate(&mut self) {
        self.values.iter_mut().for_each(|value| *value = value.saturating_neg());
    }

    /// All of them, in the order in which they were first added.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Sample<'_>> {
        self.keys.as_slice().iter().enumerate().map(|(row, &(stack, labels))| {
            let start = row * self.width;
            Sample { stack, labels, values: &self.values[start..start + self.width] }
        })
    }
}
