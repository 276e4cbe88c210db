//! Names for native code: the file behind a module, its symbols, its debug information, and maps of JIT compilers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::budget::Budget;
use super::cache::Cache;
use super::elf::{Bytes, Elf};
use super::known::Known;
use super::maps::{Module, ModuleKind};
use super::stats::{Reason, Stats};
use super::{Mode, Options, SymbolFrame, debug_file, demangle, dwarf, perf_map, starts, symtab};

/// The vDSO is two to four pages.
const VDSO_LIMIT: u64 = 1 << 20;

/// What one look-up works with.
pub(super) struct Native<'a> {
    pub(super) options: &'a Options,
    pub(super) cache: &'a mut Cache,
    pub(super) known: &'a mut Known,
    /// What the file is known by in `known`; None where nothing is to be kept of it.
    pub(super) number: Option<u32>,
    pub(super) stats: &'a mut Stats,
}

/// Of so many new addresses at once the functions are learnt, and of more none.
const MOST_LEARNT: usize = 256;

impl Native<'_> {
    /// Names sorted places in a module that the cache does not know: offsets in its file, or addresses of generated
    /// code. Whatever fails is counted.
    pub(super) fn look_up(&mut self, module: &Module, places: &[u64]) -> Vec<Vec<SymbolFrame>> {
        let found = match module.kind {
            ModuleKind::Jit => self.generated(places),
            ModuleKind::Vdso => vdso(module).map(|elf| self.file(&elf, None, places)),
            ModuleKind::Elf => mapped_file(module).map(|elf| self.file(&elf, Some(&module.path), places)),
        };
        self.or_nothing(found, places)
    }

    /// Names offsets in an image that is in memory.
    pub(super) fn image(&mut self, image: Vec<u8>, offsets: &[u64]) -> Vec<Vec<SymbolFrame>> {
        let found = Elf::parse(Bytes::Memory(image)).map(|elf| self.file(&elf, None, offsets));
        self.or_nothing(found, offsets)
    }

    fn or_nothing(
        &mut self,
        found: Result<Vec<Vec<SymbolFrame>>, Reason>,
        places: &[u64],
    ) -> Vec<Vec<SymbolFrame>> {
        found.unwrap_or_else(|reason| {
            self.stats.fail(reason);
            vec![Vec::new(); places.len()]
        })
    }

    fn generated(&mut self, addresses: &[u64]) -> Result<Vec<Vec<SymbolFrame>>, Reason> {
        let path = perf_map_path(self.options);
        if perf_map::size(&path) == 0 {
            // Most JIT compilers write one only when they are told to: no failure.
            return Ok(vec![Vec::new(); addresses.len()]);
        }
        let names = perf_map::names(&path, addresses)?;
        self.stats.files += 1;
        let mut frames = Vec::with_capacity(names.len());
        for name in names {
            let name = name.map(|name| self.cache.intern(&name));
            let frame =
                |name: Arc<str>| SymbolFrame { system_name: name.clone(), name, ..SymbolFrame::default() };
            frames.push(name.map(frame).into_iter().collect());
        }
        Ok(frames)
    }

    fn file(&mut self, elf: &Elf, path: Option<&Path>, offsets: &[u64]) -> Vec<Vec<SymbolFrame>> {
        self.stats.files += 1;
        // Offsets of one segment keep their order as addresses, but segments need not be in order.
        let places = offsets.iter().enumerate();
        let mut places: Vec<(u64, usize)> =
            places.filter_map(|(at, &offset)| Some((elf.address_of(offset)?, at))).collect();
        places.sort_unstable();
        let addresses: Vec<u64> = places.iter().map(|(address, _)| *address).collect();
        let mut frames = vec![Vec::new(); addresses.len()];
        let debug = self.debug_file(elf, path);
        if self.options.mode == Mode::Lines
            && let Err(reason) = self.debug_frames(elf, debug.as_ref(), path, &addresses, &mut frames)
        {
            self.stats.fail(reason);
        }
        self.name_outermost(elf, debug.as_ref(), &addresses, &mut frames);
        if let Some(file) = path.and_then(Path::file_name) {
            self.name_by_place(elf, &file.to_string_lossy(), &addresses, &mut frames);
        }
        let mut ordered = vec![Vec::new(); offsets.len()];
        for ((_, at), frames) in places.into_iter().zip(frames) {
            ordered[at] = frames;
        }
        ordered
    }

    /// The separate debug file, where the program lacks what it may have.
    fn debug_file(&mut self, elf: &Elf, path: Option<&Path>) -> Option<Elf> {
        let complete = elf.section(".symtab").is_some()
            && (self.options.mode == Mode::Names || dwarf::Sections::are_in(elf));
        let found = debug_file::separate(elf, path.filter(|_| !complete)?, &self.options.debug_directories);
        self.stats.files += u64::from(found.is_some());
        found
    }

    /// Lines and inlined functions, as far as there is debug information.
    fn debug_frames(
        &mut self,
        elf: &Elf,
        debug: Option<&Elf>,
        path: Option<&Path>,
        addresses: &[u64],
        frames: &mut [Vec<SymbolFrame>],
    ) -> Result<(), Reason> {
        let elf = if dwarf::Sections::are_in(elf) { elf } else { debug.unwrap_or(elf) };
        let mut is_met = false;
        let number = self.number.and_then(|number| {
            is_met = self.known.begin(number, elf.bytes.stamp()?);
            Some(number)
        });
        let mut unknown = Vec::new();
        for (at, &address) in addresses.iter().enumerate() {
            match number.and_then(|number| self.known.get(number, address)) {
                Some(found) => frames[at] = found,
                None => unknown.push(at),
            }
        }
        self.stats.known += (addresses.len() - unknown.len()) as u64;
        if unknown.is_empty() {
            return Ok(());
        }
        let addresses: Vec<u64> = unknown.iter().map(|&at| addresses[at]).collect();
        let budget = Budget::new(self.options.memory_budget);
        let Some(mut sections) = dwarf::Sections::open(elf, &budget)? else { return Ok(()) };
        if let Some(path) = path {
            sections.split = dwarf::Split::new(path, &elf.build_id, &self.options.debug_directories);
        }
        match debug_file::alternate(elf, &self.options.debug_directories) {
            Ok(Some(shared)) => sections.alternate = dwarf::Sections::open(&shared, &budget)?.map(Box::new),
            Ok(None) => {}
            Err(reason) => self.stats.fail(reason),
        }
        let none: Arc<str> = self.cache.intern("");
        let convert = |frame: dwarf::Frame| SymbolFrame {
            name: frame.function.as_ref().map_or(&none, |function| &function.name).clone(),
            system_name: frame.function.as_ref().map_or(&none, |function| &function.system_name).clone(),
            file: frame.file.unwrap_or_else(|| none.clone()),
            start_line: frame.function.as_ref().map_or(0, |function| function.start_line),
            line: frame.line,
            column: frame.column,
            inlined: frame.inlined,
        };
        let known = &mut *self.known;
        // To learn whole functions costs ten times as much as to name single addresses. It pays for those that come again;
        // of very many new ones, most do not, and there is no room for them. At the first look at a file nearly all are those of
        // callers, which come again at the same addresses; what is new at the next one is in the functions at work.
        let whole = is_met && addresses.len() <= MOST_LEARNT;
        let done =
            dwarf::resolve(&mut sections, &addresses, whole, self.cache, self.stats, |answer| match answer {
                dwarf::Answer::Address(at, found) => {
                    frames[unknown[at]] = found.into_iter().map(convert).collect();
                }
                dwarf::Answer::Area(begin, end, rows) => {
                    let rows =
                        rows.into_iter().map(|(at, found)| (at, found.into_iter().map(convert).collect()));
                    let rows: Vec<(u64, Vec<SymbolFrame>)> = rows.collect();
                    number.into_iter().for_each(|number| known.insert(number, begin, end, &rows));
                }
            });
        self.stats.kept_bytes = self.known.bytes() as u64;
        self.stats.peak_bytes = self.stats.peak_bytes.max(budget.peak() as u64);
        done
    }

    /// Gives each outermost frame the symbol's name where debug information has none, or has only the source's.
    fn name_outermost(
        &mut self,
        elf: &Elf,
        debug: Option<&Elf>,
        addresses: &[u64],
        frames: &mut [Vec<SymbolFrame>],
    ) {
        let symbols = symtab::names(elf, debug, addresses).unwrap_or_else(|reason| {
            self.stats.fail(reason);
            symtab::Named::default()
        });
        if let Some(reason) = symbols.failure {
            self.stats.fail(reason);
        }
        // Demangled when the first frame wants it: most functions have several of the addresses.
        self.cache.reserve_strings(2 * symbols.names.len());
        let mut ready: Vec<Option<[Arc<str>; 2]>> = vec![None; symbols.names.len()];
        let mangled = |name: &str| name.starts_with("_Z") || name.starts_with("_R");
        for (at, frames) in frames.iter_mut().enumerate() {
            let symbol = symbols.of_address.get(at).copied().flatten().map(|place| place as usize);
            if let Some((place, symbol)) = symbol.and_then(|place| Some((place, symbols.names.get(place)?))) {
                if frames.is_empty() {
                    // A push would make room for four.
                    *frames = vec![SymbolFrame::default()];
                }
                if let Some(outermost) = frames.last_mut()
                    && (outermost.name.is_empty() || mangled(symbol) && !mangled(&outermost.system_name))
                {
                    let names = ready[place].get_or_insert_with(|| {
                        [self.cache.intern(&demangle::demangle(symbol)), self.cache.intern(symbol)]
                    });
                    [outermost.name, outermost.system_name] = names.clone();
                }
            }
            // A line without any function is of no use in a profile.
            frames.retain(|frame| !frame.name.is_empty());
        }
    }

    /// Names what has no symbol by its file and the address at which its function begins; where nobody knows that, by
    /// its own address, which then stands in place of the linker's name too.
    fn name_by_place(&mut self, elf: &Elf, file: &str, addresses: &[u64], frames: &mut [Vec<SymbolFrame>]) {
        let nameless: Vec<usize> = (0..addresses.len()).filter(|&at| frames[at].is_empty()).collect();
        if nameless.is_empty() {
            return;
        }
        let places: Vec<u64> = nameless.iter().map(|&at| addresses[at]).collect();
        let none = self.cache.intern("");
        for ((at, address), start) in nameless.into_iter().zip(&places).zip(starts::of(elf, &places)) {
            let name = self.cache.intern(&format!("{file}+{:#x}", start.unwrap_or(*address)));
            let system_name = start.map_or(&name, |_| &none).clone();
            frames[at] = vec![SymbolFrame { name, system_name, ..SymbolFrame::default() }];
        }
    }
}

/// Where a JIT compiler in this process leaves its map. It knows itself by the number that we know ourselves by, in
/// whatever namespace that is.
pub(super) fn perf_map_path(options: &Options) -> PathBuf {
    options.perf_map_directory.join(format!("perf-{}.map", std::process::id()))
}

fn vdso(module: &Module) -> Result<Elf, Reason> {
    let size = (module.end - module.start).min(VDSO_LIMIT) as usize;
    let mut image = vec![0; size];
    if everprof_probe::memory::copy(module.start, &mut image) != size {
        return Err(Reason::Missing);
    }
    Elf::parse(Bytes::Memory(image))
}

/// The file that was mapped, under one of the names it may be reached by.
fn mapped_file(module: &Module) -> Result<Elf, Reason> {
    let range = format!("/proc/self/map_files/{:x}-{:x}", module.start, module.end);
    let names = [module.path.clone(), PathBuf::from(range), PathBuf::from("/proc/self/exe")];
    let mut worst = Reason::Missing;
    for name in names {
        match Elf::open(&name) {
            Ok(elf) if is_same(module, &elf) => return Ok(elf),
            // Of another file at its own path. The executable is another file than any library.
            Ok(_) if worst == Reason::Missing && name == module.path => worst = Reason::Replaced,
            Ok(_) | Err(Reason::Missing) => {}
            Err(reason) => worst = reason,
        }
        // The other names need the kernel's permission, or are those of the main binary.
    }
    Err(worst)
}

fn is_same(module: &Module, elf: &Elf) -> bool {
    if !module.build_id.is_empty() || !elf.build_id.is_empty() {
        return module.build_id == elf.build_id;
    }
    module.fingerprint == 0 || module.fingerprint == elf.fingerprint
}
