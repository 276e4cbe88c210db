//! Where functions begin in a file without symbols, from its call-frame information: a stripped program keeps that,
//! since panics and exceptions need it. So a function without a name is one row of a profile, not one for each address.
//!
//! Called by [`super::native`] on everprof's own thread, for addresses that nothing else has named. The table of
//! `.eh_frame_hdr` is streamed once past them and not kept. It refuses to guess: an address between two functions, and
//! one in a table of a form that no linker writes, has no begin.

use super::dwarf::Cursor;
use super::elf::Elf;
use super::header::{PT_LOAD, Segment, le32};
use super::stats::Reason;

const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// The version, then how three things are written: where `.eh_frame` is, how many entries there are (4 bytes), and the
/// entries (4 bytes with a sign, counted from the header).
const HEADER: u64 = 12;
const COUNT_4: u8 = 0x03;
const ENTRY_4: u8 = 0x3b;
const ENTRY: usize = 8;
const CHUNK: usize = 8192 * ENTRY;
/// What is read of a record: its begin says all that is wanted, unless its augmentation has a very long name.
const RECORD: u64 = 64;

/// For each of the sorted `addresses`, counted as the file counts, where the function begins that has it.
pub(crate) fn of(elf: &Elf, addresses: &[u64]) -> Vec<Option<u64>> {
    let found = candidates(elf, addresses).unwrap_or_else(|_| vec![None; addresses.len()]);
    let mut records = Records { elf, last_cie: None, last: None };
    let begin = |(&address, candidate): (&u64, Option<(u64, u64)>)| {
        let (begin, record) = candidate?;
        let size = records.size(record)?;
        (address.checked_sub(begin)? < size).then_some(begin)
    };
    addresses.iter().zip(found).map(begin).collect()
}

/// For each address the last function that begins at or before it: where, and the address of its record.
fn candidates(elf: &Elf, addresses: &[u64]) -> Result<Vec<Option<(u64, u64)>>, Reason> {
    let mut found = vec![None; addresses.len()];
    let Some(header) = elf.segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME) else {
        return Ok(found);
    };
    let bytes = elf.bytes.take(header.offset, HEADER)?;
    let forms = [bytes[0], bytes[2], bytes[3]];
    // Half a byte says how many bytes the place of `.eh_frame` takes: nearly always four.
    if forms != [1, COUNT_4, ENTRY_4] || !matches!(bytes[1] & 0xf, 0x3 | 0xb) {
        return Err(Reason::Unsupported);
    }
    let room = header.file_size.saturating_sub(HEADER) / ENTRY as u64;
    let mut left = u64::from(le32(&bytes, 8)).min(room) as usize * ENTRY;
    let mut place = header.offset + HEADER;
    let mut chunk = vec![0; CHUNK.min(left)];
    let (mut next, mut last) = (0, None);
    while left > 0 && next < addresses.len() {
        let size = left.min(chunk.len());
        elf.bytes.read(place, &mut chunk[..size])?;
        for entry in chunk[..size].chunks_exact(ENTRY) {
            let at = |place: usize| header.address.wrapping_add_signed((le32(entry, place) as i32).into());
            let begin = at(0);
            while addresses.get(next).is_some_and(|&address| address < begin) {
                found[next] = last;
                next += 1;
            }
            last = Some((begin, at(4)));
        }
        place += size as u64;
        left -= size;
    }
    found[next..].fill(last);
    Ok(found)
}

/// Reads records of `.eh_frame`, and remembers the last ones: sorted addresses have them many times.
struct Records<'a> {
    elf: &'a Elf,
    /// Where it is, and how many bytes an address in its records takes.
    last_cie: Option<(u64, u8)>,
    last: Option<(u64, Option<u64>)>,
}

impl Records<'_> {
    /// How many bytes of code the record at `address` is of.
    fn size(&mut self, address: u64) -> Option<u64> {
        if let Some((known, size)) = self.last
            && known == address
        {
            return size;
        }
        let size = self.read_size(address);
        self.last = Some((address, size));
        size
    }

    fn read_size(&mut self, address: u64) -> Option<u64> {
        let bytes = self.record(address)?;
        let mut cursor = Cursor::new(&bytes);
        let back = cursor.word(4).ok().filter(|&back| back != 0)?;
        let width = self.width(address.checked_add(4)?.checked_sub(back)?)?;
        // The begin is known from the table.
        cursor.take(width.into()).ok()?;
        cursor.word(width).ok()
    }

    /// How many bytes an address takes in the records that share the one at `address`.
    fn width(&mut self, address: u64) -> Option<u8> {
        if let Some((known, width)) = self.last_cie
            && known == address
        {
            return Some(width);
        }
        let bytes = self.record(address)?;
        let mut cursor = Cursor::new(&bytes);
        let (id, version) = (cursor.word(4).ok()?, cursor.u8().ok()?);
        if id != 0 || !matches!(version, 1 | 3) {
            return None;
        }
        let names = cursor.text().ok()?;
        cursor.uleb().ok()?;
        cursor.sleb().ok()?;
        if version == 1 {
            cursor.u8().ok()?.into()
        } else {
            cursor.uleb().ok()?
        };
        let form = match names.strip_prefix(b"z") {
            Some(names) => {
                cursor.uleb().ok()?;
                form_of(names, &mut cursor)?
            }
            None if names.is_empty() => 0,
            None => return None,
        };
        let width = width_of(form)?;
        self.last_cie = Some((address, width));
        Some(width)
    }

    /// What follows the length of the record at `address`, as far as it is wanted.
    fn record(&self, address: u64) -> Option<Vec<u8>> {
        let elf = self.elf;
        let holds = |segment: &&Segment| {
            segment.kind == PT_LOAD
                && address.checked_sub(segment.address).is_some_and(|into| into < segment.file_size)
        };
        let segment = elf.segments.iter().find(holds)?;
        let place = segment.offset.checked_add(address - segment.address)?;
        let length = le32(&elf.bytes.take(place, 4).ok()?, 0);
        // The long form is written by nobody, and no length is the end.
        let length = u64::from(Some(length).filter(|&length| length != u32::MAX)?);
        elf.bytes.take(place + 4, length.min(RECORD)).ok()
    }
}

/// How addresses are written in the records, by the letters and the data of an augmentation.
fn form_of(names: &[u8], data: &mut Cursor<'_>) -> Option<u8> {
    for &name in names {
        match name {
            b'R' => return data.u8().ok(),
            b'L' => {
                data.u8().ok()?;
            }
            b'P' => {
                let form = data.u8().ok()?;
                data.take(width_of(form)?.into()).ok()?;
            }
            // A signal's frame, and what aarch64 does with return addresses.
            b'S' | b'B' | b'G' => {}
            _ => return None,
        }
    }
    Some(0)
}

fn width_of(form: u8) -> Option<u8> {
    match form & 0xf {
        0x2 | 0xa => Some(2),
        0x3 | 0xb => Some(4),
        0x0 | 0x4 | 0xc => Some(8),
        _ => None,
    }
}
