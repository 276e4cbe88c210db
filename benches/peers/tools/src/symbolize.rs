//! Naming 2,000 addresses of a large binary with full debug information, which none of the tools has seen before.

use std::path::Path;

use everprof::symbolize::{Mode, Module, Options, Symbolizer, maps};

use crate::tell;

const ADDRESSES: u64 = 2000;

/// `names` alone, or `lines` with inlined functions as well.
pub(crate) fn measure(tool: &str, how: &str) {
    let exe = std::env::current_exe().expect("a path");
    let modules = maps::own().expect("proc is mounted");
    let here = measure as fn(&str, &str) as usize as u64;
    let module = modules.iter().find(|module| module.contains(here)).expect("our own code");
    let step = (module.end - module.start) / ADDRESSES;
    let addresses: Vec<u64> = (0..ADDRESSES).map(|at| module.start + at * step + at % 5).collect();
    let mut frames = 0;
    let drop_all = |named: Vec<Vec<Named>>| {
        frames = named.iter().map(Vec::len).sum();
        drop(named);
    };
    match tool {
        "everprof" => {
            let mode = if how == "names" { Mode::Names } else { Mode::Lines };
            let work = || Symbolizer::new(Options { mode, ..Options::default() }).resolve(module, &addresses);
            tell(work, |symbols| frames = symbols.iter().map(|symbols| symbols.len()).sum());
        }
        "backtrace" => tell(|| backtrace_crate(&addresses), drop_all),
        "addr2line" => tell(|| addr2line(&exe, module, &addresses), drop_all),
        "blazesym" => tell(|| blazesym(&exe, module, &addresses, how == "lines"), drop_all),
        other => panic!("no tool named {other:?}"),
    }
    println!("frames\tframes\t{frames}");
}

/// Name and line.
type Named = (String, u32);

fn backtrace_crate(addresses: &[u64]) -> Vec<Vec<Named>> {
    let name = |address: &u64| {
        let mut named = Vec::new();
        // It takes what it is given for a return address.
        backtrace::resolve((address + 1) as *mut _, |symbol| {
            let name = symbol.name().map(|name| name.to_string()).unwrap_or_default();
            named.push((name, symbol.lineno().unwrap_or_default()));
        });
        named
    };
    addresses.iter().map(name).collect()
}

fn addr2line(exe: &Path, module: &Module, addresses: &[u64]) -> Vec<Vec<Named>> {
    let loader = addr2line::Loader::new(exe).expect("a binary");
    let base = base(module);
    let name = |address: &u64| {
        let mut named = Vec::new();
        let mut frames = loader.find_frames(address - base).expect("debug information");
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.and_then(|name| Some(name.demangle().ok()?.into_owned()));
            named.push((
                name.unwrap_or_default(),
                frame.location.and_then(|place| place.line).unwrap_or_default(),
            ));
        }
        named
    };
    addresses.iter().map(name).collect()
}

fn blazesym(exe: &Path, module: &Module, addresses: &[u64], lines: bool) -> Vec<Vec<Named>> {
    use blazesym::symbolize::{Input, Symbolizer, source};
    let symbolizer = Symbolizer::builder().enable_code_info(lines).enable_inlined_fns(lines).build();
    let mut elf = source::Elf::new(exe);
    elf.debug_syms = lines;
    let base = base(module);
    let offsets: Vec<u64> = addresses.iter().map(|address| address - base).collect();
    let found =
        symbolizer.symbolize(&source::Source::Elf(elf), Input::VirtOffset(&offsets)).expect("a binary");
    let name = |symbol: &blazesym::symbolize::Symbolized<'_>| {
        let Some(symbol) = symbol.as_sym() else { return Vec::new() };
        let line = symbol.code_info.as_ref().and_then(|info| info.line).unwrap_or_default();
        let inlined = symbol.inlined.iter().map(|inlined| {
            let line = inlined.code_info.as_ref().and_then(|info| info.line).unwrap_or_default();
            (inlined.name.to_string(), line)
        });
        std::iter::once((symbol.name.to_string(), line)).chain(inlined).collect()
    };
    found.iter().map(name).collect()
}

/// Where the binary's address 0 is.
fn base(module: &Module) -> u64 {
    let header = dl_base();
    assert!(header <= module.start, "the main binary");
    header
}

fn dl_base() -> u64 {
    extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, base: *mut libc::c_void) -> i32 {
        // SAFETY: the loader passes a live description, and `base` is the place below.
        unsafe { *base.cast::<u64>() = (*info).dlpi_addr };
        1
    }
    let mut base = 0_u64;
    // SAFETY: the callback is of the type wanted, and `base` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut base).cast()) };
    base
}
