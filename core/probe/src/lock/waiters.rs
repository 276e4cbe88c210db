//! Who waits for what, and from when on its wait is a sample: looked at by who ends a wait.
//!
//! A small table by address. It is a help and no account: a wait that finds no room is left out, and an entry that was left
//! behind by a thread that never came back is given back by ours. Each word is written and read by itself, so what is read
//! of an entry may be of two waits; the worst that follows is a stack that nobody asks for.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::calls::{AWAITED, CONTENDED};
use crate::os;

/// Places of the table; each address has one.
const BUCKETS: usize = 128;
/// The waits of one place, one for each bit of a word.
const ROOM: usize = 64;
/// An entry that is due for so long, in nanoseconds, may be one that was left behind: nobody knows whether its thread is still
/// there, and it can do without.
const OLD: u64 = 600_000_000_000;
/// No place.
pub(super) const NOWHERE: u64 = u64::MAX;

static TABLE: [Bucket; BUCKETS] = [const { Bucket::new() }; BUCKETS];

struct Bucket {
    /// Which entries are taken.
    taken: AtomicU64,
    /// No wait whose end was not seen yet is due before: so nobody need look at them, as often as a lock is given back.
    next_due: AtomicU64,
    entries: [Entry; ROOM],
}

struct Entry {
    /// The number of the wait; 0: none. Whoever takes it away gives the entry back.
    number: AtomicU64,
    /// Its lowest bits, which are no part of an address, say by which number the wait is [`Counted`].
    address: AtomicU64,
    /// On the monotonic clock; 0 once its end was seen.
    due: AtomicU64,
}

impl Bucket {
    const fn new() -> Self {
        let entries = [const { Entry::new() }; ROOM];
        Self { taken: AtomicU64::new(0), next_due: AtomicU64::new(u64::MAX), entries }
    }

    fn of(address: u64) -> (usize, Option<&'static Self>) {
        // Locks lie at multiples of 4; the multiplication spreads them.
        let place = (address & !COUNTED).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKETS.ilog2());
        (place as usize, TABLE.get(place as usize))
    }

    /// Takes a free entry.
    fn take(&self) -> Option<(usize, &Entry)> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let free = (!taken).trailing_zeros() as usize;
            let entry = self.entries.get(free)?;
            let with = taken | 1 << free;
            match self.taken.compare_exchange_weak(taken, with, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some((free, entry)),
                Err(now) => taken = now,
            }
        }
    }

    /// Those that are taken.
    fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let mut left = self.taken.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            let place = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            self.entries.get(place).map(|entry| (place, entry))
        })
    }

    /// Looks for the oldest wait for `address` that is due, and for when the next one will be.
    #[cold]
    fn look(&self, address: u64) -> Option<u64> {
        // Whoever comes in meanwhile is not forgotten.
        self.next_due.store(u64::MAX, Ordering::SeqCst);
        let now = os::monotonic();
        let (mut next, mut found) = (u64::MAX, None::<(u64, &Entry, u64)>);
        for (_, entry) in self.entries() {
            let (number, due) = (entry.number.load(Ordering::SeqCst), entry.due.load(Ordering::Relaxed));
            if number == 0 || due == 0 {
                continue;
            }
            let is_older = found.is_none_or(|(oldest, ..)| number < oldest);
            if due <= now && is_older && entry.is_for(address) {
                next = found.map_or(next, |(_, _, due)| next.min(due));
                found = Some((number, entry, due));
            } else {
                next = next.min(due);
            }
        }
        self.next_due.fetch_min(next, Ordering::SeqCst);
        let (number, entry, _) = found?;
        (entry.due.swap(0, Ordering::Relaxed) != 0).then_some(number)
    }

    /// Gives an entry back, unless somebody else has.
    fn give_back(&self, place: usize, entry: &Entry, number: u64) -> bool {
        let address = entry.address.load(Ordering::Relaxed);
        let is_ours = entry.number.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if number != 0 && is_ours {
            if let Some(count) = count_of(address) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            self.taken.fetch_and(!(1 << place), Ordering::AcqRel);
        }
        is_ours
    }
}

impl Entry {
    const fn new() -> Self {
        Self { number: AtomicU64::new(0), address: AtomicU64::new(0), due: AtomicU64::new(0) }
    }

    fn is_for(&self, address: u64) -> bool {
        self.address.load(Ordering::Relaxed) & !COUNTED == address & !COUNTED
    }
}

/// By which number a wait is counted whose end is looked for only while there are any such.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Counted {
    /// None: its end is looked for always.
    Not = 0,
    /// [`CONTENDED`].
    Lock = 1,
    /// [`AWAITED`].
    Semaphore = 2,
}

const COUNTED: u64 = 3;

fn count_of(word: u64) -> Option<&'static AtomicU32> {
    match word & COUNTED {
        1 => Some(&CONTENDED),
        2 => Some(&AWAITED),
        _ => None,
    }
}

/// The calling thread waits from now on; its place in the table, if it has one.
pub(super) fn enter(address: u64, number: u64, due: u64, counted: Counted) -> u64 {
    let (number_of_bucket, Some(bucket)) = Bucket::of(address) else { return NOWHERE };
    let Some((place, entry)) = bucket.take() else { return NOWHERE };
    entry.due.store(due, Ordering::Relaxed);
    let address = address & !COUNTED | counted as u64;
    entry.address.store(address, Ordering::Relaxed);
    if let Some(count) = count_of(address) {
        count.fetch_add(1, Ordering::SeqCst);
    }
    entry.number.store(number, Ordering::SeqCst);
    bucket.next_due.fetch_min(due, Ordering::SeqCst);
    (number_of_bucket * ROOM + place) as u64
}

/// It waits no more. Whether its end was seen, by who ends it: [`due`] has said so to them, or is about to.
pub(super) fn leave(place: u64, number: u64) -> bool {
    let (bucket, place) = (place as usize / ROOM, place as usize % ROOM);
    let Some(bucket) = TABLE.get(bucket) else { return false };
    let Some(entry) = bucket.entries.get(place) else { return false };
    let is_seen = entry.due.load(Ordering::Relaxed) == 0;
    bucket.give_back(place, entry, number) && is_seen
}

/// The number of a wait for `address` that is a sample by now, of several the oldest; once.
pub(super) fn due(address: u64) -> Option<u64> {
    let (_, bucket) = Bucket::of(address);
    let bucket = bucket.filter(|bucket| bucket.taken.load(Ordering::Relaxed) != 0)?;
    let next_due = bucket.next_due.load(Ordering::Relaxed);
    (next_due != u64::MAX && next_due <= os::monotonic()).then(|| bucket.look(address))?
}

/// Frees what threads have left behind that never came back. Our thread.
pub(super) fn sweep(now: u64) {
    // One that was seen to end is given back by its thread in a moment, or was left behind.
    give_back_where(|entry| entry.due.load(Ordering::Relaxed).saturating_add(OLD) < now);
}

/// Empties the table.
pub(super) fn forget() {
    give_back_where(|_| true);
}

fn give_back_where(is_over: impl Fn(&Entry) -> bool) {
    for bucket in &TABLE {
        for (place, entry) in bucket.entries().filter(|(_, entry)| is_over(entry)) {
            // With the address that belongs to it, which was written before.
            bucket.give_back(place, entry, entry.number.load(Ordering::Acquire));
        }
    }
}

/// In a fork's child, which has one thread: nobody waits, and nobody writes.
pub(super) fn after_fork() {
    for bucket in &TABLE {
        bucket.entries().for_each(|(_, entry)| entry.number.store(0, Ordering::Relaxed));
        bucket.taken.store(0, Ordering::Relaxed);
    }
    CONTENDED.store(0, Ordering::Relaxed);
    AWAITED.store(0, Ordering::Relaxed);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_right_whatever_becomes_of_waits() {
        let contended = || CONTENDED.load(Ordering::Relaxed);
        let now = os::monotonic();
        let (first, second) =
            (enter(0x1000, 1, now, Counted::Lock), enter(0x1000, 2, now + OLD, Counted::Lock));
        let third = enter(0x1000, 3, now, Counted::Not);
        assert_eq!(contended(), 2);
        // The third is due as well, the second is not.
        assert_eq!([due(0x2000), due(0x1000), due(0x1000), due(0x1000)], [None, Some(1), Some(3), None]);
        leave(third, 3);
        leave(first, 1);
        leave(first, 1);
        assert_eq!(contended(), 1);
        sweep(now + OLD);
        assert_eq!(contended(), 1);
        // By then nobody knows whether it is ever left.
        sweep(now + 3 * OLD);
        assert_eq!(contended(), 0);
        leave(second, 2);
        let semaphore = enter(0x1000, 5, now, Counted::Semaphore);
        assert_eq!([contended(), AWAITED.load(Ordering::Relaxed)], [0, 1]);
        assert_eq!(due(0x1000), Some(5));
        assert!(leave(semaphore, 5));
        assert_eq!(AWAITED.load(Ordering::Relaxed), 0);
        enter(0x3000, 4, now, Counted::Lock);
        forget();
        assert_eq!(contended(), 0);
        // An address has room for so many.
        let places = (0..70).map(|number| enter(0x4000, number + 10, now, Counted::Lock));
        assert_eq!(places.filter(|place| *place == NOWHERE).count(), 70 - ROOM);
        assert_eq!(contended(), ROOM as u32);
        assert_eq!((0..ROOM).filter_map(|_| due(0x4000)).count(), ROOM);
        forget();
        assert_eq!(contended(), 0);
    }
}
