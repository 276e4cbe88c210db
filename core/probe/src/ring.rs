//! The ring: many handlers write, one thread reads.
//!
//! A handler on any thread calls [`Ring::push`]; our thread alone calls [`Ring::drain`]. A record is one commit word,
//! the header's words and the stack's words. The protocol:
//!
//! 1. A writer reserves `n` words by advancing `head` with one compare-and-swap, if they are free; else the record is
//!    lost and counted by the caller. It never waits.
//! 2. It writes every word but the first, and then the first, the commit word, which is never 0, with Release.
//! 3. The reader looks at the commit word at `tail`. 0 means reserved but not yet written: the writer was interrupted,
//!    and the reader comes back later. Otherwise it copies the record out, zeroes its words and advances `tail`.
//!
//! A writer may never come back: a handler that interrupts it may jump away. One that has a tag says before what it is about to
//! reserve, and whoever comes later can tell whether it has (`Ring::close`): `head` has the tag of who moved it last, and
//! who moves it on writes down first, for that tag, that it did.
//!
//! Zeroing by the reader is what makes "not yet written" visible without a second array of flags. A writer that is
//! itself interrupted by another writer on the same thread (a signal inside an allocation hook) is one more concurrent
//! writer, so nesting needs no rule of its own.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::os::Pages;
use crate::regs;
use crate::sample::{Header, Trace};

/// Words of a record before its stack: the commit word and the packed header.
const HEADER_WORDS: usize = 8;

/// Lines of memory that are asked for before a record's length is known: 40 frames.
const FIRST_LINES: u64 = 6;

/// The longest stack a record can hold, in words.
pub const MAX_STACK_WORDS: usize = 8 * 1024;

/// A bounded ring of records in memory that neither moves nor is freed while a handler can run.
#[derive(Debug)]
pub struct Ring {
    words: Pages,
    mask: u64,
    /// Up to where words are reserved, and below that the tag of who reserved last.
    head: Line,
    tail: Line,
    /// The end of the record that the reader takes out, or has taken out last: told before its first word is zeroed, so that who
    /// finds a zero there knows of what it is.
    reading: Line,
    /// By tag: the end of the last reservation that is known.
    ends: [AtomicU64; TAGS],
}

/// Writers share `head`, the reader owns `tail`: a cache line each.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

/// Bits of `head` for the tag of who reserved last.
const TAG_BITS: u32 = 7;
/// Tags are numbers below this; 0 is nobody's.
pub(crate) const TAGS: usize = 1 << TAG_BITS;

/// A record that somebody is about to reserve, or has, and has not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    start: u64,
    len: u64,
}

/// Bits for the length of a record.
const LEN_BITS: u32 = (HEADER_WORDS + MAX_STACK_WORDS).ilog2() + 1;

impl Reserved {
    /// As one word, which is not 0.
    pub(crate) fn word(self) -> u64 {
        self.start << LEN_BITS | self.len
    }

    /// What `word` was made from.
    pub(crate) fn of(word: u64) -> Option<Self> {
        let len = word & ((1 << LEN_BITS) - 1);
        (len != 0).then_some(Self { start: word >> LEN_BITS, len })
    }
}

impl Ring {
    /// A ring of `capacity` words, rounded up to a power of two that holds at least one longest record; `None` where
    /// there is no memory.
    pub fn new(capacity: usize) -> Option<Ring> {
        let capacity = capacity.max(2 * (HEADER_WORDS + MAX_STACK_WORDS)).next_power_of_two();
        let words = Pages::new(capacity * size_of::<u64>())?;
        words.touch(0..words.len());
        let ends = [const { AtomicU64::new(0) }; TAGS];
        Some(Ring {
            words,
            mask: capacity as u64 - 1,
            head: Line::default(),
            tail: Line::default(),
            reading: Line::default(),
            ends,
        })
    }

    /// Adds a sample with the words of its stack; false where there is no room. For handlers.
    pub fn push(&self, header: &Header, stack: &[u64]) -> bool {
        self.push_telling(header, stack, 0, |_| {})
    }

    /// As [`Ring::push`], of who alone has `tag` meanwhile: what is about to be reserved is told before, and that nothing
    /// is any more. Who is interrupted in between and never comes back leaves a record for [`Ring::close`].
    pub(crate) fn push_telling(
        &self,
        header: &Header,
        stack: &[u64],
        tag: usize,
        tell: impl Fn(Option<Reserved>),
    ) -> bool {
        if stack.len() > MAX_STACK_WORDS {
            return false;
        }
        let len = (HEADER_WORDS + stack.len()) as u64;
        let Some(start) = self.reserve(len, tag, &tell) else {
            tell(None);
            return false;
        };
        let [commit, rest @ ..] = pack(header, len);
        let words = rest.iter().chain(stack);
        for (offset, word) in words.enumerate() {
            self.word(start + 1 + offset as u64).store(*word, Ordering::Relaxed);
        }
        self.word(start).store(commit, Ordering::Release);
        tell(None);
        true
    }

    /// Makes an empty record, of no source, of what a writer with this tag has left: where it had reserved that, and not yet
    /// written. Says whether there was such.
    pub(crate) fn close(&self, tag: usize, left: Reserved) -> bool {
        let Reserved { start, len } = left;
        let is_reserved = self.head.0.load(Ordering::Acquire) == packed(start + len, tag)
            || self.ends.get(tag).is_some_and(|end| end.load(Ordering::Acquire) == start + len);
        let is_read = || self.reading.0.load(Ordering::Acquire) > start;
        if !is_reserved || is_read() {
            return false;
        }
        let (first, empty) = (self.word(start), len << 8);
        if first.compare_exchange(0, empty, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // The reader may have been there a moment ago, and that zero be its own: then it was written.
        !is_read() || first.compare_exchange(empty, 0, Ordering::AcqRel, Ordering::Relaxed).is_err()
    }

    /// Asks for the place where the next record goes. A hint, for handlers.
    #[inline]
    pub fn prefetch(&self) {
        regs::prefetch((&raw const self.tail) as u64);
        let head = self.end();
        for line in 0..FIRST_LINES {
            regs::prefetch(core::ptr::from_ref(self.word(head + line * 8)) as u64);
        }
    }

    /// Takes every finished record out, in order, and hands each to `each` with its stack, for which `buffer` is the
    /// room (at least [`MAX_STACK_WORDS`]). What comes meanwhile is left for the next time, so that writers who are as
    /// fast as the reader do not keep it here. Returns how many there were. For our thread alone: one reader at a time.
    pub fn drain(&self, buffer: &mut [u64], mut each: impl FnMut(Header, &[u64])) -> usize {
        let mut count = 0;
        let end = self.end();
        loop {
            let start = self.tail.0.load(Ordering::Relaxed);
            if start >= end {
                return count;
            }
            let commit = self.word(start).load(Ordering::Acquire);
            if commit == 0 {
                return count;
            }
            let mut packed = [0; HEADER_WORDS];
            packed[0] = commit;
            for (offset, word) in packed.iter_mut().enumerate().skip(1) {
                *word = self.take(start + offset as u64);
            }
            let (header, len) = unpack(&packed);
            let stack_len = (len as usize).saturating_sub(HEADER_WORDS).min(buffer.len());
            let stack = buffer.get_mut(..stack_len).unwrap_or_default();
            for (offset, word) in stack.iter_mut().enumerate() {
                *word = self.take(start + (HEADER_WORDS + offset) as u64);
            }
            self.reading.0.store(start + len, Ordering::Relaxed);
            self.word(start).store(0, Ordering::Release);
            self.tail.0.store(start + len, Ordering::Release);
            each(header, stack);
            count += 1;
        }
    }

    /// How full it is, 0 to 100 per cent.
    pub fn percent_full(&self) -> u64 {
        let used = self.end().saturating_sub(self.tail.0.load(Ordering::Relaxed));
        used * 100 / (self.mask + 1)
    }

    /// How many words of a stack a record may hold beside its frames, where that is needed: some KiB hold most
    /// stacks, and of what is free it is no more than a part, so that a burst of such leaves room for others. For handlers.
    pub fn copies(&self) -> usize {
        const MOST: u64 = 1024;
        let used = self.end().saturating_sub(self.tail.0.load(Ordering::Relaxed));
        let free = (self.mask + 1).saturating_sub(used);
        (free / 32).min(MOST) as usize
    }

    /// Forgets everything. Only where no other thread can write: in a fork's child.
    pub fn clear(&self) {
        for index in 0..=self.mask {
            self.word(index).store(0, Ordering::Relaxed);
        }
        self.ends.iter().for_each(|end| end.store(0, Ordering::Relaxed));
        self.reading.0.store(0, Ordering::Relaxed);
        self.tail.0.store(0, Ordering::Relaxed);
        self.head.0.store(0, Ordering::Release);
    }

    /// Up to where words are reserved.
    fn end(&self) -> u64 {
        self.head.0.load(Ordering::Relaxed) >> TAG_BITS
    }

    fn reserve(&self, len: u64, tag: usize, tell: &impl Fn(Option<Reserved>)) -> Option<u64> {
        let mut head = self.head.0.load(Ordering::Relaxed);
        loop {
            let (start, last) = (head >> TAG_BITS, head as usize % TAGS);
            let used = start.wrapping_sub(self.tail.0.load(Ordering::Acquire));
            if used > self.mask + 1 {
                // The reader overtook the head we looked at: it is old.
                head = self.head.0.load(Ordering::Relaxed);
                continue;
            }
            if used + len > self.mask + 1 {
                return None;
            }
            // Who was last has reserved up to here, which cannot be seen of it once we have.
            if last != 0
                && let Some(end) = self.ends.get(last)
                && end.load(Ordering::Relaxed) < start
            {
                end.fetch_max(start, Ordering::Release);
            }
            tell(Some(Reserved { start, len }));
            let next = packed(start + len, tag);
            match self.head.0.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(start),
                Err(now) => head = now,
            }
        }
    }

    fn take(&self, index: u64) -> u64 {
        let word = self.word(index);
        let value = word.load(Ordering::Relaxed);
        word.store(0, Ordering::Relaxed);
        value
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        let offset = (index & self.mask) as usize;
        // SAFETY: the offset is masked to the capacity, for which the pages were made.
        let word = unsafe { self.words.as_ptr().cast::<AtomicU64>().add(offset) };
        // SAFETY: aligned, zero-initialised, alive as long as self, and only ever accessed as an atomic.
        unsafe { &*word }
    }
}

/// A `head`.
fn packed(end: u64, tag: usize) -> u64 {
    end << TAG_BITS | (tag % TAGS) as u64
}

/// The commit word carries the record's length and source, so it is never 0.
fn pack(header: &Header, len: u64) -> [u64; HEADER_WORDS] {
    [
        len << 8 | u64::from(header.source),
        header.weight,
        u64::from(header.tid) << 32 | u64::from(header.labels),
        u64::from(header.generation) << 32 | u64::from(header.period),
        header.trace.span_id,
        (header.trace.trace_id >> 64) as u64,
        header.trace.trace_id as u64,
        header.trace.local_root,
    ]
}

fn unpack(words: &[u64; HEADER_WORDS]) -> (Header, u64) {
    let [commit, weight, ids, times, span_id, trace_high, trace_low, local_root] = *words;
    let header = Header {
        source: commit as u8,
        weight,
        tid: (ids >> 32) as u32,
        labels: ids as u32,
        generation: (times >> 32) as u32,
        period: times as u32,
        trace: Trace { trace_id: u128::from(trace_high) << 64 | u128::from(trace_low), span_id, local_root },
    };
    (header, commit >> 8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::vec::Vec;

    fn header(weight: u64) -> Header {
        Header {
            source: 1,
            weight,
            tid: 7,
            labels: 9,
            generation: 3,
            period: 10_101_010,
            trace: Trace { trace_id: 1 << 100 | 5, span_id: u64::MAX, local_root: 1 << 63 },
        }
    }

    #[test]
    fn a_sample_comes_out_as_it_went_in() {
        let ring = Ring::new(0).unwrap();
        assert!(ring.push(&header(4), &[1, 2, 3, 4]));
        let mut buffer = [0; MAX_STACK_WORDS];
        let mut seen = Vec::new();
        ring.drain(&mut buffer, |header, stack| seen.push((header, stack.to_vec())));
        assert_eq!(seen, [(header(4), [1, 2, 3, 4].to_vec())]);
    }

    #[test]
    fn a_full_ring_refuses_and_loses_nothing_it_took() {
        let ring = Ring::new(0).unwrap();
        let stack = [5; 100];
        let mut taken = 0;
        while ring.push(&header(taken + 1), &stack) {
            taken += 1;
        }
        assert!(taken > 100);
        let mut buffer = [0; MAX_STACK_WORDS];
        let mut sum = 0;
        ring.drain(&mut buffer, |header, _| sum += header.weight);
        assert_eq!(sum, taken * (taken + 1) / 2);
        assert!(ring.push(&header(1), &stack), "room again");
    }

    /// A writer that never comes back: it stops when it tells for the `at`th time of something. Returns what it told.
    fn left(ring: &Ring, tag: usize, at: usize) -> Reserved {
        let told = std::cell::Cell::new((0, None));
        let tell = |reserved: Option<Reserved>| {
            let (times, last) = told.get();
            told.set((times + 1, reserved.or(last)));
            if times + 1 == at {
                std::panic::resume_unwind(Box::new(()));
            }
        };
        let push = || ring.push_telling(&header(1), &[5; 10], tag, tell);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(push));
        told.get().1.unwrap()
    }

    fn all(ring: &Ring) -> Vec<(u8, usize)> {
        let (mut buffer, mut seen) = ([0; MAX_STACK_WORDS], Vec::new());
        ring.drain(&mut buffer, |header, stack| seen.push((header.source, stack.len())));
        seen
    }

    #[test]
    fn what_a_writer_has_left_is_closed_where_it_was_reserved_and_not_written() {
        const LEN: u64 = HEADER_WORDS as u64 + 10;
        for others in [0, 2] {
            let ring = Ring::new(0).unwrap();
            let others =
                |tag| (0..others).for_each(|_| assert!(ring.push_telling(&header(2), &[6; 3], tag, |_| {})));
            // Before it was reserved.
            let reserved = left(&ring, 7, 1);
            assert_eq!(Reserved::of(reserved.word()), Some(reserved));
            others(0);
            assert!(!ring.close(7, reserved));
            // Afterwards, and others reserve behind it.
            all(&ring);
            assert!(ring.reserve(LEN, 7, &|_| {}).is_some());
            let reserved = Reserved { start: ring.tail.0.load(Ordering::Relaxed), len: LEN };
            others(9);
            assert_eq!(all(&ring), []);
            // It is nobody else's.
            assert!(!ring.close(8, reserved) && !ring.close(9, reserved));
            assert!(ring.close(7, reserved));
            assert_eq!(all(&ring)[0], (0, 10));
            assert!(!ring.close(7, reserved));
            // When it was written, and when it was read.
            let reserved = left(&ring, 7, 2);
            others(0);
            assert!(!ring.close(7, reserved));
            assert_eq!(all(&ring)[0], (1, 10));
            assert!(!ring.close(7, reserved));
            assert!((0..=ring.mask).all(|index| ring.word(index).load(Ordering::Relaxed) == 0));
        }
    }

    #[test]
    fn what_writers_leave_among_others_is_told_from_what_they_do_not() {
        const ROUNDS: u64 = 40_000;
        let ring = Ring::new(0).unwrap();
        let over = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for tag in 1..=4 {
                let (ring, over) = (&ring, &over);
                scope.spawn(move || {
                    let mut sums = [0_u64; 2];
                    for round in 0..ROUNDS {
                        while ring.percent_full() > 80 {
                            std::thread::yield_now();
                        }
                        let told = std::cell::Cell::new(None);
                        let tell = |reserved: Option<Reserved>| told.set(reserved.or(told.get()));
                        let stack = [tag as u64; 20];
                        let stack = &stack[..(round % 20) as usize + 1];
                        let len = (HEADER_WORDS + stack.len()) as u64;
                        match round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 {
                            // It has reserved, and jumps away.
                            0 => {
                                if ring.reserve(len, tag, &tell).is_some() {
                                    assert!(ring.close(tag, told.get().unwrap()), "left, and not closed");
                                    sums[0] += 1;
                                }
                            }
                            // It was about to.
                            1 => {
                                let start = ring.end();
                                assert!(
                                    !ring.close(tag, Reserved { start, len }),
                                    "closed, and not reserved"
                                );
                            }
                            // It had written it.
                            _ => {
                                if ring.push_telling(&header(7), stack, tag, tell) {
                                    assert!(!ring.close(tag, told.get().unwrap()), "closed, and written");
                                    sums[1] += 1;
                                }
                            }
                        }
                    }
                    over.fetch_add(1, Ordering::SeqCst);
                    assert!(sums.iter().all(|sum| *sum > 100), "{sums:?}");
                });
            }
            let mut buffer = [0; MAX_STACK_WORDS];
            loop {
                let last = over.load(Ordering::SeqCst) == 4;
                ring.drain(&mut buffer, |header, stack| match header.source {
                    0 => assert!(stack.len() <= 20),
                    1 => assert!(header.weight == 7 && stack.iter().all(|word| *word == stack[0])),
                    other => panic!("a record of {other}"),
                });
                if last {
                    break;
                }
            }
        });
        assert_eq!(ring.percent_full(), 0, "the reader waits for a record");
        assert!((0..=ring.mask).all(|index| ring.word(index).load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn what_the_reader_is_just_taking_out_is_not_closed() {
        let ring = Ring::new(0).unwrap();
        // Jumped away when it was written, and before that was told.
        let reserved = left(&ring, 7, 2);
        // The reader between its last two stores.
        let [first, reading] = [ring.word(0), &ring.reading.0];
        reading.store(reserved.start + reserved.len, Ordering::Relaxed);
        first.store(0, Ordering::Release);
        assert!(!ring.close(7, reserved));
        assert_eq!(first.load(Ordering::Relaxed), 0, "a word that the next round would take for a record");
    }

    #[test]
    fn there_is_room_for_copies_however_much_came_before() {
        let ring = Ring::new(32 * 1024).unwrap();
        let most = ring.copies();
        assert_eq!(most, 1024);
        for _ in 0..1000 {
            assert!(ring.push_telling(&header(1), &[5; 100], 7, |_| {}));
            all(&ring);
            assert_eq!(ring.copies(), most);
        }
        while ring.push(&header(1), &[5; 100]) {}
        assert!(ring.copies() < 8, "it is full");
    }

    #[test]
    fn the_reader_comes_back_though_writers_never_end() {
        let ring = Ring::new(0).unwrap();
        assert!(ring.push(&header(1), &[5; 10]) && ring.push(&header(2), &[5; 10]));
        let mut buffer = [0; MAX_STACK_WORDS];
        let mut more = || ring.drain(&mut buffer, |_, stack| assert!(ring.push(&header(3), stack)));
        assert_eq!((more(), more()), (2, 2));
    }

    #[test]
    fn concurrent_writers_and_one_reader_agree_on_every_word() {
        let ring = Arc::new(Ring::new(0).unwrap());
        let done = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (1..=4u64)
            .map(|writer| {
                let ring = ring.clone();
                std::thread::spawn(move || {
                    let mut pushed = 0;
                    for round in 0..30_000u64 {
                        let stack = std::vec![writer << 32 | round; (round % 90) as usize + 1];
                        pushed += u64::from(ring.push(&header(writer), &stack));
                    }
                    pushed
                })
            })
            .collect();
        let reader = std::thread::spawn({
            let (ring, done) = (ring.clone(), done.clone());
            move || {
                let mut buffer = [0; MAX_STACK_WORDS];
                let mut read = 0;
                loop {
                    let last = done.load(Ordering::Acquire);
                    read += ring.drain(&mut buffer, |header, stack| {
                        assert_eq!(stack[0] >> 32, header.weight);
                        assert!(stack.iter().all(|word| *word == stack[0]), "torn record");
                        assert_eq!(stack.len() as u64, (stack[0] as u32 as u64) % 90 + 1);
                    }) as u64;
                    if last {
                        return read;
                    }
                }
            }
        });
        let pushed: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        done.store(true, Ordering::Release);
        assert_eq!(reader.join().unwrap(), pushed);
    }
}
