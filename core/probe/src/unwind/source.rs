//! The door for runtimes: frames that only they can find, added inside the handler.
//!
//! An interpreter keeps its own list of frames beside the native stack, and a compiler at run time makes native frames
//! that no call-frame information describes. A [`FrameSource`] knows either, and is asked at each native frame of a
//! walk. Sources are registered from ordinary threads, once, and asked from handlers on any thread.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::frames::Frames;
use crate::memory::StackMemory;
use crate::regs::Regs;

/// What a source may remember from frame to frame of one walk.
pub type Cursor = [u64; 8];

/// What a source made of a native frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Record the native frame, and go on to its caller natively. What the source pushed stands before it.
    Native,
    /// Go on to the caller natively, but do not record the native frame: what the source pushed stands for it.
    Hidden,
    /// The registers are those of the caller now, and the program counter is its return address.
    Moved,
    /// The stack ends here.
    End,
}

/// A runtime's part of the stack walk.
///
/// A walk asks at each native frame, leaf first: [`owns`](FrameSource::owns) of every source in the order of
/// registration, and then [`step`](FrameSource::step) of the first that says yes.
///
/// # Safety
///
/// Every method runs inside signal handlers, on any thread, at any instruction of the process, several at once, and
/// when the runtime's own structures are half written. Of threads that wait, and are looked at by another one, off the handler,
/// only [`owns`](FrameSource::owns) is asked and the methods about what is remembered.
///
/// An implementation does not allocate, lock, panic or call the system, but for [`crate::memory::is_readable`]; it reads only
/// memory that is mapped for as long as it is registered, or that `stack` vouches for; and it ends in bounded time.
pub unsafe trait FrameSource: Sync {
    /// Whether the frame at `pc` is this source's affair; asked at every frame, so it must be cheap. `pc` is exact in an
    /// interrupted frame and lies inside the calling instruction in a caller.
    fn owns(&self, pc: u64) -> bool;

    /// A walk starts at `leaf`: finds what the thread is doing in this runtime, and leaves it in `cursor`, which is
    /// zeroed.
    fn begin(&self, leaf: &Regs, cursor: &mut Cursor) {
        let _ = (leaf, cursor);
    }

    /// Pushes the frames that belong to the native frame in `regs`, and says how to go on.
    fn step(&self, cursor: &mut Cursor, regs: &mut Regs, stack: &StackMemory, out: &mut Frames<'_>) -> Step;

    /// Off the handler: finds out what thread `tid` of this process, another one than the calling one, is doing in this runtime, and
    /// remembers it on the calling thread, until it is asked again. It seems to wait, but may go on at any time; what was
    /// remembered then is not used. So all that is the thread's is read by [`crate::memory::copy`]. False where it cannot be
    /// told: stacks have a mark where the source owns a frame.
    fn remember(&self, tid: u32) -> bool {
        let _ = tid;
        false
    }

    /// Off the handler: the same as [`step`](FrameSource::step) for what is remembered. Of `regs`, the program counter, the stack
    /// pointer and the frame pointer are known; `stack` is a copy. Says whether the native frame is hidden by what was pushed.
    fn step_remembered(
        &self,
        cursor: &mut Cursor,
        regs: &Regs,
        stack: &StackMemory,
        out: &mut Frames<'_>,
    ) -> bool {
        let _ = (cursor, regs, stack, out);
        false
    }

    /// Off the handler: the same as [`end`](FrameSource::end) for what is remembered.
    fn end_remembered(&self, cursor: &mut Cursor, stack: &StackMemory, out: &mut Frames<'_>) {
        let _ = (cursor, stack, out);
    }

    /// The walk is over, at the root or wherever it lost its way: pushes what the source knows of that belonged to no native
    /// frame that was met. Where the walk ended early, a mark stands before it.
    fn end(&self, cursor: &mut Cursor, stack: &StackMemory, out: &mut Frames<'_>) {
        let _ = (cursor, stack, out);
    }

    /// The label set that the runtime itself has in force on the calling thread, such as that of a task of many which the thread runs
    /// in turn. It goes before the one that the thread's slot has, and so does 0, which is that there is none; `None` where
    /// the runtime does not know.
    fn labels(&self) -> Option<u32> {
        None
    }

    /// Off the handler: the same of the thread that is remembered.
    fn labels_remembered(&self) -> Option<u32> {
        None
    }
}

/// The label set in force on the calling thread: a runtime's own, or else `of_slot`, that of the thread's slot.
///
/// Never a part of its caller, whose frame is there for the whole walk: the handler is to need little stack.
#[inline(never)]
pub fn labels_here(of_slot: u32) -> u32 {
    let sources = PLACES.iter().filter_map(Place::source);
    sources.filter_map(FrameSource::labels).next().unwrap_or(of_slot)
}

/// Registers `source` under the runtime's number `kind`, 1 to 127, from any thread. Says false where the four places
/// that exist have been taken by other sources, or `kind` is out of range.
///
/// A place belongs for ever to the source that took it first, because handlers may be reading it: a source that is
/// unset and set again returns to its own.
pub fn set_source(kind: u8, source: &'static dyn FrameSource) -> bool {
    if kind == 0 || kind > 127 {
        return false;
    }
    let words = to_words(source);
    PLACES.iter().any(|place| place.take(kind, words))
}

/// Takes the source of `kind` out of every walk that starts from now on. A walk that is under way may still ask it.
pub fn unset_source(kind: u8) {
    for place in &PLACES {
        if place.kind.load(Ordering::Relaxed) == kind {
            place.state.store(RESTING, Ordering::Release);
        }
    }
}

/// How many sources there can be in one process.
pub(super) const SOURCES: usize = 4;

/// The sources registered, as one walk sees them.
pub(super) struct Sources {
    sources: [Option<&'static dyn FrameSource>; SOURCES],
    cursors: [Cursor; SOURCES],
}

impl Sources {
    /// Whether there are any: not in most processes.
    #[inline]
    pub(super) fn any() -> bool {
        PLACES.iter().any(|place| place.state.load(Ordering::Acquire) == ACTIVE)
    }

    /// Whether one of them owns the frame at `pc`.
    pub(super) fn own(pc: u64) -> bool {
        PLACES.iter().filter_map(Place::source).any(|source| source.owns(pc))
    }

    /// The sources in force, each told where the walk starts; `None` where there are none.
    #[inline]
    pub(super) fn begin(leaf: &Regs) -> Option<Self> {
        if !Self::any() {
            return None;
        }
        let mut sources = Self { sources: [None; SOURCES], cursors: [[0; 8]; SOURCES] };
        let slots = sources.sources.iter_mut().zip(&mut sources.cursors);
        for (place, (slot, cursor)) in PLACES.iter().zip(slots) {
            if let Some(source) = place.source() {
                source.begin(leaf, cursor);
                *slot = Some(source);
            }
        }
        Some(sources)
    }

    /// Lets the source that owns the frame step; `None` where no source does.
    pub(super) fn step(
        &mut self,
        pc: u64,
        regs: &mut Regs,
        stack: &StackMemory,
        out: &mut Frames<'_>,
    ) -> Option<Step> {
        let mut slots = self.sources.iter().zip(&mut self.cursors);
        let (source, cursor) = slots
            .find_map(|(source, cursor)| Some(((*source)?, cursor)).filter(|(source, _)| source.owns(pc)))?;
        Some(source.step(cursor, regs, stack, out))
    }

    /// The sources that know what another thread is doing; `None` where none does. Off the handler.
    pub(super) fn remember(tid: u32) -> Option<Self> {
        let mut sources = Self { sources: [None; SOURCES], cursors: [[0; 8]; SOURCES] };
        for (place, slot) in PLACES.iter().zip(&mut sources.sources) {
            *slot = place.source().filter(|source| source.remember(tid));
        }
        sources.sources.iter().any(Option::is_some).then_some(sources)
    }

    /// Lets the source that owns the frame push what it remembers; `None` where no such source does, else whether the native
    /// frame is hidden.
    pub(super) fn step_remembered(
        &mut self,
        pc: u64,
        regs: &Regs,
        stack: &StackMemory,
        out: &mut Frames<'_>,
    ) -> Option<bool> {
        let mut slots = self.sources.iter().zip(&mut self.cursors);
        let (source, cursor) = slots
            .find_map(|(source, cursor)| Some(((*source)?, cursor)).filter(|(source, _)| source.owns(pc)))?;
        Some(source.step_remembered(cursor, regs, stack, out))
    }

    /// The label set that they remember; `None` where none of them knows.
    pub(super) fn labels_remembered(&self) -> Option<u32> {
        self.sources.iter().flatten().find_map(|source| source.labels_remembered())
    }

    /// Tells those sources that the walk is over.
    pub(super) fn end_remembered(&mut self, stack: &StackMemory, out: &mut Frames<'_>) {
        for (source, cursor) in self.sources.iter().zip(&mut self.cursors) {
            if let Some(source) = source {
                source.end_remembered(cursor, stack, out);
            }
        }
    }

    /// Tells every source that the walk is over.
    pub(super) fn end(&mut self, stack: &StackMemory, out: &mut Frames<'_>) {
        for (source, cursor) in self.sources.iter().zip(&mut self.cursors) {
            if let Some(source) = source {
                source.end(cursor, stack, out);
            }
        }
    }
}

/// One registered source. The two words of its reference are written once, before `state` first says that they are
/// there, so a handler never sees them torn.
struct Place {
    state: AtomicU8,
    kind: AtomicU8,
    words: [AtomicUsize; 2],
}

const FREE: u8 = 0;
const TAKEN: u8 = 1;
const RESTING: u8 = 2;
const ACTIVE: u8 = 3;

static PLACES: [Place; SOURCES] = [const {
    Place { state: AtomicU8::new(FREE), kind: AtomicU8::new(0), words: [const { AtomicUsize::new(0) }; 2] }
}; SOURCES];

impl Place {
    fn take(&self, kind: u8, words: [usize; 2]) -> bool {
        let [data, table] = &self.words;
        match self.state.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                let [new_data, new_table] = words;
                data.store(new_data, Ordering::Relaxed);
                table.store(new_table, Ordering::Relaxed);
            }
            Err(RESTING | ACTIVE) if self.words() == words => {}
            Err(_) => return false,
        }
        self.kind.store(kind, Ordering::Relaxed);
        self.state.store(ACTIVE, Ordering::Release);
        true
    }

    fn words(&self) -> [usize; 2] {
        let [data, table] = &self.words;
        [data.load(Ordering::Relaxed), table.load(Ordering::Relaxed)]
    }

    fn source(&self) -> Option<&'static dyn FrameSource> {
        if self.state.load(Ordering::Acquire) != ACTIVE {
            return None;
        }
        // SAFETY: the state says that `take` wrote the words of such a reference, and that nobody writes them again.
        Some(unsafe { from_words(self.words()) })
    }
}

fn to_words(source: &'static dyn FrameSource) -> [usize; 2] {
    let mut words = MaybeUninit::<[usize; 2]>::uninit();
    const { assert!(size_of::<&'static dyn FrameSource>() == size_of::<[usize; 2]>()) };
    let place = words.as_mut_ptr().cast::<&'static dyn FrameSource>();
    // SAFETY: the place has the size and alignment of two words, as a reference to a trait object has.
    unsafe { place.write(source) };
    // SAFETY: both words were written above, and every pattern is a number.
    unsafe { words.assume_init() }
}

/// # Safety
///
/// `words` must come from [`to_words`].
unsafe fn from_words(words: [usize; 2]) -> &'static dyn FrameSource {
    let place = words.as_ptr().cast::<&'static dyn FrameSource>();
    // SAFETY: by the caller's promise the words are those of such a reference.
    unsafe { place.read() }
}
