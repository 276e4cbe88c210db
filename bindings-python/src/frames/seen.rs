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
/// In an object: how many references there are, by the lower half of its first word.
const REFERENCES: u64 = 0;
/// Bytes of a string's head in every version.
pub(super) const TEXT_HEAD: u64 = 40;
/// The hash of a string that nobody has asked for.
pub(super) const NO_HASH: u64 = u64::MAX;

impl Walker {
    /// The number of the code object at `address`, of which a frame holds a reference; `None` where it is none.
    #[inline]
    pub(super) fn number(&self, address: u64) -> Option<u64> {
        if address == 0 || address & 7 != 0 {
            return None;
        }
        // SAFETY: a frame holds a reference to it, and every object has a type.
        let head = unsafe { Piece::new(address, layout::SIZE) };
        if head.word(layout::TYPE) != self.symbols.code_type {
            return None;
        }
        // One that is about to die: its names may be gone, and what its end calls is Python again.
        if head.half(REFERENCES) == 0 {
            return Some(UNNAMED);
        }
        // SAFETY: a code object, which is as long as that.
        let code = unsafe { Piece::new(address, self.layout.code_object.len) };
        let parts = self.parts(code);
        if parts.is_shim() {
            return Some(SHIM);
        }
        let key = parts.key(address, [parts.name, parts.file].map(|text| self.content(text)));
        let number = self.codes.number(key, || Some(self.see(code)));
        Some(number.unwrap_or(UNNAMED))
    }

    /// What a code object consists of.
    #[inline]
    pub(super) fn parts(&self, code: Piece) -> Parts {
        let place = &self.layout.code_object;
        Parts {
            name: code.word(place.name),
            file: code.word(place.filename),
            lines: code.word(place.lines),
            first_line: code.half(place.first_line),
            size: code.word(layout::SIZE),
        }
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
        part.piece.map_or(0, |piece| content(piece, part.len))
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

    pub(super) fn bytes(&self, address: u64) -> Part {
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

/// What makes a code object that one, beside its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) name: u64,
    pub(super) file: u64,
    pub(super) lines: u64,
    pub(super) first_line: u32,
    size: u64,
}

impl Parts {
    /// Whether it is code that nobody wrote: the interpreter calls `__init__` through it.
    #[inline]
    pub(super) fn is_shim(&self) -> bool {
        self.name == self.file && self.first_line == 0
    }

    /// The key, not 0, of the code object at `address` with a name and a file of this content.
    #[inline]
    pub(super) fn key(&self, address: u64, content: [u64; 2]) -> u64 {
        let Self { name, file, lines, first_line, size } = *self;
        let [name_content, file_content] = content;
        let words = [name, file, lines, u64::from(first_line), size, name_content, file_content];
        words.into_iter().fold(address, fold).max(1)
    }
}

/// What stands for the content of a string of `len` bytes that has no hash.
pub(super) fn content(text: Piece, len: u64) -> u64 {
    let looked_at = len.min(LOOKED_AT);
    let words = (0..looked_at / 8).map(|word| text.word(word * 8));
    let rest = (looked_at & !7..looked_at).map(|at| u64::from(text.last(at)));
    words.chain(rest).fold(len, fold)
}

/// The characters of a string, where it is one of the usual form.
pub(super) fn text(layout: &Layout, text_type: u64, address: u64) -> Part {
    const NOTHING: Part = Part { piece: None, len: 0, width: 1 };
    if address == 0 || address & 7 != 0 {
        return NOTHING;
    }
    // SAFETY: who asks knows of a reference to it, and strings have such a head.
    let head = unsafe { Piece::new(address, TEXT_HEAD) };
    let Some((at, len, width)) = characters(layout, text_type, head) else { return NOTHING };
    // SAFETY: a compact string has its characters there.
    let piece = unsafe { Piece::new(address + at, len) };
    Part { piece: Some(piece), len, width }
}

/// Where the characters of the string with this head lie in it, how many bytes they have together, and how many one of them; `None`
/// where it is no string of the usual form.
pub(super) fn characters(layout: &Layout, text_type: u64, head: Piece) -> Option<(u64, u64, u8)> {
    let state = head.half(layout::TEXT_STATE) >> layout.text.kind_shift;
    let (width, is_compact, is_ascii) = ((state & 7) as u8, state & 8 != 0, state & 16 != 0);
    if head.word(layout::TYPE) != text_type || !is_compact || !matches!(width, 1 | 2 | 4) {
        return None;
    }
    let at = if is_ascii { layout.text.ascii } else { layout.text.compact };
    Some((at, head.word(layout::SIZE).saturating_mul(u64::from(width)), width))
}
