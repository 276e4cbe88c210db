//! Where a walk puts its frames: words of [`crate::sample`], in memory that the caller supplies.
//!
//! A stack deeper than that memory keeps both its ends: the leaf side stays in order, and the root side runs through a
//! ring until the root is reached. What fell out between them is counted and marked. Async-signal-safe.

use crate::sample;

/// A sink of frames, leaf first, over a caller's words.
///
/// ```
/// use everprof_probe::sample::{Frame, frames};
/// use everprof_probe::unwind::Frames;
/// let mut words = [0; 6];
/// let mut sink = Frames::new(&mut words);
/// for pc in 1..=9 {
///     sink.push_native(pc);
/// }
/// let stack: Vec<Frame> = frames(sink.finish()).collect();
/// let (native, missing) = (Frame::Native, Frame::Missing);
/// assert_eq!(stack, [native(1), native(2), native(3), missing(4), native(8), native(9)]);
/// ```
#[derive(Debug)]
pub struct Frames<'a> {
    words: &'a mut [u64],
    /// Words written in order, before there was no more room.
    len: usize,
    /// The first boundary between frames at or behind the middle: where the ring begins once there is one.
    split: usize,
    ring: Option<Ring>,
}

/// The root side: frames from `head` on, `len` words of them, around the end of the words back to the split.
#[derive(Debug)]
struct Ring {
    head: usize,
    len: usize,
    dropped: u64,
}

impl<'a> Frames<'a> {
    /// An empty stack over `words`. With fewer than four words it may hold no frame at all.
    pub fn new(words: &'a mut [u64]) -> Self {
        let split = if words.len() < 4 { 0 } else { usize::MAX };
        Self { words, len: 0, split, ring: None }
    }

    /// Adds a native frame: its address as [`crate::sample`] wants it.
    #[inline]
    pub fn push_native(&mut self, pc: u64) {
        let word = sample::native(pc);
        if self.ring.is_none()
            && let Some(place) = self.words.get_mut(self.len)
        {
            *place = word;
            self.advance(1);
        } else {
            self.push_ring(&[word]);
        }
    }

    /// Adds a frame of the runtime `kind`: 56 bits and a word of its own.
    #[inline]
    pub fn push_runtime(&mut self, kind: u8, payload: u64, word: u64) {
        let frame = [sample::runtime(kind, payload), word];
        let place = self.words.get_mut(self.len..).and_then(<[u64]>::first_chunk_mut);
        if self.ring.is_none()
            && let Some(place) = place
        {
            *place = frame;
            self.advance(2);
        } else {
            self.push_ring(&frame);
        }
    }

    /// Says that `count` frames are missing here; 0 where nobody knows how many.
    pub fn push_missing(&mut self, count: u64) {
        self.push(&[sample::missing(count)]);
    }

    /// How many words there are, while all are in order.
    pub(super) fn ordered(&self) -> Option<usize> {
        self.ring.is_none().then_some(self.len)
    }

    /// Whether frames fell out of the middle.
    pub fn is_truncated(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.dropped > 0)
    }

    /// The words of the stack, brought into order in place.
    pub fn finish(self) -> &'a mut [u64] {
        let Some(ring) = self.ring else {
            return self.words.get_mut(..self.len).unwrap_or_default();
        };
        // The ring always leaves a word free: the mark goes there, before its oldest frame.
        let end = self.split + 1 + ring.len;
        if let Some(region) = self.words.get_mut(self.split..)
            && !region.is_empty()
        {
            let oldest = if ring.head == 0 { region.len() - 1 } else { ring.head - 1 };
            rotate_left(region, oldest);
            if let Some(mark) = region.first_mut() {
                *mark = sample::missing(ring.dropped);
            }
        }
        self.words.get_mut(..end).unwrap_or_default()
    }

    fn push(&mut self, frame: &[u64]) {
        if self.ring.is_none()
            && let Some(place) = self.words.get_mut(self.len..self.len + frame.len())
        {
            place.copy_from_slice(frame);
            self.advance(frame.len());
        } else {
            self.push_ring(frame);
        }
    }

    #[inline]
    fn advance(&mut self, words: usize) {
        self.len += words;
        if self.split == usize::MAX && self.len >= self.words.len() / 2 {
            self.split = self.len;
        }
    }

    #[cold]
    #[inline(never)]
    fn push_ring(&mut self, frame: &[u64]) {
        let split = self.split.min(self.words.len());
        self.split = split;
        let Some(region) = self.words.get_mut(split..) else { return };
        let ring = self.ring.get_or_insert(Ring { head: 0, len: self.len.saturating_sub(split), dropped: 0 });
        let room = region.len().saturating_sub(1);
        while ring.len > 0 && ring.len + frame.len() > room {
            ring.drop_oldest(region);
        }
        if frame.len() > room {
            ring.dropped += 1;
            return;
        }
        for word in frame {
            let at = wrap(ring.head + ring.len, region.len());
            if let Some(place) = region.get_mut(at) {
                *place = *word;
            }
            ring.len += 1;
        }
    }
}

impl Ring {
    fn drop_oldest(&mut self, region: &[u64]) {
        let first = region.get(self.head).copied().unwrap_or_default();
        let (words, frames) = sample::extent(first);
        let words = words.min(self.len);
        self.head = wrap(self.head + words, region.len());
        self.len -= words;
        self.dropped += frames;
    }
}

/// `place` in a ring of `len` words, of which it is less than one round ahead. A remainder would be checked against
/// zero, and a handler must not hold a way to a panic.
fn wrap(place: usize, len: usize) -> usize {
    if place >= len { place - len } else { place }
}

/// As the standard library's, which may panic and buffers on the stack: by reversing both parts and then the whole.
fn rotate_left(words: &mut [u64], by: usize) {
    words.get_mut(..by).unwrap_or_default().reverse();
    words.get_mut(by..).unwrap_or_default().reverse();
    words.reverse();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::Frames;
    use crate::sample::{Frame, frames};

    /// Frames 1, 2, 3…: every fifth of a runtime.
    fn push(sink: &mut Frames<'_>, count: u64) {
        for number in 1..=count {
            if number % 5 == 0 { sink.push_runtime(3, number, !number) } else { sink.push_native(number) }
        }
    }

    fn number(frame: &Frame) -> u64 {
        match *frame {
            Frame::Native(number) => number,
            Frame::Runtime(3, number, other) if other == !number => number,
            _ => panic!("{frame:?} was never pushed"),
        }
    }

    #[test]
    fn both_ends_are_kept_and_every_frame_is_accounted_for() {
        for size in 0..40 {
            for count in 0..100 {
                let mut words = vec![0; size];
                let mut sink = Frames::new(&mut words);
                push(&mut sink, count);
                let truncated = sink.is_truncated();
                let stack: Vec<Frame> = frames(sink.finish()).collect();
                let gap = stack.iter().position(|frame| matches!(frame, Frame::Missing(_)));
                let missing = match gap.map(|at| stack[at]) {
                    Some(Frame::Missing(missing)) => missing,
                    _ => 0,
                };
                assert_eq!(truncated && size > 0, missing > 0);
                let (leaf, root) = stack.split_at(gap.unwrap_or(stack.len()));
                let root = root.get(1..).unwrap_or_default();
                assert!(leaf.iter().map(number).eq(1..=leaf.len() as u64), "{size} {count}");
                assert!(root.iter().map(number).eq(count + 1 - root.len() as u64..=count), "{size} {count}");
                if size > 0 {
                    assert_eq!(leaf.len() as u64 + missing + root.len() as u64, count, "{size} {count}");
                }
                if size >= 8 && truncated {
                    assert!(
                        leaf.len() * 2 + 3 > size / 2 && root.len() * 2 + 6 > size / 2,
                        "{size}: {stack:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_gap_that_falls_out_counts_as_what_it_stood_for() {
        let mut words = [0; 8];
        let mut sink = Frames::new(&mut words);
        push(&mut sink, 4);
        sink.push_missing(100);
        for number in 1..=9 {
            sink.push_native(number);
        }
        let stack: Vec<Frame> = frames(sink.finish()).collect();
        assert_eq!(stack[4], Frame::Missing(106));
    }
}
