//! From addresses to functions, files and lines.
//!
//! Called on everprof's own thread at the end of a period, never in a handler. [`maps`] says which file holds an
//! address; [`Symbolizer`] names it: from the symbol table first, which is cheap, then with lines and inlined functions
//! from debug information, under a memory budget that is given back when the call ends. What is kept is small: answers,
//! and lines and inlined calls of functions that were met. Names of a runtime's frames come through [`runtime`].
//!
//! It refuses to name anything from a file that is not the one that was mapped, and to trust a file: whatever is wrong
//! with one is counted in [`Stats`], and its addresses stay without names.

mod budget;
mod cache;
mod debug_file;
mod demangle;
mod dwarf;
mod elf;
mod header;
mod inflate;
mod known;
pub mod maps;
mod native;
mod perf_map;
pub mod runtime;
mod starts;
mod stats;
mod symtab;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use maps::{Module, ModuleKind};
pub use stats::{Reason, Stats};

use crate::profile::is_place;
use cache::Cache;
use known::Known;
use native::Native;

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
    /// Demangled name. Code without a symbol goes by its file and the address at which its function begins, as a
    /// disassembler counts it: `shop+0x1234`.
    pub name: Arc<str>,
    /// Name as the linker knows it; empty where no symbol has the function. Where not even its begin is known, `name` is
    /// that of one address, and stands here too.
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

impl SymbolFrame {
    /// Whether the name is one that somebody gave, not a place in a file.
    pub(crate) fn is_symbol(&self) -> bool {
        !self.system_name.is_empty() && (self.name != self.system_name || !is_place(&self.name))
    }
}

/// The functions at one address, the innermost first; empty where nothing is known of the file that has it.
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
    known: Known,
    files: HashMap<Identity, u32>,
    next_file: u32,
    stats: Stats,
}

/// A file, whatever address it is mapped at.
type Identity = (PathBuf, String, u64, u64);

/// More files than this are libraries that come and go; then everything is looked at anew.
const FILES_LIMIT: usize = 4096;

/// Bytes for what is known of functions that were met.
const KNOWN_LIMIT: usize = 1 << 20;

impl Symbolizer {
    /// A symbolizer with an empty cache.
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(options.cache_limit);
        let known = Known::new(KNOWN_LIMIT);
        Self { options, cache, known, files: HashMap::new(), next_file: 0, stats: Stats::default() }
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
        let places = addresses.iter().enumerate();
        let mut order: Vec<(u64, usize)> =
            places.map(|(at, &address)| (place(module, address), at)).collect();
        order.sort_unstable();
        let mut symbols = vec![Symbols::default(); addresses.len()];
        let mut missing = Vec::new();
        for same in order.chunk_by(|a, b| a.0 == b.0) {
            match self.cache.get((file, same[0].0)) {
                Some(held) => {
                    self.stats.cached += same.len() as u64;
                    same.iter().for_each(|&(_, at)| symbols[at] = held.clone());
                }
                None => missing.push(same),
            }
        }
        if !missing.is_empty() {
            let offsets: Vec<u64> = missing.iter().map(|same| same[0].0).collect();
            let mut native = self.native(Some(file));
            let frames = native.look_up(module, &offsets);
            self.cache.reserve(offsets.len());
            for ((same, offset), frames) in missing.iter().zip(offsets).zip(frames) {
                let found = self.cache.insert((file, offset), frames);
                same.iter().for_each(|&(_, at)| symbols[at] = found.clone());
            }
        }
        self.stats.named += symbols.iter().filter(|symbols| !symbols.is_empty()).count() as u64;
        symbols
    }

    /// The functions at sorted offsets in an ELF image that is in memory as a whole. Nothing is cached.
    ///
    /// ```
    /// use everprof::symbolize::{Options, Reason, Symbolizer};
    /// let mut symbolizer = Symbolizer::new(Options::default());
    /// assert_eq!(symbolizer.resolve_image(b"not ELF".to_vec(), &[0])[0].len(), 0);
    /// assert_eq!(symbolizer.stats().failures(Reason::Malformed), 1);
    /// ```
    pub fn resolve_image(&mut self, image: Vec<u8>, offsets: &[u64]) -> Vec<Symbols> {
        self.native(None).image(image, offsets).into_iter().map(Symbols::from).collect()
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn native(&mut self, number: Option<u32>) -> Native<'_> {
        let Self { options, cache, known, stats, .. } = self;
        Native { options, cache, known, number, stats }
    }

    fn file_number(&mut self, module: &Module) -> u32 {
        let version = match module.kind {
            // A map that has grown may name what it did not before, or otherwise.
            ModuleKind::Jit => perf_map::size(&native::perf_map_path(&self.options)),
            _ => module.fingerprint,
        };
        let identity = (module.path.clone(), module.build_id.clone(), module.inode, version);
        if let Some(&number) = self.files.get(&identity) {
            return number;
        }
        if self.files.len() >= FILES_LIMIT {
            self.files.clear();
            self.cache = Cache::new(self.options.cache_limit);
            self.known = Known::new(KNOWN_LIMIT);
        }
        self.next_file += 1;
        self.files.insert(identity, self.next_file);
        self.next_file
    }
}

/// What an address is known by, wherever the module is mapped the next time. Generated code has no file to be counted
/// from, and its ranges grow at both ends.
fn place(module: &Module, address: u64) -> u64 {
    if module.kind == ModuleKind::Jit { address } else { module.offset(address) }
}
