//! A table that is read without a lock and never grows: for what a process looks up again and again by a text.
//!
//! An entry stays for the life of the process, so that a place goes only to what is asked for a second time: texts that come
//! once, such as paths with a number in them, take none. Who finds no place does without. One thread at a time fills a place,
//! and nobody waits for it: whoever comes meanwhile does without as well, and so does for ever the child of a fork that
//! came in that moment.

use std::hash::{DefaultHasher, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// So many places are looked at, from the one on that the hash names.
const WINDOW: usize = 16;

pub(crate) struct Fixed<V, const PLACES: usize> {
    places: [OnceLock<(u64, V)>; PLACES],
    /// By a part of the hash: the rest of that which was asked for last, and found no place.
    missed: [AtomicU32; PLACES],
    is_being_filled: AtomicBool,
}

/// The hash of these texts, one after the other. Keys are fixed: who floods the table on purpose gets no places.
pub(crate) fn hash(texts: [&str; 2]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for text in texts {
        hasher.write(text.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

impl<V, const PLACES: usize> Fixed<V, PLACES> {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { OnceLock::new() }; PLACES],
            missed: [const { AtomicU32::new(0) }; PLACES],
            is_being_filled: AtomicBool::new(false),
        }
    }

    /// The entry of that hash that is the one.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&V) -> bool) -> Option<&V> {
        // Places are filled in this order, and never emptied.
        let known = self.window(hash).map_while(OnceLock::get);
        known.filter(|(known, _)| *known == hash).map(|(_, value)| value).find(|value| is_it(value))
    }

    /// Whether it was asked for before, and at most one thing that is like it since: so two that take turns are both found.
    pub(crate) fn is_missed_again(&self, hash: u64) -> bool {
        let mark = (hash >> 32) as u32 | 1;
        let Some(missed) = self.missed.get(hash as usize % PLACES) else { return false };
        let known = missed.load(Ordering::Relaxed);
        if known | 1 == mark {
            return true;
        }
        // The lowest bit says that nothing else came since.
        missed.store(if known & 1 == 1 { known & !1 } else { mark }, Ordering::Relaxed);
        false
    }

    /// Gives a place to what was not found, where there is room.
    #[cold]
    pub(crate) fn keep(&self, hash: u64, is_it: impl Fn(&V) -> bool, make: impl FnOnce() -> V) -> Option<&V> {
        let is_free = |place: &&OnceLock<(u64, V)>| place.get().is_none();
        self.window(hash).find(is_free)?;
        let value = make();
        if self.is_being_filled.swap(true, Ordering::Acquire) {
            return None;
        }
        // Somebody else may have been faster. Nobody else fills a place now, so that to fill one is not to wait.
        let found = self.find(hash, is_it).or_else(|| {
            let place = self.window(hash).find(is_free)?;
            place.set((hash, value)).ok()?;
            place.get().map(|(_, value)| value)
        });
        self.is_being_filled.store(false, Ordering::Release);
        found
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.places.iter().filter_map(OnceLock::get).map(|(_, value)| value)
    }

    fn window(&self, hash: u64) -> impl Iterator<Item = &OnceLock<(u64, V)>> {
        let place = move |step| self.places.get((hash as usize).wrapping_add(step) % PLACES);
        (0..WINDOW.min(PLACES)).filter_map(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_has_a_place_as_long_as_there_is_one() {
        static TABLE: Fixed<String, 8> = Fixed::new();
        let find = |text: &str| TABLE.find(hash([text, ""]), |known| known == text);
        let keep = |text: &str| {
            let hash = hash([text, ""]);
            if !TABLE.is_missed_again(hash) {
                return None;
            }
            TABLE.keep(hash, |known| known == text, || text.to_string())
        };
        assert!(find("a").is_none() && keep("a").is_none(), "once");
        assert_eq!(keep("a").map(String::as_str), Some("a"));
        assert_eq!(find("a").map(String::as_str), Some("a"));
        assert_eq!(TABLE.iter().count(), 1);
        keep("a");
        assert_eq!(TABLE.iter().count(), 1, "who was slower finds it");
        for number in 0..100 {
            let text = number.to_string();
            (0..3).for_each(|_| _ = keep(&text));
            assert!(find(&text).is_none_or(|found| *found == text));
        }
        assert_eq!(TABLE.iter().count(), 8);
        assert_eq!(find("a").map(String::as_str), Some("a"), "nobody takes a place away");
    }

    #[test]
    fn what_takes_turns_is_found_and_what_comes_once_is_not() {
        static TABLE: Fixed<u64, 1> = Fixed::new();
        let [one, other] = [1 << 40, 2 << 40];
        let mut seen = (0..4).map(|turn| TABLE.is_missed_again(if turn % 2 == 0 { one } else { other }));
        assert!(seen.any(|seen| seen));
        assert!(!(10..10_000_u64).any(|number| TABLE.is_missed_again(number << 40)));
    }
}
