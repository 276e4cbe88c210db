//! The frames of a thread that waits, found from outside, on everprof's thread: without a signal, and without the interpreter's
//! lock.
//!
//! The thread may go on at any time, and free what is read here. So everything of it is read by the kernel, which says where
//! nothing is, and goes for nothing if the thread's clock has moved since: whoever asks looks at it. While it stands still, the
//! frames are whole, and hold references to their code. A thread is found among the states of the main interpreter's threads,
//! which it is asked for once, and then known by what its state says.

use std::cell::RefCell;
use std::collections::HashMap;

use everprof_probe::memory::{self, StackMemory};
use everprof_probe::regs::Regs;
use everprof_probe::thread_block;
use everprof_probe::unwind::{Cursor, Frames};

use super::KIND;
use super::codes::{Part, Seen};
use super::layout::{self, Marker, Thread};
use super::raw::Piece;
use super::seen::{self, NO_HASH, TEXT_HEAD};
use super::walker::{LOCK, SHIM, UNNAMED, Walker};

/// Frames of a thread.
const MOST_FRAMES: usize = 2_000;
/// Threads of an interpreter.
const MOST_THREADS: usize = 20_000;
/// Of a chunk of frames, so many bytes are copied.
const MOST_CHUNK: u64 = 256 * 1024;
/// Pieces that the kernel copies in one call.
const PIECES: usize = 8;
/// Words of a code object that hold what is needed of it in every version, and of the head of a string.
const CODE: usize = 144 / 8;
const TEXT: usize = TEXT_HEAD as usize / 8;

thread_local! {
    /// What the thread that looks knows.
    static LOOK: RefCell<Look> = RefCell::new(Look::default());
}

#[derive(Default)]
struct Look {
    /// States of threads, by the threads' numbers.
    states: HashMap<u32, u64>,
    /// The thread that was asked about last.
    items: Vec<Item>,
    /// Its label set, where that is known.
    labels: Option<u32>,
}

/// A frame, or the end of a run of them.
#[derive(Clone, Copy, Debug)]
enum Item {
    Frame(u64, u32),
    /// By the address of what marks it on the thread's stack; 0 where nothing does.
    End(u64),
}

/// A copy of some memory.
struct Copy {
    start: u64,
    words: Vec<u64>,
}

impl Copy {
    fn of(start: u64, len: u64) -> Option<Self> {
        let mut words = vec![0_u64; len.div_ceil(8) as usize];
        let bytes = bytes_of(&mut words, len as usize);
        (memory::copy(start, bytes) as u64 == len).then_some(Self { start, words })
    }

    fn piece(&self) -> Piece {
        let at = self.words.as_ptr().expose_provenance() as u64;
        // SAFETY: the words are there as long as the copy, which outlives what callers do with it.
        unsafe { Piece::new(at, self.words.len() as u64 * 8) }
    }

    /// The part of it that is at `start` in the memory that it is of.
    fn part(&self, start: u64, len: u64) -> Option<Piece> {
        let offset = start.checked_sub(self.start)?;
        if offset.checked_add(len)? > self.words.len() as u64 * 8 || offset % 8 != 0 {
            return None;
        }
        let at = self.words.as_ptr().expose_provenance() as u64 + offset;
        // SAFETY: as above, and the part lies in it.
        Some(unsafe { Piece::new(at, len) })
    }
}

fn bytes_of(words: &mut [u64], len: usize) -> &mut [u8] {
    let len = len.min(words.len() * 8);
    // SAFETY: words are bytes, so many of them.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}

impl Walker {
    /// Finds out what thread `tid` is doing, and remembers it.
    pub(super) fn look(&self, tid: u32) -> bool {
        LOOK.with(|look| {
            let Ok(mut look) = look.try_borrow_mut() else { return false };
            look.items.clear();
            look.labels = None;
            if (self.symbols.is_finalizing)() != 0 {
                return false;
            }
            let Some(state) = self.state_of(tid, &mut look.states) else { return false };
            look.labels = self.labels.get().and_then(|place| place.labels_elsewhere(state.piece()));
            self.items(&state, &mut look.items).is_some()
        })
    }

    /// A copy of the state of thread `tid`.
    fn state_of(&self, tid: u32, states: &mut HashMap<u32, u64>) -> Option<Copy> {
        let of = |at: u64| Copy::of(at, self.layout.state_size);
        let is_its = |state: &Copy| self.thread_of(state) == Some(tid);
        if let Some(state) = states.get(&tid).and_then(|at| of(*at)).filter(is_its) {
            return Some(state);
        }
        states.clear();
        let mut at = (self.symbols.newest_state)(self.symbols.interpreter);
        let mut found = None;
        for _ in 0..MOST_THREADS {
            let Some(state) = of(at) else { break };
            at = state.piece().word(layout::NEXT);
            if let Some(thread) = self.thread_of(&state) {
                states.insert(thread, state.start);
            }
            if found.is_none() && is_its(&state) {
                found = Some(state);
            }
        }
        found
    }

    fn thread_of(&self, state: &Copy) -> Option<u32> {
        match self.layout.thread {
            Thread::Number(at) => u32::try_from(state.piece().word(at)).ok(),
            Thread::Pointer(at) => thread_block::tid_of(state.piece().word(at)),
        }
    }

    /// The frames that the state leads to.
    fn items(&self, state: &Copy, items: &mut Vec<Item>) -> Option<()> {
        let (frames, ends) = self.frames(state)?;
        let codes: Vec<u64> = frames.iter().map(|(code, _)| *code).collect();
        let numbers = self.numbers(&codes)?;
        let mut ends = ends.into_iter().peekable();
        for (index, ((_, offset), number)) in frames.iter().zip(&numbers).enumerate() {
            while let Some((_, mark)) = ends.next_if(|(at, _)| *at <= index) {
                items.push(Item::End(mark));
            }
            if *number != SHIM {
                items.push(Item::Frame(*number, *offset));
            }
        }
        items.extend(ends.map(|(_, mark)| Item::End(mark)));
        Some(())
    }

    /// Code objects of all frames and how far into them they are, innermost first, and before which frames runs end.
    #[allow(clippy::type_complexity, reason = "two lists")]
    fn frames(&self, state: &Copy) -> Option<(Vec<(u64, u32)>, Vec<(usize, u64)>)> {
        let layout = &self.layout;
        let state_words = state.piece();
        let mut record = layout.cframe.map(|record| state_words.word(record.newest));
        let mut at = match (layout.frame, layout.cframe) {
            (Some(at), _) => state_words.word(at),
            (None, Some(record)) => {
                let newest = state_words.word(record.newest);
                let inside = newest.wrapping_sub(state.start) < layout.state_size;
                // The outermost record is in the state itself: no call is under way.
                if inside { 0 } else { Copy::of(newest + record.frame, 8)?.piece().word(0) }
            }
            (None, None) => 0,
        };
        let mut chunk = layout.chunk.and_then(|at| self.newest_chunk(state_words, at));
        let (mut frames, mut ends) = (Vec::new(), Vec::new());
        while at != 0 && frames.len() < MOST_FRAMES {
            let single;
            let frame = match chunk.as_ref().and_then(|chunk| chunk.part(at, layout.frame_size)) {
                Some(frame) => frame,
                None => {
                    single = Copy::of(at, layout.frame_size)?;
                    single.piece()
                }
            };
            let is_mark = layout.marker == Marker::Owner && frame.byte(layout.owner) >= layout::OWNED_BY_C;
            if is_mark {
                ends.push((frames.len(), at));
            } else {
                let code = frame.word(layout.code) & !7;
                frames.push((code, self.offset(frame, code)));
            }
            match layout.marker {
                Marker::EveryFrame => ends.push((frames.len(), 0)),
                Marker::Entry(place) if frame.byte(place) != 0 => {
                    let mark = record.take().unwrap_or(0);
                    ends.push((frames.len(), mark));
                    let older = layout.cframe.and_then(|record| Copy::of(mark + record.previous, 8));
                    record = older.map(|older| older.piece().word(0));
                }
                _ => {}
            }
            at = frame.word(layout.previous);
            // A chunk that was left is not come back to.
            if chunk.as_ref().is_some_and(|chunk| chunk.part(at, 8).is_none())
                && let Some(older) = chunk.as_ref().and_then(|chunk| older_chunk(chunk, at))
            {
                chunk = Some(older);
            }
        }
        Some((frames, ends))
    }

    /// A copy of what is used of the newest chunk.
    fn newest_chunk(&self, state: Piece, at: u64) -> Option<Copy> {
        let (start, used) = (state.word(at), state.word(at + 8));
        let len = used.checked_sub(start)?.min(MOST_CHUNK) & !7;
        Copy::of(start, len)
    }

    /// The numbers of code objects.
    fn numbers(&self, codes: &[u64]) -> Option<Vec<u64>> {
        let mut known = HashMap::new();
        let distinct: Vec<u64> =
            codes.iter().copied().filter(|code| known.insert(*code, 0).is_none()).collect();
        let heads = copies::<CODE>(&distinct)?;
        let parts: Vec<seen::Parts> = heads.iter().map(|head| self.parts(piece(head))).collect();
        let is_code = |head: &[u64; CODE]| piece(head).word(layout::TYPE) == self.symbols.code_type;
        if !heads.iter().all(is_code) {
            return None;
        }
        let texts: Vec<u64> = parts.iter().flat_map(|parts| [parts.name, parts.file]).collect();
        let texts = copies::<TEXT>(&texts)?;
        for ((code, parts), [name, file]) in distinct.iter().zip(&parts).zip(texts.as_chunks::<2>().0) {
            if parts.is_shim() {
                known.insert(*code, SHIM);
                continue;
            }
            let (name, file) = ((parts.name, name), (parts.file, file));
            let content = [self.content_of(name)?, self.content_of(file)?];
            let mut copied = None;
            let number = self.codes.number(parts.key(*code, content), || {
                let copied =
                    copied.insert([self.text_of(name)?, self.text_of(file)?, self.bytes_of(parts.lines)?]);
                let [name, file, lines] = copied.each_ref().map(|(copy, len, width)| Part {
                    piece: copy.part(copy.start, *len),
                    len: *len,
                    width: *width,
                });
                Some(Seen { first_line: parts.first_line, name, file, lines })
            });
            known.insert(*code, number.unwrap_or(UNNAMED));
        }
        Some(codes.iter().map(|code| known.get(code).copied().unwrap_or(UNNAMED)).collect())
    }

    /// The same as the handler's.
    fn content_of(&self, text: (u64, &[u64; TEXT])) -> Option<u64> {
        match piece(text.1).word(layout::TEXT_HASH) {
            NO_HASH => {
                let (copy, len, _) = self.text_of(text)?;
                Some(seen::content(copy.part(copy.start, len)?, len))
            }
            hash => Some(hash),
        }
    }

    fn text_of(&self, (address, head): (u64, &[u64; TEXT])) -> Option<(Copy, u64, u8)> {
        let (at, len, width) = seen::characters(&self.layout, self.symbols.text_type, piece(head))?;
        Some((Copy::of(address + at, len.min(1 << 16))?, len.min(1 << 16), width))
    }

    fn bytes_of(&self, address: u64) -> Option<(Copy, u64, u8)> {
        let len = Copy::of(address + layout::SIZE, 8)?.piece().word(0).min(1 << 16);
        Some((Copy::of(address + layout::BYTES, len)?, len, 1))
    }

    /// Pushes the run of what is remembered that belongs to the loop's frame with these registers; whether it stands for it.
    pub(super) fn place_remembered(
        &self,
        cursor: &mut Cursor,
        regs: &Regs,
        stack: &StackMemory,
        out: &mut Frames<'_>,
    ) -> bool {
        with_items(|items| {
            let [next, ..] = cursor;
            let here = stack.range_of(regs.sp);
            while let Some(mark) = mark_from(items, *next as usize) {
                if mark == 0 {
                    push_run(items, next, out);
                    break;
                }
                if stack.range_of(mark) != here {
                    break;
                }
                if mark < regs.sp {
                    push_run(items, next, out);
                    continue;
                }
                if self.is_near(mark - regs.sp, false) {
                    push_run(items, next, out);
                }
                break;
            }
            !items.is_empty()
        })
    }

    /// Pushes all that is left.
    pub(super) fn push_remembered(&self, cursor: &mut Cursor, out: &mut Frames<'_>) {
        with_items(|items| {
            let [next, ..] = cursor;
            while (*next as usize) < items.len() {
                push_run(items, next, out);
            }
            // It has a state, and no frame: that of a thread that has yet to get the lock for the first time, mostly.
            if items.is_empty() {
                out.push_runtime(KIND, LOCK, 0);
            }
        });
    }
}

/// The label set of the thread that was asked about last.
pub(super) fn labels() -> Option<u32> {
    LOOK.with(|look| look.try_borrow().ok().and_then(|look| look.labels))
}

fn with_items<R: Default>(with: impl FnOnce(&[Item]) -> R) -> R {
    LOOK.with(|look| look.try_borrow().map(|look| with(&look.items)).unwrap_or_default())
}

/// The end of the run that begins at `next`.
fn mark_from(items: &[Item], next: usize) -> Option<u64> {
    items.iter().skip(next).find_map(|item| match item {
        Item::End(mark) => Some(*mark),
        Item::Frame(..) => None,
    })
}

fn push_run(items: &[Item], next: &mut u64, out: &mut Frames<'_>) {
    for item in items.iter().skip(*next as usize) {
        *next += 1;
        match *item {
            Item::Frame(number, offset) => out.push_runtime(KIND, number, u64::from(offset)),
            Item::End(_) => return,
        }
    }
}

/// The chunk before this one, if `at` lies in it.
fn older_chunk(chunk: &Copy, at: u64) -> Option<Copy> {
    let mut start = chunk.piece().word(layout::CHUNK_PREVIOUS);
    for _ in 0..PIECES {
        let head = Copy::of(start, layout::CHUNK_WORDS)?;
        let len = head.piece().word(layout::CHUNK_SIZE).min(MOST_CHUNK) & !7;
        if (start..start.saturating_add(len)).contains(&at) {
            return Copy::of(start, len);
        }
        start = head.piece().word(layout::CHUNK_PREVIOUS);
    }
    None
}

/// So many bytes of each address; `None` where one of them cannot be read.
fn copies<const WORDS: usize>(addresses: &[u64]) -> Option<Vec<[u64; WORDS]>> {
    let mut copies = vec![[0; WORDS]; addresses.len()];
    for (addresses, copies) in addresses.chunks(PIECES).zip(copies.chunks_mut(PIECES)) {
        let pieces = copies.iter_mut().map(|copy| bytes_of(copy, WORDS * 8));
        let copied = memory::copy_pieces(addresses.iter().copied().zip(pieces));
        if copied < addresses.len() * WORDS * 8 {
            return None;
        }
    }
    Some(copies)
}

fn piece<const WORDS: usize>(words: &[u64; WORDS]) -> Piece {
    let at = words.as_ptr().expose_provenance() as u64;
    // SAFETY: the words outlive what callers do with them.
    unsafe { Piece::new(at, WORDS as u64 * 8) }
}
