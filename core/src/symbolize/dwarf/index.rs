//! Which unit has the code at an address.
//!
//! `.debug_aranges` is streamed past the addresses first; the heads of units that it leaves out are read only where
//! addresses are left. Nothing is kept but the best answer for each address.

use std::collections::HashSet;

use super::cursor::Cursor;
use super::sections::Sections;
use super::unit::{HEADER_MAX, Header, Unit};
use crate::symbolize::stats::Reason;

/// For each of the sorted `addresses` the offset of the unit that has its code.
pub(crate) fn units(sections: &mut Sections, addresses: &[u64]) -> Result<Vec<Option<u64>>, Reason> {
    let visits_left = VISITS_PER_ADDRESS * addresses.len();
    let mut search = Search { addresses, best: vec![None; addresses.len()], visits_left };
    let mut listed = HashSet::new();
    // A broken table leaves the heads of the units.
    let _ = listed_ranges(sections, &mut search, &mut listed);
    if search.best.iter().any(Option::is_none) {
        unlisted_ranges(sections, &mut search, &listed)?;
    }
    Ok(search.best.into_iter().map(|best| best.map(|(_, unit)| unit)).collect())
}

/// Where each unit starts, in order.
pub(crate) fn starts(sections: &mut Sections) -> Vec<u64> {
    let mut starts = Vec::new();
    let mut place = 0;
    while let Ok(bytes) = sections.info.at(place, HEADER_MAX)
        && let Ok(header) = Header::parse(bytes, place)
    {
        starts.push(place);
        let Some(next) = place.checked_add(header.size) else { break };
        place = next;
    }
    starts
}

struct Search<'a> {
    addresses: &'a [u64],
    /// The size of the smallest range around the address, and the unit that has it.
    best: Vec<Option<(u64, u64)>>,
    visits_left: usize,
}

/// More overlapping ranges than this are a broken file's; the first ones count then.
const VISITS_PER_ADDRESS: usize = 4096;

impl Search<'_> {
    fn see(&mut self, begin: u64, end: u64, unit: u64) {
        // Code that the linker dropped is left at address 0, and at -1 or -2.
        let Some(size) = end.checked_sub(begin).filter(|_| begin != 0) else { return };
        let first = self.addresses.partition_point(|&address| address < begin);
        for (address, best) in self.addresses[first..].iter().zip(&mut self.best[first..]) {
            if *address >= end || self.visits_left == 0 {
                break;
            }
            self.visits_left -= 1;
            if best.is_none_or(|(held, _)| size < held) {
                *best = Some((size, unit));
            }
        }
    }
}

fn listed_ranges(
    sections: &mut Sections,
    search: &mut Search<'_>,
    listed: &mut HashSet<u64>,
) -> Result<(), Reason> {
    const HEADER: usize = 12 + 2 + 8 + 2;
    let size = sections.aranges.size();
    let mut place = 0;
    while place < size {
        let bytes = sections.aranges.at(place, HEADER)?;
        let mut cursor = Cursor::new(bytes);
        let (length, offset_size) = cursor.initial_length()?;
        let end =
            place.checked_add(length).and_then(|end| end.checked_add((bytes.len() - cursor.len()) as u64));
        let end = end.filter(|&end| end <= size).ok_or(Reason::Malformed)?;
        let version = cursor.u16()?;
        let unit = cursor.word(offset_size)?;
        let (address_size, segment_size) = (cursor.u8()?, cursor.u8()?);
        if version != 2 || !matches!(address_size, 4 | 8) || segment_size != 0 {
            return Err(Reason::Unsupported);
        }
        // Entries are aligned to their own size, counted from the start of the set.
        let pair = 2 * u64::from(address_size);
        let mut at = place + ((bytes.len() - cursor.len()) as u64).next_multiple_of(pair);
        while at + pair <= end {
            let window = sections.aranges.at(at, pair as usize)?;
            let take = (window.len() as u64).min(end - at) / pair * pair;
            let mut cursor = Cursor::new(&window[..take as usize]);
            while !cursor.is_empty() {
                let (begin, size) = (cursor.word(address_size)?, cursor.word(address_size)?);
                if size != 0 {
                    listed.insert(unit);
                    search.see(begin, begin.saturating_add(size), unit);
                }
            }
            at += take;
        }
        place = end;
    }
    Ok(())
}

fn unlisted_ranges(
    sections: &mut Sections,
    search: &mut Search<'_>,
    listed: &HashSet<u64>,
) -> Result<(), Reason> {
    let mut place = 0;
    while place < sections.info.size() {
        let header = Header::parse(sections.info.at(place, HEADER_MAX)?, place)?;
        let code = matches!(header.kind, gimli::DW_UT_compile | gimli::DW_UT_skeleton);
        if code && !listed.contains(&place) {
            // One broken unit is no reason to do without the others.
            if let Ok(unit) = Unit::read(sections, place) {
                let _ = unit.ranges(sections, |begin, end| search.see(begin, end, place));
            }
        }
        place = place.checked_add(header.size).ok_or(Reason::Malformed)?;
    }
    Ok(())
}
