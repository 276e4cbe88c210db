//! An ELF file, read part by part: the headers at once, a section only when somebody asks for it.
//!
//! Called on everprof's own thread. The file is read with `pread`, not mapped: a file that is truncated while it is
//! mapped would kill the host with SIGBUS, and pages of a mapping count as the host's memory. 64-bit little-endian
//! files only, which is what this process can have mapped.
//!
//! It refuses sizes that do not fit the file, and allocates nothing by the word of a header.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::header::{self, EHDR, PHDR, PT_LOAD, PT_NOTE, ProgramHeaders, Segment, le32, le64};
use super::stats::Reason;

/// Bytes at offsets: of a file, or of an image that is in memory as a whole.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// A file and its length when it was opened.
    File(File, u64),
    /// Everything.
    Memory(Vec<u8>),
}

/// One version of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    pub(crate) modified_nanos: i64,
}

impl Bytes {
    pub(crate) fn open(path: &Path) -> Result<Self, Reason> {
        // A device or a pipe under that name would never end, or block already when it is opened.
        std::fs::metadata(path).ok().filter(|found| found.is_file()).ok_or(Reason::Missing)?;
        let file = File::open(path).map_err(|_| Reason::Missing)?;
        let metadata = file.metadata().map_err(|_| Reason::Missing)?;
        metadata.is_file().then_some(Self::File(file, metadata.len())).ok_or(Reason::Missing)
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// What tells this version of the file from others; None for an image in memory.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let Self::File(file, size) = self else { return None };
        let metadata = file.metadata().ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: *size,
            modified: metadata.mtime(),
            modified_nanos: metadata.mtime_nsec(),
        })
    }

    /// Fills `into` with the bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Reason> {
        match self {
            Self::File(file, _) => file.read_exact_at(into, offset).map_err(|_| Reason::Malformed),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|_| Reason::Malformed)?;
                let from =
                    bytes.get(start..).and_then(|rest| rest.get(..into.len())).ok_or(Reason::Malformed)?;
                into.copy_from_slice(from);
                Ok(())
            }
        }
    }

    /// The `size` bytes at `offset`, after a check that they are there.
    pub(crate) fn take(&self, offset: u64, size: u64) -> Result<Vec<u8>, Reason> {
        if offset.checked_add(size).is_none_or(|end| end > self.len()) {
            return Err(Reason::Malformed);
        }
        let mut bytes = vec![0; size as usize];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// One section header, with its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    /// Where it is in memory, as the file counts; 0 where it is not.
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) link: u32,
    pub(crate) align: u64,
}

/// An ELF file whose headers have been read.
#[derive(Debug)]
pub(crate) struct Elf {
    /// Where it was opened; None for an image in memory.
    pub(crate) path: Option<PathBuf>,
    pub(crate) bytes: Rc<Bytes>,
    /// The number of the machine that it is for.
    pub(crate) machine: u16,
    pub(crate) segments: Vec<Segment>,
    pub(crate) sections: Vec<Section>,
    pub(crate) build_id: String,
    pub(crate) fingerprint: u64,
}

impl Section {
    /// Whether an address, as the file counts, is in the section.
    pub(crate) fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|into| into < self.size)
    }
}

const SHDR: usize = 64;
const SECTIONS_LIMIT: u64 = 65_536;
const NAMES_LIMIT: u64 = 16 << 20;
const NOTES_LIMIT: u64 = 64 * 1024;
/// A program has a handful of notes.
const NOTE_PARTS: usize = 256;
const SHT_NOTE: u32 = 7;
pub(crate) const SHT_NOBITS: u32 = 8;
const PF_X: u32 = 1;

impl Elf {
    pub(crate) fn open(path: &Path) -> Result<Self, Reason> {
        Ok(Self { path: Some(path.to_owned()), ..Self::parse(Bytes::open(path)?)? })
    }

    /// Reads the headers. A damaged section table is an error; without any section table only the segments are known.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, Reason> {
        let mut ehdr = [0u8; EHDR];
        bytes.read(0, &mut ehdr)?;
        let place = ProgramHeaders::of(&ehdr).ok_or(Reason::Malformed)?;
        let table = bytes.take(place.offset, place.size() as u64)?;
        let segments: Vec<Segment> = table.chunks_exact(PHDR).map(Segment::parse).collect();
        let sections = sections(&bytes, &ehdr)?;
        let mut elf = Self {
            fingerprint: header::fingerprint(&ehdr, &table),
            path: None,
            bytes: Rc::new(bytes),
            machine: u16::from_le_bytes([ehdr[18], ehdr[19]]),
            segments,
            sections,
            build_id: String::new(),
        };
        elf.build_id = elf.read_build_id();
        Ok(elf)
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name == name && section.kind != SHT_NOBITS && section.size > 0)
    }

    /// The address, as the file's symbols count it, of an offset in the file.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        let loads = || self.segments.iter().filter(|segment| segment.kind == PT_LOAD);
        // The page around a segment's first and last bytes is mapped too, so the executable one that holds the offset
        // is asked first.
        let code = || loads().filter(|segment| segment.flags & PF_X != 0);
        let holds = |segment: &&Segment| {
            offset >= segment.offset && offset - segment.offset < segment.file_size.max(1)
        };
        let segment = code().find(holds).or_else(|| loads().find(holds)).or_else(|| {
            // The rest of the last page.
            code().find(|segment| {
                offset >= segment.offset & !0xfff
                    && offset - (segment.offset & !0xfff) < segment.file_size.saturating_add(0x1fff) & !0xfff
            })
        })?;
        Some(offset.wrapping_sub(segment.offset).wrapping_add(segment.address))
    }

    fn read_build_id(&self) -> String {
        let segments = self.segments.iter().filter(|segment| segment.kind == PT_NOTE);
        let segments = segments.map(|segment| (segment.offset, segment.file_size, segment.align));
        // A separate debug file keeps the section, but its segment may point nowhere.
        let sections = self.sections.iter().filter(|section| section.kind == SHT_NOTE);
        let sections = sections.map(|section| (section.offset, section.size, section.align));
        sections
            .chain(segments)
            .take(NOTE_PARTS)
            .filter_map(|(offset, size, align)| {
                let notes = self.bytes.take(offset, size.min(NOTES_LIMIT)).ok()?;
                header::in_notes(&notes, align)
            })
            .next()
            .unwrap_or_default()
    }
}

fn sections(bytes: &Bytes, ehdr: &[u8; EHDR]) -> Result<Vec<Section>, Reason> {
    let half = |at: usize| u16::from_le_bytes([ehdr[at], ehdr[at + 1]]);
    let (offset, size, count, names) = (le64(ehdr, 40), half(58), u64::from(half(60)), u32::from(half(62)));
    if offset == 0 {
        return Ok(Vec::new());
    }
    if usize::from(size) != SHDR {
        return Err(Reason::Malformed);
    }
    // More sections than fit the header's field are counted in the first section header.
    let first = bytes.take(offset, SHDR as u64)?;
    let count = if count == 0 { le64(&first, 32) } else { count };
    let names = if names == 0xffff { le32(&first, 40) } else { names };
    if count > SECTIONS_LIMIT {
        return Err(Reason::Malformed);
    }
    let table = bytes.take(offset, count * SHDR as u64)?;
    let mut sections: Vec<Section> = Vec::with_capacity(count as usize);
    let mut name_offsets = Vec::with_capacity(count as usize);
    for entry in table.chunks_exact(SHDR) {
        name_offsets.push(le32(entry, 0) as usize);
        sections.push(Section {
            name: String::new(),
            kind: le32(entry, 4),
            flags: le64(entry, 8),
            address: le64(entry, 16),
            offset: le64(entry, 24),
            size: le64(entry, 32),
            link: le32(entry, 40),
            align: le64(entry, 48),
        });
    }
    if let Some(strings) = sections.get(names as usize).filter(|section| section.size <= NAMES_LIMIT) {
        let strings = bytes.take(strings.offset, strings.size)?;
        for (section, offset) in sections.iter_mut().zip(name_offsets) {
            let text = strings.get(offset..).unwrap_or_default();
            let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
            section.name = String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned();
        }
    }
    Ok(sections)
}
