//! File and line of an address: the line program of a unit is run once past the addresses, and none of it is kept.

use std::collections::HashMap;
use std::sync::Arc;

use super::cursor::Cursor;
use super::functions::Site;
use super::sections::{Sections, Text, is_dropped};
use super::unit::Unit;
use crate::symbolize::budget::Buffer;
use crate::symbolize::cache::Cache;
use crate::symbolize::stats::Reason;

/// Where rows begin; None where there are too many of them.
pub(crate) type Rows = Option<Vec<u64>>;

/// The line program of one unit.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Buffer,
    version: u16,
    offset_size: u8,
    minimum_length: u8,
    line_base: i8,
    line_range: u8,
    opcode_lengths: Vec<u8>,
    /// Where directories and files are listed.
    lists: usize,
    program: usize,
    paths: HashMap<u64, Option<Arc<str>>>,
}

impl Lines {
    /// Reads the program at `offset`.
    pub(crate) fn read(sections: &mut Sections, offset: u64) -> Result<Self, Reason> {
        let (line, budget) = (&mut sections.line, &sections.budget);
        let mut cursor = Cursor::new(line.at(offset, 12)?);
        let before = cursor.len();
        let (length, offset_size) = cursor.initial_length()?;
        let prefix = before - cursor.len();
        let bytes = line.copy(offset, length.saturating_add(prefix as u64), budget)?;
        let mut cursor = Cursor::new(&bytes[prefix..]);
        let version = cursor.u16()?;
        let mut address_size = 8;
        if version >= 5 {
            address_size = cursor.u8()?;
            cursor.u8()?;
        }
        if !(2..=5).contains(&version) || !matches!(address_size, 4 | 8) {
            return Err(Reason::Unsupported);
        }
        let header_length = cursor.word(offset_size)?;
        let program =
            usize::try_from(header_length).ok().and_then(|size| size.checked_add(bytes.len() - cursor.len()));
        let minimum_length = cursor.u8()?;
        if version >= 4 && cursor.u8()? != 1 {
            // Machines that pack several operations into an instruction.
            return Err(Reason::Unsupported);
        }
        let (_is_statement, line_base, line_range) = (cursor.u8()?, cursor.u8()? as i8, cursor.u8()?);
        let opcode_base = cursor.u8()?;
        let opcodes = opcode_base.checked_sub(1).filter(|_| line_range != 0).ok_or(Reason::Malformed)?;
        let opcode_lengths = cursor.take(u64::from(opcodes))?.to_vec();
        let lists = bytes.len() - cursor.len();
        let program =
            program.filter(|&program| program >= lists && program <= bytes.len()).ok_or(Reason::Malformed)?;
        Ok(Self {
            version,
            offset_size,
            minimum_length,
            line_base,
            line_range,
            opcode_lengths,
            lists,
            program,
            paths: HashMap::new(),
            bytes,
        })
    }

    /// File, line and column of each of the sorted `addresses`, and where rows begin in the sorted `areas`.
    pub(crate) fn sites(
        &self,
        addresses: &[u64],
        areas: &[(u64, u64)],
    ) -> Result<(Vec<Option<Site>>, Rows), Reason> {
        let mut cursor = Cursor::new(&self.bytes[self.program..]);
        let mut machine = Machine { areas, ..Machine::new(addresses, self.bytes.len()) };
        let opcode_base = self.opcode_lengths.len() as u8 + 1;
        let constant = u64::from((255 - opcode_base) / self.line_range) * u64::from(self.minimum_length);
        while !cursor.is_empty() {
            let mut emit = false;
            match cursor.u8()? {
                0 => {
                    let size = cursor.uleb()?;
                    let mut operand = Cursor::new(cursor.take(size)?);
                    match operand.u8().map(gimli::DwLne) {
                        Ok(gimli::DW_LNE_end_sequence) => {
                            machine.row()?;
                            machine.start();
                        }
                        Ok(gimli::DW_LNE_set_address) => {
                            machine.address = operand.word(operand.len().min(8) as u8)?;
                        }
                        _ => {}
                    }
                }
                opcode if opcode >= opcode_base => {
                    let step = opcode - opcode_base;
                    machine.advance(u64::from(step / self.line_range) * u64::from(self.minimum_length));
                    machine.turn(i64::from(self.line_base) + i64::from(step % self.line_range));
                    emit = true;
                }
                opcode => match gimli::DwLns(opcode) {
                    gimli::DW_LNS_copy => emit = true,
                    gimli::DW_LNS_advance_pc => {
                        machine.advance(cursor.uleb()?.wrapping_mul(u64::from(self.minimum_length)));
                    }
                    gimli::DW_LNS_advance_line => machine.turn(cursor.sleb()?),
                    gimli::DW_LNS_set_file => machine.site.file = cursor.uleb()?,
                    gimli::DW_LNS_set_column => machine.site.column = cursor.uleb()? as u32,
                    gimli::DW_LNS_const_add_pc => machine.advance(constant),
                    gimli::DW_LNS_fixed_advance_pc => machine.advance(cursor.word(2)?),
                    _ => {
                        for _ in 0..self.opcode_lengths[usize::from(opcode) - 1] {
                            cursor.uleb()?;
                        }
                    }
                },
            }
            if emit {
                machine.row()?;
            }
        }
        let rows = machine.rows;
        Ok((machine.sites, (rows.len() < ROWS_LIMIT).then_some(rows)))
    }

    /// The path of a file by its number.
    pub(crate) fn path(
        &mut self,
        sections: &mut Sections,
        unit: &Unit,
        file: u64,
        strings: &mut Cache,
    ) -> Option<Arc<str>> {
        if let Some(held) = self.paths.get(&file) {
            return held.clone();
        }
        let path = self.find_path(sections, unit, file).ok().map(|path| strings.intern(&path));
        self.paths.insert(file, path.clone());
        path
    }

    fn find_path(&self, sections: &mut Sections, unit: &Unit, file: u64) -> Result<String, Reason> {
        let mut cursor = Cursor::new(&self.bytes[self.lists..self.program]);
        let (directory, name) = if self.version < 5 {
            self.old_file(&mut cursor, file)?
        } else {
            self.new_file(&mut cursor, file)?
        };
        let mut path = match &unit.directory {
            Some(directory) => sections.text(directory, &unit.bases)?,
            None => String::new(),
        };
        for part in directory.into_iter().chain([name]) {
            push(&mut path, &sections.text(&part, &unit.bases)?);
        }
        Ok(path)
    }

    fn old_file(&self, cursor: &mut Cursor<'_>, file: u64) -> Result<(Option<Text>, Text), Reason> {
        let directories = *cursor;
        while !cursor.text()?.is_empty() {}
        for number in 1.. {
            let name = cursor.text()?;
            if name.is_empty() {
                break;
            }
            let directory = cursor.uleb()?;
            cursor.uleb()?;
            cursor.uleb()?;
            if number == file {
                let mut cursor = directories;
                let mut found = None;
                for _ in 0..directory {
                    found = Some(cursor.text()?).filter(|text| !text.is_empty());
                    if found.is_none() {
                        break;
                    }
                }
                return Ok((found.map(|text| Text::Inline(text.to_vec())), Text::Inline(name.to_vec())));
            }
        }
        Err(Reason::Malformed)
    }

    fn new_file(&self, cursor: &mut Cursor<'_>, file: u64) -> Result<(Option<Text>, Text), Reason> {
        let directory_format = Format::read(cursor)?;
        let directories = cursor.uleb()?;
        let place = *cursor;
        for _ in 0..directories {
            directory_format.entry(cursor, self.offset_size)?;
        }
        let file_format = Format::read(cursor)?;
        let files = cursor.uleb()?;
        if file >= files {
            return Err(Reason::Malformed);
        }
        for _ in 0..file {
            file_format.entry(cursor, self.offset_size)?;
        }
        let (name, directory) = file_format.entry(cursor, self.offset_size)?;
        // The directory with number 0 is the unit's own.
        let mut cursor = place;
        let mut found = None;
        if directory != 0 && directory < directories {
            for _ in 0..=directory {
                found = directory_format.entry(&mut cursor, self.offset_size)?.0;
            }
        }
        Ok((found, name.ok_or(Reason::Malformed)?))
    }
}

/// A program may have a row for each of its bytes; those of all functions that one unit may be asked for are fewer.
const ROWS_LIMIT: usize = 1 << 19;

/// The registers of the line machine, and what they are run for.
struct Machine<'a> {
    address: u64,
    site: Site,
    /// The row before in the same sequence, and the first address that it can answer.
    last: Option<(u64, Site, usize)>,
    /// The sequence is of code that the linker dropped.
    dropped: bool,
    addresses: &'a [u64],
    sites: Vec<Option<Site>>,
    areas: &'a [(u64, u64)],
    rows: Vec<u64>,
    visits_left: usize,
}

impl<'a> Machine<'a> {
    fn new(addresses: &'a [u64], bytes: usize) -> Self {
        let mut machine = Self {
            address: 0,
            site: Site::default(),
            last: None,
            dropped: false,
            addresses,
            sites: vec![None; addresses.len()],
            areas: &[],
            rows: Vec::new(),
            // Each address lies in one sequence, or in a few; a program that repeats them all is not a program's.
            visits_left: addresses.len().saturating_mul(64).saturating_add(bytes),
        };
        machine.start();
        machine
    }

    fn start(&mut self) {
        (self.address, self.last) = (0, None);
        self.site = Site { file: 1, line: 1, column: 0 };
    }

    #[inline]
    fn advance(&mut self, by: u64) {
        self.address = self.address.wrapping_add(by);
    }

    #[inline]
    fn turn(&mut self, by: i64) {
        self.site.line = i64::from(self.site.line).wrapping_add(by) as u32;
    }

    /// Answers the addresses between the row before and this one, and makes this one the row before.
    #[inline]
    fn row(&mut self) -> Result<(), Reason> {
        if self.last.is_none() {
            self.dropped = is_dropped(self.address);
        }
        let first = match self.last {
            _ if self.dropped => 0,
            Some((start, site, first)) if self.address >= start => self.answer(site, first)?,
            _ => self.addresses.partition_point(|&address| address < self.address),
        };
        self.last = Some((self.address, self.site, first));
        if let Some(area) = self.areas.get(self.areas.partition_point(|area| area.1 <= self.address))
            && self.address >= area.0
            && self.rows.len() < ROWS_LIMIT
        {
            self.rows.push(self.address);
        }
        Ok(())
    }

    #[inline]
    fn answer(&mut self, site: Site, first: usize) -> Result<usize, Reason> {
        let mut place = first;
        while let Some(&address) = self.addresses.get(place)
            && address < self.address
        {
            if self.sites[place].is_none() {
                self.sites[place] = Some(site);
            }
            self.visits_left = self.visits_left.checked_sub(1).ok_or(Reason::Malformed)?;
            place += 1;
        }
        Ok(place)
    }
}

/// How directories or files are described since version 5.
struct Format(Vec<(gimli::DwLnct, gimli::DwForm)>);

impl Format {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Reason> {
        let count = cursor.u8()?;
        let mut fields = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (content, form) = (cursor.uleb()?, cursor.uleb()?);
            fields.push((gimli::DwLnct(content.min(0xffff) as u16), gimli::DwForm(form.min(0xffff) as u16)));
        }
        // Entries without a size could be as many as somebody likes to claim.
        if fields.is_empty() { Err(Reason::Malformed) } else { Ok(Self(fields)) }
    }

    /// The path of an entry, and the number of its directory.
    fn entry(&self, cursor: &mut Cursor<'_>, offset_size: u8) -> Result<(Option<Text>, u64), Reason> {
        let (mut path, mut directory) = (None, 0);
        for &(content, form) in &self.0 {
            let (mut text, mut number) = (None, 0);
            match form {
                gimli::DW_FORM_string => text = Some(Text::Inline(cursor.text()?.to_vec())),
                gimli::DW_FORM_line_strp => text = Some(Text::LineOffset(cursor.word(offset_size)?)),
                gimli::DW_FORM_strp => text = Some(Text::Offset(cursor.word(offset_size)?)),
                gimli::DW_FORM_strp_sup => text = Some(Text::Alternate(cursor.word(offset_size)?)),
                gimli::DW_FORM_strx => text = Some(Text::Index(cursor.uleb()?)),
                gimli::DW_FORM_strx1 => text = Some(Text::Index(cursor.word(1)?)),
                gimli::DW_FORM_strx2 => text = Some(Text::Index(cursor.word(2)?)),
                gimli::DW_FORM_strx3 => text = Some(Text::Index(cursor.word(3)?)),
                gimli::DW_FORM_strx4 => text = Some(Text::Index(cursor.word(4)?)),
                gimli::DW_FORM_udata => number = cursor.uleb()?,
                gimli::DW_FORM_data1 => number = cursor.word(1)?,
                gimli::DW_FORM_data2 => number = cursor.word(2)?,
                gimli::DW_FORM_data4 => number = cursor.word(4)?,
                gimli::DW_FORM_data8 => number = cursor.word(8)?,
                gimli::DW_FORM_data16 => drop(cursor.take(16)?),
                gimli::DW_FORM_block => {
                    let size = cursor.uleb()?;
                    cursor.take(size)?;
                }
                gimli::DW_FORM_block1 => {
                    let size = cursor.word(1)?;
                    cursor.take(size)?;
                }
                _ => return Err(Reason::Unsupported),
            }
            match content {
                gimli::DW_LNCT_path => path = text,
                gimli::DW_LNCT_directory_index => directory = number,
                _ => {}
            }
        }
        Ok((path, directory))
    }
}

fn push(path: &mut String, part: &str) {
    if part.starts_with('/') {
        path.clear();
    } else if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(part);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Rows four bytes apart from `start` on, with the lines from `line` on.
    fn sequence(machine: &mut Machine<'_>, start: u64, line: u32) {
        machine.start();
        machine.address = start;
        machine.site.line = line;
        for _ in 0..100 {
            machine.row().unwrap();
            machine.advance(4);
            machine.turn(1);
        }
    }

    #[test]
    fn what_the_linker_dropped_claims_no_code() {
        for left_at in [0, u64::MAX, u64::MAX - 1] {
            let addresses = [0x40, 0x64];
            let mut machine = Machine::new(&addresses, 0);
            sequence(&mut machine, left_at, 1000);
            sequence(&mut machine, 0x60, 7);
            let lines = machine.sites.iter().map(|site| site.map(|site| site.line));
            assert_eq!(lines.collect::<Vec<_>>(), [None, Some(8)], "left at {left_at:#x}");
        }
    }
}
