//! Names from a symbol table, `.symtab` or `.dynsym`.
//!
//! The table is streamed once past the sorted addresses that are asked for, then the names that were met are read in
//! the order of the string table, each once. Nothing else is kept: memory depends on the addresses, not on the file. An
//! index would cost megabytes and be used once a period. Stubs of the linker ([`plt`]) have no symbols of their own.

mod plt;
mod strings;

use super::elf::{Elf, Section};
use super::inflate;
use super::stats::Reason;
use strings::Strings;

const SYMBOL: usize = 24;
const CHUNK: usize = 64 * 1024;
/// More symbols than this over one address are a broken file's; the first ones count then.
const VISITS_PER_ADDRESS: usize = 4096;
/// Names of one and the same place that are compared.
const TIES_PER_ADDRESS: usize = 8;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;
const STB_WEAK: u8 = 2;

/// The mangled names of addresses.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Every name once.
    pub(crate) names: Vec<Box<str>>,
    /// For each address the place of its name; None where no symbol covers it.
    pub(crate) of_address: Vec<Option<u32>>,
    /// Why names are left out.
    pub(crate) failure: Option<Reason>,
}

impl Named {
    /// Takes the names of another table where there is none.
    fn add(&mut self, other: Self) {
        let first = self.names.len() as u32;
        self.names.extend(other.names);
        self.failure = self.failure.or(other.failure);
        for (name, other) in self.of_address.iter_mut().zip(other.of_address) {
            *name = name.or(other.map(|at| first + at));
        }
    }
}

/// The mangled name for each of `addresses`, which are sorted and counted as the file counts. `.symtab` of the file is
/// asked, else that of its debug file, else `.dynsym` and what the file may have embedded beside it.
pub(crate) fn names(elf: &Elf, debug: Option<&Elf>, addresses: &[u64]) -> Result<Named, Reason> {
    let complete = debug.and_then(|debug| Some((debug, table(debug, SHT_SYMTAB)?)));
    let mut named = match table(elf, SHT_SYMTAB).map(|table| (elf, table)).or(complete) {
        Some((elf, table)) => of_table(elf, table, addresses)?,
        None => of_stripped(elf, addresses)?,
    };
    plt::names(elf, addresses, &mut named);
    Ok(named)
}

fn of_stripped(elf: &Elf, addresses: &[u64]) -> Result<Named, Reason> {
    let mut named = match table(elf, SHT_DYNSYM) {
        Some(table) => of_table(elf, table, addresses)?,
        None => Named { of_address: vec![None; addresses.len()], ..Named::default() },
    };
    match inflate::embedded(elf) {
        Ok(Some(more)) => {
            if let Some(table) = table(&more, SHT_SYMTAB) {
                named.add(of_table(&more, table, addresses)?);
            }
        }
        Ok(None) => {}
        Err(reason) => named.failure = Some(reason),
    }
    Ok(named)
}

fn of_table(elf: &Elf, table: &Section, addresses: &[u64]) -> Result<Named, Reason> {
    let strings = elf.sections.get(table.link as usize).ok_or(Reason::Malformed)?;
    let mut search = Search::new(addresses, Strings::new(elf, strings));
    let mut chunk = vec![0u8; CHUNK.min(usize::try_from(table.size).unwrap_or(CHUNK)) / SYMBOL * SYMBOL];
    let mut done = 0;
    while done < table.size {
        let size = (table.size - done).min(chunk.len() as u64) as usize / SYMBOL * SYMBOL;
        if size == 0 {
            break;
        }
        let place = table.offset.checked_add(done).ok_or(Reason::Malformed)?;
        elf.bytes.read(place, &mut chunk[..size])?;
        for symbol in chunk[..size].chunks_exact(SYMBOL).filter_map(Symbol::parse) {
            if symbol.kind != STT_NOTYPE || is_code(elf, symbol.section) {
                search.see(symbol);
            }
        }
        done += size as u64;
    }
    Ok(search.finish())
}

/// Whether a section has code. Constants without a name of their own are marked by thousands of symbols without a type.
fn is_code(elf: &Elf, section: u16) -> bool {
    section_of(elf, section).is_none_or(|section| section.flags & SHF_EXECINSTR != 0)
}

const SHF_EXECINSTR: u64 = 4;

fn section_of(elf: &Elf, number: u16) -> Option<&Section> {
    // Numbers from here on are no sections.
    const SHN_LORESERVE: u16 = 0xff00;
    elf.sections.get(usize::from(number)).filter(|_| number < SHN_LORESERVE)
}

fn table(elf: &Elf, kind: u32) -> Option<&Section> {
    elf.sections.iter().find(|section| section.kind == kind && section.size > 0)
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    name: u32,
    bind: u8,
    kind: u8,
    section: u16,
    value: u64,
    size: u64,
}

impl Symbol {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (name, info, section) =
            (super::header::le32(bytes, 0), bytes[4], u16::from_le_bytes([bytes[6], bytes[7]]));
        let (value, size) = (super::header::le64(bytes, 8), super::header::le64(bytes, 16));
        let kind = info & 0xf;
        // Assembly often leaves the type out; then it must not be the mark of a section or of data.
        let code = matches!(kind, STT_FUNC | STT_GNU_IFUNC) || kind == STT_NOTYPE;
        (code && section != 0 && name != 0 && value != 0).then_some(Self {
            name,
            bind: info >> 4,
            kind,
            section,
            value,
            size,
        })
    }
}

struct Search<'a> {
    addresses: &'a [u64],
    index: Index,
    /// The best symbol that covers the address.
    found: Vec<Option<Symbol>>,
    /// Symbols over the same place as the one that was held for an address when they came.
    ties: Vec<(u32, Symbol)>,
    /// For each address the last symbol without a size between the address before it and itself.
    marks: Vec<Option<Symbol>>,
    /// For each address where the last symbol with a size begins, there: one without a size ends at it.
    ends: Vec<u64>,
    /// Names that [`Search::is_map`] has seen: most files have each of the two once, for thousands of symbols.
    maps: [u32; 2],
    visits_left: usize,
    strings: Strings<'a>,
}

impl<'a> Search<'a> {
    fn new(addresses: &'a [u64], strings: Strings<'a>) -> Self {
        Self {
            addresses,
            index: Index::of(addresses),
            found: vec![None; addresses.len()],
            ties: Vec::new(),
            marks: vec![None; addresses.len()],
            ends: vec![0; addresses.len()],
            maps: [0; 2],
            visits_left: VISITS_PER_ADDRESS * addresses.len(),
            strings,
        }
    }

    fn see(&mut self, symbol: Symbol) {
        let first = self.index.first(self.addresses, symbol.value);
        if symbol.size == 0 {
            let nearer = |mark: &Option<Symbol>| mark.is_none_or(|mark| symbol.value > mark.value);
            if self.marks.get(first).is_some_and(nearer) && !self.is_map(&symbol) {
                self.marks[first] = Some(symbol);
            }
            return;
        }
        if let Some(end) = self.ends.get_mut(first) {
            *end = symbol.value.max(*end);
        }
        let end = symbol.value.saturating_add(symbol.size);
        for at in first..self.addresses.len() {
            if self.addresses[at] >= end || self.visits_left == 0 {
                break;
            }
            self.visits_left -= 1;
            match &self.found[at] {
                Some(held) if symbol.same_place(held) => {
                    if self.ties.len() < TIES_PER_ADDRESS * self.addresses.len() {
                        self.ties.push((at as u32, symbol));
                    }
                }
                Some(held) if !symbol.more_precise(held) => {}
                _ => self.found[at] = Some(symbol),
            }
        }
    }

    /// Whether a symbol only says where instructions (`$x`) or data (`$d`) begin, as aarch64 has them everywhere.
    fn is_map(&mut self, symbol: &Symbol) -> bool {
        if symbol.bind != STB_LOCAL || symbol.kind != STT_NOTYPE {
            return false;
        }
        if self.maps.contains(&symbol.name) {
            return true;
        }
        let Some([b'$', b'x' | b'd', b'\0' | b'.']) = self.strings.start(symbol.name) else { return false };
        self.maps.rotate_right(1);
        self.maps[0] = symbol.name;
        true
    }

    fn finish(mut self) -> Named {
        let mut mark: Option<Symbol> = None;
        let places = self.found.iter_mut().zip(&self.marks).zip(&self.ends).zip(self.addresses);
        for (((found, here), &end), &address) in places {
            // A symbol without a size reaches until the next symbol, but not into another section: `_init` is not the
            // name of the stubs behind it.
            mark = here.or(mark).filter(|mark| mark.value > end);
            let reaches = |symbol: &Symbol| {
                section_of(self.strings.elf, symbol.section).is_none_or(|section| section.holds(address))
            };
            if found.is_none() {
                *found = mark.filter(reaches);
            }
        }
        let found = &self.found;
        // A better symbol may have come after a tie.
        self.ties.retain(|(at, symbol)| found[*at as usize].is_some_and(|held| symbol.same_place(&held)));
        let ties = self.ties.iter().map(|(_, symbol)| symbol.name);
        let mut wanted: Vec<u32> = found.iter().flatten().map(|symbol| symbol.name).chain(ties).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let (names, incomplete) = self.strings.names(&wanted, self.addresses.len());
        let place = |symbol: &Symbol| wanted.binary_search(&symbol.name).ok();
        let rank = |symbol: &Symbol| symbol.rank(place(symbol).map_or("", |at| &names[at]));
        for (at, symbol) in &self.ties {
            if let Some(held) = &mut self.found[*at as usize]
                && rank(symbol) < rank(held)
            {
                *held = *symbol;
            }
        }
        let named = |symbol: &Symbol| place(symbol).filter(|&at| !names[at].is_empty()).map(|at| at as u32);
        let of_address = self.found.iter().map(|symbol| symbol.as_ref().and_then(named)).collect();
        // Longer than any program's.
        let failure = incomplete.then_some(Reason::OverBudget);
        Named { names, of_address, failure }
    }
}

impl Symbol {
    fn same_place(&self, other: &Self) -> bool {
        (self.value, self.size) == (other.value, other.size)
    }

    /// Of two symbols over one address, the one that starts later is the more precise; of two at one place the shorter.
    fn more_precise(&self, other: &Self) -> bool {
        self.value > other.value || self.value == other.value && self.size < other.size
    }

    /// The lowest is what a person would call it.
    fn rank<'n>(&self, name: &'n str) -> impl PartialOrd + use<'n> {
        let underscores = name.bytes().take_while(|&byte| byte == b'_').count();
        let bind = match self.bind {
            STB_LOCAL => 2u8,
            STB_WEAK => 1,
            _ => 0,
        };
        (name.is_empty(), underscores, bind, name.len(), name)
    }
}

/// Where to look among sorted addresses: most of a large table's symbols have none of them, and a binary search for
/// each is what would cost.
struct Index {
    lowest: u64,
    shift: u32,
    /// The first address at or above the begin of each stretch.
    firsts: Vec<u32>,
}

impl Index {
    fn of(addresses: &[u64]) -> Self {
        let (lowest, highest) = (addresses.first().copied(), addresses.last().copied());
        let (lowest, highest) = (lowest.unwrap_or_default(), highest.unwrap_or_default());
        let span = highest.saturating_sub(lowest);
        // About two stretches for each address.
        let wanted = (2 * addresses.len() as u64).next_power_of_two();
        let shift = (u64::BITS - span.leading_zeros()).saturating_sub(wanted.trailing_zeros());
        let mut firsts = Vec::with_capacity((span >> shift) as usize + 1);
        for (at, &address) in addresses.iter().enumerate() {
            let stretch = (address.saturating_sub(lowest) >> shift) as usize;
            while firsts.len() <= stretch {
                firsts.push(at as u32);
            }
        }
        Self { lowest, shift, firsts }
    }

    /// The first of `addresses` that is not below `value`.
    #[inline]
    fn first(&self, addresses: &[u64], value: u64) -> usize {
        let Some(distance) = value.checked_sub(self.lowest) else { return 0 };
        let stretch = (distance >> self.shift) as usize;
        let Some(&first) = self.firsts.get(stretch) else { return addresses.len() };
        let first = first as usize;
        let end = self.firsts.get(stretch + 1).map_or(addresses.len(), |&next| next as usize);
        first + addresses[first..end].partition_point(|&address| address < value)
    }
}

#[cfg(test)]
mod tests {
    use super::Index;

    #[test]
    fn the_index_finds_what_a_search_finds() {
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        for count in [0usize, 1, 2, 3, 100, 1000] {
            for spread in [0, 8, 30, 63] {
                let mut random = || {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    0x1000 + (noise >> (63 - spread))
                };
                let mut addresses: Vec<u64> = (0..count).map(|_| random()).collect();
                addresses.sort_unstable();
                let index = Index::of(&addresses);
                let near =
                    addresses.iter().flat_map(|&address| [address - 1, address, address.saturating_add(1)]);
                let values: Vec<u64> = near.chain([0, u64::MAX]).collect();
                for value in values {
                    let expected = addresses.partition_point(|&address| address < value);
                    assert_eq!(
                        index.first(&addresses, value),
                        expected,
                        "{count} over 2^{spread}, {value:#x}"
                    );
                }
            }
        }
    }
}
