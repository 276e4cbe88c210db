//! What handlers see of the process's modules: an immutable snapshot, and a cache of program counters that goes with it.
//!
//! Everything but [`publish`] and the making of an [`Owned`] is async-signal-safe.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::inflight::Entered;
use super::page_vec::PageVec;
use super::plain::{PLAIN_BITS, Plain};
use super::rule::{NO_RULE, Rule, RuleId, Rules};
use super::table::View;
use crate::os::loader::{Change, Watch};
use crate::regs::{CallBefore, SIGRETURN, SIGRETURN_SECOND, load, prefetch};

/// One module: where its code is, and its table if that is built.
#[derive(Debug)]
pub(super) struct Module {
    start: u64,
    end: u64,
    /// It is never unloaded.
    stays: bool,
    /// Code that may be read by a handler: of an object that stays for ever.
    code: (u64, u64),
    view: Option<View>,
    /// The table was built, or cannot be.
    tried: bool,
    /// A walk met the module and found no table.
    wanted: AtomicBool,
}

impl Module {
    /// `code` is the part of it that can be read while it is loaded.
    pub(super) fn new(
        (start, end): (u64, u64),
        code: (u64, u64),
        stays: bool,
        view: Option<View>,
        tried: bool,
    ) -> Self {
        let code = if stays { code } else { (0, 0) };
        Self { start, end, stays, code, view, tried, wanted: AtomicBool::new(false) }
    }

    /// Whether it is never unloaded.
    pub(super) fn stays(&self) -> bool {
        self.stays
    }

    /// Whether there is nothing more to come: the code has its table, or no information.
    pub(super) fn is_tried(&self) -> bool {
        self.tried
    }

    /// Asks for the module's table.
    pub(super) fn want(&self) {
        if !self.wanted.swap(true, Ordering::Relaxed) {
            want();
        }
    }

    /// Whether `pc` is in the code that a signal handler returns to.
    pub(super) fn returns_from_signal(&self, pc: u64) -> bool {
        // The handler returns to the first byte, and a signal can come in between the two instructions.
        self.is_sigreturn(pc) || self.is_sigreturn(pc.wrapping_sub(SIGRETURN_SECOND))
    }

    fn is_sigreturn(&self, pc: u64) -> bool {
        let words = self.code(pc).zip(self.code(pc.wrapping_add(8)));
        words.is_some_and(|(first, second)| {
            let bytes = (u128::from(second) << 64 | u128::from(first)).to_le_bytes();
            bytes.starts_with(SIGRETURN)
        })
    }

    /// What the code just before `pc` calls; `None` where a handler may not read it.
    pub(super) fn call_before(&self, pc: u64) -> Option<CallBefore> {
        Some(CallBefore::of(pc, self.code(pc.wrapping_sub(8))?))
    }

    /// Eight bytes of the module's code, where a handler may read it.
    fn code(&self, pc: u64) -> Option<u64> {
        let (start, end) = self.code;
        if pc < start || pc.checked_add(8)? > end {
            return None;
        }
        // SAFETY: the bytes lie in a readable segment of an object that is never unloaded.
        Some(unsafe { load(pc) })
    }
}

/// The modules and their rules, as of one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    modules: *const Module,
    len: usize,
    rules: *const Rule,
    cache: *const AtomicU64,
    watch: Watch,
    generation: u32,
}

/// Program counters whose rule is remembered: 32 KiB a snapshot, and enough for the hot stacks of a process.
const CACHED: usize = 4096;

/// A word of the cache: the upper 36 bits of a 48-bit address, whose lower twelve are the word's index; a bit that says
/// which of two things follows; and a [`Plain`] rule, or the index of another one.
const TAG_SHIFT: u32 = PLAIN_BITS + 1;
const INDEX_BITS: u32 = CACHED.ilog2();
const _: () = assert!(TAG_SHIFT + 48 - INDEX_BITS == 64);

impl Snapshot {
    /// The number that [`generation`] has while this is in force.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// What the loader has done since the modules were looked at.
    #[inline]
    pub(super) fn change(&self) -> Change {
        self.watch.change()
    }

    /// Asks for what [`Snapshot::change`] looks at. A hint.
    #[inline]
    pub(super) fn prefetch_change(&self) {
        self.watch.prefetch();
    }

    /// The rule for the code at `pc`, if it is a plain one.
    #[inline]
    pub(super) fn plain(&self, pc: u64) -> Option<Plain> {
        let slot = self.slot(pc);
        let mut entry = slot.load(Ordering::Relaxed);
        if entry >> TAG_SHIFT != pc >> INDEX_BITS {
            entry = self.fill(pc, slot);
        }
        let is_plain = entry >> PLAIN_BITS & 1 != 0;
        is_plain.then(|| Plain::from_bits(entry as u32 & ((1 << PLAIN_BITS) - 1)))
    }

    /// The rule for the code at `pc`, or `None` where there is none.
    pub(super) fn rule(&self, pc: u64) -> Option<&Rule> {
        let entry = self.slot(pc).load(Ordering::Relaxed);
        let is_known = entry >> TAG_SHIFT == pc >> INDEX_BITS && entry >> PLAIN_BITS & 1 == 0;
        self.by_id(if is_known { entry as RuleId } else { self.find(pc) })
    }

    /// The module that holds `pc`.
    pub(super) fn module(&self, pc: u64) -> Option<&Module> {
        // SAFETY: the modules live as long as the snapshot.
        let modules = unsafe { core::slice::from_raw_parts(self.modules, self.len) };
        let after = modules.partition_point(|module| module.start <= pc);
        modules.get(after.checked_sub(1)?).filter(|module| pc < module.end)
    }

    /// Asks for what the cache has at `pc`. A hint.
    #[inline]
    pub(super) fn prefetch(&self, pc: u64) {
        prefetch(self.cache.wrapping_add(pc as usize % CACHED) as u64);
    }

    #[inline]
    fn slot(&self, pc: u64) -> &AtomicU64 {
        // SAFETY: the cache has `CACHED` words and lives as long as the snapshot.
        unsafe { &*self.cache.wrapping_add(pc as usize % CACHED) }
    }

    /// Looks `pc` up in its module's table, and remembers what it finds.
    #[cold]
    #[inline(never)]
    fn fill(&self, pc: u64, slot: &AtomicU64) -> u64 {
        let id = self.find(pc);
        let Some(rule) = self.by_id(id) else { return 0 };
        let payload = match Plain::of(rule) {
            Some(plain) => 1 << PLAIN_BITS | u64::from(plain.bits()),
            None => u64::from(id),
        };
        let entry = (pc >> INDEX_BITS) << TAG_SHIFT | payload;
        if pc >> 48 == 0 {
            slot.store(entry, Ordering::Relaxed);
        }
        entry
    }

    fn find(&self, pc: u64) -> RuleId {
        let Some(module) = self.module(pc) else { return NO_RULE };
        let Some(view) = &module.view else { return NO_RULE };
        // SAFETY: the tables of a snapshot's modules live as long as the snapshot.
        unsafe { view.rule(pc - module.start) }
    }

    fn by_id(&self, id: RuleId) -> Option<&Rule> {
        if id == NO_RULE {
            return None;
        }
        // SAFETY: tables and cache hold only indices that `Rules::intern` gave out before they were published.
        Some(unsafe { &*self.rules.wrapping_add(usize::from(id)) })
    }
}

/// The snapshot in force, for as long as the walk lasts that `entered` marks.
#[inline]
pub(super) fn current(_entered: &Entered) -> Option<&Snapshot> {
    let snapshot = CURRENT.load(Ordering::SeqCst);
    // SAFETY: what is published stays until no walk is under way that could have loaded it, and one is, by `entered`.
    unsafe { snapshot.as_ref() }
}

/// Asks for the snapshot in force. A hint.
#[inline]
pub(super) fn prefetch_current() {
    prefetch(CURRENT.load(Ordering::Relaxed) as u64);
}

/// Makes handlers see `snapshot` from now on; the one before may be in use still.
pub(super) fn publish(snapshot: *const Snapshot) {
    CURRENT.store(snapshot.cast_mut(), Ordering::SeqCst);
    GENERATION.fetch_add(1, Ordering::Release);
}

/// The number of snapshots published so far.
pub(super) fn generation() -> u32 {
    GENERATION.load(Ordering::Acquire)
}

/// Asks for a refresh.
#[cold]
pub(super) fn want() {
    if !WANTED.load(Ordering::Relaxed) {
        WANTED.store(true, Ordering::Relaxed);
    }
}

/// Whether a refresh was asked for since [`satisfied`].
pub(super) fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// A refresh begins.
pub(super) fn satisfied() {
    WANTED.store(false, Ordering::Relaxed);
}

static CURRENT: AtomicPtr<Snapshot> = AtomicPtr::new(core::ptr::null_mut());
static GENERATION: AtomicU32 = AtomicU32::new(0);
static WANTED: AtomicBool = AtomicBool::new(false);

/// A snapshot with its memory.
#[derive(Debug)]
pub(super) struct Owned {
    snapshot: PageVec<Snapshot>,
    modules: PageVec<Module>,
    _cache: PageVec<AtomicU64>,
}

impl Owned {
    /// A snapshot of `modules`, which are sorted by address. Not for handlers.
    pub(super) fn new(
        rules: &Rules,
        watch: Watch,
        all: impl ExactSizeIterator<Item = Module>,
    ) -> Option<Self> {
        let mut modules = PageVec::with_capacity(all.len())?;
        for module in all {
            modules.push(module);
        }
        // SAFETY: zero is an atomic number like any other.
        let cache = unsafe { PageVec::<AtomicU64>::zeroed(CACHED)? }.touched();
        let mut snapshot = PageVec::with_capacity(1)?;
        snapshot.push(Snapshot {
            modules: modules.as_slice().as_ptr(),
            len: modules.as_slice().len(),
            rules: rules.start(),
            cache: cache.as_slice().as_ptr(),
            watch,
            generation: generation().wrapping_add(1),
        });
        Some(Self { snapshot, modules, _cache: cache })
    }

    /// Where it is: it does not move with its owner.
    pub(super) fn get(&self) -> *const Snapshot {
        self.snapshot.as_slice().as_ptr()
    }

    /// Whether a walk asked for the table of any module.
    pub(super) fn table_is_wanted(&self) -> bool {
        self.modules.as_slice().iter().any(|module| module.wanted.load(Ordering::Relaxed))
    }

    /// Whether a walk asked for the table of the module at `index`.
    pub(super) fn wants(&self, index: usize) -> bool {
        self.modules.as_slice().get(index).is_some_and(|module| module.wanted.load(Ordering::Relaxed))
    }
}
