//! What functions are called, copied inside the handler when one is first met: a code object may be gone by the time that
//! somebody asks.
//!
//! Tables of a fixed size, mapped ahead. A key, the hash of what makes a code object that one, claims a slot; the copy lies in
//! the table's arena. A handler that finds the table full goes on to the next one, for all, where that has been emptied;
//! functions that are met again are copied again, and those that nobody meets any more stay behind. Only our thread
//! empties tables, the oldest, and memory stays mapped for ever: a handler that was kept from the processor for as long as
//! it takes for its table to come round writes where it may, and what it spoils is known by its sum.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use everprof_probe::os::Pages;

use super::raw::Piece;

/// Functions of a table, a power of two.
const SLOTS: usize = 1 << 14;
/// Bytes of a table's copies.
const ARENA: usize = 4 << 20;
/// So many tables there are.
const TABLES: usize = 8;
/// And so many keep what they have, beside the one in use.
const KEPT: u64 = 3;
/// Slots that are looked at for a key.
const PROBES: usize = 32;
/// More slots than that are not taken.
const MOST: u64 = SLOTS as u64 / 4 * 3;

/// Of copies, so many bytes at most: of a name, of a file's name, of a table of lines.
pub(super) const MOST_NAME: u64 = 1024;
pub(super) const MOST_FILE: u64 = 2048;
pub(super) const MOST_LINES: u64 = 64 * 1024;

/// A string or a table of lines as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) piece: Option<Piece>,
    /// In bytes.
    pub(super) len: u64,
    /// Bytes of a character.
    pub(super) width: u8,
}

/// What is copied of a code object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) first_line: u32,
    pub(super) name: Part,
    pub(super) file: Part,
    pub(super) lines: Part,
}

/// A copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) first_line: u32,
    pub(super) name: Vec<u8>,
    pub(super) name_width: u8,
    pub(super) file: Vec<u8>,
    pub(super) file_width: u8,
    pub(super) lines: Vec<u8>,
}

/// The tables.
#[derive(Debug)]
pub(super) struct Codes {
    tables: [&'static Table; TABLES],
    /// Which table is in use, counted from the first one on.
    current: AtomicU64,
    /// Functions that no table had room for.
    overflow: AtomicU64,
}

#[derive(Debug)]
#[repr(C)]
struct Table {
    /// Its number, in the order in which tables are used.
    epoch: AtomicU64,
    /// Bytes of the arena.
    used: AtomicU64,
    taken: AtomicU64,
    slots: [Slot; SLOTS],
    arena: Arena,
}

#[derive(Debug)]
#[repr(C)]
struct Slot {
    /// 0 while free.
    key: AtomicU64,
    /// Where the copy lies in the arena, plus 1; 0 until it is whole.
    place: AtomicU32,
    len: AtomicU32,
}

#[derive(Debug)]
#[repr(C, align(8))]
struct Arena(UnsafeCell<[u8; ARENA]>);

// SAFETY: each range of bytes is written by the one handler that it was handed out to, before the slot says that it is there.
unsafe impl Sync for Arena {}

/// Bytes before the strings: their sum, the first line, widths, lengths.
const HEAD: usize = 32;

impl Codes {
    /// `None` where there is no memory for it. It costs address space only until functions are met.
    pub(super) fn new() -> Option<Self> {
        let mut tables = [None; TABLES];
        for (table, number) in tables.iter_mut().zip(0..) {
            let start = Pages::new(size_of::<Table>())?.leak().cast::<Table>();
            // SAFETY: the mapping is as large as a table, aligned to a page, zeroed, which is a table without content, and stays.
            let new: &'static Table = unsafe { start.as_ref() };
            new.epoch.store(number, Ordering::Relaxed);
            *table = Some(new);
        }
        let [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f), Some(g), Some(h)] = tables else {
            return None;
        };
        let tables = [a, b, c, d, e, f, g, h];
        Some(Self { tables, current: AtomicU64::new(0), overflow: AtomicU64::new(0) })
    }

    /// The number of the code object with this `key`, which is not 0; `see` is asked what is to be copied of it if it is new.
    /// `None` where there is no room. Async-signal-safe.
    #[inline]
    pub(super) fn number(&self, key: u64, see: impl FnOnce() -> Option<Seen>) -> Option<u64> {
        let epoch = self.current.load(Ordering::Acquire);
        let start = key as usize;
        let table = self.table(epoch)?;
        for at in 0..PROBES {
            let index = (start.wrapping_add(at)) % SLOTS;
            match table.slots.get(index)?.key.load(Ordering::Acquire) {
                known if known == key => return Some(number(epoch, index)),
                0 => break,
                _ => {}
            }
        }
        self.add(key, see)
    }

    #[cold]
    #[inline(never)]
    fn add(&self, key: u64, see: impl FnOnce() -> Option<Seen>) -> Option<u64> {
        let seen = see()?;
        for _ in 0..2 {
            let epoch = self.current.load(Ordering::Acquire);
            let table = self.table(epoch)?;
            if let Some(index) = table.add(key, &seen) {
                return Some(number(epoch, index));
            }
            let next = epoch + 1;
            if self.table(next)?.epoch.load(Ordering::Acquire) != next {
                break;
            }
            // Whoever was first did it for all.
            let _ = self.current.compare_exchange(epoch, next, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.overflow.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The copy of the code object with this number; `None` where it is gone. Off the handler.
    pub(super) fn copied(&self, number: u64) -> Option<Copied> {
        let (epoch, index) = (number / SLOTS as u64, (number % SLOTS as u64) as usize);
        let table = self.table(epoch)?;
        if table.epoch.load(Ordering::Acquire) != epoch {
            return None;
        }
        table.copied(index)
    }

    /// Empties tables for those that come, and says whether there was one to empty. Off the handler, by one thread.
    pub(super) fn tend(&self) {
        let current = self.current.load(Ordering::Acquire);
        for table in self.tables {
            let epoch = table.epoch.load(Ordering::Acquire);
            if epoch + KEPT < current {
                table.clear();
                table.epoch.store(epoch + TABLES as u64, Ordering::Release);
            }
        }
    }

    /// How many functions were met that there was no room for.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    #[inline]
    fn table(&self, epoch: u64) -> Option<&'static Table> {
        self.tables.get((epoch % TABLES as u64) as usize).copied()
    }
}

fn number(epoch: u64, index: usize) -> u64 {
    epoch * SLOTS as u64 + index as u64
}

impl Table {
    /// `None` where it is full.
    fn add(&self, key: u64, seen: &Seen) -> Option<usize> {
        let parts = [(seen.name, MOST_NAME), (seen.file, MOST_FILE), (seen.lines, MOST_LINES)];
        let lens = parts.map(|(part, most)| part.piece.map_or(0, |_| part.len.min(most)) as usize);
        let len = (HEAD + lens.iter().sum::<usize>()).next_multiple_of(8);
        if self.taken.load(Ordering::Relaxed) >= MOST
            || self.used.load(Ordering::Relaxed) as usize + len > ARENA
        {
            return None;
        }
        let (index, slot, is_new) = self.claim(key)?;
        if !is_new {
            return Some(index);
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let place = self.used.fetch_add(len as u64, Ordering::Relaxed) as usize;
        if let Some(bytes) = self.arena.part(place, len) {
            write(bytes, seen, &parts.map(|(part, _)| part), lens);
            slot.len.store(len as u32, Ordering::Relaxed);
            slot.place.store(place as u32 + 1, Ordering::Release);
        }
        Some(index)
    }

    /// The slot of `key`, and whether it was free.
    fn claim(&self, key: u64) -> Option<(usize, &Slot, bool)> {
        for at in 0..PROBES {
            let index = (key as usize).wrapping_add(at) % SLOTS;
            let slot = self.slots.get(index)?;
            match slot.key.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((index, slot, true)),
                Err(other) if other == key => return Some((index, slot, false)),
                Err(_) => {}
            }
        }
        None
    }

    fn copied(&self, index: usize) -> Option<Copied> {
        let slot = self.slots.get(index)?;
        let place = (slot.place.load(Ordering::Acquire) as usize).checked_sub(1)?;
        let len = slot.len.load(Ordering::Relaxed) as usize;
        if place + len > ARENA {
            return None;
        }
        let mut bytes = vec![0; len];
        // SAFETY: the range lies in the arena.
        let piece = unsafe { Piece::new(self.arena.0.get() as u64 + place as u64, len as u64) };
        piece.copy(&mut bytes);
        read(&bytes)
    }

    fn clear(&self) {
        for slot in &self.slots {
            slot.place.store(0, Ordering::Relaxed);
            slot.key.store(0, Ordering::Relaxed);
        }
        self.used.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Release);
    }
}

impl Arena {
    /// So many bytes from `place` on, which were handed out to the caller.
    #[allow(clippy::mut_from_ref, reason = "each range is handed out once")]
    fn part(&self, place: usize, len: usize) -> Option<&mut [u8]> {
        if place.checked_add(len)? > ARENA {
            return None;
        }
        let start = self.0.get().cast::<u8>().wrapping_add(place);
        // SAFETY: the range lies in the arena, and was handed out to nobody else since the table was cleared.
        Some(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }
}

/// Writes the copy: its head, and behind it the three parts.
fn write(bytes: &mut [u8], seen: &Seen, parts: &[Part; 3], lens: [usize; 3]) {
    let Some((head, mut rest)) = bytes.split_first_chunk_mut::<HEAD>() else { return };
    for (part, len) in parts.iter().zip(lens) {
        let Some((into, behind)) = rest.split_at_mut_checked(len) else { return };
        if let Some(piece) = part.piece {
            piece.copy(into);
        }
        rest = behind;
    }
    rest.fill(0);
    let [name, file, lines] = lens.map(|len| len as u32);
    let widths = u32::from(seen.name.width) | u32::from(seen.file.width) << 8;
    let words = [0, 0, seen.first_line, widths, name, file, lines, 0];
    for (place, word) in head.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    let sum = sum(bytes);
    if let Some(place) = bytes.first_chunk_mut::<8>() {
        *place = sum.to_le_bytes();
    }
}

/// Reads it back; `None` where the sum is not that of the rest.
fn read(bytes: &[u8]) -> Option<Copied> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    if u64::from_le_bytes(*bytes.first_chunk()?) != sum(bytes) {
        return None;
    }
    let mut words = head.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).skip(2);
    let mut next = || words.next().unwrap_or_default();
    let (first_line, widths) = (next(), next());
    let lens = [next(), next(), next()].map(|len| len as usize);
    let [name_width, file_width, ..] = widths.to_le_bytes();
    let mut rest = rest;
    let mut part = |len: usize| {
        let (part, behind) = rest.split_at_checked(len)?;
        rest = behind;
        Some(part.to_vec())
    };
    let [name, file, lines] = lens;
    Some(Copied {
        first_line,
        name: part(name)?,
        name_width,
        file: part(file)?,
        file_width,
        lines: part(lines)?,
    })
}

/// The sum of all but the first eight bytes.
fn sum(bytes: &[u8]) -> u64 {
    let (_, words) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    words.as_chunks::<8>().0.iter().fold(1, |sum, word| fold(sum, u64::from_le_bytes(*word)))
}

/// Mixes a word into a hash.
#[inline]
pub(super) fn fold(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (product >> 64) as u64 ^ product as u64 ^ word.rotate_left(17)
}
