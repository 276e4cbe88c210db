//! The walk along the interpreter's frames, inside the handler.
//!
//! Frames of Python lie in memory of the interpreter's and are chained from the innermost on. One call of the interpreter's
//! loop, a frame on the native stack, runs several of them; where one ends is marked in the chain, and from 3.11 on by
//! something on the native stack itself, whose address says to which native frame a run belongs. So runs go in the places of
//! the loop's frames, and what is left over at the end of the native walk is added to it: all of a thread's Python frames are
//! in every sample, in their order, however far the native walk came.
//!
//! Nothing is believed of a frame before it is known where it lies: in the thread's own chunks of frames, on the native stack,
//! or in a generator. What may be half written, because the loop was interrupted in the middle of a call, is checked so that
//! garbage cannot pass. No fault is ever handled here: none may come.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use everprof_probe::memory::{self, StackMemory};
use everprof_probe::regs::Regs;
use everprof_probe::unwind::{Cursor, FrameSource, Frames, Step};

use super::KIND;
use super::codes::Codes;
use super::context::Place;
use super::layout::{self, CFrame, Instruction, Layout, Marker};
use super::raw::Piece;
use super::symbols::Symbols;
use super::waiting;

/// Frames of one sample: as many as the native walk visits.
const MOST_FRAMES: u64 = 20_000;
/// Chunks of frames that are looked through for one.
const MOST_CHUNKS: usize = 64;
/// Of the innermost run, so many frames are looked at ahead to see whether it is one.
const AHEAD: usize = 64;
/// A call may have put so many bytes of arguments on the stack below the frame of the loop.
const ARGUMENTS: u64 = 64;

/// The number that stands for a function without a name.
pub(super) const UNNAMED: u64 = (1 << 56) - 1;

/// Who walks.
#[derive(Debug)]
pub(super) struct Walker {
    pub(super) layout: Layout,
    pub(super) symbols: Symbols,
    pub(super) codes: Codes,
    /// Where the interpreter's loop is: its main part, and others.
    eval: [Range<u64>; 3],
    /// How far above the stack pointer of the loop's frame its mark on the native stack lies: the least that was seen.
    distance: AtomicU64,
    pub(super) counts: Counts,
    /// Where labels are found, once that is known.
    pub(super) labels: OnceLock<Place>,
}

/// What was seen, for tests and statistics.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// The loop was just about to say which frame it runs.
    windows: AtomicU64,
    /// A chain of frames led nowhere: the stack has a mark.
    broken: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> [u64; 2] {
        [&self.windows, &self.broken].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Where a walk is. As `Cursor`, which it becomes between two steps.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    /// The next frame; 0 at the end.
    frame: u64,
    /// What marks the run that it begins with, on the native stack; 0 where that is not known yet.
    mark: u64,
    /// The chunk that the last frame lay in.
    chunk: u64,
    /// The thread's state; 0 before the walk has begun.
    state: u64,
    /// The stack pointer of the innermost native frame.
    leaf: u64,
    /// How many frames may follow, and [`BEGUN`], [`IN_LOOP`].
    left: u64,
    /// The last code object, and its number.
    code: u64,
    number: u64,
}

const BEGUN: u64 = 1 << 32;
/// The innermost native frame is the loop's: what it writes may be half written.
const IN_LOOP: u64 = 1 << 33;
const LEFT: u64 = u32::MAX as u64;

impl Chain {
    fn of(cursor: &Cursor) -> Self {
        let [frame, mark, chunk, state, leaf, left, code, number] = *cursor;
        Self { frame, mark, chunk, state, leaf, left, code, number }
    }

    fn keep(self, cursor: &mut Cursor) {
        let Self { frame, mark, chunk, state, leaf, left, code, number } = self;
        *cursor = [frame, mark, chunk, state, leaf, left, code, number];
    }
}

/// A frame that can be read.
#[derive(Clone, Copy)]
struct Frame {
    piece: Piece,
    /// It stands for a call from C.
    is_mark: bool,
    /// It is the outermost of its run.
    is_last: bool,
}

impl Walker {
    pub(super) fn new(layout: Layout, symbols: Symbols, codes: Codes) -> Self {
        let mut parts = symbols.eval.iter().cloned();
        let eval = core::array::from_fn(|_| parts.next().unwrap_or(0..0));
        Self {
            layout,
            symbols,
            codes,
            eval,
            distance: AtomicU64::new(u64::MAX),
            counts: Counts::default(),
            labels: OnceLock::new(),
        }
    }

    /// All frames of the calling thread, for `check`. `stack` is its native stack.
    pub(super) fn walk_here(&self, leaf: &Regs, stack: &StackMemory, out: &mut Frames<'_>) {
        let mut chain = Chain { leaf: leaf.sp, ..Chain::default() };
        self.begin_chain(&mut chain, stack);
        self.push_rest(&mut chain, stack, out);
    }

    /// Finds the innermost frame.
    fn begin_chain(&self, chain: &mut Chain, stack: &StackMemory) {
        chain.left |= BEGUN | MOST_FRAMES;
        if (self.symbols.is_finalizing)() != 0 {
            return;
        }
        chain.state = self.symbols.thread_state.read();
        let Some(state) = self.state(chain) else { return };
        chain.chunk = self.layout.chunk.map_or(0, |at| state.word(at));
        match (self.layout.frame, self.layout.cframe) {
            (Some(at), _) => chain.frame = state.word(at),
            (None, Some(record)) => self.begin_at_record(record, chain, stack),
            (None, None) => {}
        }
        self.skip_dead(chain, stack);
    }

    /// Where a record on the stack says which frame is the innermost. The loop links the record before it writes the frame to it:
    /// until then there is garbage, and the frame of the record before is the innermost that is known.
    fn begin_at_record(&self, record: CFrame, chain: &mut Chain, stack: &StackMemory) {
        let Some(state) = self.state(chain) else { return };
        let newest = state.word(record.newest);
        let read = |address: u64| self.read(chain.state, stack, address);
        let (frame, previous) =
            (read(newest.wrapping_add(record.frame)), read(newest.wrapping_add(record.previous)));
        let (Some(frame), Some(previous)) = (frame, previous) else { return };
        if previous == 0 {
            // The outermost record, which is of no call.
            (chain.frame, chain.mark) = (frame, newest);
            return;
        }
        let Some(outside) = read(previous.wrapping_add(record.frame)) else { return };
        if self.leads_to(outside, &mut Chain { frame, ..*chain }, stack) {
            (chain.frame, chain.mark) = (frame, newest);
        } else {
            self.counts.windows.fetch_add(1, Ordering::Relaxed);
            (chain.frame, chain.mark) = (outside, previous);
        }
    }

    /// Whether the run that begins here ends before the frame `outside`, which is not looked at.
    fn leads_to(&self, outside: u64, chain: &mut Chain, stack: &StackMemory) -> bool {
        for _ in 0..AHEAD {
            if chain.frame == 0 {
                return false;
            }
            let Some(frame) = self.frame(chain, stack) else { return false };
            chain.left -= 1;
            let previous = frame.piece.word(self.layout.previous);
            if frame.is_mark || frame.is_last {
                return previous == outside;
            }
            chain.frame = previous;
        }
        true
    }

    /// Frames that were left just now: their memory is there still, but what they refer to may not be.
    fn skip_dead(&self, chain: &mut Chain, stack: &StackMemory) {
        let (Some(at), Some(state)) = (self.layout.chunk, self.state(chain)) else { return };
        let used = state.word(at + 8);
        for _ in 0..AHEAD {
            let Some(chunk) = chunk(chain.chunk) else { return };
            if !holds(&chunk, chain.frame, 8) || chain.frame < used {
                return;
            }
            let Some(frame) = self.frame(chain, stack) else { return };
            chain.frame = frame.piece.word(self.layout.previous);
        }
    }

    /// The loop's frame with these registers: pushes the run that belongs to it.
    fn place(&self, chain: &mut Chain, regs: &Regs, stack: &StackMemory, out: &mut Frames<'_>) -> Step {
        if chain.state == 0 {
            return Step::Native;
        }
        if self.layout.marker == Marker::EveryFrame {
            self.push_run(chain, stack, out);
            return Step::Hidden;
        }
        let is_leaf = regs.sp == chain.leaf;
        let here = stack.range_of(regs.sp);
        while chain.frame != 0 {
            let mark = self.mark(chain, stack);
            if mark == 0 || stack.range_of(mark) != here {
                break;
            }
            let distance = mark.wrapping_sub(regs.sp);
            // Its native frame was passed, and not known as the loop's.
            if mark < regs.sp {
                self.push_run(chain, stack, out);
                continue;
            }
            if self.is_near(distance, is_leaf) {
                self.push_run(chain, stack, out);
            }
            break;
        }
        Step::Hidden
    }

    /// Whether a mark so far above the stack pointer of a frame of the loop's is that frame's.
    pub(super) fn is_near(&self, distance: u64, is_leaf: bool) -> bool {
        if !is_leaf && distance < self.distance.load(Ordering::Relaxed) {
            self.distance.fetch_min(distance, Ordering::Relaxed);
        }
        let usual = self.distance.load(Ordering::Relaxed);
        let slack = if is_leaf { 0 } else { ARGUMENTS };
        distance <= usual.saturating_add(slack)
    }

    /// What marks the run that begins here.
    fn mark(&self, chain: &mut Chain, stack: &StackMemory) -> u64 {
        if chain.mark == 0 && self.layout.marker == Marker::Owner {
            let mut ahead = *chain;
            while ahead.left & LEFT != 0 && ahead.frame != 0 {
                let Some(frame) = self.frame(&mut ahead, stack) else { break };
                ahead.left -= 1;
                if frame.is_mark {
                    chain.mark = ahead.frame;
                    break;
                }
                ahead.frame = frame.piece.word(self.layout.previous);
            }
        }
        chain.mark
    }

    /// Pushes the frames up to the mark.
    fn push_run(&self, chain: &mut Chain, stack: &StackMemory, out: &mut Frames<'_>) {
        while chain.frame != 0 {
            let frame = (chain.left & LEFT != 0).then(|| self.frame(chain, stack)).flatten();
            let Some(frame) = frame.filter(|frame| frame.is_mark || self.push(chain, frame, out)) else {
                self.counts.broken.fetch_add(1, Ordering::Relaxed);
                out.push_missing(0);
                (chain.frame, chain.mark) = (0, 0);
                return;
            };
            chain.left -= 1;
            chain.frame = frame.piece.word(self.layout.previous);
            if frame.is_mark {
                chain.mark = 0;
                return;
            }
            if frame.is_last {
                let record = self.layout.cframe.and_then(|record| {
                    self.read(chain.state, stack, chain.mark.wrapping_add(record.previous))
                });
                chain.mark = record.unwrap_or(0);
                return;
            }
        }
    }

    /// Pushes all that is left.
    fn push_rest(&self, chain: &mut Chain, stack: &StackMemory, out: &mut Frames<'_>) {
        while chain.frame != 0 {
            self.push_run(chain, stack, out);
        }
    }

    /// Pushes one frame; false where it is none.
    #[inline]
    fn push(&self, chain: &mut Chain, frame: &Frame, out: &mut Frames<'_>) -> bool {
        // The lowest bits may say how the reference is held.
        let code = frame.piece.word(self.layout.code) & !7;
        if code != chain.code || code == 0 {
            let is_known = !self.may_be_left(chain) || self.is_there(code);
            let Some(number) = (if is_known { self.number(code) } else { Some(UNNAMED) }) else {
                return false;
            };
            (chain.code, chain.number) = (code, number);
        }
        if chain.number != SHIM {
            out.push_runtime(KIND, chain.number, u64::from(self.offset(frame.piece, code)));
        }
        true
    }

    /// Whether it is the innermost frame, in a version and at a place where it may have given its code back.
    #[inline]
    fn may_be_left(&self, chain: &Chain) -> bool {
        let is_written = chain.left & IN_LOOP != 0 && self.layout.chunk.is_some();
        chain.left & LEFT == MOST_FRAMES && (is_written || matches!(self.layout.marker, Marker::Entry(_)))
    }

    /// How many bytes into the code the frame is.
    #[inline]
    pub(super) fn offset(&self, frame: Piece, code: u64) -> u32 {
        match self.layout.instruction {
            Instruction::Number(at, unit) => (frame.half(at) as i32).max(0) as u32 * unit,
            Instruction::Pointer(at) => {
                let start = code + self.layout.code_object.instructions.unwrap_or(0);
                let offset = frame.word(at).wrapping_sub(start);
                if offset < 1 << 28 { offset as u32 } else { 0 }
            }
        }
    }

    /// The frame that is next, where it can be read.
    #[inline]
    fn frame(&self, chain: &mut Chain, stack: &StackMemory) -> Option<Frame> {
        let address = chain.frame;
        let size = self.layout.frame_size;
        if address == 0 || address & 7 != 0 {
            return None;
        }
        let Some(_) = self.layout.chunk else { return self.frame_object(address) };
        let is_known = in_chunks(chain, address, size)
            || stack.read(address).is_some() && stack.read(address.wrapping_add(size - 8)).is_some()
            || self.is_outermost(chain, address)
            || self.is_in_generator(chain, address);
        if !is_known {
            return None;
        }
        // SAFETY: it lies in a chunk of the thread's, on its stack, beside its state, or in a generator that it runs, all of which
        // stay as long as the thread is interrupted.
        let piece = unsafe { Piece::new(address, size) };
        let owner = piece.byte(self.layout.owner);
        let (is_mark, is_last) = match self.layout.marker {
            Marker::EveryFrame => (false, true),
            Marker::Entry(at) => (false, piece.byte(at) != 0),
            Marker::Owner => (owner >= layout::OWNED_BY_C, false),
        };
        Some(Frame { piece, is_mark, is_last })
    }

    /// Before 3.11 frames are objects, which the thread's state and each other refer to.
    fn frame_object(&self, address: u64) -> Option<Frame> {
        // SAFETY: the thread's state and the frames that it leads to hold references.
        let piece = unsafe { Piece::new(address, self.layout.frame_size) };
        (piece.word(layout::TYPE) == self.symbols.frame_type).then_some(Frame {
            piece,
            is_mark: false,
            is_last: true,
        })
    }

    /// Whether the frame lies in a generator. The innermost one may have been left just now, or never have been entered, and while
    /// the loop is at work so may others of its run: then the kernel is asked first whether anything is there.
    fn is_in_generator(&self, chain: &Chain, address: u64) -> bool {
        let start = address.wrapping_sub(self.layout.frame_in_generator);
        let size = self.layout.frame_in_generator + self.layout.frame_size;
        let is_first = chain.left & LEFT == MOST_FRAMES;
        if is_first || chain.left & IN_LOOP != 0 {
            let ends = [start, start.wrapping_add(size - 8)];
            if !ends.iter().all(|end| memory::is_readable(*end)) {
                return false;
            }
        }
        // SAFETY: it was asked for, or is referred to by what the thread runs.
        let generator = unsafe { Piece::new(start, size) };
        let owner = generator.byte(self.layout.frame_in_generator + self.layout.owner);
        owner == layout::OWNED_BY_GENERATOR
            && self.symbols.generator_types.contains(&generator.word(layout::TYPE))
    }

    /// Whether it is the one that the thread's state refers to.
    fn is_outermost(&self, chain: &Chain, address: u64) -> bool {
        let (Some(at), Some(state)) = (self.layout.outermost, self.state(chain)) else { return false };
        state.word(at) == address
    }

    fn state(&self, chain: &Chain) -> Option<Piece> {
        if chain.state == 0 {
            return None;
        }
        // SAFETY: the state of the calling thread lives as long as the thread has it.
        Some(unsafe { Piece::new(chain.state, self.layout.state_size) })
    }

    /// A word of the native stack, or of the thread's state.
    fn read(&self, state: u64, stack: &StackMemory, address: u64) -> Option<u64> {
        let inside = address.wrapping_sub(state);
        if inside < self.layout.state_size {
            // SAFETY: the state of the calling thread lives as long as the thread has it.
            return Some(unsafe { Piece::new(state, self.layout.state_size) }.word(inside));
        }
        stack.read(address)
    }
}

/// The number of a frame that nobody wrote: the interpreter calls `__init__` through it.
pub(super) const SHIM: u64 = UNNAMED - 1;

/// No frame, but a word about the whole sample: whether the thread held the interpreter's lock.
pub(super) const LOCK: u64 = UNNAMED - 2;

/// The chunk at this address.
fn chunk(address: u64) -> Option<Range<u64>> {
    if address == 0 || address & 7 != 0 {
        return None;
    }
    // SAFETY: the thread's state leads to it, and a chunk to the one before; each begins with what it is.
    let head = unsafe { Piece::new(address, layout::CHUNK_WORDS) };
    Some(address + layout::CHUNK_WORDS..address.saturating_add(head.word(layout::CHUNK_SIZE)))
}

fn holds(chunk: &Range<u64>, address: u64, size: u64) -> bool {
    chunk.contains(&address) && chunk.end - address >= size
}

/// Whether a frame lies in the thread's chunks: in the one that the last frame was in, or one that is older.
#[inline]
fn in_chunks(chain: &mut Chain, address: u64, size: u64) -> bool {
    let mut at = chain.chunk;
    for _ in 0..MOST_CHUNKS {
        let Some(range) = chunk(at) else { return false };
        if holds(&range, address, size) {
            chain.chunk = at;
            return true;
        }
        // SAFETY: as above: `chunk` has said that there is one.
        at = unsafe { Piece::new(at, layout::CHUNK_WORDS) }.word(layout::CHUNK_PREVIOUS);
    }
    false
}

// SAFETY: reads what the native stack vouches for, what the thread's own state leads to, and what the kernel says can be read;
// makes no call but of functions of the interpreter's that read a few words. At most `MOST_FRAMES` steps.
unsafe impl FrameSource for Walker {
    #[inline]
    fn owns(&self, pc: u64) -> bool {
        self.eval.iter().any(|part| part.contains(&pc))
    }

    fn begin(&self, leaf: &Regs, cursor: &mut Cursor) {
        let left = if self.owns(leaf.pc) { IN_LOOP } else { 0 };
        Chain { leaf: leaf.sp, left, ..Chain::default() }.keep(cursor);
    }

    fn step(&self, cursor: &mut Cursor, regs: &mut Regs, stack: &StackMemory, out: &mut Frames<'_>) -> Step {
        let mut chain = Chain::of(cursor);
        if chain.left & BEGUN == 0 {
            self.begin_chain(&mut chain, stack);
        }
        let step = self.place(&mut chain, regs, stack, out);
        chain.keep(cursor);
        step
    }

    fn labels(&self) -> Option<u32> {
        // No lock: what is there was put there before the source was.
        let place = self.labels.get()?;
        if (self.symbols.is_finalizing)() != 0 {
            return None;
        }
        let chain = Chain { state: self.symbols.thread_state.read(), ..Chain::default() };
        place.labels_here(self.state(&chain)?)
    }

    fn labels_remembered(&self) -> Option<u32> {
        waiting::labels()
    }

    fn remember(&self, tid: u32) -> bool {
        self.look(tid)
    }

    fn step_remembered(
        &self,
        cursor: &mut Cursor,
        regs: &Regs,
        stack: &StackMemory,
        out: &mut Frames<'_>,
    ) -> bool {
        self.place_remembered(cursor, regs, stack, out)
    }

    fn end_remembered(&self, cursor: &mut Cursor, _: &StackMemory, out: &mut Frames<'_>) {
        self.push_remembered(cursor, out);
    }

    fn end(&self, cursor: &mut Cursor, stack: &StackMemory, out: &mut Frames<'_>) {
        let mut chain = Chain::of(cursor);
        if chain.left & BEGUN == 0 {
            self.begin_chain(&mut chain, stack);
        }
        self.push_rest(&mut chain, stack, out);
        if let Some(holder) = self.symbols.holder.filter(|_| chain.state != 0) {
            out.push_runtime(KIND, LOCK, u64::from(holder.read() == chain.state));
        }
        chain.keep(cursor);
    }
}
