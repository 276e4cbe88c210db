//! What an ELF header says about the file's identity: the GNU build ID, and a fingerprint for files that have none.
//!
//! Called on everprof's own thread. Works on memory and on files alike, through a function that copies bytes at an
//! offset; a header that lies about sizes is refused, nothing is allocated by its word.

/// What was found at an address.
pub(crate) enum Inspected {
    /// The memory could not be read.
    Unreadable,
    /// Something else than a 64-bit little-endian ELF image.
    NotElf,
    /// An ELF image; the build ID may be empty.
    Elf { build_id: String, fingerprint: u64 },
}

/// Looks at the ELF image whose header is at `base`, with every segment at its address in memory.
pub(crate) fn inspect(base: u64, mut memory: impl FnMut(u64, &mut [u8]) -> usize) -> Inspected {
    let mut read = |address: u64, bytes: &mut [u8]| memory(address, bytes) == bytes.len();
    let mut header = [0u8; EHDR];
    if !read(base, &mut header) {
        return Inspected::Unreadable;
    }
    let Some(place) = ProgramHeaders::of(&header) else { return Inspected::NotElf };
    let mut table = vec![0u8; place.size()];
    if !read(base.wrapping_add(place.offset), &mut table) {
        return Inspected::Elf { build_id: String::new(), fingerprint: 0 };
    }
    let segments = || table.chunks_exact(PHDR).map(Segment::parse);
    let first = segments().find(|segment| segment.kind == PT_LOAD).unwrap_or_default();
    let bias = base.wrapping_sub(first.address.wrapping_sub(first.offset));
    let build_id = segments().filter(|segment| segment.kind == PT_NOTE).find_map(|segment| {
        let mut notes = vec![0u8; segment.file_size.min(NOTES_LIMIT) as usize];
        read(bias.wrapping_add(segment.address), &mut notes).then(|| in_notes(&notes, segment.align))?
    });
    Inspected::Elf { build_id: build_id.unwrap_or_default(), fingerprint: fingerprint(&header, &table) }
}

/// The GNU build ID among the notes of a segment or section, in lower-case hex.
pub(crate) fn in_notes(mut notes: &[u8], align: u64) -> Option<String> {
    let align = if align == 8 { 8 } else { 4 };
    let padded = |size: usize| size.checked_next_multiple_of(align);
    while notes.len() >= 12 {
        let word = |at: usize| u32::from_le_bytes([notes[at], notes[at + 1], notes[at + 2], notes[at + 3]]);
        let (name_size, size, kind) = (word(0) as usize, word(4) as usize, word(8));
        // The name starts right after the header, whose 12 bytes count for the padding of 8-aligned notes.
        let start = padded(12usize.checked_add(name_size)?)?;
        let end = start.checked_add(size)?;
        let content = notes.get(start..end)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") && size > 0 && size <= 64 {
            return Some(to_hex(content));
        }
        notes = notes.get(padded(end)?..)?;
    }
    None
}

/// A hash (FNV-1a) of the headers that change with nearly every link: sizes, offsets, entry point.
pub(crate) fn fingerprint(header: &[u8], program_headers: &[u8]) -> u64 {
    let bytes = header.iter().chain(program_headers);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Size of the header of a 64-bit ELF file.
pub(crate) const EHDR: usize = 64;
/// Size of one program header.
pub(crate) const PHDR: usize = 56;
pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const NOTES_LIMIT: u64 = 64 * 1024;
const PHDRS_LIMIT: u16 = 256;

/// Where the program headers are.
pub(crate) struct ProgramHeaders {
    pub(crate) offset: u64,
    count: u16,
}

impl ProgramHeaders {
    /// None where the header is not that of a 64-bit little-endian ELF file with a sane table.
    pub(crate) fn of(header: &[u8; EHDR]) -> Option<Self> {
        let ident = header.starts_with(b"\x7fELF\x02\x01\x01");
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let count = half(56);
        (ident && count <= PHDRS_LIMIT && (count == 0 || usize::from(half(54)) == PHDR))
            .then(|| Self { offset: le64(header, 32), count })
    }

    pub(crate) fn size(&self) -> usize {
        usize::from(self.count) * PHDR
    }
}

/// One program header.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) align: u64,
}

impl Segment {
    /// Decodes the [`PHDR`] bytes of a program header.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            kind: le32(bytes, 0),
            flags: le32(bytes, 4),
            offset: le64(bytes, 8),
            address: le64(bytes, 16),
            file_size: le64(bytes, 32),
            align: le64(bytes, 48),
        }
    }
}

/// The little-endian number at `at`; 0 where the bytes end before.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The little-endian number at `at`; 0 where the bytes end before.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn finds_the_build_id_behind_other_notes() {
        let mut notes = note(b"GNU\0", 1, &[0; 16]);
        notes.extend(note(b"stapsdt\0", 3, &[1, 2, 3]));
        notes.extend(note(b"GNU\0", 3, &[0xab, 0x01, 0xff]));
        assert_eq!(in_notes(&notes, 4).unwrap(), "ab01ff");
        assert_eq!(in_notes(&notes[..notes.len() - 4], 4), None);
    }

    #[test]
    fn refuses_sizes_that_lie() {
        let mut notes = note(b"GNU\0", 3, &[1; 20]);
        for at in 0..8 {
            notes[at] = 0xff;
            assert_eq!(in_notes(&notes, 4), None);
        }
        let huge = |address: u64, bytes: &mut [u8]| {
            let mut header = [0u8; EHDR];
            header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            header[32..].fill(0xff);
            let there = address == 0;
            if there {
                bytes.copy_from_slice(&header[..bytes.len()]);
            }
            if there { bytes.len() } else { 0 }
        };
        assert!(matches!(inspect(0, huge), Inspected::NotElf));
    }
}
