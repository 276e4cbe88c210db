//! Reads of the interpreter's memory, each inside of a piece that somebody has vouched for. Async-signal-safe.

/// Memory that can be read, as who made it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    start: u64,
    len: u64,
}

impl Piece {
    /// Of `len` bytes from `start` on, which is a multiple of 8.
    ///
    /// # Safety
    ///
    /// The bytes must be readable for as long as the piece and its copies are read from.
    pub(super) const unsafe fn new(start: u64, len: u64) -> Self {
        Self { start, len }
    }

    /// Where it begins.
    pub(super) const fn start(self) -> u64 {
        self.start
    }

    /// The word at `offset`; 0 outside of the piece, as what is not there is written.
    #[inline]
    pub(super) fn word(self, offset: u64) -> u64 {
        if offset.saturating_add(8) > self.len || offset & 7 != 0 {
            return 0;
        }
        // SAFETY: the word lies in the piece, which can be read, and is aligned as its start is.
        unsafe { core::ptr::with_exposed_provenance::<u64>((self.start + offset) as usize).read_volatile() }
    }

    /// The 32 bits at `offset`.
    #[inline]
    pub(super) fn half(self, offset: u64) -> u32 {
        let word = self.word(offset & !7);
        (word >> ((offset & 4) * 8)) as u32
    }

    /// The byte at `offset`.
    #[inline]
    pub(super) fn byte(self, offset: u64) -> u8 {
        let word = self.word(offset & !7);
        (word >> ((offset & 7) * 8)) as u8
    }

    /// The byte at `offset`, where no whole word may be left; 0 outside of the piece.
    pub(super) fn last(self, offset: u64) -> u8 {
        if offset >= self.len {
            return 0;
        }
        let byte = core::ptr::with_exposed_provenance::<u8>((self.start + offset) as usize);
        // SAFETY: the byte lies in the piece, which can be read.
        unsafe { byte.read_volatile() }
    }

    /// Copies what lies from the start on to `into`, and says how many bytes there were.
    pub(super) fn copy(self, into: &mut [u8]) -> usize {
        let len = into.len().min(self.len as usize);
        let from = core::ptr::with_exposed_provenance::<u8>(self.start as usize);
        // SAFETY: so many bytes lie in the piece, which can be read, and in `into`; nobody changes what is copied.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), len) };
        len
    }
}
