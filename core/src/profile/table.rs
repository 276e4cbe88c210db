//! The interning tables behind every handle of a profile.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

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
    index: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Default for Strings {
    fn default() -> Self {
        let mut strings = Self { index: HashMap::new(), texts: Vec::new() };
        strings.intern("");
        strings
    }
}

impl Strings {
    pub(super) fn intern(&mut self, text: &str) -> StringId {
        if let Some(&id) = self.index.get(text) {
            return StringId(id);
        }
        let text: Arc<str> = text.into();
        let id = self.texts.len() as u32;
        self.texts.push(text.clone());
        self.index.insert(text, id);
        StringId(id)
    }

    pub(super) fn find(&self, text: &str) -> Option<StringId> {
        self.index.get(text).copied().map(StringId)
    }

    pub(super) fn get(&self, id: StringId) -> &str {
        &self.texts[id.index()]
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.texts.iter().map(|text| &**text)
    }
}

/// Values of one type, each stored once.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    index: HashMap<T, u32>,
    rows: Vec<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Table<T> {
    pub(super) fn intern(&mut self, row: T) -> u32 {
        if let Some(&id) = self.index.get(&row) {
            return id;
        }
        let id = self.rows.len() as u32;
        self.rows.push(row.clone());
        self.index.insert(row, id);
        id
    }

    pub(super) fn get(&self, id: u32) -> &T {
        &self.rows[id as usize]
    }

    pub(super) fn as_slice(&self) -> &[T] {
        &self.rows
    }
}

/// Lists of handles, each stored once and shared by its index.
#[derive(Clone, Debug)]
pub(super) struct Lists<T> {
    index: HashMap<Arc<[T]>, u32>,
    lists: Vec<Arc<[T]>>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { index: HashMap::new(), lists: Vec::new() }
    }
}

impl<T: Copy + Eq + Hash> Lists<T> {
    pub(super) fn intern(&mut self, list: &[T]) -> u32 {
        if let Some(&id) = self.index.get(list) {
            return id;
        }
        let list: Arc<[T]> = list.into();
        let id = self.lists.len() as u32;
        self.lists.push(list.clone());
        self.index.insert(list, id);
        id
    }

    pub(super) fn get(&self, id: u32) -> &[T] {
        &self.lists[id as usize]
    }
}
