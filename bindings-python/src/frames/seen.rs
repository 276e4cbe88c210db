//! A code object as the handler sees it: what makes it that one, and what is copied of it. Async-signal-safe.
//!
//! Code objects die, and others take their addresses, of the same size and with names at the addresses of the old names. So a
//! code object is known by its address and its parts' addresses, and by what its names say: strings have a hash of their content
//! with them, which is there for most; of the others the content is read.

use super::codes::{Part, Seen, fold};
use super::layout::{self, Layout};
use super::raw::Piece;
use super::walker::{SHIM, UNNAMED, Walker};

/// Of a string without a hash, so many bytes are looked at.
const LOOKED_AT: u64 = 256;
/// Bytes of a string's head in every version.
const TEXT_HEAD: u64 = 40;
/// The hash of a string that nobody has asked for.
const NO_HASH: u64 = u64::MAX;

impl Walker {
    /// The number of the code object at `address`, of which a frame holds a reference; `None` where it is none.
    #[inline]
    pub(super) fn number(&self, address: u64) -> Option<u64> {
        let place = &self.layout.code_object;
        if address == 0 || address & 7 != 0 {
            return None;
        }
        // SAFETY: a frame holds a reference to it, and every object has a type.
        let head = unsafe { Piece::new(address, layout::SIZE + 8) };
        if head.word(layout::TYPE) != self.symbols.code_type {
            return None;
        }
        // SAFETY: a code object, which is as long as that.
        let code = unsafe { Piece::new(address, place.len) };
        let (name, file, lines) = (code.word(place.name), code.word(place.filename), code.word(place.lines));
        let first_line = code.half(place.first_line);
        if name == file && first_line == 0 {
            return Some(SHIM);
        }
        let parts = [name, file, lines, u64::from(first_line), head.word(layout::SIZE)];
        let mut key = parts.into_iter().fold(address, fold);
        key = fold(key, self.content(name));
        key = fold(key, self.content(file));
        let number = self.codes.number(key.max(1), || Some(self.see(code)));
        Some(number.unwrap_or(UNNAMED))
    }

    /// What stands for the content of a string.
    #[inline]
    fn content(&self, address: u64) -> u64 {
        if address == 0 || address & 7 != 0 {
            return 0;
        }
        // SAFETY: a code object holds a reference to it.
        let head = unsafe { Piece::new(address, TEXT_HEAD) };
        match head.word(layout::TEXT_HASH) {
            NO_HASH => self.unhashed(address),
            hash => hash,
        }
    }

    #[cold]
    fn unhashed(&self, address: u64) -> u64 {
        let part = self.text(address);
        let Some(piece) = part.piece else { return 0 };
        let words = part.len.min(LOOKED_AT) / 8;
        let ends = (0..words).map(|word| piece.word(word * 8));
        let rest = (words * 8..part.len.min(LOOKED_AT)).map(|at| u64::from(last(piece, at, part.len)));
        ends.chain(rest).fold(part.len, fold)
    }

    fn see(&self, code: Piece) -> Seen {
        let place = &self.layout.code_object;
        Seen {
            first_line: code.half(place.first_line),
            name: self.text(code.word(place.name)),
            file: self.text(code.word(place.filename)),
            lines: self.bytes(code.word(place.lines)),
        }
    }

    /// The characters of the string at `address`, to which a code object holds a reference.
    pub(super) fn text(&self, address: u64) -> Part {
        text(&self.layout, self.symbols.text_type, address)
    }

    fn bytes(&self, address: u64) -> Part {
        let nothing = Part { piece: None, len: 0, width: 1 };
        if address == 0 || address & 7 != 0 {
            return nothing;
        }
        // SAFETY: a code object holds a reference to it.
        let head = unsafe { Piece::new(address, layout::BYTES) };
        if head.word(layout::TYPE) != self.symbols.bytes_type {
            return nothing;
        }
        let len = head.word(layout::SIZE);
        // SAFETY: an object of bytes has so many of them there.
        let piece = unsafe { Piece::new(address + layout::BYTES, len) };
        Part { piece: Some(piece), len, width: 1 }
    }
}

/// The characters of a string, where it is one of the usual form.
pub(super) fn text(layout: &Layout, text_type: u64, address: u64) -> Part {
    let nothing = Part { piece: None, len: 0, width: 1 };
    if address == 0 || address & 7 != 0 {
        return nothing;
    }
    // SAFETY: who asks knows of a reference to it, and strings have such a head.
    let head = unsafe { Piece::new(address, TEXT_HEAD) };
    if head.word(layout::TYPE) != text_type {
        return nothing;
    }
    let state = head.half(layout::TEXT_STATE) >> layout.text.kind_shift;
    let (width, is_compact, is_ascii) = ((state & 7) as u8, state & 8 != 0, state & 16 != 0);
    if !is_compact || !matches!(width, 1 | 2 | 4) {
        return nothing;
    }
    let at = if is_ascii { layout.text.ascii } else { layout.text.compact };
    let len = head.word(layout::SIZE).saturating_mul(u64::from(width));
    // SAFETY: a compact string has its characters there.
    let piece = unsafe { Piece::new(address + at, len) };
    Part { piece: Some(piece), len, width }
}

/// The byte at `at`, where the word that it is in may reach beyond the end.
fn last(piece: Piece, at: u64, len: u64) -> u8 {
    let mut bytes = [0; 8];
    let start = at & !7;
    // SAFETY: the bytes from `start` to the end are a part of the piece.
    let tail = unsafe { Piece::new(piece.start() + start, len - start) };
    tail.copy(&mut bytes);
    bytes.get((at & 7) as usize).copied().unwrap_or(0)
}
