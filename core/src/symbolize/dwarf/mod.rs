//! Lines and inlined functions from debug information, DWARF 2 to 5.
//!
//! The addresses are sorted by unit; each unit is read, run past its addresses and dropped before the next one. What
//! is held at one time is one unit and one line program, whatever the size of the file. Debug information is never
//! trusted: every loop is bounded by the bytes that it reads or by the addresses that were asked for.

mod cursor;
mod functions;
mod index;
mod lines;
mod names;
mod part;
mod sections;
mod split;
mod unit;
mod walk;

use std::rc::Rc;
use std::sync::Arc;

pub(crate) use cursor::Cursor;
use functions::{Call, Found, Site};
use lines::Lines;
use names::{Name, Names};
pub(crate) use sections::Sections;
pub(crate) use split::Split;
use unit::Unit;

use super::cache::Cache;
use super::stats::{Reason, Stats};

/// One function at an address.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// None where debug information knows the line but not the function.
    pub(crate) function: Option<Rc<Name>>,
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) inlined: bool,
}

/// What is found out: frames are those at one address, innermost first.
pub(crate) enum Answer {
    /// The place of an address among those that were asked for, and its frames.
    Address(usize, Vec<Frame>),
    /// Begin and end of a stretch of a function around some of the addresses, and the addresses in it from which on
    /// there are other frames.
    Area(u64, u64, Vec<(u64, Vec<Frame>)>),
}

/// Calls `each` with the answers for the sorted `addresses`, and where `whole` says so with those for the functions
/// around them.
///
/// Addresses without debug information are left out. A broken unit is counted in `stats`, and so is one that is over
/// the budget.
pub(crate) fn resolve(
    sections: &mut Sections,
    addresses: &[u64],
    whole: bool,
    strings: &mut Cache,
    stats: &mut Stats,
    mut each: impl FnMut(Answer),
) -> Result<(), Reason> {
    let units = index::units(sections, addresses)?;
    let mut order: Vec<usize> = (0..addresses.len()).filter(|&at| units[at].is_some()).collect();
    // Stable: within a unit the addresses stay sorted.
    order.sort_by_key(|&at| units[at]);
    let mut names = Names::default();
    for places in order.chunk_by(|&a, &b| units[a] == units[b]) {
        let start = places.first().and_then(|&at| units[at]).unwrap_or_default();
        let here: Vec<u64> = places.iter().map(|&at| addresses[at]).collect();
        names.clear();
        let mut job = Job { sections, strings, stats, names: &mut names };
        let each = |answer| match answer {
            Answer::Address(at, frames) => each(Answer::Address(places[at], frames)),
            area => each(area),
        };
        if let Err(reason) = job.unit(start, &here, whole, each) {
            stats.fail(reason);
        }
    }
    Ok(())
}

/// The functions at an address, outermost first.
type Chain = Vec<(Rc<Name>, Call)>;

/// What the reading of a unit needs.
struct Job<'a> {
    sections: &'a mut Sections,
    strings: &'a mut Cache,
    stats: &'a mut Stats,
    names: &'a mut Names,
}

impl Job<'_> {
    fn unit(
        &mut self,
        start: u64,
        addresses: &[u64],
        whole: bool,
        mut each: impl FnMut(Answer),
    ) -> Result<(), Reason> {
        let unit = Unit::read(self.sections, start)?;
        let mut complete = whole;
        // Lines are of use without functions, and the other way round.
        let found = self.all_functions(&unit, addresses).unwrap_or_else(|reason| {
            self.stats.fail(reason);
            complete = false;
            Found { chains: vec![Vec::new(); addresses.len()], areas: Vec::new(), cuts: Vec::new() }
        });
        let areas: &[(u64, u64)] = if complete { &found.areas } else { &[] };
        let mut lines = unit.line_program.map(|offset| Lines::read(self.sections, offset)).transpose();
        let sites = match &lines {
            Ok(Some(lines)) => lines.sites(addresses, areas),
            Ok(None) => Ok((vec![None; addresses.len()], Some(Vec::new()))),
            Err(reason) => Err(*reason),
        };
        let (sites, rows) = sites.unwrap_or_else(|reason| {
            self.stats.fail(reason);
            (vec![None; addresses.len()], None)
        });
        let mut lines = lines.as_mut().ok().and_then(Option::as_mut);
        for (at, (chain, site)) in found.chains.into_iter().zip(sites).enumerate() {
            each(Answer::Address(at, self.frames(&unit, chain, site, &mut lines)));
        }
        if complete && let Some(rows) = rows {
            let points = points(areas, found.cuts, rows);
            // What is kept is beside what was asked for: it fails without a word.
            let _ = self.whole_functions(&unit, &found.areas, &points, &mut lines, each);
        }
        Ok(())
    }

    /// Answers for areas: between one of the sorted `points` and the next one they are the same.
    fn whole_functions(
        &mut self,
        unit: &Unit,
        areas: &[(u64, u64)],
        points: &[u64],
        lines: &mut Option<&mut Lines>,
        mut each: impl FnMut(Answer),
    ) -> Result<(), Reason> {
        if points.is_empty() {
            return Ok(());
        }
        let found = self.all_functions(unit, points)?;
        let sites = match lines {
            Some(lines) => lines.sites(points, &[])?.0,
            None => vec![None; points.len()],
        };
        let mut rest = points.iter().zip(found.chains).zip(sites).peekable();
        for &(begin, end) in areas {
            let mut rows = Vec::new();
            while let Some(((&point, chain), site)) = rest.next_if(|((point, _), _)| **point < end) {
                rows.push((point, self.frames(unit, chain, site, lines)));
            }
            // Functions that overlap in part, which no compiler makes, show here: one of them was not looked into.
            let inside = |cut: &u64| (begin..end).contains(cut);
            let sure =
                found.cuts.iter().filter(|cut| inside(cut)).all(|cut| points.binary_search(cut).is_ok());
            if sure && !rows.is_empty() {
                each(Answer::Area(begin, end, rows));
            }
        }
        Ok(())
    }

    /// The functions of a unit, wherever they are.
    fn all_functions(&mut self, unit: &Unit, addresses: &[u64]) -> Result<Found<(Rc<Name>, Call)>, Reason> {
        if unit.split_name.is_none() {
            return self.functions(unit, addresses);
        }
        match split::find(self.sections, unit) {
            Ok((mut sections, unit)) => {
                // Places in one file say nothing about another.
                let mut names = self.names.for_another_file();
                let (strings, stats) = (&mut *self.strings, &mut *self.stats);
                let mut job = Job { sections: &mut sections, strings, stats, names: &mut names };
                let found = job.functions(&unit, addresses);
                self.names.take_back(names);
                found
            }
            Err(reason) => {
                self.stats.fail(reason);
                // Some compilers leave the inlined functions in the skeleton.
                let found = self.functions(unit, addresses)?;
                // What was split off may be there the next time.
                Ok(Found { areas: Vec::new(), ..found })
            }
        }
    }

    fn functions(&mut self, unit: &Unit, addresses: &[u64]) -> Result<Found<(Rc<Name>, Call)>, Reason> {
        let bytes = self.sections.info.copy(unit.header.start, unit.header.size, &self.sections.budget)?;
        let found = functions::chains(self.sections, unit, &bytes, addresses)?;
        let named = |calls: Vec<Call>| {
            let name =
                |call: Call| (self.names.get(self.sections, unit, &bytes, call.entry, self.strings), call);
            calls.into_iter().map(name).collect()
        };
        let chains = found.chains.into_iter().map(named).collect();
        Ok(Found { chains, areas: found.areas, cuts: found.cuts })
    }

    /// Turns a chain, outermost first, into frames, innermost first: each one's line is where the next was inlined.
    fn frames(
        &mut self,
        unit: &Unit,
        chain: Chain,
        site: Option<Site>,
        lines: &mut Option<&mut Lines>,
    ) -> Vec<Frame> {
        let mut frames = Vec::with_capacity(chain.len().max(1));
        let mut place = site;
        let mut chain = chain.into_iter().rev().peekable();
        if chain.peek().is_none() && site.is_none() {
            return frames;
        }
        loop {
            let next = chain.next();
            let here = place.unwrap_or_default();
            // Code of no line stands in whichever file came before it, and a function would be two functions.
            let declared = next.as_ref().and_then(|(name, _)| name.declared);
            let file = declared.filter(|_| here.line == 0).unwrap_or(here.file);
            let file = match lines {
                Some(lines) if place.is_some() => lines.path(self.sections, unit, file, self.strings),
                _ => None,
            };
            place = next.as_ref().and_then(|(_, call)| call.site);
            frames.push(Frame {
                function: next.map(|(name, _)| name),
                file,
                line: here.line,
                // Without a line the column is left over from another one.
                column: if here.line == 0 { 0 } else { here.column },
                inlined: place.is_some(),
            });
            if chain.peek().is_none() {
                return frames;
            }
        }
    }
}

/// More places than this are not looked up at one time beside what was asked for.
const POINTS_LIMIT: usize = 1 << 14;

/// The places in the sorted `areas` where the answer may change; of the first areas where they are too many.
fn points(areas: &[(u64, u64)], cuts: Vec<u64>, rows: Vec<u64>) -> Vec<u64> {
    let mut points = cuts;
    points.extend(rows);
    points.sort_unstable();
    points.dedup();
    let inside = |&point: &u64| {
        let after = areas.partition_point(|area| area.1 <= point);
        areas.get(after).is_some_and(|area| area.0 <= point)
    };
    points.retain(inside);
    if let Some(&beyond) = points.get(POINTS_LIMIT) {
        let whole = areas.iter().rev().find(|area| area.1 <= beyond).map_or(0, |area| area.1);
        points.retain(|&point| point < whole);
    }
    points
}
