//! Who waits for what, and from when on its wait is a sample: looked at by who ends a wait.
//!
//! A small table by address. It is a help and no account: an entry that finds no room is left out, and one that was left
//! behind by a thread that never came back is taken over. Each word is written and read by itself, so what is read of an
//! entry may be of two waits; the worst that follows is a stack that nobody asks for.

use core::sync::atomic::{AtomicU64, Ordering};

use super::calls::CONTENDED;
use crate::os;

const ENTRIES: usize = 1024;
/// The entries in which one may lie, from its address's place on.
const WINDOW: usize = 8;
/// An entry that is due for so long, in nanoseconds, may be another's: nobody knows whether its thread is still there.
const OLD: u64 = 600_000_000_000;
/// No place.
const NOWHERE: u64 = u64::MAX;
/// An address that nothing waits for: the entry is being written.
const BEING_WRITTEN: u64 = 1;

static TABLE: [Entry; ENTRIES + WINDOW] = [const { Entry::free() }; ENTRIES + WINDOW];

struct Entry {
    /// 0: free. Its lowest bit, which is no part of the address, says that the wait is among those of [`CONTENDED`].
    address: AtomicU64,
    number: AtomicU64,
    /// On the monotonic clock; 0 once its end was seen.
    due: AtomicU64,
}

impl Entry {
    const fn free() -> Self {
        Self { address: AtomicU64::new(0), number: AtomicU64::new(0), due: AtomicU64::new(0) }
    }

    /// Frees it, if it is as it was seen.
    fn free_from(&self, seen: u64, to: u64) -> bool {
        let is_freed = self.address.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_freed && is_counted(seen) {
            CONTENDED.fetch_sub(1, Ordering::Relaxed);
        }
        is_freed
    }
}

fn is_counted(word: u64) -> bool {
    word & 1 != 0 && word != BEING_WRITTEN
}

/// The calling thread waits from now on; its place in the table, if it has one. Whether it `is_counted` among those whose
/// end is looked for only while there are any.
pub(super) fn enter(address: u64, number: u64, due: u64, is_counted: bool) -> u64 {
    for (place, entry) in window(address) {
        let there = entry.address.load(Ordering::Relaxed);
        let is_left = there > BEING_WRITTEN && entry.due.load(Ordering::Relaxed).saturating_add(OLD) < due;
        if (there == 0 || is_left) && entry.free_from(there, BEING_WRITTEN) {
            entry.number.store(number, Ordering::Relaxed);
            entry.due.store(due, Ordering::Relaxed);
            if is_counted {
                CONTENDED.fetch_add(1, Ordering::SeqCst);
            }
            entry.address.store(address & !1 | u64::from(is_counted), Ordering::SeqCst);
            return place as u64;
        }
    }
    NOWHERE
}

/// It waits no more.
pub(super) fn leave(place: u64, number: u64) {
    let Some(entry) = TABLE.get(place as usize) else { return };
    let there = entry.address.load(Ordering::Relaxed);
    // Unless it was taken over.
    if there > BEING_WRITTEN && entry.number.load(Ordering::Relaxed) == number {
        entry.free_from(there, 0);
    }
}

/// The number of a wait for `address` that is a sample by now, of several the oldest; once.
pub(super) fn due(address: u64) -> Option<u64> {
    let is_for = |entry: &Entry| entry.address.load(Ordering::Acquire) & !1 == address & !1;
    let waits = window(address).map(|(_, entry)| entry).filter(|entry| is_for(entry));
    let numbered = waits.filter(|entry| entry.due.load(Ordering::Relaxed) != 0);
    let first = numbered.min_by_key(|entry| entry.number.load(Ordering::Relaxed))?;
    let due = first.due.swap(0, Ordering::Relaxed);
    (due != 0 && due <= os::monotonic()).then(|| first.number.load(Ordering::Relaxed))
}

/// Frees what threads have left behind that never came back. Our thread.
pub(super) fn sweep() {
    let now = os::monotonic();
    for entry in &TABLE {
        let there = entry.address.load(Ordering::Relaxed);
        // One that was seen to end counts as due at the beginning of time: its thread frees it in a moment, or never.
        if is_counted(there) && entry.due.load(Ordering::Relaxed).saturating_add(OLD) < now {
            entry.free_from(there, 0);
        }
    }
}

/// Empties the table.
pub(super) fn forget() {
    for entry in &TABLE {
        let there = entry.address.load(Ordering::Relaxed);
        if there != BEING_WRITTEN {
            entry.free_from(there, 0);
        }
    }
}

/// In a fork's child, which has one thread: nobody waits, and nobody writes.
pub(super) fn after_fork() {
    TABLE.iter().for_each(|entry| entry.address.store(0, Ordering::Relaxed));
    CONTENDED.store(0, Ordering::Relaxed);
}

fn window(address: u64) -> impl Iterator<Item = (usize, &'static Entry)> {
    // Locks lie at multiples of 4; the multiplication spreads them.
    let start = ((address & !1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % ENTRIES;
    TABLE
        .get(start..start + WINDOW)
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(move |(step, entry)| (start + step, entry))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_right_whatever_becomes_of_waits() {
        let contended = || CONTENDED.load(Ordering::Relaxed);
        let now = os::monotonic();
        let (first, second) = (enter(0x1000, 1, now, true), enter(0x1000, 2, now + OLD, true));
        let third = enter(0x1000, 3, now, false);
        assert_eq!(contended(), 2);
        assert_eq!([due(0x2000), due(0x1000)], [None, Some(1)]);
        leave(third, 3);
        leave(first, 1);
        leave(first, 1);
        assert_eq!(contended(), 1);
        // It is not due yet, and asked about once.
        assert_eq!([due(0x1000), due(0x1000)], [None, None]);
        // Nobody knows whether it is ever left.
        sweep();
        assert_eq!(contended(), 0);
        leave(second, 2);
        enter(0x3000, 4, now, true);
        forget();
        assert_eq!(contended(), 0);
        // The window of an address has room for so many.
        let places: std::vec::Vec<u64> =
            (0..10).map(|number| enter(0x4000, number + 10, now, true)).collect();
        assert_eq!((places.iter().filter(|place| **place == NOWHERE).count(), contended()), (2, 8));
        // Ten minutes later their places are another's.
        assert_ne!(enter(0x4000, 30, now + 2 * OLD, false), NOWHERE);
        assert_eq!(contended(), 7);
        forget();
        assert_eq!(contended(), 0);
    }
}
