//! What the C library keeps in a thread's control block: the thread's id and the bounds of its stack.
//!
//! The handler needs both for a thread it has never seen, without a system call. The C library has them in its private
//! `struct pthread`, at offsets from the thread pointer that differ between versions, so they are not compiled in but
//! learnt at start: two threads know their own id and stack, and where both find them at one offset, that is it
//! (libthread_db rests on the same fields). glibc keeps the start of a stack, its length and that of its guard; musl its
//! end and its length, and of the main thread nothing. Where nothing is found (another C library), the handler has no
//! bounds for threads and takes the leaf frame alone, and [`learn`] says so.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use crate::{memory, os, regs};

/// How far from the thread pointer the block may reach, in either direction: glibc's is some 2,300 bytes.
const REACH: usize = 4096;

/// Offsets from the thread pointer; 0 while unknown (at 0 glibc keeps the pointer to the block itself).
static TID: AtomicI32 = AtomicI32::new(0);
static STACK: AtomicI32 = AtomicI32::new(0);
/// What lies at [`STACK`]: the end of the stack and its length without the guard, as musl has it, instead of its start,
/// its length, and the size of the guard at the low end.
static FROM_END: AtomicBool = AtomicBool::new(false);
/// Where the main thread's stack ends, for a C library that does not keep it.
static MAIN_END: AtomicU64 = AtomicU64::new(0);
/// How far the main thread's stack may reach down from its end: its bounds are not fixed, its limit is.
static MAIN_LIMIT: AtomicU64 = AtomicU64::new(0);
/// Above all frames of the main thread.
static MAIN_FRAMES: AtomicU64 = AtomicU64::new(0);

/// What a thread knows of itself: the key to find the same things in its block.
#[derive(Clone, Debug)]
pub struct Facts {
    pointer: u64,
    tid: u32,
    stack: Range<u64>,
}

impl Facts {
    /// Those of the calling thread. Not for handlers.
    pub fn here() -> Option<Facts> {
        Some(Facts { pointer: regs::thread_pointer(), tid: os::gettid(), stack: os::stack()? })
    }
}

/// Learns the offsets from the facts of two threads that both live, and returns whether both were found.
pub fn learn(one: &Facts, other: &Facts) -> bool {
    let (mut first, mut second) = ([0; 2 * REACH], [0; 2 * REACH]);
    // Only whole copies are compared: where a block ends near unmapped memory, the part read is on the near side.
    let first = (read(one, &mut first), one);
    let second = (read(other, &mut second), other);
    let offset = |is: &dyn Fn(&[u8], i32, &Facts) -> bool| {
        let mut offsets = (-(REACH as i32)..REACH as i32).step_by(4).filter(|offset| *offset != 0);
        offsets.find(|&offset| [first, second].iter().all(|(block, facts)| is(block, offset, facts)))
    };
    let tid = offset(&|block, offset, facts| u32_at(block, offset) == Some(facts.tid));
    let from_start = offset(&|block, offset, facts| {
        offset % 8 == 0 && stack_at(block, offset).is_some_and(|stack| describes(&stack, facts))
    });
    let from_end = || offset(&|block, offset, facts| offset % 8 == 0 && ends_at(block, offset, facts));
    let stack = from_start.or_else(from_end);
    FROM_END.store(from_start.is_none(), Ordering::Relaxed);
    MAIN_END.store(os::main_stack_end(), Ordering::Relaxed);
    MAIN_FRAMES.store(os::main_frames_end(), Ordering::Relaxed);
    MAIN_LIMIT.store(os::stack_limit(), Ordering::Relaxed);
    TID.store(tid.unwrap_or(0), Ordering::Release);
    STACK.store(stack.unwrap_or(0), Ordering::Release);
    tid.is_some() && stack.is_some()
}

/// The calling thread's id; 0 where unknown. For handlers.
pub fn tid() -> u32 {
    match TID.load(Ordering::Acquire) {
        0 => 0,
        // SAFETY: at this offset two threads of this C library kept their id, so this thread's block has it too.
        offset => unsafe { (at(offset) as *const u32).read_volatile() },
    }
}

/// The id of the thread whose pointer is `pointer`, as [`regs::thread_pointer`] tells; `None` where there is no such thread, or its
/// id is unknown. Off the handler.
pub fn tid_of(pointer: u64) -> Option<u32> {
    let offset = Some(TID.load(Ordering::Acquire)).filter(|offset| *offset != 0)?;
    let mut tid = [0; 4];
    let read = memory::copy(pointer.wrapping_add_signed(i64::from(offset)), &mut tid);
    (read == tid.len()).then_some(u32::from_ne_bytes(tid))
}

/// The bounds of the calling thread's own stack, without its guard; empty where unknown. For handlers.
pub fn stack() -> Range<u64> {
    let offset = STACK.load(Ordering::Acquire);
    if offset == 0 {
        return 0..0;
    }
    // SAFETY: at this offset two threads of this C library kept the start of their stack, or its end.
    let start = unsafe { (at(offset) as *const u64).read_volatile() };
    // SAFETY: and its length in the next word.
    let len = unsafe { (at(offset + 8) as *const u64).read_volatile() };
    if FROM_END.load(Ordering::Relaxed) {
        let main = MAIN_END.load(Ordering::Relaxed);
        let (end, len) = if start == 0 { (main, MAIN_LIMIT.load(Ordering::Relaxed)) } else { (start, len) };
        return end.saturating_sub(len)..end;
    }
    let end = start.wrapping_add(len);
    if start == 0 {
        return end.saturating_sub(MAIN_LIMIT.load(Ordering::Relaxed))..end;
    }
    // SAFETY: and the size of its guard, at its low end, in the word after that.
    let guard = unsafe { (at(offset + 16) as *const u64).read_volatile() };
    start.saturating_add(guard)..end
}

/// Of a stack with these bounds, where frames end: that of the main thread has the program's arguments above them. For handlers.
pub fn frames_end(stack: &Range<u64>) -> u64 {
    let main = MAIN_FRAMES.load(Ordering::Relaxed);
    if stack.contains(&main) { main } else { stack.end }
}

fn at(offset: i32) -> u64 {
    regs::thread_pointer().wrapping_add_signed(i64::from(offset))
}

/// The block around the thread pointer, which is the middle of the copy; bytes that cannot be read are zeros.
fn read<'b>(facts: &Facts, block: &'b mut [u8; 2 * REACH]) -> &'b [u8] {
    let (low, high) = block.split_at_mut(REACH);
    // Page by page, so that an unmapped page hides itself only.
    for (half, start) in [(low, facts.pointer.wrapping_sub(REACH as u64)), (high, facts.pointer)] {
        let to_page_end = (4096 - start % 4096) as usize;
        let (head, tail) = half.split_at_mut(to_page_end.min(REACH));
        memory::copy(start, head);
        memory::copy(start.wrapping_add(to_page_end as u64), tail);
    }
    block
}

fn u32_at(block: &[u8], offset: i32) -> Option<u32> {
    let start = (REACH as i32 + offset) as usize;
    Some(u32::from_ne_bytes(block.get(start..start + 4)?.try_into().ok()?))
}

fn u64_at(block: &[u8], offset: i32) -> Option<u64> {
    let start = (REACH as i32 + offset) as usize;
    Some(u64::from_ne_bytes(block.get(start..start + 8)?.try_into().ok()?))
}

fn stack_at(block: &[u8], offset: i32) -> Option<Range<u64>> {
    let (start, len) = (u64_at(block, offset)?, u64_at(block, offset + 8)?);
    let guard = if start == 0 { 0 } else { u64_at(block, offset + 16)? };
    (len != 0).then(|| start.wrapping_add(guard)..start.wrapping_add(len))
}

/// Whether three words of a thread's block - start, length, guard - are the stack of a thread with these facts. The
/// main thread's are 0 and the address where the process's arguments begin.
fn describes(block: &Range<u64>, facts: &Facts) -> bool {
    const ARGUMENTS_MAX: u64 = 16 << 20;
    let stack = &facts.stack;
    if facts.tid == os::getpid() {
        return block.start == 0 && stack.contains(&block.end) && stack.end - block.end < ARGUMENTS_MAX;
    }
    block == stack
}

/// Whether two words of a thread's block - end, length - are the stack of a thread with these facts. Those of the main
/// thread are 0.
fn ends_at(block: &[u8], offset: i32, facts: &Facts) -> bool {
    let words = u64_at(block, offset).zip(u64_at(block, offset + 8));
    let expected = if facts.tid == os::getpid() {
        (0, 0)
    } else {
        (facts.stack.end, facts.stack.end - facts.stack.start)
    };
    words == Some(expected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_third_thread_finds_what_two_have_taught() {
        let one = Facts::here().unwrap();
        let (to_main, facts) = std::sync::mpsc::channel();
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            to_main.send(Facts::here().unwrap()).unwrap();
            let _ = until_done.recv();
        });
        assert!(learn(&one, &facts.recv().unwrap()));
        drop(done);
        other.join().unwrap();
        let builder = std::thread::Builder::new().stack_size(300_000);
        builder
            .spawn(|| {
                assert_eq!(tid(), os::gettid());
                let (found, known) = (stack(), Facts::here().unwrap());
                assert_eq!(found, known.stack, "the guard is left out");
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
