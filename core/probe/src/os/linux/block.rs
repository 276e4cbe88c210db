//! A block of bytes straight from the kernel, safe to use, and given back to the kernel on drop.
//!
//! For everprof's own thread: what a symbolizer reads comes in pieces of megabytes for a fraction of a second each
//! minute. From the heap they would stay in an arena of the allocator, as the host's memory, for good.

use core::ops::{Deref, DerefMut};

use super::pages::Pages;

/// Zeroed bytes in an anonymous mapping of their own. Untouched pages cost nothing.
///
/// ```
/// use everprof_probe::os::Block;
/// let mut block = Block::new(10_000).unwrap();
/// block[9_999] = 7;
/// assert_eq!((block.len(), block[0], block[9_999]), (10_000, 0, 7));
/// ```
#[derive(Debug)]
pub struct Block(Pages);

impl Block {
    /// Maps `len` bytes (at least one page); `None` where the kernel refuses.
    pub fn new(len: usize) -> Option<Self> {
        Pages::new(len).map(Self)
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `len` readable bytes, zeroed by the kernel, and lives as long as `self`, which alone
        // hands out its address.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the bytes are writable, and `&mut self` says that nobody else looks at them.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.len()) }
    }
}
