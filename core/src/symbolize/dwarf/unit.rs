//! The head of a unit: its header, and what its first entry says about all the others.

use std::rc::Rc;

use gimli::{AttributeValue, EndianSlice, EntriesRaw, LittleEndian, UnitOffset};

use super::cursor::Cursor;
use super::sections::{Address, RangeList, Sections, Slice, Text};
use crate::symbolize::stats::Reason;

/// What is needed to look up attributes of a unit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bases {
    pub(crate) version: u16,
    pub(crate) offset_size: u8,
    pub(crate) address_size: u8,
    pub(crate) low_pc: u64,
    pub(crate) addresses: u64,
    pub(crate) text_offsets: u64,
    pub(crate) ranges: u64,
    pub(crate) rnglists: u64,
}

/// A unit's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Offset in the section.
    pub(crate) start: u64,
    /// Bytes from there to the next unit.
    pub(crate) size: u64,
    /// Bytes before the first entry.
    pub(crate) header_size: usize,
    pub(crate) kind: gimli::DwUt,
    pub(crate) abbreviations: u64,
    pub(crate) encoding: gimli::Encoding,
    /// What a unit and the skeleton that it was split off have in common.
    pub(crate) split_id: Option<u64>,
}

/// Longest header there is.
pub(crate) const HEADER_MAX: usize = 12 + 2 + 2 + 8 + 8 + 8;

impl Header {
    /// Decodes the header in `bytes`, which start at `start` in the section.
    pub(crate) fn parse(bytes: &[u8], start: u64) -> Result<Self, Reason> {
        let mut cursor = Cursor::new(bytes);
        let (length, offset_size) = cursor.initial_length()?;
        let size = length.checked_add((bytes.len() - cursor.len()) as u64).ok_or(Reason::Malformed)?;
        let version = cursor.u16()?;
        let mut kind = gimli::DW_UT_compile;
        let mut split_id = None;
        let (address_size, abbreviations) = match version {
            2..=4 => {
                let abbreviations = cursor.word(offset_size)?;
                (cursor.u8()?, abbreviations)
            }
            5 => {
                kind = gimli::DwUt(cursor.u8()?);
                let address_size = cursor.u8()?;
                let abbreviations = cursor.word(offset_size)?;
                match kind {
                    gimli::DW_UT_skeleton | gimli::DW_UT_split_compile => split_id = Some(cursor.word(8)?),
                    gimli::DW_UT_type | gimli::DW_UT_split_type => {
                        cursor.word(8)?;
                        cursor.word(offset_size)?;
                    }
                    _ => {}
                }
                (address_size, abbreviations)
            }
            _ => return Err(Reason::Unsupported),
        };
        if !matches!(address_size, 4 | 8) {
            return Err(Reason::Unsupported);
        }
        let header_size = bytes.len() - cursor.len();
        if size < header_size as u64 {
            return Err(Reason::Malformed);
        }
        let format = if offset_size == 8 { gimli::Format::Dwarf64 } else { gimli::Format::Dwarf32 };
        Ok(Self {
            start,
            size,
            header_size,
            kind,
            abbreviations,
            encoding: gimli::Encoding { format, version, address_size },
            split_id,
        })
    }
}

/// A unit, without its entries.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) header: Header,
    pub(crate) abbreviations: Rc<gimli::Abbreviations>,
    pub(crate) bases: Bases,
    pub(crate) directory: Option<Text>,
    pub(crate) line_program: Option<u64>,
    /// The name of the file that has all but the unit's head.
    pub(crate) split_name: Option<Text>,
    /// What it and that file have in common.
    pub(crate) split_id: Option<u64>,
    /// Where the split part's lists of ranges begin, before version 5.
    split_ranges: u64,
    low: Option<Address>,
    high: Option<High>,
    list: Option<RangeList>,
}

/// The end of a range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum High {
    Address(Address),
    Size(u64),
}

impl High {
    pub(crate) fn of(value: AttributeValue<Slice<'_>>) -> Option<Self> {
        match value {
            AttributeValue::Udata(size) => Some(Self::Size(size)),
            value => Address::of(value).map(Self::Address),
        }
    }
}

impl Unit {
    /// Reads the head of the unit at `start`.
    pub(crate) fn read(sections: &mut Sections, start: u64) -> Result<Self, Reason> {
        let header = Header::parse(sections.info.at(start, HEADER_MAX)?, start)?;
        if start.checked_add(header.size).is_none_or(|end| end > sections.info.size()) {
            return Err(Reason::Malformed);
        }
        let abbreviations = sections.abbreviations(header.abbreviations)?;
        let encoding = header.encoding;
        let offset_size = if encoding.format == gimli::Format::Dwarf64 { 8 } else { 4 };
        // Where the bases are not said, they are behind the header of the only table there is, as in split files.
        let modern = encoding.version >= 5;
        let table = if offset_size == 8 { 16 } else { 8 };
        let bases = Bases {
            version: encoding.version,
            offset_size,
            address_size: encoding.address_size,
            addresses: if modern { table } else { 0 },
            text_offsets: if modern { table } else { 0 },
            rnglists: table + 4,
            ..Bases::default()
        };
        let mut unit = Self {
            header,
            abbreviations,
            bases,
            directory: None,
            line_program: None,
            split_name: None,
            split_id: header.split_id,
            split_ranges: 0,
            low: None,
            high: None,
            list: None,
        };
        unit.read_root(sections)?;
        // The base of addresses must be known before the first address can be looked up.
        if let Some(low) = unit.low {
            unit.bases.low_pc = sections.address(low, &unit.bases).unwrap_or(0);
        }
        Ok(unit)
    }

    /// Takes over what a unit that was split off inherits from its skeleton.
    pub(crate) fn inherit(&mut self, skeleton: &Self) {
        self.bases.addresses = skeleton.bases.addresses;
        self.bases.low_pc = skeleton.bases.low_pc;
        self.bases.ranges = skeleton.split_ranges;
    }

    fn read_root(&mut self, sections: &mut Sections) -> Result<(), Reason> {
        const ROOT: usize = 4096;
        let left = self.header.size - self.header.header_size as u64;
        let place = self.header.start + self.header.header_size as u64;
        let bytes = sections.info.at(place, ROOT.min(left as usize))?;
        let bytes = &bytes[..bytes.len().min(left as usize)];
        let abbreviations = self.abbreviations.clone();
        let mut entries = entries(bytes, &self.header, &abbreviations, self.header.header_size as u64);
        let Some(abbreviation) = entries.read_abbreviation().map_err(|_| Reason::Malformed)? else {
            return Ok(());
        };
        for &spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(spec).map_err(|_| Reason::Malformed)?;
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_comp_dir, value) => self.directory = Text::of(value),
                (gimli::DW_AT_stmt_list, AttributeValue::DebugLineRef(offset)) => {
                    self.line_program = Some(offset.0 as u64);
                }
                (gimli::DW_AT_low_pc, value) => self.low = Address::of(value),
                (gimli::DW_AT_high_pc, value) => self.high = High::of(value),
                (gimli::DW_AT_ranges, value) => self.list = RangeList::of(value),
                (
                    gimli::DW_AT_addr_base | gimli::DW_AT_GNU_addr_base,
                    AttributeValue::DebugAddrBase(base),
                ) => {
                    self.bases.addresses = base.0 as u64;
                }
                (gimli::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    self.bases.text_offsets = base.0 as u64;
                }
                (gimli::DW_AT_rnglists_base, AttributeValue::DebugRngListsBase(base)) => {
                    self.bases.rnglists = base.0 as u64;
                }
                (gimli::DW_AT_GNU_ranges_base, AttributeValue::DebugRngListsBase(base)) => {
                    self.split_ranges = base.0 as u64;
                }
                (gimli::DW_AT_dwo_name | gimli::DW_AT_GNU_dwo_name, value) => {
                    self.split_name = Text::of(value);
                }
                (gimli::DW_AT_GNU_dwo_id, AttributeValue::DwoId(id)) => self.split_id = Some(id.0),
                _ => {}
            }
        }
        Ok(())
    }

    /// Calls `each` with the begin and end of every stretch of code that the unit says it has.
    pub(crate) fn ranges(&self, sections: &mut Sections, each: impl FnMut(u64, u64)) -> Result<(), Reason> {
        ranges(sections, &self.bases, self.low, self.high, self.list, each)
    }

    /// Where the unit's entries end in the section.
    pub(crate) fn end(&self) -> u64 {
        self.header.start + self.header.size
    }
}

/// A reader of entries from `bytes`, which start at `offset` in the unit.
pub(crate) fn entries<'a>(
    bytes: &'a [u8],
    header: &Header,
    abbreviations: &'a gimli::Abbreviations,
    offset: u64,
) -> EntriesRaw<'a, Slice<'a>> {
    let input = EndianSlice::new(bytes, LittleEndian);
    EntriesRaw::new(input, header.encoding, abbreviations, UnitOffset(offset as usize))
}

/// Calls `each` with the ranges that the three attributes of an entry describe.
pub(crate) fn ranges(
    sections: &mut Sections,
    bases: &Bases,
    low: Option<Address>,
    high: Option<High>,
    list: Option<RangeList>,
    mut each: impl FnMut(u64, u64),
) -> Result<(), Reason> {
    if let Some(list) = list {
        return sections.ranges(list, bases, each);
    }
    if let (Some(low), Some(high)) = (low, high) {
        let begin = sections.address(low, bases)?;
        let end = match high {
            High::Address(address) => sections.address(address, bases)?,
            High::Size(size) => begin.wrapping_add(size),
        };
        each(begin, end);
    }
    Ok(())
}
