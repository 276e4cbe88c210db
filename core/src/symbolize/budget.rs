//! Big buffers, counted, so that reading debug information cannot hold more memory than it may.
//!
//! Used on everprof's own thread while one call of the symbolizer lasts. What is small and bounded otherwise (names,
//! answers, abbreviations of one unit) is not counted here.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::stats::Reason;

/// How many bytes may be held at one time, and how many are.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Rc<Counter>);

#[derive(Debug)]
struct Counter {
    limit: usize,
    held: Cell<usize>,
    peak: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Rc::new(Counter { limit, held: Cell::new(0), peak: Cell::new(0) }))
    }

    /// A zeroed buffer of `size` bytes, if they are left.
    pub(crate) fn buffer(&self, size: u64) -> Result<Buffer, Reason> {
        let counter = &self.0;
        let held = usize::try_from(size).ok().and_then(|size| counter.held.get().checked_add(size));
        let held = held.filter(|&held| held <= counter.limit).ok_or(Reason::OverBudget)?;
        counter.held.set(held);
        counter.peak.set(counter.peak.get().max(held));
        Ok(Buffer { bytes: vec![0; size as usize], counter: counter.clone() })
    }

    /// The most bytes that were held at one time.
    pub(crate) fn peak(&self) -> usize {
        self.0.peak.get()
    }
}

/// Bytes on a [`Budget`]; given back on drop.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    counter: Rc<Counter>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.counter.held.set(self.counter.held.get() - self.bytes.len());
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
}
