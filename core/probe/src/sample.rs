//! What a handler hands to our thread: a header, and the words of a stack, leaf first.
//!
//! Written by the handler on any thread of the host, read by the drain on ours. A word is one of three things, told
//! apart by its top byte (user addresses of x86_64 and aarch64 leave it free):
//!
//! | top byte | meaning of the low 56 bits | words |
//! |---|---|---|
//! | `0x00` | a code address: exact for the leaf and for a frame that a signal interrupted, return address - 1 for callers | 1 |
//! | `0x01..=0x7f` | a frame of the runtime with that number; the next word belongs to it as well | 2 |
//! | `0xff` | frames are missing here; the low bits say how many (0: unknown) | 1 |
//!
//! Subtracting one from a return address at the source, as Go does, lets every later stage treat an address as a
//! point inside the calling instruction, with no flag beside it.

/// The event that took a sample. The number is stable: it is written into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Source {
    /// A thread's CPU clock advanced by one period.
    Cpu = 1,
    /// A thread that waits was asked for its stack. Before the stack stand [`CALL_WORDS`] words about its system call.
    Wall = 2,
    /// An allocation. Before the stack stand [`ALLOC_WORDS`] words about it.
    Alloc = 3,
    /// A thread has waited for another one. Before the stack stand [`LOCK_WORDS`] words about it.
    Lock = 4,
    /// Our thread has just discovered the thread: the sample stands for CPU time that no timer accounted for.
    Unclaimed = 5,
    /// A block whose allocation was sampled is given back. Instead of a stack it has two words: the block's handle, and the
    /// number of the event, as [`ALLOC_WORDS`] says.
    Free = 6,
    /// A thread ends what another one waits for. Before the stack stands the number of that wait.
    Release = 7,
}

/// Words before the stack of a sample of [`Source::Wall`]: what [`crate::waiting::interrupted`] reads.
pub const CALL_WORDS: usize = 3;

/// Words before the stack of a sample of [`Source::Alloc`]: the bytes asked for, the block's [`crate::heap::Handle`] or 0
/// where the block is not followed, the mean distance of samples in bytes, and a number that grows from event to event.
pub const ALLOC_WORDS: usize = 4;

/// Words before the stack of a sample of [`Source::Lock`]: the nanoseconds that it waited, those from which on each wait is
/// a sample, the address of what it waited for, [`crate::lock::Object`] as a number (with [`AGAIN`], [`ENDED`] and [`TIMED_OUT`]),
/// and the number of the wait.
pub const LOCK_WORDS: usize = 5;

/// Set in the number of the object where the thread had waited for it before and not got it: this is the same wait, gone on.
pub const AGAIN: u64 = 1 << 8;

/// Set in the number of the object where the end of the wait was seen by who ended it: a sample of [`Source::Release`] with the
/// number of the wait is there already, or comes soon.
pub const ENDED: u64 = 1 << 9;

/// Set in the number of the object where the wait ended because its time was over.
pub const TIMED_OUT: u64 = 1 << 10;

/// Set in the number of the source where the stack is to be walked on by our thread: behind its frames stands what
/// [`crate::unwind::later`] says.
pub const UNFINISHED: u8 = 1 << 7;

/// The header of a sample in the ring. The words of the stack follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`Source`] as a number, with [`UNFINISHED`].
    pub source: u8,
    /// How many periods or events the sample stands for, never 0; of one that was asked for, the number of the question.
    pub weight: u64,
    /// Length of one period in nanoseconds (CPU, wall), which the rate in force at that moment gives.
    pub period: u32,
    /// Kernel thread id; 0 where it is not known.
    pub tid: u32,
    /// The label set in force on the thread; 0 is the empty set.
    pub labels: u32,
    /// Generation of the modules that the stack's addresses are of: see [`crate::unwind::Walked`].
    pub generation: u32,
    /// The trace and the span in force on the thread.
    pub trace: Trace,
}

/// The trace and the span that something belongs to, as W3C Trace Context has them; zeros where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Trace {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
    /// The span of this process that the request began with here.
    pub local_root: u64,
}

impl Header {
    /// The number of the [`Source`].
    pub fn event(&self) -> u8 {
        self.source & !UNFINISHED
    }

    /// Whether the stack is to be walked on.
    pub fn is_unfinished(&self) -> bool {
        self.source & UNFINISHED != 0
    }
}

const TAG_SHIFT: u32 = 56;
const PAYLOAD: u64 = (1 << TAG_SHIFT) - 1;
const TAG_MISSING: u8 = 0xff;

/// One decoded frame of a sample's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    /// A code address; see the module documentation for its adjustment.
    Native(u64),
    /// A frame that a [`crate::unwind::FrameSource`] added: the runtime's number, 56 bits and 64 bits of its own.
    Runtime(u8, u64, u64),
    /// Frames are missing here; how many, or 0 where the walk did not get far enough to know.
    Missing(u64),
}

/// Encodes a native frame.
pub const fn native(pc: u64) -> u64 {
    pc & PAYLOAD
}

/// Encodes the first word of a runtime frame; the second is the runtime's own and goes as it is.
pub const fn runtime(kind: u8, payload: u64) -> u64 {
    ((kind & 0x7f) as u64) << TAG_SHIFT | payload & PAYLOAD
}

/// Encodes a gap of `count` frames.
pub const fn missing(count: u64) -> u64 {
    (TAG_MISSING as u64) << TAG_SHIFT | count & PAYLOAD
}

/// Of the frame whose first word is `word`: how many words it has, and how many frames it stands for.
pub(crate) const fn extent(word: u64) -> (usize, u64) {
    match (word >> TAG_SHIFT) as u8 {
        0 => (1, 1),
        1..=0x7f => (2, 1),
        _ => (1, word & PAYLOAD),
    }
}

/// Whether `word` is a native frame, all of it.
pub(crate) const fn is_native(word: u64) -> bool {
    word >> TAG_SHIFT == 0
}

/// Decodes the words of a stack, leaf first.
///
/// ```
/// use everprof_probe::sample::{Frame, frames, missing, native, runtime};
/// let words = [native(0x1000), runtime(3, 7), 9, missing(40), native(0x2000)];
/// let stack: Vec<Frame> = frames(&words).collect();
/// assert_eq!(stack, [Frame::Native(0x1000), Frame::Runtime(3, 7, 9), Frame::Missing(40), Frame::Native(0x2000)]);
/// ```
pub fn frames(words: &[u64]) -> impl Iterator<Item = Frame> + '_ {
    let mut words = words.iter().copied();
    core::iter::from_fn(move || {
        let word = words.next()?;
        let payload = word & PAYLOAD;
        Some(match (word >> TAG_SHIFT) as u8 {
            0 => Frame::Native(payload),
            kind @ 1..=0x7f => Frame::Runtime(kind, payload, words.next()?),
            _ => Frame::Missing(payload),
        })
    })
}
