//! The sampled blocks that live: found by address when they are freed, and by handle when our thread asks for them.
//!
//! Each `free` of the program asks whether its block is one of them, and nearly none is. So the first question is a load:
//! one byte says how many sampled blocks there are in a bucket, and most often it is 0. The byte of an address is near
//! that of its neighbours, so that the bytes which a thread asks for stay in its cache as the blocks do.
//!
//! A block lies in one of a few slots from its bucket's first on, so that to remove it leaves nothing behind. Nobody
//! waits: a slot is taken and left by one compare-and-swap. A block is taken out before its memory is given back, since
//! its address may be somebody else's right after.
//!
//! A handle is the slot and how often that was taken. So our thread, which remembers of each sampled block the handle,
//! needs no word of its end to know that it is gone.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Buckets, each with a byte that says how many blocks there are in it.
const BUCKETS: usize = 32 * 1024;
/// Slots for each bucket, on the average.
const SLOTS_OF_BUCKET: usize = 2;
/// The slots in which a block may lie, from the first of its bucket on: two lines of memory.
const WINDOW: usize = 16;
const SLOTS: usize = BUCKETS * SLOTS_OF_BUCKET + WINDOW;

static COUNTS: [AtomicU8; BUCKETS] = [const { AtomicU8::new(0) }; BUCKETS];
/// In place of an address: the slot is being taken.
const TAKEN: u64 = 1;

/// The addresses of blocks; 0 where a slot is free.
static BLOCKS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
/// How often each slot was taken.
static TURNS: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// How many blocks there is room for, about.
pub const ROOM: u32 = (BUCKETS * SLOTS_OF_BUCKET) as u32;

/// A block that was put in: its slot, and the slot's turn. Never 0.
pub type Handle = u64;

/// Whether there may be a block at `address`: false for nearly all that there is not.
#[inline(always)]
pub fn may_hold(address: u64) -> bool {
    COUNTS.get(bucket(address)).is_some_and(|count| count.load(Ordering::Relaxed) != 0)
}

/// Puts a block in that nobody else knows yet. None where there is no room for it.
pub(super) fn insert(address: u64) -> Option<Handle> {
    let bucket = bucket(address);
    // Before it can be found, so that nobody finds one more than was counted.
    COUNTS.get(bucket)?.fetch_add(1, Ordering::Relaxed);
    for (slot, block) in window(bucket) {
        if take(block) {
            // Before there is an address: whoever had the slot before must not take this one for his.
            let turn = TURNS.get(slot)?.fetch_add(1, Ordering::Release).wrapping_add(1);
            block.store(address, Ordering::Release);
            COUNT.fetch_add(1, Ordering::Relaxed);
            return Some(handle(slot, turn));
        }
    }
    COUNTS.get(bucket)?.fetch_sub(1, Ordering::Relaxed);
    None
}

/// Takes the block at `address` out, where there is one. Called before its memory is given back, by whoever does that.
pub(super) fn remove(address: u64) -> Option<Handle> {
    // C may give back nothing, which is what free slots hold.
    if address <= TAKEN {
        return None;
    }
    let bucket = bucket(address);
    for (slot, block) in window(bucket) {
        if block.load(Ordering::Relaxed) == address {
            // Before the slot may be another's.
            let turn = TURNS.get(slot)?.load(Ordering::Acquire);
            if block.compare_exchange(address, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                COUNTS.get(bucket)?.fetch_sub(1, Ordering::Relaxed);
                COUNT.fetch_sub(1, Ordering::Relaxed);
                return Some(handle(slot, turn));
            }
        }
    }
    None
}

/// Puts a block back that was just removed and has not been given back after all. False where its slot was taken meanwhile:
/// it is no longer followed then.
pub(super) fn restore(address: u64, handle: Handle) -> bool {
    let (bucket, slot) = (bucket(address), slot_of(handle));
    let (Some(count), Some(block), Some(turn)) = (COUNTS.get(bucket), BLOCKS.get(slot), TURNS.get(slot))
    else {
        return false;
    };
    count.fetch_add(1, Ordering::Relaxed);
    if take(block) {
        if turn.load(Ordering::Acquire) == handle as u32 {
            block.store(address, Ordering::Release);
            COUNT.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        block.store(0, Ordering::Release);
    }
    count.fetch_sub(1, Ordering::Relaxed);
    false
}

/// Takes out a block that lives, if it still does: nobody is to be told of its end. Our thread.
pub fn let_go(handle: Handle) {
    let slot = slot_of(handle);
    let (Some(block), Some(turn)) = (BLOCKS.get(slot), TURNS.get(slot)) else { return };
    let address = block.load(Ordering::Acquire);
    // Whoever gives it back, or takes the slot for another one, is first, or comes too late.
    if address > TAKEN
        && turn.load(Ordering::Acquire) == handle as u32
        && block.compare_exchange(address, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        && let Some(count) = COUNTS.get(bucket(address))
    {
        count.fetch_sub(1, Ordering::Relaxed);
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the block of a handle is still there. Any thread.
pub fn lives(handle: Handle) -> bool {
    let slot = slot_of(handle);
    let (Some(block), Some(turn)) = (BLOCKS.get(slot), TURNS.get(slot)) else { return false };
    block.load(Ordering::Acquire) > TAKEN && turn.load(Ordering::Acquire) == handle as u32
}

/// How many blocks there are.
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

/// Takes all blocks out. Where others insert and remove meanwhile, theirs may stay or go; none is found twice.
pub fn forget() {
    for block in &BLOCKS {
        let address = block.load(Ordering::Relaxed);
        if address > TAKEN {
            remove(address);
        }
    }
}

/// Forgets everything, what threads that do not exist here were in the middle of as well. In a fork's child.
pub fn after_fork() {
    // What is zero already is left alone, which spares the child copies of pages.
    for block in BLOCKS.iter().filter(|block| block.load(Ordering::Relaxed) != 0) {
        block.store(0, Ordering::Relaxed);
    }
    for count in COUNTS.iter().filter(|count| count.load(Ordering::Relaxed) != 0) {
        count.store(0, Ordering::Relaxed);
    }
    COUNT.store(0, Ordering::Relaxed);
}

fn take(block: &AtomicU64) -> bool {
    block.load(Ordering::Relaxed) == 0
        && block.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Neighbours within 256 bytes share a bucket, and those within a page have their buckets side by side. Blocks of their
/// own pages differ in higher bits only, which are folded in.
#[inline(always)]
fn bucket(address: u64) -> usize {
    (address >> 8 ^ address >> 17) as usize % BUCKETS
}

fn window(bucket: usize) -> impl Iterator<Item = (usize, &'static AtomicU64)> {
    let start = bucket * SLOTS_OF_BUCKET;
    let slots = BLOCKS.get(start..start + WINDOW).unwrap_or_default();
    slots.iter().enumerate().map(move |(index, block)| (start + index, block))
}

/// The slot plus one, so that no handle is 0.
fn handle(slot: usize, turn: u32) -> Handle {
    (slot as u64 + 1) << 32 | u64::from(turn)
}

fn slot_of(handle: Handle) -> usize {
    ((handle >> 32) as usize).wrapping_sub(1)
}
