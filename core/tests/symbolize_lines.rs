//! Lines and inlined functions of the test binary itself, known ones and those that another reader finds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::ops::Range;

use everprof::symbolize::{Options, Symbolizer, Symbols, maps};

fn resolve(symbolizer: &mut Symbolizer, addresses: &[u64]) -> Vec<Symbols> {
    let modules = maps::own().unwrap();
    let module =
        modules.iter().find(|module| module.contains(addresses[0])).expect("a module holds the address");
    symbolizer.resolve(module, addresses)
}

/// An address in the code that this is inlined into: the last byte of the instruction that computes it, as a return
/// address minus one is the last byte of a call.
#[inline(always)]
fn here() -> u64 {
    let address: u64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction only computes the address of the next one.
    unsafe {
        std::arch::asm!("lea {}, [rip]", out(reg) address)
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction only computes the address of the next one.
    unsafe {
        std::arch::asm!("adr {}, . + 4", out(reg) address)
    };
    address - 1
}

#[inline(always)]
fn inner(place: &mut (u64, u32)) {
    *place = (here(), line!());
}

#[inline(always)]
fn middle(place: &mut (u64, u32)) -> u32 {
    inner(place);
    line!() - 1
}

#[inline(never)]
fn outer(place: &mut (u64, u32)) -> (u32, u32) {
    let called = middle(place);
    (called, line!() - 1)
}

#[test]
fn inlined_functions_are_frames_with_the_lines_of_their_calls() {
    let mut place = (0, 0);
    let (middle_line, outer_line) = outer(black_box(&mut place));
    let symbols = resolve(&mut Symbolizer::new(Options::default()), &[place.0]).remove(0);
    let seen: Vec<_> =
        symbols.iter().skip(1).map(|f| (f.name.rsplit("::").next().unwrap(), f.line, f.inlined)).collect();
    assert_eq!(seen, [("inner", place.1, true), ("middle", middle_line, true), ("outer", outer_line, false)]);
    for frame in symbols.iter() {
        assert!(frame.file.ends_with("core/tests/symbolize_lines.rs"), "{frame:?}");
    }
    let outermost = symbols.last().unwrap();
    assert!(
        outermost.name.starts_with("symbolize_lines::") && outermost.system_name.starts_with('_'),
        "{outermost:?}"
    );
}

/// Addresses all over the code of the test binary, whose first byte is at `header`.
///
/// Not over the whole mapping: some linkers put the headers and tables in front of the code into it, and that is where
/// the debug information of dropped functions points, at address 0. The other reader takes it for theirs.
fn everywhere(header: u64, count: usize) -> Vec<u64> {
    let code = code();
    let step = (code.end - code.start) / count as u64;
    (0..count as u64).map(|at| header + code.start + at * step + at % 7).collect()
}

/// From the first to the last section with code, as the file counts addresses.
fn code() -> Range<u64> {
    const SHDR: usize = 64;
    const EXECUTABLE: u64 = 4;
    let file = std::fs::read("/proc/self/exe").unwrap();
    let word = |at: usize| u64::from_le_bytes(*file[at..].first_chunk().unwrap());
    let (table, count) = (word(40) as usize, usize::from(u16::from_le_bytes([file[60], file[61]])));
    let sections = (0..count).map(|at| table + at * SHDR).filter(|&at| word(at + 8) & EXECUTABLE != 0);
    let ends = sections.map(|at| (word(at + 16), word(at + 16) + word(at + 32)));
    ends.map(|(start, end)| start..end).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap()
}

#[test]
fn frames_are_those_of_another_reader() {
    let modules = maps::own().unwrap();
    let header = modules[0].header.unwrap();
    let loader = addr2line::Loader::new("/proc/self/exe").unwrap();
    let addresses = everywhere(header, 3000);
    let symbols = resolve(&mut Symbolizer::new(Options::default()), &addresses);
    let (mut compared, mut inlined) = (0, 0);
    for (&address, symbols) in addresses.iter().zip(&symbols) {
        let mut frames = loader.find_frames(address - header).unwrap();
        let mut expected = Vec::new();
        while let Some(frame) = frames.next().unwrap() {
            let name = frame.function.map(|function| function.raw_name().unwrap().into_owned());
            let location = frame.location;
            expected.push((
                name.unwrap_or_default(),
                location.as_ref().and_then(|location| location.file).unwrap_or_default().to_owned(),
                location.as_ref().and_then(|location| location.line).unwrap_or_default(),
                location.as_ref().and_then(|location| location.column).unwrap_or_default(),
            ));
        }
        let found: Vec<_> = symbols
            .iter()
            .map(|f| (f.system_name.to_string(), f.file.to_string(), f.line, f.column))
            .collect();
        if expected.is_empty() {
            // Then the name comes from the symbol table, which the other reader keeps apart.
            assert!(found.len() <= 1 && found.iter().all(|found| found.2 == 0), "{found:?}");
            continue;
        }
        // A function without debug information has a line and no name there, and the symbol's name here.
        if expected.len() == 1 && expected[0].0.is_empty() {
            continue;
        }
        let mut found = found;
        if let (Some(found), Some(expected)) = (found.last_mut(), expected.last())
            && !expected.0.starts_with("_ZN")
            && !expected.0.starts_with("_R")
        {
            // Where debug information has the source's name only, the symbol's says more.
            let outermost = symbols.last().unwrap();
            let plain = expected.0.split(['<', '{']).next().unwrap();
            assert!(outermost.name.contains(plain), "{} for {}", outermost.name, expected.0);
            found.0 = expected.0.clone();
        }
        // Code of no line is told by the file that declares its function, and there by that of the row before.
        for (found, expected) in found.iter_mut().zip(&expected).filter(|(found, _)| found.2 == 0) {
            found.1.clone_from(&expected.1);
        }
        compared += 1;
        inlined += usize::from(expected.len() > 1);
        assert_eq!(found, expected, "at {:#x}", address - header);
    }
    assert!(
        compared > 1000 && inlined > 100,
        "{compared} compared, {inlined} of them with inlined functions"
    );
}

#[test]
fn what_is_known_of_functions_answers_as_debug_information_does() {
    let header = maps::own().unwrap()[0].header.unwrap();
    let met = everywhere(header, 60);
    let mut symbolizer = Symbolizer::new(Options::default());
    // At the first look at a file nothing is learnt.
    resolve(&mut symbolizer, &met[..1]);
    resolve(&mut symbolizer, &met);
    // Not before the first byte of the code.
    let near = met[1..].iter().flat_map(|&address| (address - 700..address + 700).step_by(3));
    let near: Vec<u64> = near.collect();
    // All at once, nothing is known beforehand.
    let direct = resolve(&mut Symbolizer::new(Options::default()), &near);
    assert_eq!(resolve(&mut symbolizer, &near), direct);
    let stats = symbolizer.stats();
    assert!(stats.known > 5000, "{stats:?}");
    assert!(stats.kept_bytes > 0 && stats.kept_bytes <= 1 << 20, "{stats:?}");
    let inlined = direct.iter().filter(|symbols| symbols.len() > 2).count();
    assert!(inlined > 500, "{inlined} with inlined functions");
}

#[test]
fn functions_that_the_linker_dropped_have_no_code_at_the_start_of_the_file() {
    let header: Vec<u64> = (0..0x200).collect();
    let symbols =
        Symbolizer::new(Options::default()).resolve_image(std::fs::read("/proc/self/exe").unwrap(), &header);
    let found: Vec<_> = symbols.iter().flat_map(|symbols| symbols.iter()).collect();
    assert!(found.is_empty(), "{found:?}");
    // The debug information does say so, to a reader that believes it.
    let loader = addr2line::Loader::new("/proc/self/exe").unwrap();
    let believed = header.iter().filter(|&&address| loader.find_location(address).unwrap().is_some());
    assert!(believed.count() > 0, "no function was dropped: nothing is tested");
}
