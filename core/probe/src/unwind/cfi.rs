//! The records of call-frame information: `.eh_frame_hdr`, and the CIEs and FDEs of `.eh_frame`.
//!
//! Everything works on plain slices, which may hold anything: a copy of a module's memory, or a fuzzer's bytes. Nothing
//! here panics, overflows or loops for longer than its input is long. Off the handler.

use super::reader::Reader;

/// A section's bytes and where they lie in memory, which relative pointers refer to.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// The section's contents, or as much of them as could be read.
    pub bytes: &'a [u8],
    /// The address of the first byte.
    pub address: u64,
}

/// What `.eh_frame_hdr` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Where `.eh_frame` starts.
    pub(super) eh_frame: u64,
    /// How many FDEs the search table names, and where in the header it starts; `None` where there is no table, or one
    /// of a form that no linker writes.
    pub(super) table: Option<(usize, usize)>,
}

/// A common information entry: what the FDEs of a compilation unit share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cie<'a> {
    pub(super) code_alignment: u64,
    pub(super) data_alignment: i64,
    pub(super) return_register: u64,
    /// Its frames were interrupted by a signal, not left by a call.
    pub(super) signal: bool,
    pub(super) instructions: &'a [u8],
    fde_encoding: u8,
    augmented: bool,
}

/// A frame description entry: one function, or one piece of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fde<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) instructions: &'a [u8],
}

/// Reads CIEs and FDEs, and remembers the CIE that it read last: neighbours mostly share it.
#[derive(Debug)]
pub(super) struct Records<'a> {
    section: Section<'a>,
    last: Option<(usize, Cie<'a>)>,
}

pub(super) fn header(section: Section<'_>) -> Option<Header> {
    let mut reader = Reader::new(section.bytes);
    let [1, frame_encoding, count_encoding, table_encoding] = *reader.take(4)? else { return None };
    let eh_frame = pointer(&mut reader, frame_encoding, section.address, section.address)?;
    let count = pointer(&mut reader, count_encoding, section.address, section.address);
    let table = match count {
        Some(count) if table_encoding == DATA_RELATIVE | SIGNED_4 => {
            Some((usize::try_from(count).ok()?, reader.position()))
        }
        _ => None,
    };
    Some(Header { eh_frame, table })
}

/// The entries of a header's search table, as the offset of each FDE into the `.eh_frame` at `eh_frame`, in the order of
/// the code that they describe.
pub(super) fn table_entries(section: Section<'_>, header: Header) -> impl Iterator<Item = usize> + '_ {
    let (count, start) = header.table.unwrap_or((0, 0));
    section.bytes.get(start..).unwrap_or_default().chunks_exact(8).take(count).filter_map(move |entry| {
        let relative = i32::from_le_bytes(entry.get(4..8)?.try_into().ok()?);
        let address = section.address.wrapping_add_signed(i64::from(relative));
        usize::try_from(address.wrapping_sub(header.eh_frame)).ok()
    })
}

/// Where the last FDE that the search table names ends in memory; `read` reads a word there. Nothing else says how long
/// the `.eh_frame` of a loaded module is.
pub(super) fn last_fde_end(
    section: Section<'_>,
    header: Header,
    read: impl Fn(u64) -> Option<u32>,
) -> Option<u64> {
    let last = header.eh_frame.checked_add(table_entries(section, header).max()? as u64)?;
    match read(last)? {
        // The long form, which nobody writes: its length is in the next eight bytes.
        u32::MAX => None,
        len => last.checked_add(4 + u64::from(len)),
    }
}

impl<'a> Records<'a> {
    pub(super) fn new(section: Section<'a>) -> Self {
        Self { section, last: None }
    }

    /// The FDE `offset` bytes into the section, and its CIE; `None` where there is none, or one that makes no sense.
    pub(super) fn fde(&mut self, offset: usize) -> Option<(Cie<'a>, Fde<'a>)> {
        let record = self.record(offset)?;
        let distance = usize::try_from(record.id).ok().filter(|&distance| distance != 0)?;
        let cie = self.cie(record.id_position.checked_sub(distance)?)?;
        let mut reader = Reader::new(record.body);
        let base = self.section.address.wrapping_add(record.body_position as u64);
        let start = pointer(&mut reader, cie.fde_encoding, base, base)?;
        // The length has the pointer's format, and is never relative to anything.
        let len = pointer(&mut reader, cie.fde_encoding & FORMAT, 0, 0)?;
        if cie.augmented {
            let skipped = usize::try_from(reader.uleb()?).ok()?;
            reader.take(skipped)?;
        }
        let end = start.checked_add(len)?;
        Some((cie, Fde { start, end, instructions: reader.rest() }))
    }

    /// How many bytes the section has.
    pub(super) fn len(&self) -> usize {
        self.section.bytes.len()
    }

    /// Every offset at which a record starts, up to the terminator or the end. Where there is no search table.
    pub(super) fn offsets(&self) -> impl Iterator<Item = usize> + 'a {
        let section = self.section;
        let mut next = 0;
        core::iter::from_fn(move || {
            let offset = next;
            let record = Records::new(section).record(offset)?;
            next = record.body_position.checked_add(record.body.len())?;
            Some(offset)
        })
    }

    fn cie(&mut self, offset: usize) -> Option<Cie<'a>> {
        if let Some((at, cie)) = self.last
            && at == offset
        {
            return Some(cie);
        }
        let record = self.record(offset)?;
        if record.id != 0 {
            return None;
        }
        let mut reader = Reader::new(record.body);
        let version = reader.u8()?;
        let augmentation = reader.string()?;
        let mut cie = Cie {
            code_alignment: reader.uleb()?,
            data_alignment: reader.sleb()?,
            return_register: if version == 1 { u64::from(reader.u8()?) } else { reader.uleb()? },
            signal: false,
            instructions: &[],
            fde_encoding: 0,
            augmented: false,
        };
        let mut letters = augmentation.iter();
        match letters.next() {
            None => cie.instructions = reader.rest(),
            Some(b'z') => {
                let len = usize::try_from(reader.uleb()?).ok()?;
                let data_position = record.body_position.checked_add(reader.position())?;
                let mut data = Reader::new(reader.take(len)?);
                for letter in letters {
                    match letter {
                        b'L' => _ = data.u8()?,
                        b'P' => {
                            let encoding = data.u8()?;
                            let base = self.section.address.wrapping_add(data_position as u64);
                            pointer(&mut data, encoding & !INDIRECT, base, base)?;
                        }
                        b'R' => cie.fde_encoding = data.u8()?,
                        b'S' => cie.signal = true,
                        // aarch64's choice of signing key, and memory tagging: nothing that a walk depends on.
                        b'B' | b'G' => {}
                        _ => break,
                    }
                }
                cie.augmented = true;
                cie.instructions = reader.rest();
            }
            // GCC 2's augmentation, or one that nobody knows: the instructions cannot be found.
            Some(_) => return None,
        }
        self.last = Some((offset, cie));
        Some(cie)
    }

    fn record(&self, offset: usize) -> Option<Record<'a>> {
        let mut reader = Reader::at(self.section.bytes, offset);
        let len = match reader.u32()? {
            0 => return None,
            u32::MAX => usize::try_from(reader.u64()?).ok()?,
            len => len as usize,
        };
        let id_position = reader.position();
        // In `.eh_frame` the id has four bytes whatever the length's form.
        let id = reader.u32()?;
        let body_position = reader.position();
        let body = reader.take(len.checked_sub(4)?)?;
        Some(Record { id, id_position, body, body_position })
    }
}

struct Record<'a> {
    /// 0 for a CIE; for an FDE, how far before the id its CIE lies.
    id: u32,
    id_position: usize,
    body: &'a [u8],
    body_position: usize,
}

const OMITTED: u8 = 0xff;
const FORMAT: u8 = 0x0f;
const SIGNED_4: u8 = 0x0b;
const RELATIVE: u8 = 0x70;
const PC_RELATIVE: u8 = 0x10;
const DATA_RELATIVE: u8 = 0x30;
const INDIRECT: u8 = 0x80;

/// An encoded pointer. `base` is the address of the reader's first byte, `data` what data-relative pointers refer to.
fn pointer(reader: &mut Reader<'_>, encoding: u8, base: u64, data: u64) -> Option<u64> {
    if encoding == OMITTED || encoding & INDIRECT != 0 {
        return None;
    }
    let position = reader.position() as u64;
    let value = match encoding & FORMAT {
        0x00 | 0x04 | 0x0c => reader.u64()?,
        0x01 => reader.uleb()?,
        0x02 => u64::from(reader.u16()?),
        0x03 => u64::from(reader.u32()?),
        0x09 => reader.sleb()? as u64,
        0x0a => i64::from(reader.u16()? as i16) as u64,
        SIGNED_4 => i64::from(reader.u32()? as i32) as u64,
        _ => return None,
    };
    match encoding & RELATIVE {
        0 => Some(value),
        PC_RELATIVE => Some(base.wrapping_add(position).wrapping_add(value)),
        DATA_RELATIVE => Some(data.wrapping_add(value)),
        _ => None,
    }
}
