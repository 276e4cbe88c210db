//! Who waits for what, and from when on its wait is a sample: looked at by who ends a wait.
//!
//! A small table by address. It is a help and no account: an entry that finds no room is left out, and one that was left
//! behind by a thread that never came back is taken over. Each word is written and read by itself, so what is read of an
//! entry may be of two waits; the worst that follows is a stack that nobody asks for.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::os;

const ENTRIES: usize = 1024;
/// The entries in which one may lie, from its address's place on.
const WINDOW: usize = 8;
/// An entry that is due for so long, in nanoseconds, may be another's: nobody knows whether its thread is still there.
const OLD: u64 = 600_000_000_000;

static TABLE: [Entry; ENTRIES + WINDOW] = [const { Entry::free() }; ENTRIES + WINDOW];

struct Entry {
    /// 0: free.
    address: AtomicU64,
    number: AtomicU64,
    /// On the monotonic clock; 0 once its end was seen.
    due: AtomicU64,
}

impl Entry {
    const fn free() -> Self {
        Self { address: AtomicU64::new(0), number: AtomicU64::new(0), due: AtomicU64::new(0) }
    }
}

/// The calling thread waits from now on; its place in the table, if it has one.
pub(super) fn enter(address: u64, number: u64, due: u64) -> Option<usize> {
    for (place, entry) in window(address) {
        let there = entry.address.load(Ordering::Relaxed);
        let is_left = there != 0 && entry.due.load(Ordering::Relaxed).saturating_add(OLD) < due;
        if (there == 0 || is_left)
            && entry.address.compare_exchange(there, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            entry.number.store(number, Ordering::Relaxed);
            entry.due.store(due, Ordering::Relaxed);
            entry.address.store(address, Ordering::Release);
            return Some(place);
        }
    }
    None
}

/// It waits no more.
pub(super) fn leave(place: Option<usize>, number: u64) {
    let Some(entry) = place.and_then(|place| TABLE.get(place)) else { return };
    // Unless it was taken over.
    if entry.number.load(Ordering::Relaxed) == number {
        entry.address.store(0, Ordering::Release);
    }
}

/// The number of a wait for `address` that is a sample by now, of several the oldest; once.
#[inline(always)]
pub(super) fn due(address: u64) -> Option<u64> {
    let mut waits =
        window(address).filter(|(_, entry)| entry.address.load(Ordering::Acquire) == address).peekable();
    waits.peek()?;
    oldest(waits.map(|(_, entry)| entry))
}

fn oldest(waits: impl Iterator<Item = &'static Entry>) -> Option<u64> {
    let numbered = waits.filter(|entry| entry.due.load(Ordering::Relaxed) != 0);
    let first = numbered.min_by_key(|entry| entry.number.load(Ordering::Relaxed))?;
    let due = first.due.swap(0, Ordering::Relaxed);
    (due != 0 && due <= os::monotonic()).then(|| first.number.load(Ordering::Relaxed))
}

/// Empties the table.
pub(super) fn forget() {
    TABLE.iter().for_each(|entry| entry.address.store(0, Ordering::Relaxed));
}

fn window(address: u64) -> impl Iterator<Item = (usize, &'static Entry)> {
    // Locks lie at multiples of 4; the multiplication spreads them.
    let start = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % ENTRIES;
    TABLE
        .get(start..start + WINDOW)
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(move |(step, entry)| (start + step, entry))
}
