//! Compressed parts: debug sections, the ELF standard's and the older `.zdebug_*`, and `.gnu_debugdata`.
//!
//! zlib is built in; zstd and xz are features, for what few programs have.

use std::io::Read;

use super::budget::{Budget, Buffer};
use super::elf::{Bytes, Elf, Section};
use super::header::{le32, le64};
use super::stats::Reason;

const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;
const ELFCOMPRESS_ZSTD: u32 = 2;
const CHDR: u64 = 24;

/// The section `.debug_<name>` under one of the names it may have.
pub(crate) fn debug_section<'a>(elf: &'a Elf, name: &str) -> Option<&'a Section> {
    elf.section(&format!(".debug_{name}")).or_else(|| elf.section(&format!(".zdebug_{name}")))
}

/// The content of a compressed section; None where it is not compressed.
pub(crate) fn inflate(elf: &Elf, section: &Section, budget: &Budget) -> Result<Option<Buffer>, Reason> {
    let mut method = ELFCOMPRESS_ZLIB;
    let (size, header) = if section.flags & SHF_COMPRESSED != 0 {
        let header = elf.bytes.take(section.offset, CHDR)?;
        method = le32(&header, 0);
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
    match method {
        ELFCOMPRESS_ZLIB => flate2::read::ZlibDecoder::new(packed).read_exact(&mut content),
        ELFCOMPRESS_ZSTD => {
            // What was compressed at once is looked back over as a whole.
            let _window = budget.buffer(size)?;
            unpack_zstd(packed, &mut content)?
        }
        _ => return Err(Reason::Unsupported),
    }
    .map_err(|_| Reason::Malformed)?;
    Ok(Some(content))
}

#[cfg(feature = "zstd")]
fn unpack_zstd(packed: impl Read, into: &mut [u8]) -> Result<std::io::Result<()>, Reason> {
    // Small content may have a larger window than it fills.
    let window = (into.len() as u64).max(8 << 20);
    let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, window);
    Ok(decoder.map_err(|_| Reason::Malformed)?.read_exact(into))
}

#[cfg(not(feature = "zstd"))]
fn unpack_zstd(_packed: impl Read, _into: &mut [u8]) -> Result<std::io::Result<()>, Reason> {
    Err(Reason::Unsupported)
}

/// Symbols of the largest libraries take a few megabytes.
const EMBEDDED_LIMIT: u64 = 16 << 20;

/// The file in `.gnu_debugdata`, which has the symbols that a stripped one does not export; None where there is none.
pub(crate) fn embedded(elf: &Elf) -> Result<Option<Elf>, Reason> {
    let Some(section) = elf.section(".gnu_debugdata") else { return Ok(None) };
    if section.size > EMBEDDED_LIMIT {
        return Err(Reason::OverBudget);
    }
    let packed = elf.bytes.take(section.offset, section.size)?;
    Elf::parse(Bytes::Memory(unpack_xz(packed)?)).map(Some)
}

#[cfg(feature = "xz")]
fn unpack_xz(packed: Vec<u8>) -> Result<Vec<u8>, Reason> {
    /// The window of the presets that are used for this.
    const WINDOW: usize = 8 << 20;
    let decoder = xz4rust::XzDecoder::in_heap_with_alloc_dict_size(0, WINDOW);
    let piece = std::num::NonZeroUsize::MIN.saturating_add(8 * 1024);
    let reader =
        xz4rust::XzReader::new_with_buffer_size_and_decoder(std::io::Cursor::new(packed), piece, decoder);
    let mut content = Vec::new();
    reader.take(EMBEDDED_LIMIT + 1).read_to_end(&mut content).map_err(|_| Reason::Malformed)?;
    if content.len() as u64 > EMBEDDED_LIMIT { Err(Reason::OverBudget) } else { Ok(content) }
}

#[cfg(not(feature = "xz"))]
fn unpack_xz(_packed: Vec<u8>) -> Result<Vec<u8>, Reason> {
    Err(Reason::Unsupported)
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
