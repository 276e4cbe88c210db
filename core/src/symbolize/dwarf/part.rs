//! One debug section, read through a small window: from the file, or from what was inflated of it so far.

use std::rc::Rc;

use super::cursor::Cursor;
use crate::symbolize::budget::{Budget, Buffer};
use crate::symbolize::elf::{Bytes, Elf};
use crate::symbolize::inflate::{self, Inflating};
use crate::symbolize::stats::Reason;

const TEXT_LIMIT: usize = 32 * 1024;

/// One section, or a stretch of one.
#[derive(Debug)]
pub(crate) struct Part {
    source: Source,
    /// Where it begins in the source.
    offset: u64,
    size: u64,
    /// How much to read at a time.
    step: usize,
    /// The bytes at `start`.
    window: Vec<u8>,
    start: u64,
}

#[derive(Clone, Debug)]
enum Source {
    File(Rc<Bytes>),
    Inflating(Rc<Inflating>),
}

impl Source {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Reason> {
        match self {
            Self::File(bytes) => bytes.read(offset, into),
            Self::Inflating(section) => section.read(offset, into),
        }
    }
}

impl Clone for Part {
    /// The same section, with a window of its own.
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), window: Vec::new(), start: 0, ..*self }
    }
}

impl Part {
    /// The section `.debug_<name>` of a file, empty where there is none.
    pub(crate) fn open(elf: &Elf, name: &str, step: usize, budget: &Budget) -> Result<Self, Reason> {
        let source = Source::File(elf.bytes.clone());
        let mut part = Self { source, offset: 0, size: 0, step, window: Vec::new(), start: 0 };
        let Some(section) = inflate::debug_section(elf, name) else { return Ok(part) };
        if let Some(inflating) = Inflating::begin(elf, section, budget)? {
            part.size = inflating.size();
            part.source = Source::Inflating(Rc::new(inflating));
            return Ok(part);
        }
        (part.offset, part.size) = (section.offset, section.size);
        if part.offset.checked_add(part.size).is_none_or(|end| end > elf.bytes.len()) {
            return Err(Reason::Malformed);
        }
        Ok(part)
    }

    /// A section that is all of `content`.
    #[cfg(test)]
    pub(super) fn of_memory(content: &[u8]) -> Self {
        let source = Source::File(Rc::new(Bytes::Memory(content.to_vec())));
        Self { source, offset: 0, size: content.len() as u64, step: 64, window: Vec::new(), start: 0 }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The same section without anything in it.
    pub(crate) fn empty(&self) -> Self {
        Self { size: 0, ..self.clone() }
    }

    /// `size` bytes from `offset` on, as a section of their own.
    pub(crate) fn stretch(&self, offset: u64, size: u64) -> Result<Self, Reason> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(Reason::Malformed);
        }
        Ok(Self { offset: self.offset + offset, size, ..self.clone() })
    }

    /// The bytes from `offset`: at least `want` of them, or all that there are until the end.
    pub(crate) fn at(&mut self, offset: u64, want: usize) -> Result<&[u8], Reason> {
        let left = self.size.checked_sub(offset).ok_or(Reason::Malformed)?;
        let want = (want as u64).min(left);
        let held = self.start + self.window.len() as u64;
        if offset < self.start || offset + want > held {
            self.window.resize(left.min(want.max(self.step as u64)) as usize, 0);
            self.start = offset;
            if let Err(reason) = self.source.read(self.offset + offset, &mut self.window) {
                self.window.clear();
                return Err(reason);
            }
        }
        self.window.get((offset - self.start) as usize..).ok_or(Reason::Malformed)
    }

    /// `size` bytes from `offset` in a buffer of their own.
    pub(crate) fn copy(&self, offset: u64, size: u64, budget: &Budget) -> Result<Buffer, Reason> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(Reason::Malformed);
        }
        let mut buffer = budget.buffer(size)?;
        self.source.read(self.offset + offset, &mut buffer)?;
        Ok(buffer)
    }

    /// The number of `size` bytes at `offset`.
    pub(crate) fn word(&mut self, offset: u64, size: u8) -> Result<u64, Reason> {
        Cursor::new(self.at(offset, usize::from(size))?).word(size)
    }

    /// The text at `offset`.
    pub(crate) fn text(&mut self, offset: u64) -> Result<String, Reason> {
        let mut size = 256;
        loop {
            let bytes = self.at(offset, size)?;
            if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
                return Ok(String::from_utf8_lossy(&bytes[..end]).into_owned());
            }
            if bytes.len() < size || size >= TEXT_LIMIT {
                return Err(Reason::Malformed);
            }
            size *= 4;
        }
    }
}
