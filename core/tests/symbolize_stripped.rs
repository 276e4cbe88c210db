//! Functions without symbols: they go by where they begin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, unreachable_pub, dead_code)]

#[path = "symbolize/fixture.rs"]
mod fixture;

use std::path::Path;
use std::process::Command;

use everprof::symbolize::{Mode, Options, Symbolizer, Symbols, maps};
use fixture::{Loaded, compile, folder, run, tools};

/// Everything that is called in these answers, each name once.
fn distinct(symbols: &[Symbols]) -> Vec<String> {
    let mut names: Vec<String> = symbols
        .iter()
        .map(|symbols| symbols.first().map_or(String::new(), |frame| frame.name.to_string()))
        .collect();
    names.dedup();
    names
}

#[test]
fn functions_of_a_stripped_library_go_by_where_they_begin() {
    if !tools("functions_of_a_stripped_library_go_by_where_they_begin") {
        return;
    }
    let folder = folder("stripped");
    let whole = compile(&folder, "whole.so", &["-Wl,--build-id=sha1"]);
    let plain = compile(&folder, "plain.so", &["-Wl,--build-id=sha1", "-Wl,--no-eh-frame-hdr"]);
    let begin = offset_of(&whole, "_ZL6hiddeni");
    for mode in [Mode::Names, Mode::Lines] {
        let stripped = folder.join(format!("stripped-{mode:?}.so"));
        run(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(&whole));
        let loaded = Loaded::open(&stripped);
        let exported = loaded.function("shapes_total");
        let bias = exported - offset_of(&whole, "shapes_total");
        let addresses: Vec<u64> = (0..12).map(|into| bias + begin + into).chain([exported]).collect();
        let mut symbolizer = Symbolizer::new(Options { mode, ..Options::default() });
        let symbols = symbolizer.resolve(&loaded.module(exported), &addresses);
        assert_eq!(distinct(&symbols), [format!("stripped-{mode:?}.so+{begin:#x}"), "shapes_total".into()]);
        assert_eq!([&*symbols[0][0].system_name, &*symbols[12][0].system_name], ["", "shapes_total"]);
    }
    // Without the table nothing says where functions begin.
    let stripped = folder.join("bare.so");
    run(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(&plain));
    let loaded = Loaded::open(&stripped);
    let exported = loaded.function("shapes_total");
    let hidden = exported - offset_of(&plain, "shapes_total") + offset_of(&plain, "_ZL6hiddeni");
    let symbols =
        Symbolizer::new(Options::default()).resolve(&loaded.module(exported), &[hidden, hidden + 1]);
    assert_eq!(distinct(&symbols).len(), 2, "{symbols:?}");
    assert_eq!(symbols[1][0].name, symbols[1][0].system_name);
}

/// The address of a symbol, as the file counts it.
fn offset_of(path: &Path, name: &str) -> u64 {
    let output = Command::new("nm").arg(path).output().unwrap().stdout;
    let symbols = String::from_utf8(output).unwrap();
    let line = symbols.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

#[inline(never)]
fn of_this_program(value: u64) -> u64 {
    std::hint::black_box(value.rotate_left(7) ^ 0x55)
}

#[test]
fn functions_of_a_stripped_program_go_by_where_they_begin() {
    const NAME: &str = "functions_of_a_stripped_program_go_by_where_they_begin";
    if std::env::var_os("EVERPROF_TEST_CHILD").is_some() {
        let begin = of_this_program as fn(u64) -> u64 as usize as u64;
        let modules = maps::own().unwrap();
        let addresses = [begin, begin + 1, begin + 4, tools as fn(&str) -> bool as usize as u64 + 4];
        let symbols = Symbolizer::new(Options::default()).resolve(&modules[0], &addresses);
        let names = distinct(&symbols);
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("stripped program+0x")), "{names:?}");
        assert_eq!(&*symbols[0][0].system_name, "");
        return;
    }
    if !tools(NAME) {
        return;
    }
    assert_eq!(of_this_program(1), 0xd5);
    let copy = folder("stripped-program").join("stripped program");
    run(Command::new("strip").arg("--strip-all").arg("-o").arg(&copy).arg(std::env::current_exe().unwrap()));
    run(Command::new(&copy).args(["--exact", NAME]).env("EVERPROF_TEST_CHILD", "1"));
}
