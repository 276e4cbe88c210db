//! The name of a function's entry, which is often said elsewhere: in its declaration, in the abstract instance that was
//! inlined, in another unit, in another file.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use gimli::AttributeValue;

use super::index;
use super::sections::{Sections, Text};
use super::unit::{Unit, entries};
use crate::symbolize::cache::Cache;
use crate::symbolize::demangle::demangle;
use crate::symbolize::stats::Reason;

/// A function as its entry calls it.
#[derive(Debug, Default)]
pub(crate) struct Name {
    pub(crate) name: Arc<str>,
    pub(crate) system_name: Arc<str>,
    pub(crate) start_line: u32,
    /// Where it is declared, as a number in the line table of the unit that was asked; None where another one declares it.
    pub(crate) declared: Option<u64>,
}

/// The names of one call of the symbolizer.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By offset in the section.
    held: HashMap<u64, Rc<Name>>,
    /// What a linker's name reads like: the same small functions are inlined in most units.
    demangled: HashMap<Arc<str>, Arc<str>>,
    foreign: [Foreign; 2],
}

/// Units of a file that other units refer to.
#[derive(Debug, Default)]
struct Foreign {
    starts: Option<Vec<u64>>,
    units: HashMap<u64, Rc<Unit>>,
}

/// References are followed this often.
const REFERENCES_LIMIT: usize = 16;
const UNITS_KEPT: usize = 64;
/// An entry's size, as far as one may guess.
const ENTRY_WINDOW: usize = 512;
const ENTRY_LIMIT: usize = 64 * 1024;

/// What one entry says.
#[derive(Default)]
struct Facts {
    linkage: Option<Text>,
    name: Option<Text>,
    line: u32,
    file: Option<u64>,
    next: Option<Next>,
}

/// Where the entry goes on.
#[derive(Clone, Copy)]
enum Next {
    Unit(u64),
    File(u64),
    Alternate(u64),
}

impl Names {
    /// Forgets the names of a unit that is done.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }

    /// Names of another file, which mangle in the same way.
    pub(crate) fn for_another_file(&mut self) -> Self {
        Self { demangled: std::mem::take(&mut self.demangled), ..Self::default() }
    }

    /// Takes back what is the same in every file.
    pub(crate) fn take_back(&mut self, other: Self) {
        self.demangled = other.demangled;
    }

    /// The name of the function whose entry is at `offset` in `unit`, whose bytes are `bytes`.
    pub(crate) fn get(
        &mut self,
        sections: &mut Sections,
        unit: &Unit,
        bytes: &[u8],
        offset: u64,
        strings: &mut Cache,
    ) -> Rc<Name> {
        let place = unit.header.start + offset;
        if let Some(held) = self.held.get(&place) {
            return held.clone();
        }
        // A function whose name is nowhere, or lost in a broken reference, is shown without.
        let name = Rc::new(self.find(sections, unit, bytes, offset, strings).unwrap_or_default());
        self.held.insert(place, name.clone());
        name
    }

    fn find(
        &mut self,
        sections: &mut Sections,
        unit: &Unit,
        bytes: &[u8],
        offset: u64,
        strings: &mut Cache,
    ) -> Result<Name, Reason> {
        let mut facts = facts_of(bytes.get(offset as usize..).ok_or(Reason::Malformed)?, unit, offset)?;
        let mut here = Rc::new(unit.clone());
        let (mut alternate, mut line, mut declared) = (false, facts.line, facts.file);
        for _ in 0..REFERENCES_LIMIT {
            let file = sections.or_alternate(alternate)?;
            if let Some(text) = facts.linkage.or(facts.name) {
                let text = file.text(&text, &here.bases)?;
                let system_name = strings.intern(&text);
                let name = match self.demangled.get(&system_name) {
                    Some(name) => name.clone(),
                    None => {
                        let name = strings.intern(&demangle(&text));
                        self.demangled.insert(system_name.clone(), name.clone());
                        name
                    }
                };
                return Ok(Name { name, system_name, start_line: line, declared });
            }
            let place = match facts.next.ok_or(Reason::Malformed)? {
                Next::Unit(offset) => here.header.start.checked_add(offset).ok_or(Reason::Malformed)?,
                Next::File(place) => place,
                Next::Alternate(place) => {
                    alternate = true;
                    place
                }
            };
            let file = sections.or_alternate(alternate)?;
            here = match here.header.start {
                start if !alternate && (start..here.end()).contains(&place) => here,
                _ => self.foreign[usize::from(alternate)].unit(file, place)?,
            };
            facts = read(file, &here, place)?;
            line = if line == 0 { facts.line } else { line };
            if !alternate && here.header.start == unit.header.start {
                declared = declared.or(facts.file);
            }
        }
        Err(Reason::Malformed)
    }
}

impl Foreign {
    /// The unit that has the entry at `place`.
    fn unit(&mut self, sections: &mut Sections, place: u64) -> Result<Rc<Unit>, Reason> {
        let starts = self.starts.get_or_insert_with(|| index::starts(sections));
        let before = starts.partition_point(|&start| start <= place);
        let start = *before.checked_sub(1).and_then(|at| starts.get(at)).ok_or(Reason::Malformed)?;
        if let Some(unit) = self.units.get(&start) {
            return Ok(unit.clone());
        }
        if self.units.len() >= UNITS_KEPT {
            self.units.clear();
        }
        let unit = Rc::new(Unit::read(sections, start)?);
        self.units.insert(start, unit.clone());
        Ok(unit)
    }
}

/// Reads the entry at `place` in the section.
fn read(sections: &mut Sections, unit: &Unit, place: u64) -> Result<Facts, Reason> {
    let offset = place.checked_sub(unit.header.start).ok_or(Reason::Malformed)?;
    let left = unit.end().checked_sub(place).ok_or(Reason::Malformed)?;
    let mut size = ENTRY_WINDOW;
    loop {
        let bytes = sections.info.at(place, size.min(left as usize))?;
        let bytes = &bytes[..bytes.len().min(left as usize)];
        match facts_of(bytes, unit, offset) {
            Err(_) if (bytes.len() as u64) < left && size < ENTRY_LIMIT => size *= 8,
            facts => return facts,
        }
    }
}

/// Decodes the entry that `bytes` start with.
fn facts_of(bytes: &[u8], unit: &Unit, offset: u64) -> Result<Facts, Reason> {
    let mut entries = entries(bytes, &unit.header, &unit.abbreviations, offset);
    let abbreviation = entries.read_abbreviation().ok().flatten().ok_or(Reason::Malformed)?;
    let mut facts = Facts::default();
    for &spec in abbreviation.attributes() {
        let attribute = entries.read_attribute(spec).map_err(|_| Reason::Malformed)?;
        match attribute.name() {
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                facts.linkage = Text::of(attribute.value())
            }
            gimli::DW_AT_name => facts.name = Text::of(attribute.value()),
            gimli::DW_AT_decl_file => {
                if let AttributeValue::FileIndex(file) = attribute.value() {
                    facts.file = Some(file);
                }
            }
            gimli::DW_AT_decl_line => facts.line = attribute.udata_value().unwrap_or(0) as u32,
            gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                facts.next = match attribute.value() {
                    AttributeValue::UnitRef(offset) => Some(Next::Unit(offset.0 as u64)),
                    AttributeValue::DebugInfoRef(offset) => Some(Next::File(offset.0 as u64)),
                    AttributeValue::DebugInfoRefSup(offset) => Some(Next::Alternate(offset.0 as u64)),
                    _ => None,
                }
            }
            _ => {}
        }
    }
    Ok(facts)
}
