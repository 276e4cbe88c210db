//! Stacks that the C library knows nothing of, such as those of coroutines: their owner says where they are.
//!
//! # Why they are not found by themselves
//!
//! A handler may read only what it knows to be mapped, and of memory beyond the thread's own two stacks it knows nothing.
//! What `/proc/self/maps` said a moment ago does not help: a mapping there is a mere sum of neighbours, and any other
//! thread may unmap the stack beside ours at this instant. Only the frames of the stack that runs are sure to stay; but
//! which words those are follows from call-frame information alone, and that is wrong in just the few instructions of
//! hand-written code which switch stacks. A single read past the end would kill the process. To catch the fault would
//! take the host's SIGSEGV; to ask the kernel first, a system call, which a sandbox may answer with death; and our own
//! thread comes too late, when the stack has changed. So without a word from its owner such a stack shows its leaf,
//! marked as incomplete and counted by [`unknown`].
//!
//! # How it is made safe
//!
//! A map holds for each page of 4 KiB of a stack one word: where the whole stack starts and how long it is. A handler
//! that reads such a stack *holds* it: announces the word, and then looks whether the map still has it. Dropping a
//! [`StackRange`] takes the word out of the map, and then waits until no handler announces it. So either the handler
//! sees that the stack is gone, or the owner sees the handler, which is done within microseconds; and no handler holds
//! a stack that nobody runs on, but by mistake. No locks, and nothing is paid where no stack was ever registered.

use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

use crate::os::{self, Pages};
use crate::regs;

/// A stack that is known to handlers until this is dropped.
///
/// Meant for the libraries that make coroutines, or for whoever hands them their stacks: register a stack when it is
/// allocated, and drop the registration before it is freed. It costs a store for each page of
/// 4 KiB, and no system call once the map is there; which thread runs on it, and when, need not be told. A walk that leaves a coroutine for the
/// stack it was resumed from goes on there where that is the thread's own or registered too.
///
/// # Examples
///
/// ```
/// use everprof_probe::stacks::StackRange;
/// let stack = vec![0_u8; 64 * 1024].into_boxed_slice();
/// let start = stack.as_ptr() as usize;
/// // SAFETY: the memory is freed after the registration has ended.
/// let registered = unsafe { StackRange::register(start..start + stack.len()) };
/// assert!(registered.is_some());
/// // a coroutine runs on the stack here
/// drop(registered);
/// drop(stack);
/// ```
#[derive(Debug)]
#[must_use = "dropping it takes the stack back"]
pub struct StackRange {
    word: u64,
}

impl StackRange {
    /// Registers the memory from the lowest to the highest address of a stack, without its guard pages; whole pages of
    /// 4 KiB are taken where it starts or ends inside one. From any thread, but not from a handler.
    ///
    /// `None` where the range is empty, reversed, longer than 1 GiB or not in user space, or where the kernel has no
    /// memory for the map, which takes 8 bytes for each page of a stack.
    ///
    /// # Safety
    ///
    /// The range must be readable until the value that is returned has been dropped; forgetting it promises that the
    /// range stays for ever.
    pub unsafe fn register(range: Range<usize>) -> Option<StackRange> {
        let first = range.start as u64 >> PAGE_BITS;
        let last = (range.end as u64).checked_sub(1)? >> PAGE_BITS;
        let pages = last.checked_sub(first)? + 1;
        if range.is_empty() || pages > MOST_PAGES || last >= 1 << (ADDRESS_BITS - PAGE_BITS) {
            return None;
        }
        let registered = StackRange { word: first << LEN_BITS | pages };
        for page in first..=last {
            // What was written before the kernel ran out of memory is taken back on drop.
            place_made(page)?.store(registered.word, Ordering::Release);
        }
        Some(registered)
    }
}

impl Drop for StackRange {
    fn drop(&mut self) {
        let (first, pages) = parts(self.word);
        for page in first..first + pages {
            if let Some(place) = place(page) {
                // A page that two stacks share belongs to the one that was registered last.
                let _ = place.compare_exchange(self.word, 0, Ordering::SeqCst, Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
        let mut round = 0_u32;
        while HOLDS.iter().any(|hold| hold.load(Ordering::SeqCst) == self.word) {
            round = round.saturating_add(1);
            if round < 1000 { core::hint::spin_loop() } else { os::pause() }
        }
    }
}

/// A registered stack that stays until this is dropped. For handlers.
#[derive(Debug)]
pub(crate) struct Held {
    hold: &'static AtomicU64,
    word: u64,
}

/// Gives back a hold that was left behind. Only for the thread that held it.
pub(crate) fn give_back(index: usize) {
    if let Some(hold) = HOLDS.get(index) {
        hold.store(0, Ordering::Release);
    }
}

impl Held {
    /// Which of the holds it is: a number below 64.
    pub(crate) fn index(&self) -> usize {
        (core::ptr::from_ref(self.hold).addr() - HOLDS.as_ptr().addr()) / size_of::<AtomicU64>()
    }

    /// Its readable memory.
    pub(crate) fn range(&self) -> Range<u64> {
        let (first, pages) = parts(self.word);
        first << PAGE_BITS..(first + pages) << PAGE_BITS
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold.store(0, Ordering::Release);
    }
}

/// Holds the registered stack that `address` lies in, if there is one. For handlers.
#[inline]
pub(crate) fn hold(address: u64) -> Option<Held> {
    if REGIONS.load(Ordering::Relaxed).is_null() { None } else { hold_registered(address) }
}

/// The word at `address`, if it lies in a registered stack. For handlers.
#[inline]
pub(crate) fn read(address: u64) -> Option<u64> {
    let held = hold(address)?;
    let last = address.checked_add(7)?;
    // SAFETY: all eight bytes lie in a stack that is held, and so readable.
    held.range().contains(&last).then(|| unsafe { regs::load(address) })
}

/// Counts a sample whose stack is neither the thread's own, nor its alternate one, nor registered. For handlers.
#[cold]
pub(crate) fn count_unknown() {
    UNKNOWN.fetch_add(1, Ordering::Relaxed);
}

/// How many samples were taken on stacks that nobody had registered, and have their leaf only, since the process began.
pub fn unknown() -> u64 {
    UNKNOWN.load(Ordering::Relaxed)
}

/// In the child of a fork: the handlers of threads that do not exist there hold nothing. Stacks stay registered, as
/// their memory stays.
pub fn after_fork() {
    for hold in &HOLDS {
        hold.store(0, Ordering::SeqCst);
    }
}

const PAGE_BITS: u32 = 12;
const ADDRESS_BITS: u32 = 48;
/// A region is 1 GiB of addresses, whose words lie together: stacks are neighbours of stacks.
const REGION_BITS: u32 = 30;
const REGIONS_MAX: usize = 1 << (ADDRESS_BITS - REGION_BITS);
const PAGES_OF_REGION: usize = 1 << (REGION_BITS - PAGE_BITS);
/// A stack's word: the number of its first page, and below it how many pages it has, which is not 0.
const LEN_BITS: u32 = 28;
const MOST_PAGES: u64 = 1 << 18;

/// The words of each region, made when the first stack in it is registered, and never given back.
static REGIONS: AtomicPtr<AtomicPtr<AtomicU64>> = AtomicPtr::new(core::ptr::null_mut());
/// The stacks that handlers are reading, as many at once as there are buffers for samples.
static HOLDS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static UNKNOWN: AtomicU64 = AtomicU64::new(0);

fn parts(word: u64) -> (u64, u64) {
    (word >> LEN_BITS, word & ((1 << LEN_BITS) - 1))
}

#[cold]
#[inline(never)]
fn hold_registered(address: u64) -> Option<Held> {
    let place = place(address >> PAGE_BITS)?;
    let word = place.load(Ordering::Acquire);
    if word == 0 {
        return None;
    }
    let free =
        |hold: &&AtomicU64| hold.compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed).is_ok();
    let (head, tail) = HOLDS.split_at(address as usize >> 14 & 63);
    let held = Held { hold: tail.iter().chain(head).find(free)?, word };
    fence(Ordering::SeqCst);
    // Once more, now that the hold can be seen: an owner that did not see it had taken the word away before.
    (place.load(Ordering::SeqCst) == word).then_some(held)
}

fn place(page: u64) -> Option<&'static AtomicU64> {
    let region = region(page, REGIONS.load(Ordering::Acquire))?.load(Ordering::Acquire);
    word_of(region, page)
}

fn region(page: u64, regions: *mut AtomicPtr<AtomicU64>) -> Option<&'static AtomicPtr<AtomicU64>> {
    let index = usize::try_from(page >> (REGION_BITS - PAGE_BITS)).ok()?;
    if regions.is_null() || index >= REGIONS_MAX {
        return None;
    }
    // SAFETY: the mapping has `REGIONS_MAX` zeroed pointers, which are valid ones, and is never given back.
    Some(unsafe { &*regions.wrapping_add(index) })
}

fn word_of(region: *mut AtomicU64, page: u64) -> Option<&'static AtomicU64> {
    if region.is_null() {
        return None;
    }
    // SAFETY: the mapping has `PAGES_OF_REGION` zeroed words, and is never given back.
    Some(unsafe { &*region.wrapping_add(page as usize % PAGES_OF_REGION) })
}

/// As [`place`], whose memory is made where there is none yet.
fn place_made(page: u64) -> Option<&'static AtomicU64> {
    let regions = made(&REGIONS, REGIONS_MAX * size_of::<AtomicPtr<AtomicU64>>())?;
    let region = made(region(page, regions)?, PAGES_OF_REGION * size_of::<AtomicU64>())?;
    word_of(region, page)
}

/// What `pointer` points to, mapped with `len` zeroed bytes if it points nowhere; of two threads at once, one does it.
fn made<T>(pointer: &AtomicPtr<T>, len: usize) -> Option<*mut T> {
    let known = pointer.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let pages = Pages::new(len)?;
    let start = pages.as_ptr().cast::<T>();
    match pointer.compare_exchange(core::ptr::null_mut(), start, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(pages.leak().as_ptr().cast()),
        Err(other) => Some(other),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{StackRange, hold, read};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::vec;

    fn register(memory: &[u64]) -> StackRange {
        let start = memory.as_ptr() as usize;
        // SAFETY: every test drops the registration before the memory.
        unsafe { StackRange::register(start..start + size_of_val(memory)) }.unwrap()
    }

    #[test]
    fn a_stack_is_known_from_its_registration_to_its_end() {
        let memory = vec![7_u64; 10_000];
        let start = memory.as_ptr() as u64;
        assert_eq!(read(start), None);
        let registered = register(&memory);
        for at in [start, start + 8, start + 79_992] {
            assert_eq!(read(at), Some(7));
        }
        let held = hold(start + 40_000).unwrap();
        assert!(held.range().start <= start && held.range().end >= start + 80_000);
        drop(held);
        drop(registered);
        assert_eq!(read(start), None);
        assert!(hold(start + 40_000).is_none());
    }

    #[test]
    fn a_word_that_reaches_past_the_end_is_refused() {
        let memory = vec![7_u64; 4096];
        let registered = register(&memory);
        let end = hold(memory.as_ptr() as u64).unwrap().range().end;
        assert_eq!(read(end - 7), None);
        assert_eq!(read(u64::MAX - 3), None);
        drop(registered);
    }

    #[test]
    fn what_is_no_stack_is_refused() {
        for range in [0..0, 4096..usize::MAX, 1 << 48..(1 << 48) + 4096, 1 << 40..(1 << 40) + (2 << 30)] {
            // SAFETY: a range that is refused is never read.
            assert!(unsafe { StackRange::register(range.clone()) }.is_none(), "{range:x?}");
        }
    }

    /// The owner comes back only when nobody reads any more; a reader that comes later finds nothing.
    #[test]
    fn the_end_waits_for_whoever_holds_it() {
        static GONE: AtomicBool = AtomicBool::new(false);
        let memory = vec![7_u64; 4096];
        let registered = register(&memory);
        let held = hold(memory.as_ptr() as u64 + 8).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                drop(registered);
                GONE.store(true, Ordering::SeqCst);
            });
            while hold(memory.as_ptr() as u64 + 8).is_some() {
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!GONE.load(Ordering::SeqCst));
            drop(held);
        });
        assert!(GONE.load(Ordering::SeqCst));
    }

    /// Readers on every page of stacks that come and go: what they read was registered at that moment.
    #[test]
    fn readers_and_owners_race() {
        let stacks: Vec<_> = (0..4).map(|_| vec![7_u64; 3000]).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for memory in &stacks {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        drop(register(memory));
                    }
                    done.store(true, Ordering::Relaxed);
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut at = 0;
                    while !done.load(Ordering::Relaxed) {
                        at = (at + 1013) % 3000;
                        for memory in &stacks {
                            let word = read(memory.as_ptr() as u64 + at * 8);
                            assert!(word.is_none_or(|word| word == 7));
                        }
                    }
                });
            }
        });
    }
}
