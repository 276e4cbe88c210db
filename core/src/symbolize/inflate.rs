//! Compressed parts: debug sections, the ELF standard's and the older `.zdebug_*`, and `.gnu_debugdata`.
//!
//! zlib is built in; zstd and xz are features, for what few programs have.

use std::cell::RefCell;
use std::io::Read;
use std::rc::Rc;

use flate2::read::ZlibDecoder;

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

/// A compressed section, inflated from its begin as far as somebody has read: most questions are about one unit, and the
/// last bytes of a section cost all of those before them.
#[derive(Debug)]
pub(crate) struct Inflating(RefCell<State>, u64);

#[derive(Debug)]
struct State {
    content: Buffer,
    /// How much of it is there.
    done: usize,
    packed: Packed,
    budget: Budget,
    failure: Option<Reason>,
}

#[derive(Debug)]
enum Packed {
    Zlib(Box<ZlibDecoder<Stretch>>),
    /// Inflated at once.
    Zstd(Stretch),
}

/// What is read of a file at a time.
const BLOCK: usize = 8 * 1024;
/// More than is asked for at one time, so that the decompressor is not called for each few bytes.
const AHEAD: usize = 16 * 1024;

impl Inflating {
    /// Begins with a section; None where it is not compressed.
    pub(crate) fn begin(elf: &Elf, section: &Section, budget: &Budget) -> Result<Option<Self>, Reason> {
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
        let left = section.size.checked_sub(header).ok_or(Reason::Malformed)?;
        let packed = Stretch { bytes: elf.bytes.clone(), offset: section.offset + header, left };
        let packed = match method {
            ELFCOMPRESS_ZLIB => Packed::Zlib(Box::new(ZlibDecoder::new_with_buf(packed, vec![0; BLOCK]))),
            ELFCOMPRESS_ZSTD => Packed::Zstd(packed),
            _ => return Err(Reason::Unsupported),
        };
        let content = budget.buffer(size)?;
        let state = State { content, done: 0, packed, budget: budget.clone(), failure: None };
        Ok(Some(Self(RefCell::new(state), size)))
    }

    /// How long the content is.
    pub(crate) fn size(&self) -> u64 {
        self.1
    }

    /// Fills `into` with the content at `offset`.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Reason> {
        let start = usize::try_from(offset).map_err(|_| Reason::Malformed)?;
        let end =
            start.checked_add(into.len()).filter(|&end| end as u64 <= self.1).ok_or(Reason::Malformed)?;
        let mut state = self.0.try_borrow_mut().map_err(|_| Reason::Malformed)?;
        state.inflate(end)?;
        into.copy_from_slice(state.content.get(start..end).ok_or(Reason::Malformed)?);
        Ok(())
    }
}

impl State {
    /// Makes sure that the content is there up to `end`.
    fn inflate(&mut self, end: usize) -> Result<(), Reason> {
        if end <= self.done {
            return Ok(());
        }
        if let Some(reason) = self.failure {
            return Err(reason);
        }
        let ahead = end.saturating_add(AHEAD).min(self.content.len());
        let inflated = match &mut self.packed {
            Packed::Zlib(decoder) => decoder
                .read_exact(&mut self.content[self.done..ahead])
                .map(|()| ahead)
                .or(Err(Reason::Malformed)),
            Packed::Zstd(packed) => self.budget.buffer(self.content.len() as u64).and_then(|_window| {
                // What was compressed at once is looked back over as a whole.
                unpack_zstd(packed, &mut self.content)?.or(Err(Reason::Malformed))?;
                Ok(self.content.len())
            }),
        };
        match inflated {
            Ok(done) => self.done = done,
            Err(reason) => self.failure = Some(reason),
        }
        inflated.map(|_| ())
    }
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
#[derive(Debug)]
struct Stretch {
    bytes: Rc<Bytes>,
    offset: u64,
    left: u64,
}

impl Read for Stretch {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let size = self.left.min(into.len() as u64);
        let into = &mut into[..size as usize];
        self.bytes.read(self.offset, into).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
        self.offset += size;
        self.left -= size;
        Ok(into.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn only_what_is_read_is_inflated() {
        let mut noise = 1u64;
        let mut next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 40) as u8 & 15
        };
        let content: Vec<u8> = (0..1 << 20).map(|_| next()).collect();
        let mut packed = vec![0; CHDR as usize];
        packed[0] = ELFCOMPRESS_ZLIB as u8;
        packed[8..16].copy_from_slice(&(content.len() as u64).to_le_bytes());
        let mut encoder = flate2::write::ZlibEncoder::new(packed, flate2::Compression::default());
        encoder.write_all(&content).unwrap();
        let packed = encoder.finish().unwrap();
        let opened = |packed: &[u8]| {
            let elf = Elf {
                path: None,
                bytes: Rc::new(Bytes::Memory(packed.to_vec())),
                machine: 0,
                segments: Vec::new(),
                sections: Vec::new(),
                build_id: String::new(),
                fingerprint: 0,
            };
            let section = Section { flags: SHF_COMPRESSED, size: packed.len() as u64, ..Section::default() };
            Inflating::begin(&elf, &section, &Budget::new(2 << 20)).unwrap().unwrap()
        };
        let read = |section: &Inflating, offset: usize| {
            let mut bytes = [0; 100];
            section.read(offset as u64, &mut bytes).map(|()| bytes[..] == content[offset..offset + 100])
        };
        let section = opened(&packed);
        assert_eq!(section.size(), content.len() as u64);
        assert_eq!(read(&section, 50_000), Ok(true));
        assert!(section.0.borrow().done < 100_000, "{}", section.0.borrow().done);
        assert_eq!([read(&section, 0), read(&section, content.len() - 100)], [Ok(true), Ok(true)]);
        assert_eq!(section.read(content.len() as u64 - 1, &mut [0; 2]), Err(Reason::Malformed));
        // Of one that is damaged near its end the begin is as good as ever.
        let section = opened(&packed[..packed.len() / 2]);
        assert_eq!(read(&section, 1000), Ok(true));
        assert_eq!(
            [read(&section, content.len() - 100), read(&section, 1000)],
            [Err(Reason::Malformed), Ok(true)]
        );
    }
}
