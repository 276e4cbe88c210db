//! Names from a symbol table, `.symtab` or `.dynsym`.
//!
//! The table is streamed once past the sorted addresses that are asked for, and nothing of it is kept: memory depends
//! on the addresses, not on the file. An index would cost megabytes and be used once a period.

use super::elf::{Elf, Section};
use super::stats::Reason;

const SYMBOL: usize = 24;
const CHUNK: usize = 64 * 1024;
const NAME_CHUNK: usize = 32 * 1024;
/// Longer names are cut: some C++ ones have megabytes.
const NAME_LIMIT: usize = 16 * 1024;
/// More symbols than this over one address are a broken file's; the first ones count then.
const VISITS_PER_ADDRESS: usize = 4096;
/// Names of one and the same place that are compared, each at the cost of a read or two.
const TIES_PER_ADDRESS: usize = 8;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;
const STB_WEAK: u8 = 2;

/// The mangled name for each of `addresses`, which are sorted and counted as the file counts; None where no symbol
/// covers it. `.symtab` of the file is asked, else that of its debug file, else `.dynsym`.
pub(crate) fn names(
    elf: &Elf,
    debug: Option<&Elf>,
    addresses: &[u64],
) -> Result<Vec<Option<String>>, Reason> {
    let complete = debug.and_then(|debug| Some((debug, table(debug, SHT_SYMTAB)?)));
    let own = table(elf, SHT_SYMTAB).map(|table| (elf, table));
    let found = own.or(complete).or_else(|| Some((elf, table(elf, SHT_DYNSYM)?)));
    let Some((elf, table)) = found else { return Ok(vec![None; addresses.len()]) };
    let strings = elf.sections.get(table.link as usize).ok_or(Reason::Malformed)?;
    let strings = Strings { elf, section: strings, start: 0, window: Vec::new() };
    let mut search = Search {
        addresses,
        found: vec![None; addresses.len()],
        marks: vec![None; addresses.len()],
        maps: [0; 2],
        visits_left: VISITS_PER_ADDRESS * addresses.len(),
        ties_left: TIES_PER_ADDRESS * addresses.len(),
        strings,
    };
    let mut chunk = vec![0u8; CHUNK / SYMBOL * SYMBOL];
    let mut done = 0;
    while done < table.size {
        let size = (table.size - done).min(chunk.len() as u64) as usize / SYMBOL * SYMBOL;
        if size == 0 {
            break;
        }
        let place = table.offset.checked_add(done).ok_or(Reason::Malformed)?;
        elf.bytes.read(place, &mut chunk[..size])?;
        for symbol in chunk[..size].chunks_exact(SYMBOL).filter_map(Symbol::parse) {
            search.see(symbol);
        }
        done += size as u64;
    }
    search.finish()
}

fn table(elf: &Elf, kind: u32) -> Option<&Section> {
    elf.sections.iter().find(|section| section.kind == kind && section.size > 0)
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    name: u32,
    bind: u8,
    kind: u8,
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
            value,
            size,
        })
    }
}

struct Search<'a> {
    addresses: &'a [u64],
    /// The best symbol that covers the address.
    found: Vec<Option<Symbol>>,
    /// For each address the last symbol without a size between the address before it and itself.
    marks: Vec<Option<Symbol>>,
    /// Names that [`Search::is_map`] has seen: most files have each of the two once, for thousands of symbols.
    maps: [u32; 2],
    visits_left: usize,
    ties_left: usize,
    strings: Strings<'a>,
}

impl Search<'_> {
    fn see(&mut self, symbol: Symbol) {
        let first = self.addresses.partition_point(|&address| address < symbol.value);
        if symbol.size == 0 {
            let nearer = |mark: &Option<Symbol>| mark.is_none_or(|mark| symbol.value > mark.value);
            if self.marks.get(first).is_some_and(nearer) && !self.is_map(&symbol) {
                self.marks[first] = Some(symbol);
            }
            return;
        }
        let end = symbol.value.saturating_add(symbol.size);
        for at in first..self.addresses.len() {
            if self.addresses[at] >= end || self.visits_left == 0 {
                break;
            }
            self.visits_left -= 1;
            if self.found[at].is_none_or(|held| self.better(&symbol, &held)) {
                self.found[at] = Some(symbol);
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

    /// Of two symbols over one address, the one that a person would call it by.
    fn better(&mut self, new: &Symbol, held: &Symbol) -> bool {
        if (new.value, new.size) != (held.value, held.size) {
            // The one that starts later is the more precise; of two at one place the shorter one.
            return new.value > held.value || new.value == held.value && new.size < held.size;
        }
        if self.ties_left == 0 {
            return false;
        }
        self.ties_left -= 1;
        let mut rank = |symbol: &Symbol| {
            let name = self.strings.get(symbol.name).unwrap_or_default();
            let underscores = name.bytes().take_while(|&byte| byte == b'_').count();
            let bind = match symbol.bind {
                STB_LOCAL => 2u8,
                STB_WEAK => 1,
                _ => 0,
            };
            (underscores, bind, name.len(), name)
        };
        rank(new) < rank(held)
    }

    fn finish(mut self) -> Result<Vec<Option<String>>, Reason> {
        let mut mark: Option<Symbol> = None;
        for (found, here) in self.found.iter_mut().zip(&self.marks) {
            mark = here.or(mark);
            // A symbol without a size reaches until the next symbol: to a sized one it has lost already.
            if found.is_none() {
                *found = mark;
            }
        }
        let mut order: Vec<usize> = (0..self.found.len()).collect();
        order.sort_unstable_by_key(|&at| self.found[at].map(|symbol| symbol.name));
        let mut names = vec![None; self.found.len()];
        for at in order {
            if let Some(symbol) = self.found[at] {
                names[at] = self.strings.get(symbol.name);
            }
        }
        Ok(names)
    }
}

/// The string table, read in windows.
struct Strings<'a> {
    elf: &'a Elf,
    section: &'a Section,
    start: u64,
    window: Vec<u8>,
}

impl Strings<'_> {
    /// The first bytes of a name, which may be the end of the name and what follows. Leaves the window where it is.
    fn start(&self, offset: u32) -> Option<[u8; 3]> {
        let mut bytes = [0; 3];
        let end = u64::from(offset) + bytes.len() as u64;
        let place = self.section.offset.checked_add(offset.into()).filter(|_| end <= self.section.size)?;
        self.elf.bytes.read(place, &mut bytes).ok()?;
        Some(bytes)
    }

    fn get(&mut self, offset: u32) -> Option<String> {
        let offset = u64::from(offset);
        if offset >= self.section.size {
            return None;
        }
        let mut size = NAME_CHUNK as u64;
        loop {
            let held = offset.checked_sub(self.start).and_then(|at| self.window.get(at as usize..));
            let name = held
                .and_then(|held| held.split(|&byte| byte == 0).next().filter(|name| name.len() < held.len()));
            if let Some(name) = name {
                return (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned());
            }
            if size > 2 * NAME_CHUNK as u64 {
                let name = held.map(|held| &held[..held.len().min(NAME_LIMIT)])?;
                return Some(String::from_utf8_lossy(name).into_owned());
            }
            self.start = offset;
            self.window.resize(size.min(self.section.size - offset) as usize, 0);
            if self.elf.bytes.read(self.section.offset.checked_add(offset)?, &mut self.window).is_err() {
                self.window.clear();
                return None;
            }
            size *= 2;
        }
    }
}
