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
mod sections;
mod split;
mod unit;
mod walk;

use std::rc::Rc;
use std::sync::Arc;

pub(crate) use cursor::Cursor;
use functions::{Call, Site};
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

/// Calls `each` with the place of an address in the sorted `addresses` and the frames at it, innermost first.
///
/// Addresses without debug information are left out. A broken unit is counted in `stats`, and so is one that is over
/// the budget.
pub(crate) fn resolve(
    sections: &mut Sections,
    addresses: &[u64],
    strings: &mut Cache,
    stats: &mut Stats,
    mut each: impl FnMut(usize, Vec<Frame>),
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
        match job.unit(start, &here) {
            Ok(frames) => places.iter().zip(frames).for_each(|(&at, frames)| each(at, frames)),
            Err(reason) => stats.fail(reason),
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
    fn unit(&mut self, start: u64, addresses: &[u64]) -> Result<Vec<Vec<Frame>>, Reason> {
        let unit = Unit::read(self.sections, start)?;
        // Lines are of use without functions, and the other way round.
        let chains = self.all_functions(&unit, addresses).unwrap_or_else(|reason| {
            self.stats.fail(reason);
            vec![Vec::new(); addresses.len()]
        });
        let mut lines = unit.line_program.map(|offset| Lines::read(self.sections, offset)).transpose();
        let sites = match &lines {
            Ok(Some(lines)) => lines.sites(addresses),
            Ok(None) => Ok(vec![None; addresses.len()]),
            Err(reason) => Err(*reason),
        };
        let sites = sites.unwrap_or_else(|reason| {
            self.stats.fail(reason);
            vec![None; addresses.len()]
        });
        let mut lines = lines.as_mut().ok().and_then(Option::as_mut);
        let frames =
            chains.into_iter().zip(sites).map(|(chain, site)| self.frames(&unit, chain, site, &mut lines));
        Ok(frames.collect())
    }

    /// The functions of a unit, wherever they are.
    fn all_functions(&mut self, unit: &Unit, addresses: &[u64]) -> Result<Vec<Chain>, Reason> {
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
                self.functions(unit, addresses)
            }
        }
    }

    fn functions(&mut self, unit: &Unit, addresses: &[u64]) -> Result<Vec<Chain>, Reason> {
        let bytes = self.sections.info.copy(unit.header.start, unit.header.size, &self.sections.budget)?;
        let chains = functions::chains(self.sections, unit, &bytes, addresses)?;
        let named = |calls: Vec<Call>| {
            let name =
                |call: Call| (self.names.get(self.sections, unit, &bytes, call.entry, self.strings), call);
            calls.into_iter().map(name).collect()
        };
        Ok(chains.into_iter().map(named).collect())
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
            let file = match lines {
                Some(lines) if place.is_some() => lines.path(self.sections, unit, here.file, self.strings),
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
