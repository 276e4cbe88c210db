//! The samples of all profiles of a page: their distinct stacks end to end in one buffer, and a row for each sample.
//!
//! A page of one or two profiles has every sample, with its lines. One of many ([`Detail::Periods`]) has what compares
//! over time: lines only of leaves, no labels that are another for each request, each stack once however many periods
//! share it, and of each profile so many rows at most. The lightest beyond that are cut to the first of their callers.

use std::collections::HashMap;
use std::ops::Range;

use super::frames::{Kept, Reader, TRUNCATED, Tables};
use crate::profile::{StackId, ValueType};

/// How much of each profile a page has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// All of it.
    Whole,
    /// What compares over time, of each profile so many rows at most.
    Periods(usize),
}

/// Rows of samples.
pub(super) struct Rows {
    pub(super) detail: Detail,
    frames: Vec<u32>,
    stacks: Vec<Range<usize>>,
    index: HashMap<Box<[u32]>, u32>,
    /// Values of a row: those of the kind that has most.
    width: usize,
    values: Vec<i64>,
    pub(super) rows: Vec<Row>,
    /// Samples whose stacks were cut.
    pub(super) cut: usize,
}

/// A sample: where its stack, its profile and its labels stand.
pub(super) struct Row {
    pub(super) stack: u32,
    pub(super) profile: u32,
    pub(super) labels: u32,
}

/// What a light stack keeps, from its root.
const CALLERS: usize = 6;
/// What stands for the rest of it.
const REST: &str = "[truncated: rare stacks]";

impl Rows {
    pub(super) fn new(detail: Detail, width: usize) -> Self {
        let (frames, stacks, values, rows) = Default::default();
        Self { detail, frames, stacks, index: HashMap::new(), width, values, rows, cut: 0 }
    }

    /// Adds the samples of the `number`th profile, whose values are these columns of it.
    pub(super) fn read<'p>(
        &mut self,
        mut reader: Reader<'_, 'p>,
        number: u32,
        columns: &[Option<usize>],
        tables: &mut Tables<'p>,
    ) {
        let profile = reader.profile();
        let (kept, most) = match self.detail {
            Detail::Whole => (Kept::All, usize::MAX),
            Detail::Periods(most) => (Kept::Common, most),
        };
        let light = lightest(profile.samples().map(|sample| heaviest(sample.values, columns)), most);
        let activities = profile.activities();
        let mut known: HashMap<(StackId, bool), u32> = HashMap::new();
        let mut row_of: HashMap<(u32, u32), usize> = HashMap::new();
        for (place, sample) in profile.samples().enumerate() {
            let is_light = light.get(place).copied().unwrap_or(false);
            self.cut += usize::from(is_light);
            let stack = *known.entry((sample.stack, is_light)).or_insert_with(|| {
                let start = self.frames.len();
                reader.stack(tables, profile.get_stack(sample.stack), &mut self.frames);
                self.stack_from(start, is_light, tables)
            });
            let activity = activities.as_ref().and_then(|all| all.get(place).copied());
            let labels =
                reader.labels(tables, sample.labels, activity, if is_light { Kept::Few } else { kept });
            let values = (0..self.width)
                .map(|at| columns.get(at).copied().flatten().map_or(0, |at| sample.values[at]));
            let next = self.rows.len();
            let row = if self.detail == Detail::Whole {
                next
            } else {
                *row_of.entry((stack, labels)).or_insert(next)
            };
            if row == next {
                self.values.extend(values);
                self.rows.push(Row { stack, profile: number, labels });
            } else {
                let sums = &mut self.values[row * self.width..][..self.width];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(value));
            }
        }
    }

    /// The stack whose frames stand at the end of the buffer, which it leaves there only if it is new.
    fn stack_from(&mut self, start: usize, is_light: bool, tables: &mut Tables<'_>) -> u32 {
        if self.detail == Detail::Whole {
            self.stacks.push(start..self.frames.len());
            return (self.stacks.len() - 1) as u32;
        }
        if is_light && self.frames.len() > start + CALLERS {
            self.frames.truncate(start + CALLERS);
            self.frames.push(tables.marker(REST, TRUNCATED));
        }
        let above_leaf = self.frames.len().saturating_sub(1).max(start);
        for frame in &mut self.frames[start..above_leaf] {
            *frame = tables.without_line(*frame);
        }
        if let Some(&known) = self.index.get(&self.frames[start..]) {
            self.frames.truncate(start);
            return known;
        }
        let number = self.stacks.len() as u32;
        self.index.insert(self.frames[start..].into(), number);
        self.stacks.push(start..self.frames.len());
        number
    }

    /// Makes room for so many values in each row.
    pub(super) fn widen(&mut self, width: usize) {
        if width <= self.width {
            return;
        }
        let mut wider = vec![0; self.rows.len() * width];
        for row in 0..self.rows.len() {
            wider[row * width..][..self.width]
                .copy_from_slice(&self.values[row * self.width..][..self.width]);
        }
        (self.values, self.width) = (wider, width);
    }

    /// Brings the rows into the order in which a page has them.
    pub(super) fn order(&self, leaf: impl Fn(&Row) -> u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_unstable_by_key(|&number| {
            let row = &self.rows[number as usize];
            (leaf(row), row.labels, row.profile, row.stack, number)
        });
        order
    }

    pub(super) fn stack_count(&self) -> u32 {
        self.stacks.len() as u32
    }

    pub(super) fn stack(&self, stack: u32) -> &[u32] {
        &self.frames[self.stacks[stack as usize].clone()]
    }

    /// The last frame of a row's stack.
    pub(super) fn leaf_frame(&self, row: &Row) -> Option<u32> {
        self.stack(row.stack).last().copied()
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn value(&self, row: u32, column: usize) -> i64 {
        self.values[row as usize * self.width + column]
    }
}

/// For each sample whether it is beyond the `most` that weigh most; empty where none is.
fn lightest(weights: impl Iterator<Item = i64>, most: usize) -> Vec<bool> {
    if most == usize::MAX {
        return Vec::new();
    }
    let mut by_weight: Vec<(i64, usize)> = weights.zip(0..).collect();
    if by_weight.len() <= most {
        return Vec::new();
    }
    let mut light = vec![false; by_weight.len()];
    let beyond = by_weight.len() - most;
    by_weight.select_nth_unstable(beyond);
    by_weight[..beyond].iter().for_each(|&(_, place)| light[place] = true);
    light
}

fn heaviest(values: &[i64], columns: &[Option<usize>]) -> i64 {
    columns.iter().flatten().map(|&column| values[column]).max().unwrap_or(0)
}

/// Where the page's sample types stand in a profile.
pub(super) fn places(own: &[ValueType], types: &[ValueType]) -> Vec<Option<usize>> {
    types.iter().map(|wanted| own.iter().position(|own| own == wanted)).collect()
}
