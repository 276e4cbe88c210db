//! Lines and inlined functions of the test binary itself, known ones and those that another reader finds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;

use everprof::symbolize::{Options, Symbolizer, Symbols, maps};

fn resolve(symbolizer: &mut Symbolizer, addresses: &[u64]) -> Vec<Symbols> {
    let modules = maps::own().unwrap();
    let module =
        modules.iter().find(|module| module.contains(addresses[0])).expect("a module holds the address");
    symbolizer.resolve(module, addresses)
}

/// The address of the code that this is inlined into.
#[inline(always)]
fn here() -> u64 {
    let address: u64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction only computes its own address.
    unsafe {
        std::arch::asm!("lea {}, [rip]", out(reg) address)
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction only computes its own address.
    unsafe {
        std::arch::asm!("adr {}, .", out(reg) address)
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

/// Addresses all over the code of the test binary, half of them entries of functions.
fn everywhere(count: usize) -> Vec<u64> {
    let modules = maps::own().unwrap();
    let step = (modules[0].end - modules[0].start) / count as u64;
    (0..count as u64).map(|at| modules[0].start + at * step + at % 7).collect()
}

#[test]
fn frames_are_those_of_another_reader() {
    let modules = maps::own().unwrap();
    let header = modules[0].header.unwrap();
    let loader = addr2line::Loader::new("/proc/self/exe").unwrap();
    let addresses = everywhere(3000);
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
        compared += 1;
        inlined += usize::from(expected.len() > 1);
        assert_eq!(found, expected, "at {:#x}", address - header);
    }
    assert!(
        compared > 1000 && inlined > 100,
        "{compared} compared, {inlined} of them with inlined functions"
    );
}
