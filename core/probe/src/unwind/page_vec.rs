//! Vectors in pages of their own: this crate has no heap, and what a handler reads must not move.
//!
//! Room is reserved generously and costs only what is touched; a table grows into it in place, and gives the rest back
//! when it is complete. Made and grown off the handler; reading what was pushed is async-signal-safe.

use crate::{memory, os::Pages};

/// A vector that lives in pages of its own and never moves.
#[derive(Debug)]
pub(super) struct PageVec<T> {
    pages: Pages,
    len: usize,
    capacity: usize,
    values: core::marker::PhantomData<T>,
}

impl<T> PageVec<T> {
    /// An empty vector that can grow to `capacity` values.
    pub(super) fn with_capacity(capacity: usize) -> Option<Self> {
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        let pages = Pages::new(capacity.checked_mul(size_of::<T>())?)?;
        Some(Self { pages, len: 0, capacity, values: core::marker::PhantomData })
    }

    /// A vector of `len` zeros, which take no memory until they are written.
    ///
    /// # Safety
    ///
    /// All bits zero must be a value of `T`.
    pub(super) unsafe fn zeroed(len: usize) -> Option<Self> {
        let mut zeros = Self::with_capacity(len)?;
        zeros.len = len;
        Some(zeros)
    }

    /// Zeros that have memory from the start, so that no handler waits for it. Only right after [`PageVec::zeroed`].
    pub(super) fn touched(self) -> Self {
        self.pages.touch(0..self.len * size_of::<T>());
        self
    }

    /// Appends `value`; says false, and drops it, where the vector is full.
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.len >= self.capacity {
            return false;
        }
        let place = self.pages.as_ptr().cast::<T>().wrapping_add(self.len);
        // SAFETY: the place lies inside the mapping since `len < capacity`, and is aligned since pages are.
        unsafe { place.write(value) };
        self.len += 1;
        true
    }

    /// The values pushed so far.
    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: the first `len` values were written by `push` and live as long as the mapping.
        unsafe { core::slice::from_raw_parts(self.pages.as_ptr().cast::<T>(), self.len) }
    }

    /// The values pushed so far, to be changed in place.
    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` says that nobody else looks at them.
        unsafe { core::slice::from_raw_parts_mut(self.pages.as_ptr().cast::<T>(), self.len) }
    }

    /// Gives back the room behind the last value.
    pub(super) fn shrink_to_fit(&mut self) {
        self.pages.shrink(self.len * size_of::<T>());
        self.capacity = self.len;
    }
}

impl<T> Drop for PageVec<T> {
    fn drop(&mut self) {
        let values: *mut [T] = self.as_mut_slice();
        // SAFETY: the values are whole, and nobody sees them after this.
        unsafe { values.drop_in_place() };
    }
}

impl PageVec<u8> {
    /// A copy of `len` bytes of this process's memory at `address`, cut where they stop being readable.
    pub(super) fn copy_of(address: u64, len: usize) -> Option<Self> {
        let mut copy = Self::with_capacity(len)?;
        // SAFETY: the mapping has `len` zeroed bytes, which are values of type u8.
        let into = unsafe { core::slice::from_raw_parts_mut(copy.pages.as_ptr(), len) };
        copy.len = memory::copy(address, into);
        Some(copy)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::PageVec;

    #[test]
    fn a_vector_grows_to_its_capacity_and_no_further() {
        let mut vector = PageVec::<u32>::with_capacity(3).unwrap();
        assert!(vector.push(1) && vector.push(2) && vector.push(3));
        assert!(!vector.push(4));
        assert_eq!(vector.as_slice(), [1, 2, 3]);
    }

    #[test]
    fn shrinking_keeps_the_values() {
        let mut vector = PageVec::<u64>::with_capacity(1 << 20).unwrap();
        assert!((0..1000).all(|value| vector.push(value)));
        vector.shrink_to_fit();
        assert!(vector.as_slice().iter().copied().eq(0..1000));
        assert!(!vector.push(0));
    }

    #[test]
    fn a_copy_ends_where_memory_ends() {
        let source = [7_u8; 64];
        assert_eq!(PageVec::copy_of(source.as_ptr() as u64, 64).unwrap().as_slice(), source);
        assert!(PageVec::copy_of(8, 64).unwrap().as_slice().is_empty());
    }
}
