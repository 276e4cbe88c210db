//! The allocator of a Rust program, with samples: [`Allocator`] around any other.
//!
//! Runs on the program's threads, in place of its allocator, before `main` and after it. It adds a subtraction to an
//! allocation and a load to a release (`heap`), never allocates, and passes on whatever it is asked as it is asked it.

use core::alloc::{GlobalAlloc, Layout};

// For the default's name alone: nothing of std is called.
extern crate std;
pub use std::alloc::System;

use crate::heap;

/// An allocator that samples what goes through it on its way to `A`.
///
/// A `realloc` counts as a new allocation of the whole new size, whether it moves the block or not, and whether it grows or
/// shrinks; a block that was sampled lives no more from then on, and has a new chance by its new size. What fails is no
/// sample, and one of no bytes is never one.
///
/// ```
/// use everprof_probe::alloc::Allocator;
///
/// #[global_allocator]
/// static ALLOCATOR: Allocator = Allocator::new();
/// # fn main() { assert_eq!(vec![1; 1000].len(), 1000); }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator<A = System>(A);

impl Allocator<System> {
    /// Around the allocator of the system: `malloc` of the C library.
    pub const fn new() -> Self {
        Self(System)
    }
}

impl<A> Allocator<A> {
    /// Around any other, such as jemalloc's or mimalloc's.
    ///
    /// ```
    /// use everprof_probe::alloc::{Allocator, System};
    /// static ALLOCATOR: Allocator<System> = Allocator::with(System);
    /// ```
    pub const fn with(inner: A) -> Self {
        Self(inner)
    }
}

/// Counts the bytes, and allocates them by `allocate`. Before and not after, so that the way of nearly all allocations ends
/// with a jump to the allocator; that some are counted which then fail takes no chance from the others.
#[inline(always)]
fn counted(bytes: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    if !heap::is_counted_below() && heap::count(bytes) {
        let block = allocate();
        heap::allocated(block as u64, bytes, 0);
        return block;
    }
    allocate()
}

// SAFETY: every call is passed on as it came, and its result returned as it is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Allocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        counted(layout.size(), || unsafe { self.0.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the caller's promise.
        counted(layout.size(), || unsafe { self.0.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if heap::may_hold(block as u64)
            && let Some(handle) = heap::take_out(block as u64)
        {
            heap::gone(handle);
        }
        // SAFETY: by the caller's promise.
        unsafe { self.0.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Before: from then on, the address may be that of another block.
        let known = if heap::may_hold(block as u64) { heap::take_out(block as u64) } else { None };
        // SAFETY: by the caller's promise.
        let moved = unsafe { self.0.realloc(block, layout, new_size) };
        if let Some(handle) = known {
            if moved.is_null() { heap::put_back(block as u64, handle) } else { heap::gone(handle) }
        }
        if !heap::is_counted_below() && heap::count(new_size) {
            heap::allocated(moved as u64, new_size, 0);
        }
        moved
    }
}
