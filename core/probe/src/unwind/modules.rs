//! The modules of the process and their tables: kept up to date by everprof's thread, read by handlers.
//!
//! What handlers see is a [`Snapshot`]: immutable, found through one atomic pointer, replaced as a whole when an object
//! was loaded or unloaded or a table was asked for, and freed once no walk can hold it any more (see
//! [`super::inflight`]). Tables are built from a copy of a module's sections made through the kernel, so that an object
//! may disappear, or its file change, at any moment without harm.
//!
//! The executable and every module with up to [`AT_ONCE`] bytes of code get their tables at once; a larger one when a walk first
//! meets it. The object that this code is in, where that is a library, gets it when hooks are about to be there, since the stack of
//! every sample that they take begins in it: of the others none does.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use super::cfi::{Section, header, last_fde_end};
use super::inflight::Pending;
use super::page_vec::PageVec;
use super::rule::Rules;
use super::snapshot::{self, Module, Owned};
use super::table::{Count, Table};
use crate::memory;
use crate::os::loader::{self, Watch};
use crate::os::objects;

/// Code of a module whose table is built before anybody asks: 4 MiB.
const AT_ONCE: u64 = 4 << 20;

/// Objects that are followed; a process with more has frames without tables.
const MOST_OBJECTS: usize = 8192;

/// Whether stacks begin in our own code.
static IN_OURS: AtomicBool = AtomicBool::new(false);

/// Stacks begin in our own code from now on: the next refresh builds its table.
pub(super) fn begin_in_ours() {
    IN_OURS.store(true, Ordering::Relaxed);
}

/// Looks for objects that were loaded or unloaded since the last call, and for modules whose table a walk asked for;
/// says true where handlers see something new. Off the handler: see [`super::refresh`].
pub(super) fn refresh() -> bool {
    REGISTRY.with(|state| {
        if state.is_none() {
            *state = State::new();
        }
        state.as_mut().is_some_and(State::refresh)
    })
}

/// The sum over all tables that were built.
pub(super) fn count() -> Count {
    let mut count = Count::default();
    REGISTRY.with(|state| {
        count = state.as_ref().map_or(count, |state| Count {
            rules: state.rules.len(),
            executable: state.has_executable(),
            ..state.count
        });
        true
    });
    count
}

/// In the child of a fork: forgets a change that another thread was in the middle of.
pub(super) fn after_fork() {
    if REGISTRY.busy.load(Ordering::Acquire) {
        // The thread that held the state is not here, and may have left it half changed. Its memory is given up.
        snapshot::publish(core::ptr::null());
        // SAFETY: the child has one thread, and it is here: nobody else looks at the state.
        unsafe { REGISTRY.state.get().write(None) };
        REGISTRY.busy.store(false, Ordering::Release);
    }
}

/// The state of whoever refreshes, with a lock that never waits.
struct Registry {
    busy: AtomicBool,
    state: UnsafeCell<Option<State>>,
}

// SAFETY: the state is only touched by whoever turned `busy` on.
unsafe impl Sync for Registry {}

static REGISTRY: Registry = Registry { busy: AtomicBool::new(false), state: UnsafeCell::new(None) };

impl Registry {
    /// Says false as well where another thread is at it.
    fn with(&self, act: impl FnOnce(&mut Option<State>) -> bool) -> bool {
        if self.busy.swap(true, Ordering::Acquire) {
            return false;
        }
        // SAFETY: `busy` was off and is on now: nobody else is here until it is off again.
        let done = act(unsafe { &mut *self.state.get() });
        self.busy.store(false, Ordering::Release);
        done
    }
}

struct State {
    rules: Rules,
    /// Sorted by address, as the modules of the snapshot are.
    entries: PageVec<Entry>,
    snapshot: Option<Owned>,
    retired: [Option<Retired>; 4],
    changes: Option<(u64, u64)>,
    /// What was known of [`IN_OURS`].
    in_ours: bool,
    watch: Watch,
    count: Count,
}

/// A snapshot that was replaced, with the tables that only it refers to.
struct Retired {
    pending: Pending,
    _snapshot: Option<Owned>,
    _entries: PageVec<Entry>,
}

struct Entry {
    found: Found,
    table: Option<Built>,
    /// The table was tried, and will not be tried again.
    tried: bool,
}

/// A table, and what it was built from.
struct Built {
    table: Table,
    /// Where its `.eh_frame` lies, and a hash of it.
    source: Range<u64>,
    hash: u64,
}

impl Built {
    /// Whether what it was built from is still there.
    fn is_true(&self) -> bool {
        copy(self.source.clone()).is_some_and(|bytes| hash(bytes.as_slice()) == self.hash)
    }
}

/// An object as the loader describes it, and a hash of the beginning of its search table: most other objects at the same
/// place are told by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    executable: bool,
    /// This code is in it.
    ours: bool,
    position: usize,
    text: (u64, u64),
    /// Its code, where it may be read.
    code: (u64, u64),
    /// It is never unloaded.
    stays: bool,
    eh_frame_hdr: (u64, u64),
    /// The end of the segment that holds `.eh_frame_hdr`.
    segment_end: u64,
    fingerprint: u64,
}

impl State {
    fn new() -> Option<Self> {
        Some(Self {
            rules: Rules::new()?,
            entries: PageVec::with_capacity(1)?,
            snapshot: None,
            retired: [const { None }; 4],
            changes: None,
            in_ours: false,
            watch: Watch::blind(),
            count: Count::default(),
        })
    }

    fn refresh(&mut self) -> bool {
        for retired in &mut self.retired {
            if retired.as_mut().is_some_and(|retired| retired.pending.is_over()) {
                *retired = None;
            }
        }
        snapshot::satisfied();
        let changes = objects::changes();
        let in_ours = IN_OURS.load(Ordering::Relaxed);
        let same = changes.is_some() && changes == self.changes && self.snapshot.is_some();
        let same = same && in_ours == self.in_ours;
        if same && !self.snapshot.as_ref().is_some_and(Owned::table_is_wanted) {
            return false;
        }
        // Handlers held every older snapshot for a whole round: the next round will find a place free.
        let Some(place) = self.retired.iter().position(Option::is_none) else { return false };
        let Some(found) = find() else { return false };
        self.in_ours = in_ours;
        let unloaded = |(_, subs): (u64, u64)| self.changes.is_none_or(|(_, before)| before != subs);
        let Some(entries) = self.entries_of(&found, changes.is_none_or(unloaded)) else { return false };
        self.watch = Watch::set(&self.watch, changes);
        self.publish(entries, place);
        self.changes = changes;
        true
    }

    fn has_executable(&self) -> bool {
        self.entries.as_slice().iter().any(|entry| entry.found.executable && entry.table.is_some())
    }

    /// The entries of what was found; tables that exist move over to them. Where something was `unloaded`, an object may
    /// be another one that is as like the one before as two builds of a plug-in, down to the search table: then only the
    /// call-frame information itself can tell.
    fn entries_of(&mut self, found: &PageVec<Found>, unloaded: bool) -> Option<PageVec<Entry>> {
        let mut entries = PageVec::with_capacity(found.as_slice().len())?;
        for &found in found.as_slice() {
            let known =
                self.entries.as_slice().binary_search_by_key(&found.text.0, |entry| entry.found.text.0);
            let known = known.ok();
            let wanted =
                known.is_some_and(|index| self.snapshot.as_ref().is_some_and(|owned| owned.wants(index)));
            let known = known.and_then(|index| self.entries.as_mut_slice().get_mut(index));
            let mut entry = Entry { found, table: None, tried: false };
            if let Some(known) = known
                && known.found.is_same(&found)
                && (found.stays || !unloaded || known.table.as_ref().is_some_and(Built::is_true))
            {
                entry.tried = known.tried;
                entry.table = known.table.take();
            }
            let (start, end) = found.text;
            let is_at_once = if found.ours { self.in_ours } else { end - start <= AT_ONCE };
            if !entry.tried && (wanted || found.executable || is_at_once) {
                entry.tried = true;
                entry.table = build(&found, &mut self.rules, &mut self.count);
            }
            entries.push(entry);
        }
        Some(entries)
    }

    fn publish(&mut self, entries: PageVec<Entry>, place: usize) {
        let modules = entries.as_slice().iter().map(|entry| {
            let view = entry.table.as_ref().map(|built| built.table.view());
            let Found { text, code, stays, .. } = entry.found;
            Module::new(text, code, stays, view, entry.tried)
        });
        let Some(snapshot) = Owned::new(&self.rules, self.watch, modules) else {
            // The tables that moved over are in use by the snapshot in force: better lost than freed.
            core::mem::forget(entries);
            return;
        };
        snapshot::publish(snapshot.get());
        let retired = Retired {
            pending: Pending::all(),
            _snapshot: self.snapshot.replace(snapshot),
            _entries: core::mem::replace(&mut self.entries, entries),
        };
        if let Some(place) = self.retired.get_mut(place) {
            *place = Some(retired);
        }
    }
}

impl Found {
    fn is_same(&self, other: &Self) -> bool {
        // Its place in the list changes with those before it.
        Self { position: other.position, ..*self } == *other
    }
}

/// The objects loaded now that have code, by address.
fn find() -> Option<PageVec<Found>> {
    let mut list = PageVec::<Found>::with_capacity(MOST_OBJECTS)?;
    objects::for_each(|object| {
        if let Some(found) = describe(object) {
            list.push(found);
        }
    });
    let last = last_that_stays(list.as_slice());
    for found in list.as_mut_slice() {
        found.fingerprint = fingerprint(found.eh_frame_hdr.0);
        found.stays |= last.is_some_and(|last| found.position <= last);
    }
    list.as_mut_slice().sort_unstable_by_key(|found| found.text.0);
    Some(list)
}

fn describe(object: &objects::Object<'_>) -> Option<Found> {
    let executable =
        |segment: &objects::Segment| segment.kind == libc::PT_LOAD && segment.flags & libc::PF_X != 0;
    let range = |segment: objects::Segment| (segment.address, segment.address.saturating_add(segment.len));
    let code = object.segments().filter(executable);
    let text = code.map(range).reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))?;
    let eh_frame_hdr = object.segments().find(|segment| segment.kind == libc::PT_GNU_EH_FRAME).map(range);
    let eh_frame_hdr = eh_frame_hdr.unwrap_or_default();
    let loaded = object.segments().filter(|segment| segment.kind == libc::PT_LOAD).map(range);
    let segment_end =
        loaded.filter(|(start, end)| (start..end).contains(&&eh_frame_hdr.0)).map(|(_, end)| end).max();
    let readable = object.segments().filter(executable).filter(|segment| segment.flags & libc::PF_R != 0);
    let here: fn() -> bool = refresh;
    Some(Found {
        executable: object.is_executable,
        ours: (text.0..text.1).contains(&(here as usize as u64)),
        position: object.position,
        stays: object.is_executable || (text.0..text.1).contains(&vdso()),
        text: (text.0 & !0xfff, text.1),
        code: readable.map(range).max_by_key(|(start, end)| end - start).unwrap_or_default(),
        eh_frame_hdr,
        segment_end: segment_end.unwrap_or_default(),
        fingerprint: 0,
    })
}

/// The place in the loader's list of the last object of which it is known that it is never unloaded. What the program
/// was started with stays, and what `dlopen` adds stands behind it. The C library and the loader are among the former,
/// often as the last of them; where they are one, as with musl, nothing is ever unloaded.
fn last_that_stays(list: &[Found]) -> Option<usize> {
    let at = |address: u64| list.iter().find(|found| (found.text.0..found.text.1).contains(&address));
    // Code that `dlmopen` loaded sees a list of its own, which can go as a whole.
    list.iter().find(|found| found.executable)?;
    let c_library: unsafe extern "C" fn() -> libc::pid_t = libc::getpid;
    let c_library = at(c_library as usize as u64)?;
    let Some(loader) = loader::address().and_then(at) else { return Some(c_library.position) };
    let is_one = loader.position == c_library.position && !loader.executable;
    Some(if is_one { usize::MAX } else { loader.position.max(c_library.position) })
}

/// An address in the kernel's object, which is never unloaded.
fn vdso() -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }
}

fn fingerprint(address: u64) -> u64 {
    let mut bytes = [0; 256];
    let len = memory::copy(address, &mut bytes);
    hash(bytes.get(..len).unwrap_or_default())
}

/// Eight bytes at a time: sections have megabytes.
fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, &byte| mix(hash, u64::from(byte)))
}

/// Builds the table of a module from a copy of its sections; `None` where it has none, or is gone meanwhile.
fn build(found: &Found, rules: &mut Rules, count: &mut Count) -> Option<Built> {
    let (start, end) = found.eh_frame_hdr;
    let hdr_bytes = copy(start..end)?;
    let hdr = Section { bytes: hdr_bytes.as_slice(), address: start };
    let header = header(hdr)?;
    let read = |address: u64| {
        let mut word = [0; 4];
        (memory::copy(address, &mut word) == 4).then(|| u32::from_le_bytes(word))
    };
    let end = last_fde_end(hdr, header, read).unwrap_or(found.segment_end);
    let source = header.eh_frame..end;
    let bytes = copy(source.clone())?;
    let eh_frame = Section { bytes: bytes.as_slice(), address: header.eh_frame };
    let table = Table::build(found.text.0..found.text.1, hdr, eh_frame, &memory::copy, rules, count)?;
    Some(Built { table, source, hash: hash(bytes.as_slice()) })
}

fn copy(range: Range<u64>) -> Option<PageVec<u8>> {
    let len = range.end.checked_sub(range.start).filter(|&len| len > 0 && len <= MOST_BYTES)?;
    PageVec::copy_of(range.start, usize::try_from(len).ok()?)
}

/// No module has call-frame information of half a gigabyte; a header that says so is broken.
const MOST_BYTES: u64 = 512 << 20;
