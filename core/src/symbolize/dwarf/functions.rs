//! Which function has an address, and which functions were inlined there: one pass over the entries of a unit.
//!
//! Nothing is built but the answers. A function that has none of the addresses costs the reading of its attributes.

use std::ops::Range;

use gimli::{AttributeValue, EntriesRaw};

use super::sections::{Address, RangeList, Sections, Slice};
use super::unit::{High, Unit, ranges};
use super::walk::{Entry, Walk};
use crate::symbolize::stats::Reason;

/// One function at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Offset in the unit of the function's entry.
    pub(crate) entry: u64,
    /// Where it was inlined; None for the function that was really called.
    pub(crate) site: Option<Site>,
}

/// A place in the caller.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Site {
    pub(crate) file: u64,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// Deeper nesting than this is not a program's.
const NESTING_LIMIT: usize = 512;
/// How many attributes a unit may have for each of its bytes: those without a size would be free otherwise.
const ATTRIBUTES_PER_BYTE: u64 = 16;
/// How many ranges and addresses may be looked at for each byte of a unit.
const VISITS_PER_BYTE: u64 = 16;
/// More areas than this for each address are a list of ranges that repeats itself.
const AREAS_PER_ADDRESS: usize = 16;
/// The code around an address of which all is found out: a longer function is a function's worth of them.
const AREA: u64 = 4096;
/// More places than this where functions begin and end are not found out at one time.
const CUTS_LIMIT: usize = 1 << 16;

/// What a pass over a unit finds.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// For each address the functions at it, outermost first.
    pub(crate) chains: Vec<Vec<T>>,
    /// The stretches of functions around the addresses, sorted and apart from each other.
    pub(crate) areas: Vec<(u64, u64)>,
    /// Where in the areas a function begins or ends, in any order.
    pub(crate) cuts: Vec<u64>,
}

/// The functions at each of the sorted `addresses`. `bytes` is the whole unit.
pub(crate) fn chains(
    sections: &mut Sections,
    unit: &Unit,
    bytes: &[u8],
    addresses: &[u64],
) -> Result<Found<Call>, Reason> {
    let mut pass = Pass {
        sections,
        unit,
        addresses,
        chains: vec![Vec::new(); addresses.len()],
        open: Vec::new(),
        areas: Vec::new(),
        cuts: Vec::new(),
        attributes_left: ATTRIBUTES_PER_BYTE.saturating_mul(bytes.len() as u64).saturating_add(4096),
        visits_left: VISITS_PER_BYTE
            .saturating_mul((bytes.len() + addresses.len()) as u64)
            .saturating_add(4096),
    };
    let mut walk = Walk::new(bytes, &unit.header, &unit.abbreviations);
    while let Some(entry) = walk.next()? {
        pass.step(&mut walk, &entry)?;
    }
    let Pass { chains, mut areas, cuts, .. } = pass;
    areas.sort_unstable();
    areas.dedup_by(|next, held| {
        let overlaps = next.0 < held.1;
        if overlaps {
            held.1 = held.1.max(next.1);
        }
        overlaps
    });
    if cuts.len() >= CUTS_LIMIT {
        // Then not all of them are there.
        areas.clear();
    }
    Ok(Found { chains, areas, cuts })
}

struct Pass<'a> {
    sections: &'a mut Sections,
    unit: &'a Unit,
    addresses: &'a [u64],
    chains: Vec<Vec<Call>>,
    open: Vec<Open>,
    areas: Vec<(u64, u64)>,
    cuts: Vec<u64>,
    attributes_left: u64,
    visits_left: u64,
}

/// A function whose children are being read.
struct Open {
    depth: isize,
    /// How long the chains of its addresses are.
    level: usize,
    /// Places of the addresses that it has, sorted.
    has: Vec<u32>,
    /// Which areas it may have a part of.
    near: Range<usize>,
}

/// The attributes of a function's entry that say where it is.
#[derive(Default)]
struct Facts {
    low: Option<Address>,
    high: Option<High>,
    list: Option<RangeList>,
    site: Site,
}

impl Pass<'_> {
    fn step(&mut self, walk: &mut Walk<'_>, entry: &Entry) -> Result<(), Reason> {
        while self.open.last().is_some_and(|open| entry.depth <= open.depth) {
            self.open.pop();
        }
        self.attributes_left =
            self.attributes_left.checked_sub(entry.attributes.into()).ok_or(Reason::Malformed)?;
        let inlined = match entry.tag {
            gimli::DW_TAG_subprogram => false,
            gimli::DW_TAG_inlined_subroutine
                if self.open.last().is_some_and(|open| !open.near.is_empty()) =>
            {
                true
            }
            _ => return walk.skip(entry),
        };
        let facts = walk.read(entry, read)?;
        let (level, (has, near)) = match self.open.pop() {
            Some(parent) if inlined => {
                let found = (parent.level + 1, self.among(&facts, &parent)?);
                self.open.push(parent);
                found
            }
            parent => {
                self.open.extend(parent);
                (1, self.anywhere(&facts)?)
            }
        };
        // Nested functions must hide the one around them, found or not.
        if !entry.children || !inlined && near.is_empty() && self.open.is_empty() {
            self.extend(&has, level, entry.offset, inlined.then_some(facts.site));
            return Ok(());
        }
        if self.open.len() >= NESTING_LIMIT {
            return Err(Reason::Malformed);
        }
        let has = self.extend(&has, level, entry.offset, inlined.then_some(facts.site));
        self.open.push(Open { depth: entry.depth, level, has, near });
        Ok(())
    }

    /// Adds a function to the chains of its addresses that end at its caller, and says which those were.
    fn extend(&mut self, has: &[u32], level: usize, entry: u64, site: Option<Site>) -> Vec<u32> {
        let mut taken = Vec::with_capacity(has.len());
        for &place in has {
            let chain = &mut self.chains[place as usize];
            if chain.len() + 1 == level {
                chain.push(Call { entry, site });
                taken.push(place);
            }
        }
        taken
    }

    /// The addresses that a function has, and the areas around them.
    fn anywhere(&mut self, facts: &Facts) -> Result<(Vec<u32>, Range<usize>), Reason> {
        let (addresses, mut has, mut left) = (self.addresses, Vec::new(), self.visits_left);
        let before = self.areas.len();
        let (areas, cuts) = (&mut self.areas, &mut self.cuts);
        let most = AREAS_PER_ADDRESS.saturating_mul(addresses.len()).saturating_add(1024);
        ranges(self.sections, &self.unit.bases, facts.low, facts.high, facts.list, |begin, end| {
            left = left.saturating_sub(1);
            if begin == 0 || begin >= end {
                return;
            }
            let first = addresses.partition_point(|&address| address < begin);
            let here = addresses[first..].iter().take_while(|&&address| address < end);
            let mut covered = begin;
            for (place, &address) in (first as u32..).zip(here) {
                if left == 0 {
                    return;
                }
                left -= 1;
                has.push(place);
                if address >= covered {
                    let area = (begin.max(address & !(AREA - 1)), end.min(address | (AREA - 1)));
                    // The last address of a block is in it.
                    let area = (area.0, area.1 + u64::from(area.1 < end));
                    covered = area.1;
                    areas.push(area);
                    cut(cuts, &[area.0, area.1]);
                    left = if areas.len() < most { left } else { 0 };
                }
            }
            distinct(&mut has, addresses.len());
        })?;
        self.visits_left = Some(left).filter(|&left| left > 0).ok_or(Reason::Malformed)?;
        distinct(&mut has, 0);
        Ok((has, before..self.areas.len()))
    }

    /// Which of its caller's addresses an inlined function has, and which areas it may have a part of.
    fn among(&mut self, facts: &Facts, parent: &Open) -> Result<(Vec<u32>, Range<usize>), Reason> {
        let (addresses, mut has, mut left) = (self.addresses, Vec::new(), self.visits_left);
        let (areas, cuts, mut is_near) = (&self.areas[parent.near.clone()], &mut self.cuts, false);
        ranges(self.sections, &self.unit.bases, facts.low, facts.high, facts.list, |begin, end| {
            left = left.saturating_sub(1 + areas.len() as u64);
            if left == 0 {
                return;
            }
            if areas.iter().any(|area| begin < area.1 && end > area.0) {
                is_near = true;
                cut(cuts, &[begin, end]);
            }
            let first = parent.has.partition_point(|&place| addresses[place as usize] < begin);
            let here = parent.has[first..].iter().take_while(|&&place| addresses[place as usize] < end);
            let known = has.len();
            has.extend(here);
            left = left.saturating_sub((has.len() - known) as u64);
            distinct(&mut has, parent.has.len());
        })?;
        self.visits_left = Some(left).filter(|&left| left > 0).ok_or(Reason::Malformed)?;
        distinct(&mut has, 0);
        Ok((has, if is_near { parent.near.clone() } else { 0..0 }))
    }
}

/// Sorts places and leaves each once, where there are more than twice as many as there can be different ones: a list of
/// ranges may name the same code a million times.
fn distinct(places: &mut Vec<u32>, different: usize) {
    if places.len() > 2 * different {
        places.sort_unstable();
        places.dedup();
    }
}

fn cut(cuts: &mut Vec<u64>, places: &[u64]) {
    if cuts.len() < CUTS_LIMIT {
        cuts.extend(places);
    }
}

fn read(
    entries: &mut EntriesRaw<'_, Slice<'_>>,
    specs: &[gimli::AttributeSpecification],
) -> gimli::Result<Facts> {
    let mut facts = Facts::default();
    for &spec in specs {
        let attribute = entries.read_attribute(spec)?;
        match attribute.name() {
            gimli::DW_AT_low_pc => facts.low = Address::of(attribute.value()),
            gimli::DW_AT_high_pc => facts.high = High::of(attribute.value()),
            gimli::DW_AT_ranges => facts.list = RangeList::of(attribute.value()),
            gimli::DW_AT_call_file => {
                if let AttributeValue::FileIndex(file) = attribute.value() {
                    facts.site.file = file;
                }
            }
            gimli::DW_AT_call_line => facts.site.line = attribute.udata_value().unwrap_or(0) as u32,
            gimli::DW_AT_call_column => facts.site.column = attribute.udata_value().unwrap_or(0) as u32,
            _ => {}
        }
    }
    Ok(facts)
}
