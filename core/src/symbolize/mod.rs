//! From addresses to functions, files and lines.
//!
//! Called on everprof's own thread at the end of a period, never in a handler. [`maps`] says which file holds an
//! address; [`Symbolizer`] names it: from the symbol table first, which is cheap, then with lines and inlined functions
//! from debug information, under a memory budget that is given back when the call ends. Names of a runtime's frames
//! come through [`runtime`].
//!
//! It refuses to name anything from a file that is not the one that was mapped, and to trust a file: whatever is wrong
//! with one is counted in [`Stats`], and its addresses stay without names.

mod budget;
mod cache;
mod demangle;
mod dwarf;
mod elf;
mod header;
mod inflate;
pub mod maps;
pub mod runtime;
mod stats;
mod symtab;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use maps::{Module, ModuleKind};
pub use stats::{Reason, Stats};

use budget::Budget;
use cache::Cache;
use elf::{Bytes, Elf};

/// How much a [`Symbolizer`] finds out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: profiles carry build IDs and addresses, and somebody else names them.
    Off,
    /// Function names from symbol tables.
    Names,
    /// Lines and inlined functions too, where there is debug information.
    #[default]
    Lines,
}

/// What a [`Symbolizer`] may do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much to find out; default [`Mode::Lines`].
    pub mode: Mode,
    /// Bytes that may be held at one time while debug information is read; default 24 MiB.
    pub memory_budget: usize,
    /// Addresses whose answers are kept for the next call; default 16,384.
    pub cache_limit: usize,
    /// Where separate debug files are looked for; default `/usr/lib/debug`.
    pub debug_directories: Vec<PathBuf>,
    /// Where JIT compilers leave `perf-<pid>.map`; default `/tmp`.
    pub perf_map_directory: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            memory_budget: 24 << 20,
            cache_limit: 16_384,
            debug_directories: vec![PathBuf::from("/usr/lib/debug")],
            perf_map_directory: PathBuf::from("/tmp"),
        }
    }
}

/// One function at an address: the one that was really called, or one that was inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SymbolFrame {
    /// Demangled name.
    pub name: Arc<str>,
    /// Name as the linker knows it.
    pub system_name: Arc<str>,
    /// Source file of `line`; empty where unknown.
    pub file: Arc<str>,
    /// First line of the function; 0 where unknown.
    pub start_line: u32,
    /// Line; 0 where unknown.
    pub line: u32,
    /// Column; 0 where unknown.
    pub column: u32,
    /// Whether the function was inlined into the next frame.
    pub inlined: bool,
}

/// The functions at one address, the innermost first; empty where the address has no name.
pub type Symbols = Arc<[SymbolFrame]>;

/// Names addresses of this process.
///
/// ```
/// use everprof::symbolize::{Options, Symbolizer, maps};
/// fn here() {}
/// let address = here as fn() as usize as u64;
/// let modules = maps::own().unwrap();
/// let module = modules.iter().find(|module| module.contains(address)).unwrap();
/// let symbols = Symbolizer::new(Options::default()).resolve(module, &[address]);
/// assert!(symbols[0].last().unwrap().name.ends_with("::here"), "{symbols:?}");
/// ```
#[derive(Debug)]
pub struct Symbolizer {
    options: Options,
    cache: Cache,
    files: HashMap<Identity, u32>,
    next_file: u32,
    stats: Stats,
}

/// A file, whatever address it is mapped at.
type Identity = (PathBuf, String, u64, u64);

/// More files than this are libraries that come and go; then everything is looked at anew.
const FILES_LIMIT: usize = 4096;
/// The vDSO is two to four pages.
const VDSO_LIMIT: u64 = 1 << 20;

impl Symbolizer {
    /// A symbolizer with an empty cache.
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(options.cache_limit);
        Self { options, cache, files: HashMap::new(), next_file: 0, stats: Stats::default() }
    }

    /// The functions at each of `addresses`, which lie in `module`: one answer for each, in the same order.
    ///
    /// An address must be a point inside the instruction that is meant: callers give the return address minus one.
    pub fn resolve(&mut self, module: &Module, addresses: &[u64]) -> Vec<Symbols> {
        self.stats.addresses += addresses.len() as u64;
        if self.options.mode == Mode::Off {
            return addresses.iter().map(|_| Symbols::default()).collect();
        }
        let file = self.file_number(module);
        let mut found: HashMap<u64, Symbols> = HashMap::with_capacity(addresses.len());
        let mut missing = Vec::new();
        for offset in addresses.iter().map(|&address| module.offset(address)) {
            match self.cache.get((file, offset)) {
                Some(symbols) => {
                    self.stats.cached += 1;
                    found.insert(offset, symbols);
                }
                None => missing.push(offset),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let frames = self.look_up(module, &missing).unwrap_or_else(|reason| {
                self.stats.fail(reason);
                vec![Vec::new(); missing.len()]
            });
            for (offset, frames) in missing.into_iter().zip(frames) {
                found.insert(offset, self.cache.insert((file, offset), frames));
            }
        }
        let answer = |&address: &u64| found.get(&module.offset(address)).cloned().unwrap_or_default();
        let symbols: Vec<Symbols> = addresses.iter().map(answer).collect();
        self.stats.named += symbols.iter().filter(|symbols| !symbols.is_empty()).count() as u64;
        symbols
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn file_number(&mut self, module: &Module) -> u32 {
        let identity = (module.path.clone(), module.build_id.clone(), module.inode, module.fingerprint);
        if let Some(&number) = self.files.get(&identity) {
            return number;
        }
        if self.files.len() >= FILES_LIMIT {
            self.files.clear();
            self.cache = Cache::new(self.options.cache_limit);
        }
        self.next_file += 1;
        self.files.insert(identity, self.next_file);
        self.next_file
    }

    /// Names sorted offsets that the cache does not know.
    fn look_up(&mut self, module: &Module, offsets: &[u64]) -> Result<Vec<Vec<SymbolFrame>>, Reason> {
        let elf = match module.kind {
            ModuleKind::Jit => return Ok(vec![Vec::new(); offsets.len()]),
            ModuleKind::Vdso => vdso(module)?,
            ModuleKind::Elf => mapped_file(module)?,
        };
        self.stats.files += 1;
        // Offsets of one segment keep their order as addresses, but segments need not be in order.
        let mut places: Vec<(u64, usize)> = offsets
            .iter()
            .enumerate()
            .filter_map(|(at, &offset)| Some((elf.address_of(offset)?, at)))
            .collect();
        places.sort_unstable();
        let addresses: Vec<u64> = places.iter().map(|(address, _)| *address).collect();
        let mut frames = vec![Vec::new(); addresses.len()];
        let names = symtab::names(&elf, &addresses).unwrap_or_else(|reason| {
            self.stats.fail(reason);
            vec![None; addresses.len()]
        });
        if self.options.mode == Mode::Lines
            && let Err(reason) = self.debug_frames(&elf, &addresses, &mut frames)
        {
            self.stats.fail(reason);
        }
        for (frames, symbol) in frames.iter_mut().zip(names) {
            self.name_outermost(frames, symbol);
        }
        let mut ordered = vec![Vec::new(); offsets.len()];
        for ((_, at), frames) in places.into_iter().zip(frames) {
            ordered[at] = frames;
        }
        Ok(ordered)
    }

    /// Lines and inlined functions, as far as there is debug information.
    fn debug_frames(
        &mut self,
        elf: &Elf,
        addresses: &[u64],
        frames: &mut [Vec<SymbolFrame>],
    ) -> Result<(), Reason> {
        let budget = Budget::new(self.options.memory_budget);
        let Some(mut sections) = dwarf::Sections::open(elf, &budget)? else { return Ok(()) };
        let none: Arc<str> = self.cache.intern("");
        let done = dwarf::resolve(&mut sections, addresses, &mut self.cache, &mut self.stats, |at, found| {
            let convert = |frame: dwarf::Frame| SymbolFrame {
                name: frame.function.as_ref().map_or(&none, |function| &function.name).clone(),
                system_name: frame.function.as_ref().map_or(&none, |function| &function.system_name).clone(),
                file: frame.file.unwrap_or_else(|| none.clone()),
                start_line: frame.function.as_ref().map_or(0, |function| function.start_line),
                line: frame.line,
                column: frame.column,
                inlined: frame.inlined,
            };
            frames[at] = found.into_iter().map(convert).collect();
        });
        self.stats.peak_bytes = self.stats.peak_bytes.max(budget.peak() as u64);
        done
    }

    /// Gives the outermost frame the symbol's name where debug information has none, or has only the source's.
    fn name_outermost(&mut self, frames: &mut Vec<SymbolFrame>, symbol: Option<String>) {
        let Some(symbol) = symbol else {
            // A line without any function is of no use in a profile.
            frames.retain(|frame| !frame.name.is_empty());
            return;
        };
        if frames.is_empty() {
            frames.push(SymbolFrame::default());
        }
        let Some(outermost) = frames.last_mut() else { return };
        let mangled = |name: &str| name.starts_with("_Z") || name.starts_with("_R");
        if outermost.name.is_empty() || mangled(&symbol) && !mangled(&outermost.system_name) {
            outermost.name = self.cache.intern(&demangle::demangle(&symbol));
            outermost.system_name = self.cache.intern(&symbol);
        }
        frames.retain(|frame| !frame.name.is_empty());
    }
}

fn vdso(module: &Module) -> Result<Elf, Reason> {
    let size = (module.end - module.start).min(VDSO_LIMIT) as usize;
    let mut image = vec![0; size];
    let mut memory = header::OwnMemory::open();
    if memory(module.start, &mut image) != size {
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
            Ok(_) if worst == Reason::Missing => worst = Reason::Replaced,
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
