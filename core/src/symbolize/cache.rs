//! Answers of earlier periods: most addresses of a service come again each minute, and reading debug information for
//! them again would cost more than sampling them.
//!
//! Two generations of a bounded size: what is asked for again moves to the young one, and when that is full the old
//! one is dropped. That is nearly least-recently-used, at the cost of a hash table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{SymbolFrame, Symbols};

/// What an answer belongs to: the number of the module's file, and the offset in it.
pub(crate) type Key = (u32, u64);

#[derive(Debug)]
pub(crate) struct Cache {
    limit: usize,
    young: HashMap<Key, Symbols>,
    old: HashMap<Key, Symbols>,
    strings: HashSet<Arc<str>>,
    /// The last answer that was put in: addresses come sorted, so those of one line or one function follow each other.
    last: Symbols,
    empty: Symbols,
}

impl Cache {
    /// A cache of about `limit` answers.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(2),
            young: HashMap::new(),
            old: HashMap::new(),
            strings: HashSet::new(),
            last: Arc::new([]),
            empty: Arc::new([]),
        }
    }

    pub(crate) fn get(&mut self, key: Key) -> Option<Symbols> {
        if let Some(symbols) = self.young.get(&key) {
            return Some(symbols.clone());
        }
        let symbols = self.old.remove(&key)?;
        self.put(key, symbols.clone());
        Some(symbols)
    }

    /// Makes room for `count` strings: to grow step by step is to hash all of them several times.
    pub(crate) fn reserve_strings(&mut self, count: usize) {
        self.strings.reserve(count);
    }

    /// Makes room for `count` answers.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.young.reserve(count.min((self.limit / 2).saturating_sub(self.young.len())));
    }

    /// Keeps the frames at a place.
    pub(crate) fn insert(&mut self, key: Key, frames: Vec<SymbolFrame>) -> Symbols {
        if frames.is_empty() {
            self.put(key, self.empty.clone());
            return self.empty.clone();
        }
        if *self.last != *frames {
            self.last = frames.into();
        }
        let symbols = self.last.clone();
        self.put(key, symbols.clone());
        symbols
    }

    /// The one copy of a string.
    pub(crate) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.strings.get(text) {
            return held.clone();
        }
        let text: Arc<str> = text.into();
        self.strings.insert(text.clone());
        text
    }

    fn put(&mut self, key: Key, symbols: Symbols) {
        self.young.insert(key, symbols);
        if self.young.len() >= self.limit / 2 {
            self.old = std::mem::take(&mut self.young);
            // What only this table still holds is of no use any more. Callers may hold some for a while; that is
            // kept, and looked at again next time.
            self.strings.retain(|text| Arc::strong_count(text) > 1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new(100);
        let frames = |cache: &mut Cache, n: u64| {
            let name = cache.intern(&format!("f{n}"));
            vec![SymbolFrame { name, ..SymbolFrame::default() }]
        };
        let always = frames(&mut cache, 0);
        cache.insert((0, 0), always);
        for n in 1..10_000 {
            let new = frames(&mut cache, n);
            cache.insert((0, n), new);
            assert_eq!(&*cache.get((0, 0)).unwrap()[0].name, "f0");
        }
        assert!(cache.young.len() + cache.old.len() <= 100);
        assert!(cache.strings.len() <= 101, "{} strings", cache.strings.len());
        assert!(cache.get((0, 5)).is_none());
    }
}
