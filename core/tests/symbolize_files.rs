//! Files of all kinds: versions of DWARF, compressed, split off, stripped, replaced, deleted, broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, unreachable_pub)]

#[path = "symbolize/fixture.rs"]
mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use everprof::symbolize::{Options, Reason, Symbolizer, Symbols, maps};
use fixture::{Loaded, all_of, around, assert_complete, compile, folder, run, shapes, tools};

#[test]
fn every_version_and_packing_of_debug_information() {
    if !tools("every_version_and_packing_of_debug_information") {
        return;
    }
    let folder = folder("versions");
    let ways: [&[&str]; 11] = [
        &["-g1"],
        &["-gdwarf-2"],
        &["-gdwarf-3"],
        &["-gdwarf-4"],
        &["-gdwarf-5"],
        &["-gdwarf-5", "-gz=zlib"],
        &["-gdwarf-4", "-gz=zlib-gnu"],
        &["-gdwarf-5", "-gdwarf64"],
        &["-gdwarf-4", "-fdebug-types-section"],
        &["-gdwarf-5", "-fdebug-types-section", "-ffunction-sections", "-Wl,--gc-sections"],
        &["-gdwarf-5", "-flto", "-O2"],
    ];
    for (at, flags) in ways.iter().enumerate() {
        let path = compile(&folder, &format!("way{at}.so"), flags);
        let loaded = Loaded::open(&path);
        let mut symbolizer = Symbolizer::new(Options::default());
        let symbols = around(&mut symbolizer, &loaded, loaded.function("shapes_total"));
        assert_complete(&symbols, &format!("{flags:?}"));
        assert_eq!(Reason::ALL.map(|reason| symbolizer.stats().failures(reason)), [0; 5], "{flags:?}");
        // The static function is in the symbol table only.
        let all: Vec<u64> = (loaded.module(loaded.function("shapes_total")).start..).take(2000).collect();
        let symbols = symbolizer.resolve(&loaded.module(loaded.function("shapes_total")), &all);
        let names: Vec<&str> = symbols.iter().flat_map(|s| s.iter()).map(|f| &*f.name).collect();
        assert!(names.iter().any(|name| name.starts_with("hidden")), "{flags:?}");
        assert!(names.contains(&"shapes::named(shapes::Square<long>, int)"), "{flags:?}");
        // What is known of functions answers as the file does.
        let module = loaded.module(loaded.function("shapes_total"));
        let mut met = Symbolizer::new(Options::default());
        for some in all.iter().step_by(31) {
            met.resolve(&module, &[*some]);
        }
        let before = met.stats().known;
        let direct = Symbolizer::new(Options::default()).resolve(&module, &all);
        assert_eq!(met.resolve(&module, &all), direct, "{flags:?}");
        assert!(met.stats().known > before + 100, "{flags:?}: {:?}", met.stats());
    }
}

#[test]
fn what_is_known_of_functions_goes_when_the_file_changes() {
    if !tools("what_is_known_of_functions_goes_when_the_file_changes") {
        return;
    }
    let path = compile(&folder("changes"), "code.so", &["-g"]);
    let loaded = Loaded::open(&path);
    let address = loaded.function("shapes_total");
    let mut symbolizer = Symbolizer::new(Options::default());
    let resolve = |symbolizer: &mut Symbolizer, offset: u64| {
        symbolizer.resolve(&loaded.module(address), &[address + offset]).remove(0)
    };
    // The first look names, the second one learns, and the third one knows.
    for (offset, known) in [(0, 0), (1, 0), (2, 1)] {
        resolve(&mut symbolizer, offset);
        assert_eq!(symbolizer.stats().known, known);
    }
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    for (offset, known) in [(3, 1), (4, 1), (5, 2)] {
        assert_eq!(&*resolve(&mut symbolizer, offset).last().unwrap().name, "shapes_total");
        assert_eq!(symbolizer.stats().known, known);
    }
}

/// Its lines stay, counted from address 0, and it is larger than the way to the first code of the file.
const DROPPED_AND_KEPT: &str = r#"
extern "C" __attribute__((visibility("hidden"))) int dropped(int value) {
    asm volatile("nop");
    asm volatile(".skip 0x40000");
    return value * 3;
}
extern "C" int kept(int value) { return value + 1; }
"#;

#[test]
fn functions_that_the_linker_dropped_claim_no_code() {
    if !tools("functions_that_the_linker_dropped_claim_no_code") {
        return;
    }
    let folder = folder("dropped");
    let source = folder.join("dropped.cc");
    std::fs::write(&source, DROPPED_AND_KEPT).unwrap();
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        // A path of its own: at the same one the loader may give the library that it has, whose file is gone.
        let object = folder.join(format!("dropped{version}.so"));
        let flags = ["-O1", "-fPIC", "-shared", "-ffunction-sections", "-Wl,--gc-sections", version, "-o"];
        run(Command::new("g++").args(flags).arg(&object).arg(&source));
        let image = std::fs::read(&object).unwrap();
        assert!(image.len() < 0x40000, "the function was not dropped: nothing is tested");
        let loaded = Loaded::open(&object);
        let kept = loaded.function("kept");
        let symbols = Symbolizer::new(Options::default()).resolve(&loaded.module(kept), &[kept]);
        assert_eq!(shapes(&symbols), [[("kept", 7, false)]], "{version}");
        std::fs::remove_file(&object).unwrap();
    }
}

/// A compiler leaves such rows where code is moved: no line, and the file of whatever stood there before.
const WITHOUT_A_LINE: &str = r#"
#[unsafe(no_mangle)]
pub extern "C" fn mixed(value: u32) -> u32 {
    let other = value ^ 3;
    unsafe { core::arch::asm!(".file 2 \"/elsewhere/range.rs\"", ".loc 2 0", "nop", "nop", "nop", "nop") };
    other >> 1
}
"#;

#[test]
fn code_of_no_line_is_of_its_functions_file() {
    if !all_of(&["rustc"], "code_of_no_line_is_of_its_functions_file") {
        return;
    }
    let folder = folder("no-line");
    let source = folder.join("mixed.rs");
    std::fs::write(&source, WITHOUT_A_LINE).unwrap();
    for version in ["4", "5"] {
        let object = folder.join(format!("mixed-{version}.so"));
        let flags = ["-g", "-O", "--edition=2024", "--crate-type=cdylib", "-Cdwarf-version"];
        let flags = flags.map(|flag| flag.replace("version", &format!("version={version}")));
        run(Command::new("rustc").args(flags).arg("-o").arg(&object).arg(&source));
        let loaded = Loaded::open(&object);
        let start = loaded.function("mixed");
        let addresses: Vec<u64> = (start..start + 8).collect();
        let symbols = Symbolizer::new(Options::default()).resolve(&loaded.module(start), &addresses);
        let frames: Vec<_> = symbols.iter().flat_map(|symbols| symbols.iter()).collect();
        assert!(frames.iter().any(|frame| frame.line == 0), "{version}: nothing is tested: {frames:?}");
        for frame in frames {
            assert!(frame.file.ends_with("no-line/mixed.rs"), "{version}: {frame:?}");
        }
    }
}

#[test]
fn debug_files_that_were_split_off() {
    if !tools("debug_files_that_were_split_off") {
        return;
    }
    for (place, build_id) in
        [("link", "none"), ("link", "sha1"), (".debug", "none"), ("build-id", "sha1"), ("root", "none")]
    {
        let folder = folder(&format!("split-{place}-{build_id}"));
        let (root, code) = (folder.join("root"), folder.join("code"));
        std::fs::create_dir_all(&code).unwrap();
        let path = compile(&code, "split.so", &["-g", "-gz=zlib", &format!("-Wl,--build-id={build_id}")]);
        let debug = code.join("split.so.debug");
        run(Command::new("objcopy").arg("--only-keep-debug").arg(&path).arg(&debug));
        run(Command::new("strip").arg("--strip-all").arg(&path));
        if place != "build-id" {
            run(Command::new("objcopy").arg("--add-gnu-debuglink").arg(&debug).arg(&path));
        }
        let loaded = Loaded::open(&path);
        let address = loaded.function("shapes_total");
        let build_id = loaded.module(address).build_id;
        let target = match place {
            "link" => debug.clone(),
            ".debug" => code.join(".debug/split.so.debug"),
            "root" => root.join(code.strip_prefix("/").unwrap()).join("split.so.debug"),
            _ => root.join(".build-id").join(&build_id[..2]).join(format!("{}.debug", &build_id[2..])),
        };
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::rename(&debug, &target).unwrap();
        let options = || Options { debug_directories: vec![root.clone()], ..Options::default() };
        let mut symbolizer = Symbolizer::new(options());
        assert_complete(&around(&mut symbolizer, &loaded, address), place);
        assert_eq!(symbolizer.stats().files, 2, "{place}");
        // Another build's debug file is none.
        let other = compile(&folder, "other.so", &["-g", "-O2", "-Wl,--build-id=none"]);
        std::fs::rename(other, &target).unwrap();
        let symbols = around(&mut Symbolizer::new(options()), &loaded, address);
        assert_eq!(shapes(&symbols)[0], [("shapes_total", 0, false)], "{place}");
    }
}

#[test]
fn a_stripped_file_has_the_names_that_it_exports() {
    if !tools("a_stripped_file_has_the_names_that_it_exports") {
        return;
    }
    let path = compile(&folder("stripped"), "stripped.so", &["-g"]);
    run(Command::new("strip").arg(&path));
    let loaded = Loaded::open(&path);
    let symbols = around(&mut Symbolizer::new(Options::default()), &loaded, loaded.function("shapes_total"));
    assert_eq!(shapes(&symbols)[0], [("shapes_total", 0, false)]);
}

const CALLS: &str = r#"
#include <cstdlib>
#include <cstring>
extern "C" int calls(int value) {
    char *held = static_cast<char *>(malloc(value));
    memset(held, value, value);
    int found = static_cast<int>(strlen(held));
    free(held);
    return found;
}
"#;

#[test]
fn stubs_of_the_linker_have_the_names_of_what_they_call() {
    if !tools("stubs_of_the_linker_have_the_names_of_what_they_call") {
        return;
    }
    let folder = folder("stubs");
    let source = folder.join("calls.cc");
    std::fs::write(&source, CALLS).unwrap();
    let ways: [&[&str]; 4] = [
        &["-Wl,-z,lazy"],
        &["-Wl,-z,now", "-fcf-protection=full", "-Wl,-z,ibtplt"],
        &["-Wl,-z,lazy", "-fcf-protection=full", "-Wl,-z,ibtplt"],
        &["-Wl,-z,now", "-s"],
    ];
    for (at, flags) in ways.iter().enumerate().filter(|(at, _)| cfg!(target_arch = "x86_64") || at % 3 == 0) {
        let object = folder.join(format!("calls{at}.so"));
        let base = ["-O1", "-fPIC", "-fno-builtin", "-shared", "-o"];
        run(Command::new("g++").args(base).arg(&object).arg(&source).args(*flags));
        let image = std::fs::read(&object).unwrap();
        let stubs: Vec<_> =
            sections(&image).into_iter().filter(|section| section.0.starts_with(".plt")).collect();
        let offsets: Vec<u64> =
            stubs.iter().flat_map(|section| section.1 as u64..(section.1 + section.2) as u64).collect();
        assert!(!offsets.is_empty(), "{flags:?}: no stubs, nothing is tested");
        let symbols = Symbolizer::new(Options::default()).resolve_image(image, &offsets);
        for name in ["malloc@plt", "memset@plt", "strlen@plt", "free@plt"] {
            let named = symbols.iter().filter(|s| s.first().is_some_and(|frame| &*frame.name == name));
            let bytes = named.count();
            assert!(bytes >= 8 && bytes % 8 == 0, "{flags:?}: {bytes} bytes of {name} in {stubs:?}");
        }
        let odd = symbols.iter().flat_map(|s| s.iter()).find(|frame| !frame.name.ends_with("@plt"));
        assert_eq!(odd, None, "{flags:?}");
    }
}

#[test]
fn sections_packed_by_zstd_are_read_where_that_is_built_in() {
    if !all_of(&["g++", "objcopy", "zstd"], "sections_packed_by_zstd_are_read_where_that_is_built_in") {
        return;
    }
    let folder = folder("zstd");
    let path = compile(&folder, "packed.so", &["-gdwarf-5"]);
    let offset = {
        let loaded = Loaded::open(&path);
        let address = loaded.function("shapes_total");
        loaded.module(address).offset(address)
    };
    // Not every linker can do it: each section is packed by the tool, behind the header of the standard.
    let image = std::fs::read(&path).unwrap();
    let mut packed = image.clone();
    for (at, (name, start, size)) in sections(&image).into_iter().enumerate() {
        if !name.starts_with(".debug_") {
            continue;
        }
        let plain = folder.join("plain");
        std::fs::write(&plain, &image[start..start + size]).unwrap();
        let output = Command::new("zstd").arg("-qc").arg(&plain).output().unwrap();
        assert!(output.status.success());
        let content =
            [&2u64.to_le_bytes()[..], &size.to_le_bytes(), &1u64.to_le_bytes(), &output.stdout].concat();
        put_section(&mut packed, at, &content, 0x800);
    }
    let offsets: Vec<u64> = (offset..offset + 160).collect();
    let mut symbolizer = Symbolizer::new(Options::default());
    let symbols = symbolizer.resolve_image(packed, &offsets);
    if cfg!(feature = "zstd") {
        assert_complete(&symbols, "zstd");
        assert_eq!(symbolizer.stats().failures(Reason::Unsupported), 0);
    } else {
        assert_eq!(shapes(&symbols)[0], [("shapes_total", 0, false)]);
        assert_eq!(symbolizer.stats().failures(Reason::Unsupported), 1);
    }
}

#[test]
fn symbols_that_a_stripped_library_has_embedded() {
    if !all_of(&["g++", "objcopy", "strip", "xz"], "symbols_that_a_stripped_library_has_embedded") {
        return;
    }
    let folder = folder("embedded");
    let path = compile(&folder, "mini.so", &[]);
    let (mini, plain) = (folder.join("mini"), folder.join("plain.so"));
    std::fs::copy(&path, &plain).unwrap();
    run(Command::new("objcopy").args(["-S", "--keep-symbol=_ZL6hiddeni"]).arg(&path).arg(&mini));
    run(Command::new("xz").arg("-k").arg(&mini));
    run(Command::new("strip").arg(&path));
    let section = format!(".gnu_debugdata={}", folder.join("mini.xz").display());
    run(Command::new("objcopy").arg("--add-section").arg(section).arg(&path));
    let image = std::fs::read(&path).unwrap();
    let (start, end) = code(&image);
    let offsets: Vec<u64> = (start..end).collect();
    let mut symbolizer = Symbolizer::new(Options::default());
    let symbols = symbolizer.resolve_image(image, &offsets);
    let has = |name: &str| symbols.iter().flat_map(|s| s.iter()).any(|frame| frame.name.starts_with(name));
    assert!(has("shapes_total"));
    assert_eq!(has("hidden(int)"), cfg!(feature = "xz"));
    assert_eq!(symbolizer.stats().failures(Reason::Unsupported), u64::from(!cfg!(feature = "xz")));
}

/// Puts a section's content at the end of an image, with more flags.
fn put_section(image: &mut Vec<u8>, number: usize, content: &[u8], flags: u64) {
    let long = |image: &[u8], at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    let header = long(image, 40) as usize + 64 * number;
    let values = [(8, long(image, header + 8) | flags), (24, image.len() as u64), (32, content.len() as u64)];
    for (at, value) in values {
        image[header + at..header + at + 8].copy_from_slice(&value.to_le_bytes());
    }
    image.extend(content);
}

#[test]
fn a_replaced_file_names_nothing() {
    if !tools("a_replaced_file_names_nothing") {
        return;
    }
    for build_id in ["none", "sha1"] {
        let folder = folder(&format!("replaced-{build_id}"));
        let identity = format!("-Wl,--build-id={build_id}");
        let path = compile(&folder, "code.so", &["-g", &identity]);
        let loaded = Loaded::open(&path);
        let impostor = compile(&folder, "new.so", &["-g", "-O2", "-Dshapes_total=impostor", &identity]);
        std::fs::rename(impostor, &path).unwrap();
        let address = loaded.function("shapes_total");
        assert!(loaded.module(address).deleted);
        let mut symbolizer = Symbolizer::new(Options::default());
        let symbols = around(&mut symbolizer, &loaded, address);
        assert_old_or_nothing(&symbolizer, &symbols, Reason::Replaced);
    }
}

#[test]
fn a_deleted_file_is_read_where_the_kernel_still_gives_it() {
    if !tools("a_deleted_file_is_read_where_the_kernel_still_gives_it") {
        return;
    }
    let path = compile(&folder("deleted"), "gone.so", &["-g"]);
    let loaded = Loaded::open(&path);
    std::fs::remove_file(&path).unwrap();
    let mut symbolizer = Symbolizer::new(Options::default());
    let symbols = around(&mut symbolizer, &loaded, loaded.function("shapes_total"));
    assert_old_or_nothing(&symbolizer, &symbols, Reason::Missing);
}

/// With the privilege to open a file through its mapping the old file answers, without it nobody does.
fn assert_old_or_nothing(symbolizer: &Symbolizer, symbols: &[Symbols], reason: Reason) {
    if symbolizer.stats().failures(reason) == 0 {
        assert_complete(symbols, "through map_files");
    } else {
        assert!(symbols.iter().all(|symbols| symbols.is_empty()), "{symbols:?}");
    }
}

#[test]
fn generated_code_is_named_by_a_perf_map_that_may_grow() {
    let folder = folder("perf-map");
    let path = folder.join(format!("perf-{}.map", std::process::id()));
    let options = Options { perf_map_directory: folder, ..Options::default() };
    let mut symbolizer = Symbolizer::new(options);
    let module = maps::parse(b"70000000-70010000 rwxp 00000000 00:00 0\n", None).remove(0);
    let addresses = [0x7000_0010, 0x7000_0110, 0x7000_0210];
    let names = |symbolizer: &mut Symbolizer| -> Vec<String> {
        let symbols = symbolizer.resolve(&module, &addresses);
        symbols
            .iter()
            .map(|symbols| symbols.first().map_or(String::new(), |frame| frame.name.to_string()))
            .collect()
    };
    assert_eq!(names(&mut symbolizer), ["", "", ""]);
    std::fs::write(&path, "70000000 100 Script:~main a.js:1\n").unwrap();
    assert_eq!(names(&mut symbolizer), ["Script:~main a.js:1", "", ""]);
    let more = "70000000 100 Script:~main a.js:1\n70000100 100 LazyCompile:*hot a.js:9\n70000200 10 half";
    std::fs::write(&path, more).unwrap();
    assert_eq!(names(&mut symbolizer), ["Script:~main a.js:1", "LazyCompile:*hot a.js:9", ""]);
    let cached = symbolizer.stats().cached;
    names(&mut symbolizer);
    assert_eq!(symbolizer.stats().cached, cached + 3);
}

#[test]
fn a_broken_file_is_counted_and_harms_nobody() {
    if !tools("a_broken_file_is_counted_and_harms_nobody") {
        return;
    }
    let folder = folder("broken");
    let mut noise = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    let mut failures = 0;
    for flags in [&["-gdwarf-4"][..], &["-gdwarf-5"], &["-gdwarf-5", "-gz=zlib"]] {
        let image = std::fs::read(compile(&folder, "broken.so", flags)).unwrap();
        let (start, end) = code(&image);
        let offsets: Vec<u64> = (start..end).step_by(7).collect();
        let debug = debug_parts(&image);
        for round in 0..700 {
            let mut broken = image.clone();
            for _ in 0..1 + random() % 6 {
                // Half of the damage goes where the sections of debug information are.
                let (from, size) =
                    if round % 2 == 0 { (0, image.len()) } else { debug[random() as usize % debug.len()] };
                let place = from + random() as usize % size;
                broken[place] = match random() % 4 {
                    0 => 0xff,
                    1 => 0,
                    2 => broken[place] ^ 1 << (random() % 8),
                    _ => random() as u8,
                };
            }
            if round % 10 == 9 {
                broken.truncate(random() as usize % broken.len());
            }
            let mut symbolizer = Symbolizer::new(Options::default());
            assert_eq!(symbolizer.resolve_image(broken, &offsets).len(), offsets.len());
            failures += Reason::ALL.iter().map(|&reason| symbolizer.stats().failures(reason)).sum::<u64>();
            assert!(symbolizer.stats().peak_bytes < 25 << 20);
        }
    }
    assert!(failures > 200, "{failures} of 2100 were noticed");
}

/// Where the code is in a file.
fn code(image: &[u8]) -> (u64, u64) {
    let section = sections(image).into_iter().find(|section| section.0 == ".text").unwrap();
    (section.1 as u64, (section.1 + section.2) as u64)
}

fn debug_parts(image: &[u8]) -> Vec<(usize, usize)> {
    let sections = sections(image).into_iter().filter(|section| section.0.starts_with(".debug"));
    sections.map(|section| (section.1, section.2)).collect()
}

/// Name, offset and size of each section.
fn sections(image: &[u8]) -> Vec<(String, usize, usize)> {
    let long = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let (table, count, names) = (long(40), half(60), half(62));
    let names = long(table + 64 * names + 24);
    let name = |at: usize| {
        let start = names + u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let text = image[start..].split(|&byte| byte == 0).next().unwrap();
        String::from_utf8_lossy(text).into_owned()
    };
    (0..count).map(|at| table + 64 * at).map(|at| (name(at), long(at + 24), long(at + 32))).collect()
}

#[test]
fn what_is_over_the_budget_is_counted_and_still_has_names() {
    if !tools("what_is_over_the_budget_is_counted_and_still_has_names") {
        return;
    }
    let path: PathBuf = compile(&folder("budget"), "budget.so", &["-g"]);
    let loaded = Loaded::open(Path::new(&path));
    let mut symbolizer = Symbolizer::new(Options { memory_budget: 64, ..Options::default() });
    let symbols = around(&mut symbolizer, &loaded, loaded.function("shapes_total"));
    assert_eq!(shapes(&symbols)[0], [("shapes_total", 0, false)]);
    assert!(symbolizer.stats().failures(Reason::OverBudget) > 0);
}
