//! Code objects that may be gone: of the frame that is being left.
//!
//! A frame holds a reference to its code, and so whatever the code refers to can be read. But CPython 3.11.0 clears the frame of a
//! function that was called by the loop itself while it is still the innermost one, and only then goes on to the one before: for
//! a moment the reference may have been the last (3.11.1 goes on first). Code of more than a few pages is a mapping of its own then, which ends with a
//! call of the kernel's, and signals arrive at the ends of such calls. In other versions the order of these steps is the
//! compiler's while the loop is at work. So of the innermost frame the kernel is asked whether its code, and what is read of
//! it, is there. Async-signal-safe.

use everprof_probe::memory::is_readable;

use super::codes::{MOST_FILE, MOST_LINES, MOST_NAME, Part};
use super::layout;
use super::raw::Piece;
use super::seen::TEXT_HEAD;
use super::walker::Walker;

/// Bytes of a page, at least.
const PAGE: u64 = 4096;

impl Walker {
    /// Whether all that a handler may read of the code object at `address` is there; true where there is no code object, of which
    /// nothing is read.
    pub(super) fn is_there(&self, address: u64) -> bool {
        let mut asked = Asked::default();
        let len = self.layout.code_object.len;
        if address & 7 != 0 || !asked.is_there(address, len) {
            return false;
        }
        // SAFETY: the kernel has said that it can be read, and its only owner is this thread, which is interrupted.
        let code = unsafe { Piece::new(address, len) };
        if code.word(layout::TYPE) != self.symbols.code_type {
            return true;
        }
        let parts = self.parts(code);
        let texts = [(parts.name, MOST_NAME), (parts.file, MOST_FILE)];
        texts.into_iter().all(|(text, most)| asked.has(text, TEXT_HEAD, most, || self.text(text)))
            && asked.has(parts.lines, layout::BYTES, MOST_LINES, || self.bytes(parts.lines))
    }
}

/// What the kernel was asked.
#[derive(Default)]
struct Asked {
    /// The pages that were there last.
    pages: [u64; 2],
}

impl Asked {
    /// Whether an object is there: its head, and of its content, which `part` finds, at most so many bytes.
    fn has(&mut self, object: u64, head: u64, most: u64, part: impl FnOnce() -> Part) -> bool {
        // What is no object is not read.
        if object == 0 || object & 7 != 0 {
            return true;
        }
        self.is_there(object, head) && {
            let Part { piece, len, .. } = part();
            piece.is_none_or(|piece| self.is_there(piece.start(), len.min(most)))
        }
    }

    fn is_there(&mut self, start: u64, len: u64) -> bool {
        let Some(last) = start.checked_add(len.max(1) - 1) else { return false };
        let (mut page, end) = (start / PAGE, last / PAGE);
        while page <= end {
            if !self.pages.contains(&page) {
                if !is_readable(page * PAGE) {
                    return false;
                }
                self.pages = [page, self.pages[0]];
            }
            page += 1;
        }
        true
    }
}
