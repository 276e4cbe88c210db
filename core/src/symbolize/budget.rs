//! Big buffers, counted, so that reading debug information cannot hold more memory than it may.
//!
//! Used on everprof's own thread while one call of the symbolizer lasts. What is small and bounded otherwise (names,
//! answers, abbreviations of one unit) is not counted here.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use everprof_probe::os::Block;

use super::stats::Reason;

/// How many bytes may be held at one time, and how many are.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Rc<Counter>);

#[derive(Debug)]
struct Counter {
    limit: usize,
    held: Cell<usize>,
    peak: Cell<usize>,
    /// The last mapping that was given back, for the next one: units come one after the other.
    spare: RefCell<Option<Block>>,
}

/// A mapping larger than this goes back to the kernel at once.
const SPARE_LIMIT: usize = 4 << 20;

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Rc::new(Counter { limit, held: Cell::new(0), peak: Cell::new(0), spare: RefCell::new(None) }))
    }

    /// A buffer of `size` bytes, if they are left. Its content is anything: the caller fills it.
    pub(crate) fn buffer(&self, size: u64) -> Result<Buffer, Reason> {
        let counter = &self.0;
        let len = usize::try_from(size).map_err(|_| Reason::OverBudget)?;
        if let Some(spare) = counter.spare.take() {
            if len >= FROM_KERNEL && len <= spare.len() {
                return Ok(Buffer { bytes: Bytes::Kernel(spare), len, counter: counter.clone() });
            }
            counter.held.set(counter.held.get() - spare.len());
        }
        let held = counter.held.get().checked_add(len).filter(|&held| held <= counter.limit);
        let held = held.ok_or(Reason::OverBudget)?;
        let bytes = if len < FROM_KERNEL {
            Bytes::Heap(vec![0; len])
        } else {
            Bytes::Kernel(Block::new(len).ok_or(Reason::OverBudget)?)
        };
        counter.held.set(held);
        counter.peak.set(counter.peak.get().max(held));
        Ok(Buffer { bytes, len, counter: counter.clone() })
    }

    /// The most bytes that were held at one time.
    pub(crate) fn peak(&self) -> usize {
        self.0.peak.get()
    }
}

/// Bytes on a [`Budget`]; given back on drop.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Bytes,
    len: usize,
    counter: Rc<Counter>,
}

/// From this size on a buffer is a mapping of its own: what is freed to the heap may stay with the allocator, as the
/// host's memory.
const FROM_KERNEL: usize = 64 * 1024;

#[derive(Debug)]
enum Bytes {
    Heap(Vec<u8>),
    Kernel(Block),
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Heap(bytes) => bytes,
            Bytes::Kernel(block) => &block[..self.len],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.bytes {
            Bytes::Heap(bytes) => bytes,
            Bytes::Kernel(block) => &mut block[..self.len],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let give_back = |size: usize| self.counter.held.set(self.counter.held.get() - size);
        match std::mem::replace(&mut self.bytes, Bytes::Heap(Vec::new())) {
            Bytes::Heap(bytes) => give_back(bytes.len()),
            Bytes::Kernel(block) if block.len() > SPARE_LIMIT => give_back(block.len()),
            Bytes::Kernel(block) => {
                if let Some(other) = self.counter.spare.replace(Some(block)) {
                    give_back(other.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refuses_what_is_over_the_limit_and_takes_back() {
        let budget = Budget::new(100);
        let held = budget.buffer(60).unwrap();
        assert_eq!(budget.buffer(41).unwrap_err(), Reason::OverBudget);
        assert_eq!(budget.buffer(u64::MAX).unwrap_err(), Reason::OverBudget);
        drop(held);
        assert_eq!(budget.buffer(100).unwrap().len(), 100);
        assert_eq!(budget.peak(), 100);
    }

    #[test]
    fn the_spare_mapping_counts_until_it_is_gone() {
        let budget = Budget::new(300_000);
        drop(budget.buffer(200_000).unwrap());
        assert_eq!(budget.buffer(100_000).unwrap().len(), 100_000);
        assert_eq!(budget.0.held.get(), 200_000);
        assert_eq!(budget.buffer(300_000).unwrap().len(), 300_000);
        assert_eq!(budget.peak(), 300_000);
    }
}
