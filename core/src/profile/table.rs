//! The interning tables behind every handle of a profile.
//!
//! Each keeps its rows in the order of their handles, side by side in one allocation where they are texts or
//! lists, and beside them an index of eight bytes a slot: a stack of thirty frames costs some 140 bytes, not
//! a heap block and two copies of its key.

use std::hash::{BuildHasher, Hash};

use super::hash::Keys;

/// Handle of a string; the default is the empty string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StringId(u32);

impl StringId {
    /// Place in [`super::Profile::strings`], from 0, which is the empty string.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Strings, the empty one first, as profile.proto wants its string table.
#[derive(Clone, Debug)]
pub(super) struct Strings {
    index: Index,
    texts: String,
    /// Where each text ends, and the next begins.
    ends: Vec<usize>,
}

impl Default for Strings {
    fn default() -> Self {
        let mut strings = Self { index: Index::default(), texts: String::new(), ends: Vec::new() };
        strings.intern("");
        strings
    }
}

impl Strings {
    pub(super) fn intern(&mut self, text: &str) -> StringId {
        let hash = self.index.hash(text);
        if let Some(id) = self.index.find(hash, |id| self.get(StringId(id)) == text) {
            return StringId(id);
        }
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        StringId(self.index.insert(hash))
    }

    /// Takes a text without looking whether it is there, nor can it be found: see [`super::Profile::append_string`].
    pub(super) fn append(&mut self, text: &str) -> StringId {
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        StringId(self.index.skip())
    }

    pub(super) fn find(&self, text: &str) -> Option<StringId> {
        self.index.find(self.index.hash(text), |id| self.get(StringId(id)) == text).map(StringId)
    }

    /// Bytes of all texts.
    pub(super) fn bytes(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn get(&self, id: StringId) -> &str {
        &self.texts[range(&self.ends, id.index())]
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.ends.len()).map(|place| &self.texts[range(&self.ends, place)])
    }
}

/// Lists of handles, each stored once.
#[derive(Clone, Debug)]
pub(super) struct Lists<T> {
    index: Index,
    items: Vec<T>,
    /// Where each list ends, and the next begins.
    ends: Vec<usize>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { index: Index::default(), items: Vec::new(), ends: Vec::new() }
    }
}

impl<T: Copy + Eq + Into<u32>> Lists<T> {
    pub(super) fn intern(&mut self, list: &[T]) -> u32 {
        let hash = self.index.keys.hash_numbers(list.iter().map(|item| (*item).into()));
        if let Some(id) = self.index.find(hash, |id| self.get(id) == list) {
            return id;
        }
        self.items.extend_from_slice(list);
        self.ends.push(self.items.len());
        self.index.insert(hash)
    }

    /// How many items there are in all lists.
    pub(super) fn items(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, id: u32) -> &[T] {
        &self.items[range(&self.ends, id as usize)]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

fn range(ends: &[usize], place: usize) -> std::ops::Range<usize> {
    let start = place.checked_sub(1).map_or(0, |before| ends[before]);
    start..ends[place]
}

/// Values of one type, each stored once.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    index: Index,
    rows: Vec<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { index: Index::default(), rows: Vec::new() }
    }
}

impl<T: Eq + Hash> Table<T> {
    pub(super) fn intern(&mut self, row: T) -> u32 {
        let hash = self.index.hash(&row);
        if let Some(id) = self.index.find(hash, |id| self.rows[id as usize] == row) {
            return id;
        }
        self.rows.push(row);
        self.index.insert(hash)
    }

    /// Takes a row without looking whether it is there, nor can it be found.
    pub(super) fn append(&mut self, row: T) -> u32 {
        self.rows.push(row);
        self.index.skip()
    }

    pub(super) fn get(&self, id: u32) -> &T {
        &self.rows[id as usize]
    }

    pub(super) fn as_slice(&self) -> &[T] {
        &self.rows
    }
}

/// From the hash of a row to its number: open addressing, with the rows elsewhere.
///
/// The standard library's map would hold every key a second time.
#[derive(Clone, Debug, Default)]
struct Index {
    keys: Keys,
    /// Upper half of the hash, and the row's number plus one; 0 is a free slot. The length is a power of two.
    slots: Vec<(u32, u32)>,
    rows: u32,
}

impl Index {
    fn hash(&self, key: impl Hash) -> u64 {
        self.keys.hash_one(key)
    }

    fn find(&self, hash: u64, is_row: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let tag = (hash >> 32) as u32;
        let mut place = tag as usize & mask;
        loop {
            let (found, row) = self.slots[place];
            let row = row.checked_sub(1)?;
            if found == tag && is_row(row) {
                return Some(row);
            }
            place = (place + 1) & mask;
        }
    }

    /// Takes the next number for a row that is not there yet.
    fn insert(&mut self, hash: u64) -> u32 {
        let row = self.rows;
        self.rows += 1;
        if self.rows as usize * 4 > self.slots.len() * 3 {
            let larger = vec![(0, 0); (self.slots.len() * 2).max(8)];
            for (tag, row) in std::mem::replace(&mut self.slots, larger) {
                if row != 0 {
                    self.place(tag, row);
                }
            }
        }
        self.place((hash >> 32) as u32, row + 1);
        row
    }

    /// Takes the next number for a row that is not to be found.
    fn skip(&mut self) -> u32 {
        self.rows += 1;
        self.rows - 1
    }

    fn place(&mut self, tag: u32, row: u32) {
        let mask = self.slots.len() - 1;
        let mut place = tag as usize & mask;
        while self.slots[place].1 != 0 {
            place = (place + 1) & mask;
        }
        self.slots[place] = (tag, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_are_told_apart_and_found_again() {
        let mut strings = Strings::default();
        let ids: Vec<StringId> = (0..10_000).map(|n| strings.intern(&format!("text {n}"))).collect();
        assert!(
            (1..).zip(&ids).all(|(place, id)| id.index() == place),
            "handles count up, after the empty text"
        );
        assert!((0..10_000).zip(&ids).all(|(n, id)| strings.get(*id) == format!("text {n}")));
        assert!((0..10_000).zip(&ids).all(|(n, id)| strings.find(&format!("text {n}")) == Some(*id)));
        assert_eq!(strings.find("text 10000"), None);
        assert_eq!(strings.iter().count(), 10_001);
    }

    #[test]
    fn lists_that_share_a_beginning_differ() {
        let mut lists: Lists<u32> = Lists::default();
        let ids = [lists.intern(&[1, 2]), lists.intern(&[1]), lists.intern(&[]), lists.intern(&[2, 1])];
        assert_eq!(ids, [0, 1, 2, 3]);
        assert_eq!([lists.intern(&[1, 2]), lists.intern(&[])], [0, 2]);
        assert_eq!(
            (lists.get(0), lists.get(2), lists.get(3)),
            ([1, 2].as_slice(), [].as_slice(), [2, 1].as_slice())
        );
    }

    #[test]
    fn a_hash_that_falls_on_the_last_slot_wraps_around() {
        let mut index = Index::default();
        for expected in 0..100 {
            assert_eq!(index.insert(u64::MAX), expected, "the same hash a hundred times");
        }
        assert_eq!(index.find(u64::MAX, |row| row == 99), Some(99));
        assert_eq!(index.find(0, |_| true), None);
    }
}
