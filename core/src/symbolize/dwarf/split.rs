//! Debug information that was split off: `.dwo` files that stand beside the objects, and the `.dwp` package of a program,
//! as `-gsplit-dwarf` and Rust's `split-debuginfo` make them. The program keeps a skeleton of each unit, with its
//! lines; functions are elsewhere.
//!
//! A candidate is taken only when it has the unit with the number that the skeleton says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::sections::{Part, Sections};
use super::unit::{HEADER_MAX, Header, Unit};
use crate::symbolize::budget::Budget;
use crate::symbolize::elf::Elf;
use crate::symbolize::inflate;
use crate::symbolize::stats::Reason;

/// Where to look, and the package once it was looked for.
#[derive(Debug, Default)]
pub(crate) struct Split {
    packages: Vec<PathBuf>,
    folder: Option<PathBuf>,
    package: Option<Package>,
    searched: bool,
}

/// The sections of units that were split off.
#[derive(Clone, Debug)]
pub(crate) struct SplitParts {
    pub(crate) info: Part,
    pub(crate) abbrev: Part,
    pub(crate) text: Part,
    pub(crate) text_offsets: Part,
    pub(crate) rnglists: Part,
}

/// More units than this in one file are not a compiler's.
const UNITS_LIMIT: usize = 65_536;

impl Split {
    /// For a program that was opened as `path`, which other names may lead to.
    pub(crate) fn new(path: &Path, build_id: &str, directories: &[PathBuf]) -> Self {
        let real = std::fs::canonicalize(path).unwrap_or(path.to_owned());
        let mut longer = real.clone().into_os_string();
        longer.push(".dwp");
        let mut packages = vec![PathBuf::from(longer), real.with_extension("dwp")];
        if let Some((first, rest)) = build_id.split_at_checked(2).filter(|(_, rest)| !rest.is_empty()) {
            let place =
                |directory: &PathBuf| directory.join(".build-id").join(first).join(format!("{rest}.dwp"));
            packages.extend(directories.iter().map(place));
        }
        let folder = real.parent().map(Path::to_owned);
        Self { packages, folder, ..Self::default() }
    }
}

/// What was split off `skeleton`, a unit of `sections`.
pub(crate) fn find(sections: &mut Sections, skeleton: &Unit) -> Result<(Sections, Unit), Reason> {
    let id = skeleton.split_id.ok_or(Reason::Malformed)?;
    let parts = match packaged(sections, id)? {
        Some(parts) => parts,
        None => beside(sections, skeleton, id)?,
    };
    let mut own = sections.of_split(parts);
    let mut place = 0;
    for _ in 0..UNITS_LIMIT {
        let header = Header::parse(own.info.at(place, HEADER_MAX)?, place)?;
        if matches!(header.kind, gimli::DW_UT_compile | gimli::DW_UT_split_compile) {
            let mut unit = Unit::read(&mut own, place)?;
            if unit.split_id == Some(id) {
                unit.inherit(skeleton);
                return Ok((own, unit));
            }
        }
        place = place.checked_add(header.size).ok_or(Reason::Malformed)?;
        if place >= own.info.size() {
            break;
        }
    }
    Err(Reason::Replaced)
}

/// The sections of the unit `id` in the package; None where there is no package, or none with that unit.
fn packaged(sections: &mut Sections, id: u64) -> Result<Option<SplitParts>, Reason> {
    let split = &mut sections.split;
    if !split.searched {
        split.searched = true;
        let files = split.packages.iter().filter_map(|path| Elf::open(path).ok());
        split.package =
            files.filter_map(|elf| Package::open(&elf, &sections.budget).transpose()).next().transpose()?;
    }
    split.package.as_mut().map_or(Ok(None), |package| package.unit(id))
}

/// The sections of the file that the skeleton names.
fn beside(sections: &mut Sections, skeleton: &Unit, id: u64) -> Result<SplitParts, Reason> {
    let text = skeleton.split_name.as_ref().ok_or(Reason::Missing)?;
    let name = sections.text(text, &skeleton.bases)?;
    let folder = match &skeleton.directory {
        Some(directory) => sections.text(directory, &skeleton.bases)?,
        None => String::new(),
    };
    let name = Path::new(OsStr::from_bytes(name.as_bytes()));
    // Where it was made, or where the program was moved to together with it. An absolute name stays as it is.
    let mut places = vec![Path::new(&folder).join(name)];
    if let (Some(folder), Some(bare)) = (&sections.split.folder, name.file_name()) {
        places.extend([folder.join(name), folder.join(bare)]);
    }
    let mut worst = Reason::Missing;
    for elf in places.iter().filter_map(|place| Elf::open(place).ok()) {
        match SplitParts::open(&elf, &sections.budget) {
            Ok(Some(parts)) if has_unit(&parts, sections, id) => return Ok(parts),
            Ok(_) => worst = Reason::Replaced,
            Err(reason) => worst = reason,
        }
    }
    Err(worst)
}

fn has_unit(parts: &SplitParts, sections: &Sections, id: u64) -> bool {
    let mut own = sections.of_split(parts.clone());
    super::index::starts(&mut own)
        .into_iter()
        .any(|start| Unit::read(&mut own, start).is_ok_and(|unit| unit.split_id == Some(id)))
}

impl SplitParts {
    fn open(elf: &Elf, budget: &Budget) -> Result<Option<Self>, Reason> {
        if inflate::debug_section(elf, "info.dwo").is_none() {
            return Ok(None);
        }
        let part = |name: &str, window: usize| Part::open(elf, name, window, budget);
        Ok(Some(Self {
            info: part("info.dwo", 8 * 1024)?,
            abbrev: part("abbrev.dwo", 8 * 1024)?,
            text: part("str.dwo", 4 * 1024)?,
            text_offsets: part("str_offsets.dwo", 4 * 1024)?,
            rnglists: part("rnglists.dwo", 16 * 1024)?,
        }))
    }
}

/// A `.dwp` file: the sections of many units one behind the other, and an index of the stretches that each has.
#[derive(Debug)]
struct Package {
    parts: SplitParts,
    index: Part,
    sections: u64,
    units: u64,
    slots: u64,
}

/// A third of the table is free, so that a chain in it is short.
const PROBES_LIMIT: u64 = 4096;
/// Bytes before the table of the index.
const INDEX_HEADER: u64 = 16;

impl Package {
    fn open(elf: &Elf, budget: &Budget) -> Result<Option<Self>, Reason> {
        let Some(parts) = SplitParts::open(elf, budget)? else { return Ok(None) };
        let mut index = Part::open(elf, "cu_index", 4 * 1024, budget)?;
        if index.size() == 0 {
            return Ok(None);
        }
        // The first version is 4 bytes long and the standard's 2, with 2 bytes of nothing behind it.
        if !matches!(index.word(0, 4)?, 2 | 5) {
            return Err(Reason::Unsupported);
        }
        let (sections, units, slots) = (index.word(4, 4)?, index.word(8, 4)?, index.word(12, 4)?);
        let cells = units.saturating_mul(sections).saturating_mul(8);
        let size = INDEX_HEADER.saturating_add(slots * 12).saturating_add(sections * 4).saturating_add(cells);
        if size > index.size() || !slots.is_power_of_two() {
            return Err(Reason::Malformed);
        }
        Ok(Some(Self { parts, index, sections, units, slots }))
    }

    /// The stretches of the unit `id`.
    fn unit(&mut self, id: u64) -> Result<Option<SplitParts>, Reason> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let names = INDEX_HEADER + self.slots * 12;
        let offsets = names + self.sections * 4;
        let sizes = offsets + self.units * self.sections * 4;
        let none = |part: &Part| part.stretch(0, 0);
        let (info, abbrev) = (none(&self.parts.info)?, none(&self.parts.abbrev)?);
        let (text_offsets, rnglists) = (none(&self.parts.text_offsets)?, none(&self.parts.rnglists)?);
        let mut found = SplitParts { info, abbrev, text: self.parts.text.clone(), text_offsets, rnglists };
        let version = self.index.word(0, 2)?;
        for column in 0..self.sections {
            let cell = ((row - 1) * self.sections + column) * 4;
            let (offset, size) = (self.index.word(offsets + cell, 4)?, self.index.word(sizes + cell, 4)?);
            match self.index.word(names + column * 4, 4)? {
                1 => found.info = self.parts.info.stretch(offset, size)?,
                3 => found.abbrev = self.parts.abbrev.stretch(offset, size)?,
                6 => found.text_offsets = self.parts.text_offsets.stretch(offset, size)?,
                8 if version == 5 => found.rnglists = self.parts.rnglists.stretch(offset, size)?,
                _ => {}
            }
        }
        Ok(Some(found))
    }

    /// The row of the unit `id`, counted from 1.
    fn row(&mut self, id: u64) -> Result<Option<u64>, Reason> {
        let mask = self.slots - 1;
        let (mut slot, step) = (id & mask, (id >> 32) & mask | 1);
        for _ in 0..self.slots.min(PROBES_LIMIT) {
            let row = self.index.word(INDEX_HEADER + self.slots * 8 + slot * 4, 4)?;
            if row == 0 {
                return Ok(None);
            }
            if self.index.word(INDEX_HEADER + slot * 8, 8)? == id {
                return if row <= self.units { Ok(Some(row)) } else { Err(Reason::Malformed) };
            }
            slot = (slot + step) & mask;
        }
        Ok(None)
    }
}
