//! Compressed debug sections: the ELF standard's and the older `.zdebug_*`.

use std::io::Read;

use super::budget::{Budget, Buffer};
use super::elf::{Bytes, Elf, Section};
use super::header::{le32, le64};
use super::stats::Reason;

const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;
const CHDR: u64 = 24;

/// The section `.debug_<name>` under one of the names it may have.
pub(crate) fn debug_section<'a>(elf: &'a Elf, name: &str) -> Option<&'a Section> {
    elf.section(&format!(".debug_{name}")).or_else(|| elf.section(&format!(".zdebug_{name}")))
}

/// The content of a compressed section; None where it is not compressed.
pub(crate) fn inflate(elf: &Elf, section: &Section, budget: &Budget) -> Result<Option<Buffer>, Reason> {
    let (size, header) = if section.flags & SHF_COMPRESSED != 0 {
        let header = elf.bytes.take(section.offset, CHDR)?;
        if le32(&header, 0) != ELFCOMPRESS_ZLIB {
            return Err(Reason::Unsupported);
        }
        (le64(&header, 8), CHDR)
    } else if section.name.starts_with(".zdebug_") {
        let header = elf.bytes.take(section.offset, 12)?;
        let size =
            header.strip_prefix(b"ZLIB").and_then(|size| size.first_chunk()).ok_or(Reason::Malformed)?;
        (u64::from_be_bytes(*size), 12)
    } else {
        return Ok(None);
    };
    let mut content = budget.buffer(size)?;
    let left = section.size.checked_sub(header).ok_or(Reason::Malformed)?;
    let packed = Stretch { bytes: &elf.bytes, offset: section.offset + header, left };
    flate2::read::ZlibDecoder::new(packed).read_exact(&mut content).map_err(|_| Reason::Malformed)?;
    Ok(Some(content))
}

/// A part of a file, read once from front to end.
struct Stretch<'a> {
    bytes: &'a Bytes,
    offset: u64,
    left: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let size = self.left.min(into.len() as u64);
        let into = &mut into[..size as usize];
        self.bytes.read(self.offset, into).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
        self.offset += size;
        self.left -= size;
        Ok(into.len())
    }
}
