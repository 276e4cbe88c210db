//! What debug information said about functions that were met: a service runs the same functions each period, at
//! addresses that are new all the time, and to read debug information for those again would cost more than sampling.
//!
//! Called by [`super::native`] on everprof's own thread. Of each stretch of a function it holds where the answer
//! changes, and the answers as a tree with the functions at the root, so that a line costs some bytes and not a list of
//! frames. Bounded; what was not asked for the longest goes first. A file that is not the one that was read has nothing
//! kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::SymbolFrame;
use super::elf::Stamp;

/// Stretches of functions with the answers at all of their addresses.
#[derive(Debug)]
pub(crate) struct Known {
    limit: usize,
    bytes: usize,
    /// Counts look-ups, for the order in which stretches were last of use.
    clock: u64,
    files: HashMap<u32, File>,
    /// Where each text is, and how often stretches hold it: most names are in several.
    texts: HashMap<usize, u32>,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    /// By the first address; none overlaps another.
    areas: BTreeMap<u64, Area>,
}

/// A stretch of a function.
#[derive(Debug)]
struct Area {
    end: u64,
    used: u64,
    bytes: usize,
    /// Where another answer begins, counted from the first address, and the node that it starts with.
    rows: Vec<(u32, u32)>,
    nodes: Vec<Node>,
    functions: Vec<Function>,
    files: Vec<Arc<str>>,
}

/// One frame, and the one around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    function: u32,
    file: u32,
    line: u32,
    column: u32,
    inlined: bool,
    outer: u32,
}

#[derive(Debug)]
struct Function {
    name: Arc<str>,
    system_name: Arc<str>,
    start_line: u32,
}

/// What a text takes beside its bytes: the counts before it, and a place in the table.
const TEXT: usize = 40;

/// No node.
const NONE: u32 = u32::MAX;

impl Known {
    /// Holds about `limit` bytes at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, clock: 0, files: HashMap::new(), texts: HashMap::new() }
    }

    /// How many bytes are held, names included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins a look-up in a file, and forgets what was read from another one in its place. Whether it is not the first one.
    pub(crate) fn begin(&mut self, file: u32, stamp: Stamp) -> bool {
        self.clock += 1;
        if self.files.get(&file).is_some_and(|held| held.stamp != stamp)
            && let Some(held) = self.files.remove(&file)
        {
            held.areas.values().for_each(|area| self.give_back(area));
        }
        let is_met = self.files.contains_key(&file);
        self.files.entry(file).or_insert_with(|| File { stamp, areas: BTreeMap::new() });
        is_met
    }

    /// The frames at an address, innermost first; None where they are not known.
    pub(crate) fn get(&mut self, file: u32, address: u64) -> Option<Vec<SymbolFrame>> {
        let areas = &mut self.files.get_mut(&file)?.areas;
        let (&begin, area) = areas.range_mut(..=address).next_back()?;
        if address >= area.end {
            return None;
        }
        area.used = self.clock;
        let after = area.rows.partition_point(|row| begin + u64::from(row.0) <= address);
        let mut place = area.rows.get(after.checked_sub(1)?)?.1;
        let mut frames = Vec::new();
        while let Some(node) = area.nodes.get(place as usize) {
            frames.push(area.frame(node)?);
            place = node.outer;
        }
        Some(frames)
    }

    /// Keeps the frames from each address of `rows` to the next one; the first is `begin`, the last ends at `end`.
    pub(crate) fn insert(&mut self, file: u32, begin: u64, end: u64, rows: &[(u64, Vec<SymbolFrame>)]) {
        let Some(area) = Area::build(begin, end, rows, self.clock) else { return };
        let Some(held) = self.files.get_mut(&file).filter(|_| area.bytes <= self.limit) else { return };
        let overlaps = held.areas.range(..end).next_back().is_some_and(|(_, other)| other.end > begin);
        if overlaps {
            return;
        }
        self.bytes += area.bytes;
        for text in area.texts() {
            let holders = self.texts.entry(text.as_ptr().addr()).or_insert(0);
            *holders += 1;
            self.bytes += if *holders == 1 { text.len() + TEXT } else { 0 };
        }
        held.areas.insert(begin, area);
        self.shrink();
    }

    /// Drops an eighth at a time: to look for the oldest each time would cost more than to read it again.
    fn shrink(&mut self) {
        if self.bytes <= self.limit {
            return;
        }
        let areas = self
            .files
            .iter()
            .flat_map(|(&file, held)| held.areas.iter().map(move |(&begin, area)| (area.used, file, begin)));
        let mut oldest: Vec<(u64, u32, u64)> = areas.collect();
        oldest.sort_unstable();
        for (_, file, begin) in oldest {
            if self.bytes <= self.limit - self.limit / 8 {
                return;
            }
            let gone = self.files.get_mut(&file).and_then(|held| held.areas.remove(&begin));
            gone.into_iter().for_each(|area| self.give_back(&area));
        }
    }

    fn give_back(&mut self, area: &Area) {
        self.bytes -= area.bytes;
        for text in area.texts() {
            let place = text.as_ptr().addr();
            let Some(holders) = self.texts.get_mut(&place) else { continue };
            *holders -= 1;
            if *holders == 0 {
                self.texts.remove(&place);
                self.bytes -= text.len() + TEXT;
            }
        }
    }
}

impl Area {
    /// None where the rows are not what they should be.
    fn build(begin: u64, end: u64, rows: &[(u64, Vec<SymbolFrame>)], used: u64) -> Option<Self> {
        if rows.first()?.0 != begin || rows.last()?.0 >= end || !rows.is_sorted_by(|a, b| a.0 < b.0) {
            return None;
        }
        let mut tables = (Table::default(), Table::default(), Table::default());
        let mut ready: Vec<(u32, u32)> = Vec::new();
        for (address, frames) in rows {
            let mut place = NONE;
            for frame in frames.iter().rev() {
                let SymbolFrame { name, system_name, file, start_line, line, column, inlined } = frame;
                // There is one copy of a text: where it is tells it from others at less cost than what it says.
                let key = (name.as_ptr(), name.len(), system_name.as_ptr(), system_name.len(), *start_line);
                let function = tables.0.number(key, || Function {
                    name: name.clone(),
                    system_name: system_name.clone(),
                    start_line: *start_line,
                });
                let file = tables.1.number((file.as_ptr(), file.len()), || file.clone());
                let (line, column, inlined) = (*line, *column, *inlined);
                let node = Node { function, file, line, column, inlined, outer: place };
                place = tables.2.number(node, || node);
            }
            if ready.last().is_none_or(|&(_, last)| last != place) {
                ready.push((u32::try_from(address - begin).ok()?, place));
            }
        }
        ready.shrink_to_fit();
        let (functions, files, nodes) = (tables.0.items(), tables.1.items(), tables.2.items());
        let bytes = size_of::<Self>()
            + size_of_val(&ready[..])
            + size_of_val(&nodes[..])
            + size_of_val(&functions[..])
            + size_of_val(&files[..]);
        Some(Self { end, used, bytes, rows: ready, nodes, functions, files })
    }

    /// The texts that it holds, some more than once.
    fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        let names = self.functions.iter().flat_map(|held| [&held.name, &held.system_name]);
        names.chain(&self.files)
    }

    fn frame(&self, node: &Node) -> Option<SymbolFrame> {
        let function = self.functions.get(node.function as usize)?;
        Some(SymbolFrame {
            name: function.name.clone(),
            system_name: function.system_name.clone(),
            file: self.files.get(node.file as usize)?.clone(),
            start_line: function.start_line,
            line: node.line,
            column: node.column,
            inlined: node.inlined,
        })
    }
}

/// Things with a number each, the same for the same key.
struct Table<K, T> {
    numbers: HashMap<K, u32>,
    items: Vec<T>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), items: Vec::new() }
    }
}

impl<K: Eq + std::hash::Hash, T> Table<K, T> {
    fn number(&mut self, key: K, item: impl FnOnce() -> T) -> u32 {
        *self.numbers.entry(key).or_insert_with(|| {
            self.items.push(item());
            self.items.len() as u32 - 1
        })
    }

    fn items(mut self) -> Vec<T> {
        self.items.shrink_to_fit();
        self.items
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frames(names: &[&str]) -> Vec<SymbolFrame> {
        let frame = |name: &&str| SymbolFrame { name: (*name).into(), line: 7, ..SymbolFrame::default() };
        names.iter().map(frame).collect()
    }

    #[test]
    fn answers_hold_from_row_to_row_and_not_beyond() {
        let mut known = Known::new(1 << 20);
        known.begin(1, Stamp::default());
        let rows =
            [(0x100, frames(&["f"])), (0x110, frames(&["g", "f"])), (0x120, vec![]), (0x130, frames(&["f"]))];
        known.insert(1, 0x100, 0x140, &rows);
        assert_eq!(known.get(1, 0xff), None);
        assert_eq!(known.get(1, 0x10f), Some(frames(&["f"])));
        assert_eq!(known.get(1, 0x110), Some(frames(&["g", "f"])));
        assert_eq!(known.get(1, 0x12f), Some(vec![]));
        assert_eq!(known.get(1, 0x13f), Some(frames(&["f"])));
        assert_eq!(known.get(1, 0x140), None);
        assert_eq!(known.get(2, 0x110), None);
    }

    #[test]
    fn another_file_in_its_place_has_nothing_known() {
        let mut known = Known::new(1 << 20);
        known.begin(1, Stamp::default());
        known.insert(1, 0x100, 0x140, &[(0x100, frames(&["f"]))]);
        known.begin(1, Stamp::default());
        assert!(known.get(1, 0x100).is_some());
        known.begin(1, Stamp { modified: 1, ..Stamp::default() });
        assert_eq!(known.get(1, 0x100), None);
        assert_eq!(known.bytes(), 0);
    }

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let mut known = Known::new(10_000);
        for n in 0..1000u64 {
            known.begin(1, Stamp::default());
            known.insert(1, n << 8, (n + 1) << 8, &[(n << 8, frames(&["a function"]))]);
            assert!(known.get(1, 0).is_some() && known.get(1, n << 8).is_some());
            assert!(known.bytes() <= 10_000);
        }
        assert_eq!(known.get(1, 1 << 8), None);
        known.begin(1, Stamp { size: 1, ..Stamp::default() });
        assert_eq!((known.bytes(), known.texts.len()), (0, 0));
    }
}
