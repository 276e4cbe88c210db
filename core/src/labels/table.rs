//! The table of label sets: text to id on the application's threads, id to text on ours.
//!
//! A set lives while a handle to it does, and then until no ring can hold a sample that names it:
//!
//! 1. the last handle goes; the set is marked with the number of the pass that is under way,
//! 2. the drain empties the rings and calls [`reclaim`], which ends that pass: samples may have come before the mark but
//!    behind the reader, so the set stays,
//! 3. the drain empties the rings again and calls [`reclaim`]: every sample that named the set is read. It goes.
//!
//! The same labels asked for in between revive the set under its old id, so that a service whose scopes come and go with
//! few values does not fill the table. While nobody samples there is nothing to wait for, and a set goes at once.
//!
//! The table is in parts, each with its own lock, chosen by the text; the part's number is in the id. Ids count up: one
//! comes again after four billion sets, and not while it is in use.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use super::Labels;
use super::set::LabelSet;

const PARTS: usize = 16;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Sets of one part, alive or waiting to be given back: 65,536 in all.
const MAX_SETS: usize = 65_536 / PARTS;
/// Text of one part's sets: 32 MiB in all.
const MAX_TEXT: usize = (32 << 20) / PARTS;
/// The id of the set that stands for those that found no room.
pub(super) const OVERFLOW: u32 = 1;
const OVERFLOW_LABELS: [(&str, &str); 1] = [("everprof.labels", "overflow")];
/// Merges that a set remembers.
const REMEMBERED: usize = 8;

static TABLE: [Part; PARTS] = [const { Part::new() }; PARTS];
/// The process that used the table first: one that finds another number here is a child.
static BORN_IN: AtomicU32 = AtomicU32::new(0);
static SAMPLING: AtomicBool = AtomicBool::new(false);
static PASS: AtomicU64 = AtomicU64::new(0);
static OVERFLOWED: AtomicU64 = AtomicU64::new(0);
static OVERFLOW_SET: OnceLock<Arc<Shared>> = OnceLock::new();

/// What the handles of one set share.
pub(super) struct Shared {
    id: u32,
    set: LabelSet,
    merges: OnceLock<Box<Merges>>,
}

/// The sets that come of entering this one inside of others: the few outer sets seen twice first.
#[derive(Default)]
struct Merges {
    /// Id of the outer set and, above it, of the merged one. Written once, after `kept` keeps the merged set alive.
    known: [AtomicU64; REMEMBERED],
    /// Outer sets that were not known the last time.
    missed: [AtomicU32; REMEMBERED],
    kept: Mutex<Vec<Labels>>,
}

/// What is in the table of labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelStats {
    /// Sets in the table, alive or waiting to be given back.
    pub sets: usize,
    /// Bytes of their texts.
    pub bytes: usize,
    /// How often a new set found no room and became `everprof.labels=overflow`.
    pub overflowed: u64,
}

struct Part {
    sets: Mutex<Sets>,
    /// The lock was found held by a thread that does not exist in this process.
    broken: AtomicBool,
}

struct Sets {
    by_text: HashMap<Arc<str>, u32, Hasher>,
    by_id: HashMap<u32, Entry, Hasher>,
    /// Sets without handles, each once.
    dead: Vec<u32>,
    bytes: usize,
    next: u32,
}

/// Fixed keys, so that the table needs no initialisation; who floods it on purpose finds 4,096 sets a part.
type Hasher = BuildHasherDefault<DefaultHasher>;

struct Entry {
    set: LabelSet,
    handle: Weak<Shared>,
    /// The pass in which the last handle went, while the set is among the dead.
    dead_since: Option<u64>,
}

/// The labels behind the id in a sample; none where the set is gone. For the drain, when it reads the sample: keep the
/// result and not the id.
///
/// ```
/// let labels = everprof::Labels::new([("tenant", "a")]);
/// let set = everprof::labels::resolve(labels.id()).unwrap();
/// assert_eq!(set.iter().collect::<Vec<_>>(), [("tenant", "a")]);
/// assert_eq!(everprof::labels::resolve(0).unwrap().iter().count(), 0);
/// ```
pub fn resolve(id: u32) -> Option<LabelSet> {
    match id {
        0 => Some(LabelSet::new("")),
        OVERFLOW => Some(overflow().set.clone()),
        id => part_of(id).lock()?.by_id.get(&id).map(|entry| entry.set.clone()),
    }
}

/// Gives back the sets that no ring can name any more. For the drain, after each time it has emptied every ring.
pub fn reclaim() {
    let pass = PASS.fetch_add(1, Ordering::SeqCst);
    sweep(|dead_since| dead_since < pass);
}

/// Says whether samples are being taken. For the profiler: true before the first, false once the rings are empty for
/// good.
pub fn set_sampling(sampling: bool) {
    SAMPLING.store(sampling, Ordering::SeqCst);
    if !sampling {
        sweep(|_| true);
    }
}

/// What is in the table now.
pub fn stats() -> LabelStats {
    let mut stats = LabelStats { overflowed: OVERFLOWED.load(Ordering::Relaxed), ..LabelStats::default() };
    for sets in TABLE.iter().filter_map(Part::lock) {
        stats.sets += sets.by_id.len();
        stats.bytes += sets.bytes;
    }
    stats
}

/// A handle to the set of that text, which is not empty.
pub(super) fn intern(text: &str) -> Labels {
    let number = part_number(text);
    let interned = TABLE[number].lock().and_then(|mut sets| sets.intern(text, number as u32));
    Labels(Some(interned.unwrap_or_else(|| {
        OVERFLOWED.fetch_add(1, Ordering::Relaxed);
        overflow()
    })))
}

/// A handle to the set with that id; empty where it is gone.
pub(super) fn handle(id: u32) -> Labels {
    match id {
        0 => Labels(None),
        OVERFLOW => Labels(Some(overflow())),
        id => Labels(part_of(id).lock().and_then(|mut sets| sets.handle(id))),
    }
}

impl Shared {
    #[inline]
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn set(&self) -> &LabelSet {
        &self.set
    }

    /// The id of the set that comes of entering this one inside of `outer`, where that is remembered.
    #[inline]
    pub(super) fn remembered(&self, outer: u32) -> Option<u32> {
        let known = &self.merges.get()?.known;
        let merges = known.iter().map(|merge| merge.load(Ordering::Acquire));
        merges
            .take_while(|merge| *merge != 0)
            .find(|merge| *merge as u32 == outer)
            .map(|merge| (merge >> 32) as u32)
    }

    /// Remembers a merge from the second time on, while there is room; whether this set now keeps `merged` alive.
    ///
    /// Nothing is ever forgotten, because a guard in force somewhere may rely on it. From the second time on, because
    /// outer sets that are made for one request and not again would fill the room.
    pub(super) fn remember(&self, outer: u32, merged: &Labels) -> bool {
        let merges = self.merges.get_or_init(Box::default);
        let missed = &merges.missed[(outer >> PART_BITS) as usize % REMEMBERED];
        if missed.swap(outer, Ordering::Relaxed) != outer {
            return false;
        }
        // Not waited for: the child of a fork may find it locked.
        let Ok(mut kept) = merges.kept.try_lock() else { return false };
        for known in &merges.known {
            match known.load(Ordering::Relaxed) {
                0 => {
                    // A set must not keep itself alive; whoever entered it does.
                    if merged.id() != self.id {
                        kept.push(merged.clone());
                    }
                    known.store(u64::from(merged.id()) << 32 | u64::from(outer), Ordering::Release);
                    return true;
                }
                merge if merge as u32 == outer => return true,
                _ => {}
            }
        }
        false
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(mut sets) = part_of(self.id).lock() {
            sets.bury(self.id);
        }
    }
}

impl Part {
    const fn new() -> Self {
        let sets = Sets {
            by_text: HashMap::with_hasher(BuildHasherDefault::new()),
            by_id: HashMap::with_hasher(BuildHasherDefault::new()),
            dead: Vec::new(),
            bytes: 0,
            next: 1,
        };
        Self { sets: Mutex::new(sets), broken: AtomicBool::new(false) }
    }

    /// The sets of this part; none in the child of a fork that came while another thread held the lock.
    fn lock(&self) -> Option<MutexGuard<'_, Sets>> {
        if BORN_IN.load(Ordering::Relaxed) == 0 {
            BORN_IN.store(std::process::id(), Ordering::Relaxed);
        }
        match self.sets.try_lock() {
            Ok(sets) => Some(sets),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Option<MutexGuard<'_, Sets>> {
        if BORN_IN.load(Ordering::Relaxed) == std::process::id() {
            return Some(self.sets.lock().unwrap_or_else(PoisonError::into_inner));
        }
        // In a child. A holder that exists lets go within microseconds, or milliseconds where it lost its core.
        let until = Instant::now() + Duration::from_millis(50);
        while !self.broken.load(Ordering::Relaxed) && Instant::now() < until {
            match self.sets.try_lock() {
                Ok(sets) => return Some(sets),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        self.broken.store(true, Ordering::Relaxed);
        None
    }
}

impl Sets {
    fn intern(&mut self, text: &str, part: u32) -> Option<Arc<Shared>> {
        if let Some(&id) = self.by_text.get(text) {
            return self.handle(id);
        }
        if self.by_id.len() >= MAX_SETS || self.bytes + text.len() > MAX_TEXT {
            return None;
        }
        let id = self.fresh_id(part);
        let set = LabelSet::new(text);
        let shared = Arc::new(Shared { id, set: set.clone(), merges: OnceLock::new() });
        self.bytes += text.len();
        self.by_text.insert(set.share(), id);
        self.by_id.insert(id, Entry { set, handle: Arc::downgrade(&shared), dead_since: None });
        Some(shared)
    }

    /// A handle to a set of the table, revived where it is dead.
    fn handle(&mut self, id: u32) -> Option<Arc<Shared>> {
        let entry = self.by_id.get_mut(&id)?;
        if let Some(shared) = entry.handle.upgrade() {
            return Some(shared);
        }
        let shared = Arc::new(Shared { id, set: entry.set.clone(), merges: OnceLock::new() });
        entry.handle = Arc::downgrade(&shared);
        Some(shared)
    }

    fn fresh_id(&mut self, part: u32) -> u32 {
        loop {
            let id = self.next << PART_BITS | part;
            self.next = (self.next + 1) & (u32::MAX >> PART_BITS);
            // Number 0 of each part is left to the empty set and the overflow.
            if id >> PART_BITS != 0 && !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    /// The last handle of a set goes, unless somebody has revived the set in the meantime.
    fn bury(&mut self, id: u32) {
        let Some(entry) = self.by_id.get_mut(&id) else { return };
        if entry.handle.strong_count() > 0 {
            return;
        }
        if !SAMPLING.load(Ordering::SeqCst) {
            self.remove(id);
            return;
        }
        // Marked under the part's lock, so that a sweep sees either the set alive or this mark.
        if entry.dead_since.replace(PASS.load(Ordering::SeqCst)).is_none() {
            self.dead.push(id);
        }
    }

    fn sweep(&mut self, goes: impl Fn(u64) -> bool) {
        let mut dead = std::mem::take(&mut self.dead);
        dead.retain(|&id| {
            let Some(entry) = self.by_id.get_mut(&id) else { return false };
            let revived = entry.handle.strong_count() > 0;
            let since = entry.dead_since;
            if revived {
                entry.dead_since = None;
            } else if since.is_none_or(&goes) {
                self.remove(id);
            } else {
                return true;
            }
            false
        });
        self.dead = dead;
        // One flood should not leave its capacity behind for ever.
        if self.by_id.capacity() > 4 * self.by_id.len() + 64 {
            self.by_id.shrink_to(2 * self.by_id.len());
            self.by_text.shrink_to(2 * self.by_text.len());
            self.dead.shrink_to(2 * self.dead.len());
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(entry) = self.by_id.remove(&id) {
            self.bytes -= entry.set.as_str().len();
            self.by_text.remove(entry.set.as_str());
        }
    }
}

fn sweep(goes: impl Fn(u64) -> bool) {
    for mut sets in TABLE.iter().filter_map(Part::lock) {
        sets.sweep(&goes);
    }
}

fn overflow() -> Arc<Shared> {
    let make = || {
        let set = LabelSet::new(&super::set::text(OVERFLOW_LABELS));
        Arc::new(Shared { id: OVERFLOW, set, merges: OnceLock::new() })
    };
    OVERFLOW_SET.get_or_init(make).clone()
}

/// The end of the text tells sets apart best.
fn part_number(text: &str) -> usize {
    let folded =
        text.bytes().rev().take(24).fold(0u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (folded >> 16) as usize % PARTS
}

fn part_of(id: u32) -> &'static Part {
    &TABLE[id as usize % PARTS]
}
