//! Cells: one for each wait that is told, from its poll until our thread has read its end.
//!
//! A fixed number of them lies in one mapping, of which only those pages take memory that were used; the lowest free one
//! is taken first. A cell belongs to the thread that claimed it, then, published as *open*, to nobody: its words stay as
//! they are, and our thread may read them. Whoever ends the wait makes it *ended*, and our thread gives it back. Our
//! thread may also forget an open one; a number that grows with each use keeps a late end from ending the cell's next
//! wait. Each step is one atomic operation on the cell's state, so nobody waits for anybody.

use core::cell::UnsafeCell;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::Registered;
use crate::os::{self, Pages};
use crate::sample::Trace;

/// How many waits can be told at once, in all threads.
pub const CELLS: usize = 4096;
/// Room for the stacks of one wait, in words of [`crate::sample`].
const WORDS: usize = 480;
/// A stack is not begun with less room than this.
const LEAST_WORDS: usize = 16;
/// How many stacks of one wait are kept: the first ones, and the last.
pub const STACKS: usize = 4;

const INDEX_BITS: u32 = CELLS.trailing_zeros();
const PHASE_BITS: u32 = 2;
/// Free, or claimed and not to be seen yet.
const HIDDEN: u64 = 0;
const OPEN: u64 = 1;
/// Its end is being written.
const ENDING: u64 = 2;
const ENDED: u64 = 3;
const PHASES: u64 = (1 << PHASE_BITS) - 1;

static MAP: AtomicPtr<Cell> = AtomicPtr::new(core::ptr::null_mut());
/// A bit for each cell that is not free.
static TAKEN: [AtomicU64; CELLS / 64] = [const { AtomicU64::new(0) }; CELLS / 64];
/// How many cells were ever used, of which the lowest ones are taken first.
static MOST_TAKEN: AtomicU32 = AtomicU32::new(0);
/// Counts the forks that this process came by: claims from before one are void.
static FORKS: AtomicU32 = AtomicU32::new(0);

#[repr(C, align(64))]
struct Cell {
    /// The number of the use, and below it the phase.
    state: AtomicU64,
    begin: AtomicU64,
    end: AtomicU64,
    labels: AtomicU32,
    weight: AtomicU32,
    generation: AtomicU32,
    registered: AtomicU32,
    /// How many stacks there are; where the words of each end that it has for itself; and how many it shares with the
    /// end of the first.
    stacks: AtomicU32,
    ends: [AtomicU32; STACKS],
    shared: [AtomicU32; STACKS],
    span_id: AtomicU64,
    trace_high: AtomicU64,
    trace_low: AtomicU64,
    local_root: AtomicU64,
    words: UnsafeCell<[u64; WORDS]>,
}

/// A wait that is being told. Copies are the same wait; only the first end counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wait(NonZeroU64);

/// A wait as our thread finds it. Times are those of [`os::monotonic`], in nanoseconds.
#[derive(Clone, Copy)]
pub struct Begun<'a> {
    /// Which one: different from those of all others.
    pub wait: Wait,
    /// When it began.
    pub begin: u64,
    /// When it ended, if it has.
    pub end: Option<u64>,
    /// How many waits it stands for.
    pub weight: u32,
    /// The label set that it belongs to.
    pub labels: u32,
    /// The trace and the span that it belongs to; zeros where there are none.
    pub trace: Trace,
    /// The state of the modules that the stack's addresses are of.
    pub generation: u32,
    /// How the future said so.
    pub registered: Registered,
    words: &'a [u64],
    cell: &'a Cell,
}

impl<'a> Begun<'a> {
    /// The stacks at which the future left its waker during its last poll, in that order, each leaf first and in two
    /// parts: its own and what it shares with the first. At least one, [`STACKS`] at most.
    pub fn stacks(&self) -> impl Iterator<Item = (&'a [u64], &'a [u64])> {
        let (words, cell) = (self.words, self.cell);
        let first = cell.ends.first().map_or(0, |end| end.load(Ordering::Relaxed) as usize);
        let mut start = 0;
        let ends = cell.ends.iter().zip(&cell.shared).take(cell.stacks.load(Ordering::Relaxed) as usize);
        ends.map(move |(end, shared)| {
            let (begin, end) = (start, end.load(Ordering::Relaxed) as usize);
            start = end;
            let shared = first.saturating_sub(shared.load(Ordering::Relaxed) as usize);
            // The first word is that of a function of ours.
            let own = words.get(begin + 1..end).unwrap_or_default();
            (own, words.get(shared..first).unwrap_or_default())
        })
    }
}

/// A cell that this thread writes. Given back on drop.
#[derive(Debug)]
pub(super) struct Claim {
    index: usize,
    forks: u32,
}

/// Maps the cells, once for the life of the process; false where there is no memory. Our thread.
pub fn prepare() -> bool {
    if !MAP.load(Ordering::Acquire).is_null() {
        return true;
    }
    let Some(pages) = Pages::new(CELLS * size_of::<Cell>()) else { return false };
    MAP.store(pages.leak().as_ptr().cast(), Ordering::Release);
    true
}

/// Hands out every wait that goes on, and those that have ended since the last call, which are then given back. One that
/// goes on is forgotten where `each` says false: its end will not be told, unless it is just coming; then it is handed out
/// once more. Our thread, and no other at the same time.
pub fn each(mut each: impl FnMut(&Begun<'_>) -> bool) {
    for index in all_taken() {
        let Some(cell) = cell(index) else { return };
        let state = cell.state.load(Ordering::Acquire);
        let (phase, turn) = (state & PHASES, state >> PHASE_BITS);
        if phase == HIDDEN {
            continue;
        }
        let ended = phase == ENDED;
        // Whose end is being written goes on: a thread may lose its processor there, and be away for long.
        let goes_on = each(&cell.begun(index, turn, ended));
        if ended {
            cell.state.store((turn + 1) << PHASE_BITS | HIDDEN, Ordering::Release);
            give_back(index);
        } else if !goes_on && phase == OPEN {
            forget(index, cell, state);
        }
    }
}

/// Forgets every wait: none of them will be told. Our thread, where no other reads.
pub fn forget_all() {
    each(|_| false);
}

/// How many cells are in use.
pub fn taken() -> usize {
    TAKEN.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
}

/// How many bytes the cells take that were ever used: they stay.
pub fn memory() -> usize {
    MOST_TAKEN.load(Ordering::Relaxed) as usize * size_of::<Cell>()
}

/// Frees the cells of threads that do not exist here, and forgets all waits. Only in a fork's child.
pub fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    for index in all_taken() {
        if let Some(cell) = cell(index) {
            let turn = cell.state.load(Ordering::Relaxed) >> PHASE_BITS;
            cell.state.store((turn + 1) << PHASE_BITS | HIDDEN, Ordering::Relaxed);
        }
        give_back(index);
    }
}

/// Takes a cell, if one is free.
pub(super) fn claim() -> Option<Claim> {
    if MAP.load(Ordering::Acquire).is_null() {
        return None;
    }
    let forks = FORKS.load(Ordering::Relaxed);
    for (number, word) in TAKEN.iter().enumerate() {
        let mut taken = word.load(Ordering::Relaxed);
        while taken != u64::MAX {
            let bit = taken.trailing_ones();
            let before = word.fetch_or(1 << bit, Ordering::Acquire);
            if before & 1 << bit == 0 {
                let index = number * 64 + bit as usize;
                cell(index)?.stacks.store(0, Ordering::Relaxed);
                if index as u32 >= MOST_TAKEN.load(Ordering::Relaxed) {
                    MOST_TAKEN.fetch_max(index as u32 + 1, Ordering::Relaxed);
                }
                return Some(Claim { index, forks });
            }
            taken = before;
        }
    }
    None
}

impl Wait {
    /// Ends it now, if it was not ended or forgotten before. From any thread.
    pub fn end(self) {
        let (index, turn) = (self.0.get() as usize % CELLS, self.0.get() >> INDEX_BITS);
        let Some(cell) = cell(index) else { return };
        let (open, ending) = (turn << PHASE_BITS | OPEN, turn << PHASE_BITS | ENDING);
        if cell.state.compare_exchange(open, ending, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            cell.end.store(os::monotonic(), Ordering::Relaxed);
            cell.state.store(turn << PHASE_BITS | ENDED, Ordering::Release);
        }
    }
}

impl Claim {
    /// Whether the cell is ours still: not in a child that was forked during the poll.
    fn is_valid(&self) -> bool {
        self.forks == FORKS.load(Ordering::Relaxed)
    }

    /// Lets `walk` write one more stack, and say how many words it has and of which generation of the modules it is. Its
    /// first word is that of a function of ours, and not told. Where there are too many, the last one gives way.
    pub(super) fn write(&self, registered: Registered, walk: impl FnOnce(&mut [u64]) -> (usize, u32)) {
        let Some(cell) = cell(self.index).filter(|_| self.is_valid()) else { return };
        let stacks = cell.stacks.load(Ordering::Relaxed) as usize;
        let number = stacks.min(STACKS - 1);
        let end_of =
            |number: usize| cell.ends.get(number).map_or(0, |end| end.load(Ordering::Relaxed) as usize);
        let start = number.checked_sub(1).map_or(0, end_of);
        // SAFETY: the cell was claimed by this value, is hidden from our thread until it is published, and the caller is
        // the thread that has the claim: nobody else looks at the words.
        let words = unsafe { &mut *cell.words.get() };
        let Some((before, room)) = words.split_at_mut_checked(start) else { return };
        if room.len() < LEAST_WORDS {
            return;
        }
        let (len, generation) = walk(room);
        let first = if number == 0 { &[] } else { before.get(..end_of(0)).unwrap_or_default() };
        let stack = room.get(..len).unwrap_or_default();
        // Not the words of our own function, which are the same.
        let pairs = stack.iter().skip(1).rev().zip(first.iter().skip(1).rev());
        let shared = pairs.take_while(|(one, other)| one == other).count();
        let (Some(end), Some(of_first)) = (cell.ends.get(number), cell.shared.get(number)) else { return };
        end.store((start + len - shared) as u32, Ordering::Relaxed);
        of_first.store(shared as u32, Ordering::Relaxed);
        cell.stacks.store(number as u32 + 1, Ordering::Relaxed);
        cell.generation.store(generation, Ordering::Relaxed);
        cell.registered.store(u32::from(registered as u8), Ordering::Relaxed);
    }

    /// Says that the future has woken itself.
    pub(super) fn mark_woken(&self) {
        if let Some(cell) = cell(self.index).filter(|_| self.is_valid()) {
            cell.registered.store(u32::from(Registered::Woken as u8), Ordering::Relaxed);
        }
    }

    /// Begins the wait.
    pub(super) fn publish(self, weight: u32, labels: u32, trace: Trace) -> Wait {
        let (index, is_valid) = (self.index, self.is_valid());
        // Our thread gives it back from now on, or where it is void, nobody.
        core::mem::forget(self);
        let Some(cell) = cell(index).filter(|_| is_valid) else { return VOID };
        cell.labels.store(labels, Ordering::Relaxed);
        cell.weight.store(weight, Ordering::Relaxed);
        cell.trace_high.store((trace.trace_id >> 64) as u64, Ordering::Relaxed);
        cell.trace_low.store(trace.trace_id as u64, Ordering::Relaxed);
        cell.span_id.store(trace.span_id, Ordering::Relaxed);
        cell.local_root.store(trace.local_root, Ordering::Relaxed);
        cell.begin.store(os::monotonic(), Ordering::Relaxed);
        let turn = (cell.state.load(Ordering::Relaxed) >> PHASE_BITS).max(1);
        cell.state.store(turn << PHASE_BITS | OPEN, Ordering::Release);
        wait(index, turn)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_valid() {
            give_back(self.index);
        }
    }
}

impl Cell {
    fn begun(&self, index: usize, turn: u64, ended: bool) -> Begun<'_> {
        // SAFETY: the cell was published and is given back by our thread alone: until then nobody writes to the words.
        let words = unsafe { &*self.words.get() };
        let trace_id = u128::from(self.trace_high.load(Ordering::Relaxed)) << 64
            | u128::from(self.trace_low.load(Ordering::Relaxed));
        Begun {
            wait: wait(index, turn),
            begin: self.begin.load(Ordering::Relaxed),
            end: ended.then(|| self.end.load(Ordering::Relaxed)),
            weight: self.weight.load(Ordering::Relaxed),
            labels: self.labels.load(Ordering::Relaxed),
            trace: Trace {
                trace_id,
                span_id: self.span_id.load(Ordering::Relaxed),
                local_root: self.local_root.load(Ordering::Relaxed),
            },
            generation: self.generation.load(Ordering::Relaxed),
            registered: match self.registered.load(Ordering::Relaxed) {
                0 => Registered::Cloned,
                1 => Registered::Woken,
                _ => Registered::Nowhere,
            },
            words,
            cell: self,
        }
    }
}

/// Of a claim that is void: ends nothing, since no use has the number 0.
const VOID: Wait = Wait(NonZeroU64::MIN);

fn wait(index: usize, turn: u64) -> Wait {
    NonZeroU64::new(turn << INDEX_BITS | index as u64).map_or(VOID, Wait)
}

/// Takes an open wait back from whoever would end it; one that is just being ended goes on to its end.
fn forget(index: usize, cell: &Cell, open: u64) {
    let next = ((open >> PHASE_BITS) + 1) << PHASE_BITS | HIDDEN;
    if cell.state.compare_exchange(open, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        give_back(index);
    }
}

fn give_back(index: usize) {
    if let Some(word) = TAKEN.get(index / 64) {
        word.fetch_and(!(1 << (index % 64)), Ordering::Release);
    }
}

fn all_taken() -> impl Iterator<Item = usize> {
    TAKEN.iter().enumerate().flat_map(|(number, word)| {
        let mut left = word.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (bit < 64).then_some(number * 64 + bit as usize)
        })
    })
}

fn cell(index: usize) -> Option<&'static Cell> {
    let start = MAP.load(Ordering::Acquire);
    if start.is_null() || index >= CELLS {
        return None;
    }
    // SAFETY: the index is below CELLS, for which the pages were made.
    let cell = unsafe { start.add(index) };
    // SAFETY: mapped for ever, zeroed at first, which is a valid cell.
    Some(unsafe { &*cell })
}
