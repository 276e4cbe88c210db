//! The debug sections of one file, read where somebody looks, not as a whole.

use std::collections::HashMap;
use std::rc::Rc;

use gimli::{AttributeValue, EndianSlice, LittleEndian};

use super::cursor::Cursor;
pub(crate) use super::part::Part;
use super::split::{Split, SplitParts};
use super::unit::Bases;
use crate::symbolize::budget::Budget;
use crate::symbolize::elf::Elf;
use crate::symbolize::inflate;
use crate::symbolize::stats::Reason;

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Abbreviations of one unit take some kilobytes; a file that claims more than this is broken.
const ABBREVIATIONS_LIMIT: usize = 1 << 19;
/// Bytes of the tables of abbreviations that are kept while units refer to each other; read they take many times that.
const ABBREVIATIONS_KEPT: usize = 1 << 20;
/// More ranges than this in one list are a loop in the making.
const RANGES_LIMIT: usize = 1 << 20;

/// The debug sections of one file.
#[derive(Debug)]
pub(crate) struct Sections {
    pub(crate) info: Part,
    pub(crate) aranges: Part,
    pub(crate) line: Part,
    abbrev: Part,
    text: Part,
    line_text: Part,
    ranges: Part,
    rnglists: Part,
    addresses: Part,
    text_offsets: Part,
    /// The file that several debug files share (dwz).
    pub(crate) alternate: Option<Box<Sections>>,
    /// Where what was split off the units is looked for.
    pub(crate) split: Split,
    abbreviations: HashMap<u64, Rc<gimli::Abbreviations>>,
    /// How many bytes those were read from, at the most.
    abbreviation_bytes: usize,
    pub(crate) budget: Budget,
}

/// A string attribute, not yet looked up.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Inline(Vec<u8>),
    Offset(u64),
    LineOffset(u64),
    Index(u64),
    Alternate(u64),
}

/// An address attribute, not yet looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Address {
    Value(u64),
    Index(u64),
}

/// A list of ranges, not yet looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RangeList {
    Offset(u64),
    Index(u64),
}

impl Text {
    pub(crate) fn of(value: AttributeValue<Slice<'_>>) -> Option<Self> {
        Some(match value {
            AttributeValue::String(text) => Self::Inline(text.slice().to_vec()),
            AttributeValue::DebugStrRef(offset) => Self::Offset(offset.0 as u64),
            AttributeValue::DebugLineStrRef(offset) => Self::LineOffset(offset.0 as u64),
            AttributeValue::DebugStrOffsetsIndex(index) => Self::Index(index.0 as u64),
            AttributeValue::DebugStrRefSup(offset) => Self::Alternate(offset.0 as u64),
            _ => return None,
        })
    }
}

impl Address {
    pub(crate) fn of(value: AttributeValue<Slice<'_>>) -> Option<Self> {
        match value {
            AttributeValue::Addr(address) => Some(Self::Value(address)),
            AttributeValue::DebugAddrIndex(index) => Some(Self::Index(index.0 as u64)),
            _ => None,
        }
    }
}

impl RangeList {
    pub(crate) fn of(value: AttributeValue<Slice<'_>>) -> Option<Self> {
        match value {
            AttributeValue::RangeListsRef(offset) => Some(Self::Offset(offset.0 as u64)),
            AttributeValue::SecOffset(offset) => Some(Self::Offset(offset as u64)),
            AttributeValue::DebugRngListsIndex(index) => Some(Self::Index(index.0 as u64)),
            _ => None,
        }
    }
}

impl Sections {
    /// Whether `elf` has debug information.
    pub(crate) fn are_in(elf: &Elf) -> bool {
        inflate::debug_section(elf, "info").is_some()
    }

    /// The debug sections of `elf`; None where it has no debug information.
    pub(crate) fn open(elf: &Elf, budget: &Budget) -> Result<Option<Self>, Reason> {
        let part = |name: &str, window: usize| Part::open(elf, name, window, budget);
        let info = part("info", 8 * 1024)?;
        if info.size() == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            info,
            aranges: part("aranges", 64 * 1024)?,
            line: part("line", 4 * 1024)?,
            abbrev: part("abbrev", 8 * 1024)?,
            text: part("str", 4 * 1024)?,
            line_text: part("line_str", 4 * 1024)?,
            ranges: part("ranges", 16 * 1024)?,
            rnglists: part("rnglists", 16 * 1024)?,
            addresses: part("addr", 4 * 1024)?,
            text_offsets: part("str_offsets", 4 * 1024)?,
            alternate: None,
            split: Split::default(),
            abbreviations: HashMap::new(),
            abbreviation_bytes: 0,
            budget: budget.clone(),
        }))
    }

    /// The sections of a unit that was split off this file: its own, and those that stayed here.
    pub(crate) fn of_split(&self, own: SplitParts) -> Self {
        let none = self.line.empty();
        Self {
            info: own.info,
            abbrev: own.abbrev,
            text: own.text,
            text_offsets: own.text_offsets,
            rnglists: own.rnglists,
            aranges: none.clone(),
            line_text: none.clone(),
            line: none,
            ranges: self.ranges.clone(),
            addresses: self.addresses.clone(),
            alternate: None,
            split: Split::default(),
            abbreviations: HashMap::new(),
            abbreviation_bytes: 0,
            budget: self.budget.clone(),
        }
    }

    /// The file that several debug files share, or this one.
    pub(crate) fn or_alternate(&mut self, alternate: bool) -> Result<&mut Self, Reason> {
        if alternate { self.alternate.as_deref_mut().ok_or(Reason::Missing) } else { Ok(self) }
    }

    /// The abbreviations at an offset.
    pub(crate) fn abbreviations(&mut self, offset: u64) -> Result<Rc<gimli::Abbreviations>, Reason> {
        if let Some(held) = self.abbreviations.get(&offset) {
            return Ok(held.clone());
        }
        let mut size = 8 * 1024;
        let parsed = loop {
            let bytes = self.abbrev.at(offset, size)?;
            match gimli::DebugAbbrev::new(bytes, LittleEndian).abbreviations(gimli::DebugAbbrevOffset(0)) {
                Ok(parsed) => break Rc::new(parsed),
                // The table goes on behind the window.
                Err(gimli::Error::UnexpectedEof(_)) if bytes.len() >= size && size < ABBREVIATIONS_LIMIT => {
                    size *= 4
                }
                Err(_) => return Err(Reason::Malformed),
            }
        };
        self.abbreviation_bytes += size;
        if self.abbreviation_bytes > ABBREVIATIONS_KEPT {
            self.abbreviations.clear();
            self.abbreviation_bytes = size;
        }
        self.abbreviations.insert(offset, parsed.clone());
        Ok(parsed)
    }

    /// The text behind an attribute.
    pub(crate) fn text(&mut self, text: &Text, bases: &Bases) -> Result<String, Reason> {
        let offset = match *text {
            Text::Inline(ref bytes) => return Ok(String::from_utf8_lossy(bytes).into_owned()),
            Text::LineOffset(offset) => return self.line_text.text(offset),
            Text::Offset(offset) => offset,
            Text::Alternate(offset) => {
                return self.alternate.as_mut().ok_or(Reason::Missing)?.text.text(offset);
            }
            Text::Index(index) => {
                let size = bases.offset_size;
                self.text_offsets.word(table_entry(bases.text_offsets, index, size)?, size)?
            }
        };
        self.text.text(offset)
    }

    /// The address behind an attribute.
    pub(crate) fn address(&mut self, address: Address, bases: &Bases) -> Result<u64, Reason> {
        match address {
            Address::Value(address) => Ok(address),
            Address::Index(index) => {
                let size = bases.address_size;
                self.addresses.word(table_entry(bases.addresses, index, size)?, size)
            }
        }
    }

    /// Calls `each` with the begin and end of every range in a list.
    pub(crate) fn ranges(
        &mut self,
        list: RangeList,
        bases: &Bases,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), Reason> {
        let offset = match list {
            RangeList::Offset(offset) if bases.version < 5 => offset.wrapping_add(bases.ranges),
            RangeList::Offset(offset) => offset,
            RangeList::Index(index) => {
                let size = bases.offset_size;
                let relative = self.rnglists.word(table_entry(bases.rnglists, index, size)?, size)?;
                bases.rnglists.checked_add(relative).ok_or(Reason::Malformed)?
            }
        };
        if bases.version < 5 {
            self.old_ranges(offset, bases, &mut each)
        } else {
            self.new_ranges(offset, bases, &mut each)
        }
    }

    fn old_ranges(
        &mut self,
        mut offset: u64,
        bases: &Bases,
        each: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Reason> {
        let size = bases.address_size;
        let escape = if size == 8 { u64::MAX } else { u64::from(u32::MAX) };
        let (mut base, mut dropped) = (bases.low_pc, false);
        for _ in 0..RANGES_LIMIT {
            let mut cursor = Cursor::new(self.ranges.at(offset, 2 * usize::from(size))?);
            let (begin, end) = (cursor.word(size)?, cursor.word(size)?);
            offset += 2 * u64::from(size);
            if begin == 0 && end == 0 {
                return Ok(());
            } else if begin == escape {
                (base, dropped) = (end, is_dropped(end));
            } else if !dropped {
                each(base.wrapping_add(begin), base.wrapping_add(end));
            }
        }
        Err(Reason::Malformed)
    }

    fn new_ranges(
        &mut self,
        mut offset: u64,
        bases: &Bases,
        each: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Reason> {
        const LONGEST: usize = 1 + 2 * 10;
        let size = bases.address_size;
        let (mut base, mut dropped) = (bases.low_pc, false);
        for _ in 0..RANGES_LIMIT {
            let window = self.rnglists.at(offset, LONGEST)?;
            let mut cursor = Cursor::new(window);
            let kind = gimli::DwRle(cursor.u8()?);
            let (first, second) = match kind {
                gimli::DW_RLE_end_of_list => return Ok(()),
                gimli::DW_RLE_base_addressx => (cursor.uleb()?, 0),
                gimli::DW_RLE_startx_endx | gimli::DW_RLE_startx_length | gimli::DW_RLE_offset_pair => {
                    (cursor.uleb()?, cursor.uleb()?)
                }
                gimli::DW_RLE_base_address => (cursor.word(size)?, 0),
                gimli::DW_RLE_start_end => (cursor.word(size)?, cursor.word(size)?),
                gimli::DW_RLE_start_length => (cursor.word(size)?, cursor.uleb()?),
                _ => return Err(Reason::Malformed),
            };
            offset += (window.len() - cursor.len()) as u64;
            match kind {
                gimli::DW_RLE_base_address => (base, dropped) = (first, is_dropped(first)),
                gimli::DW_RLE_base_addressx => {
                    base = self.address(Address::Index(first), bases)?;
                    dropped = is_dropped(base);
                }
                gimli::DW_RLE_startx_endx => {
                    let begin = self.address(Address::Index(first), bases)?;
                    each(begin, self.address(Address::Index(second), bases)?);
                }
                gimli::DW_RLE_startx_length => {
                    let begin = self.address(Address::Index(first), bases)?;
                    each(begin, begin.wrapping_add(second));
                }
                gimli::DW_RLE_offset_pair if dropped => {}
                gimli::DW_RLE_offset_pair => each(base.wrapping_add(first), base.wrapping_add(second)),
                gimli::DW_RLE_start_length => each(first, first.wrapping_add(second)),
                _ => each(first, second),
            }
        }
        Err(Reason::Malformed)
    }
}

/// Whether a sequence of lines or of ranges that begins here is of code that the linker dropped: it is left at address
/// 0, or at -1 or -2, and what is counted from there would claim what lies behind.
pub(crate) fn is_dropped(address: u64) -> bool {
    address == 0 || address >= u64::MAX - 1
}

fn table_entry(base: u64, index: u64, size: u8) -> Result<u64, Reason> {
    index.checked_mul(u64::from(size)).and_then(|at| base.checked_add(at)).ok_or(Reason::Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(content: &[u8]) -> Part {
        Part::of_memory(content)
    }

    fn ranges(content: &[u8], version: u16, low_pc: u64) -> Vec<(u64, u64)> {
        let mut sections = Sections {
            info: part(&[]),
            aranges: part(&[]),
            line: part(&[]),
            abbrev: part(&[]),
            text: part(&[]),
            line_text: part(&[]),
            ranges: part(content),
            rnglists: part(content),
            addresses: part(&[]),
            text_offsets: part(&[]),
            alternate: None,
            split: Split::default(),
            abbreviations: HashMap::new(),
            abbreviation_bytes: 0,
            budget: Budget::new(0),
        };
        let bases = Bases { version, low_pc, address_size: 8, offset_size: 4, ..Bases::default() };
        let mut found = Vec::new();
        sections.ranges(RangeList::Offset(0), &bases, |begin, end| found.push((begin, end))).unwrap();
        found
    }

    #[test]
    fn ranges_counted_from_what_the_linker_dropped_are_none() {
        let word = |value: u64| value.to_le_bytes();
        for left_at in [0, u64::MAX, u64::MAX - 1] {
            let mut new = vec![gimli::DW_RLE_base_address.0];
            new.extend(word(left_at));
            new.extend([gimli::DW_RLE_offset_pair.0, 0x10, 0x20, gimli::DW_RLE_base_address.0]);
            new.extend(word(0x5000));
            new.extend([gimli::DW_RLE_offset_pair.0, 0x10, 0x20, gimli::DW_RLE_end_of_list.0]);
            assert_eq!(ranges(&new, 5, 0), [(0x5010, 0x5020)], "left at {left_at:#x}");
            let old = [u64::MAX, left_at, 0x10, 0x20, u64::MAX, 0x5000, 0x10, 0x20, 0, 0].map(word).concat();
            assert_eq!(ranges(&old, 4, 0), [(0x5010, 0x5020)], "left at {left_at:#x}");
        }
        // A unit whose code is in several places counts from 0.
        assert_eq!(ranges(&[0x6000, 0x6010, 0, 0].map(word).concat(), 4, 0), [(0x6000, 0x6010)]);
        assert_eq!(ranges(&[gimli::DW_RLE_offset_pair.0, 0x10, 0x20, 0], 5, 0x7000), [(0x7010, 0x7020)]);
    }
}
