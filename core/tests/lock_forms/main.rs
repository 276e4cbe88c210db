//! Waits for locks in programs of all forms: how an executable is linked decides by what slots it calls the C library.
//!
//! Each form is a program of its own, compiled here: of C, with everprof linked into it, or of Rust, with everprof in a
//! library that is loaded.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{by_labels, directory, kind_of, remove, skip, time_in};

const CASES: &[(&str, fn())] = &[
    ("c_full_relro_pie", || of_c("pie", &["-fPIE", "-pie", "-Wl,-z,relro,-z,now"])),
    ("c_lazy_pie_with_old_versions", lazy_pie),
    ("c_not_pie", || of_c("no_pie", &["-fno-pie", "-no-pie", "-Wl,-z,now"])),
    ("c_not_pie_and_lazy", || of_c("no_pie_lazy", &["-fno-pie", "-no-pie", "-Wl,-z,lazy"])),
    ("c_static_says_so", || of_static("static", &["-static"])),
    ("c_static_pie_says_so", || of_static("static_pie", &["-static-pie"])),
    ("rust_with_a_library_that_has_its_own_std", || of_rust("plain", &[])),
    ("rust_optimised", || of_rust("optimised", &["-O"])),
    ("rust_link_time_optimised", || of_rust("lto", &["-O", "-Clto=fat", "-Ccodegen-units=1"])),
    ("rust_panic_abort", || of_rust("abort", &["-O", "-Cpanic=abort"])),
    ("rust_not_pie", || of_rust("static_code", &["-O", "-Crelocation-model=static"])),
    ("rust_lazy", || of_rust("lazy", &["-O", "-Clink-arg=-Wl,-z,lazy", "-Zplt=yes"])),
    ("rust_stripped_tells_nothing_wrong", stripped),
];

fn main() {
    common::main("lock_forms", CASES, 2);
}

const HOLD: i64 = 50_000_000;

/// Whether a wait was told: a machine with much to do makes it longer, and who comes late to it shorter.
fn seen(nanos: i64) -> bool {
    (HOLD / 5..HOLD * 20).contains(&nanos)
}

/// The library, as cargo builds examples: beside the folder of tests.
fn library(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join(name)
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lock_forms").join(name)
}

/// What the program says, after `key`, in its first round.
fn said<'o>(output: &'o str, key: &str) -> &'o str {
    output
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or_else(|| panic!("no {key}: {output}"))
        .trim()
}

fn run(mut program: Command, dir: &Path) -> String {
    program.env("EVERPROF_DIR", dir.join("profiles")).env_remove("EVERPROF_TEST_CASE");
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.ends_with("done\n"), "{}: {text} {output:?}", output.status);
    text
}

/// Whether the library is there.
fn is_built(name: &str) -> bool {
    let is_there = library(name).exists();
    if !is_there {
        skip("waits in programs of all forms", "the example `forms` is not built: cargo test builds it");
    }
    is_there
}

/// Compiles the program of C; `None` where there is no compiler, or not the libraries to link with.
fn compile(dir: &Path, flags: &[&str]) -> Option<PathBuf> {
    if !is_built("libforms.a") {
        return None;
    }
    std::fs::create_dir_all(dir).unwrap();
    let program = dir.join("program");
    let made = Command::new("cc")
        .args(["-O1", "-g", "-pthread", "-o"])
        .arg(&program)
        .args(flags)
        .arg(source("program.c"))
        .arg(library("libforms.a"))
        .args(["-ldl", "-lm"])
        .output();
    match made {
        Ok(output) if output.status.success() => Some(program),
        other => {
            skip("waits in a program of C", &format!("it is not to be made with {flags:?}: {other:?}"));
            None
        }
    }
}

fn of_c(name: &str, flags: &[&str]) {
    let dir = directory(name);
    let Some(program) = compile(&dir, flags) else { return };
    let output = run(Command::new(program), &dir);
    assert_eq!(said(&output, "problem:"), "");
    assert!(said(&output, "hooked:").parse::<u32>().unwrap() > 0, "{output}");
    assert!(
        output.lines().filter(|line| line.starts_with("left:")).all(|line| line == "left: 0"),
        "{output}"
    );
    let told = |kind: &str, part: &str| -> i64 {
        kind_of(&dir, kind).iter().map(|profile| time_in(profile, part)).sum()
    };
    for site in ["wait_for_mutex", "wait_for_rwlock", "wait_for_timed", "wait_for_mtx", "wait_in_rust"] {
        let waited = told("lock", site);
        assert!(seen(waited), "{site}: {waited} ns");
    }
    // Who held it.
    let held = told("mutex", "hold");
    assert!((HOLD..HOLD * 60).contains(&held), "{held} ns");
    // Three times 50 ms, and no lock.
    assert!(told("block", "wait_for_nothing") > 3 * HOLD / 2);
    assert_eq!(told("lock", "wait_for_nothing"), 0);
    remove(&dir);
}

fn lazy_pie() {
    // There are no older versions on other processors.
    let flags = ["-fPIE", "-pie", "-Wl,-z,lazy", "-DOLD_VERSION"];
    of_c("pie_lazy", if cfg!(target_arch = "x86_64") { &flags } else { &flags[..3] });
}

/// Nothing is seen, which is said, and nothing is harmed.
fn of_static(name: &str, flags: &[&str]) {
    let dir = directory(name);
    let Some(program) = compile(&dir, flags) else { return };
    let output = run(Command::new(program), &dir);
    assert!(said(&output, "problem:").contains("static executable"), "{output}");
    assert_eq!(said(&output, "slots:"), "0 0 0");
    // As `Stats::last_problem` does at a start that wants them.
    assert!(said(&output, "allocations:").contains("static executable"), "{output}");
    remove(&dir);
}

/// Compiles the program of Rust and runs it with the library.
fn made_by_rustc(name: &str, flags: &[&str]) -> PathBuf {
    let dir = directory(name);
    std::fs::create_dir_all(&dir).unwrap();
    let program = dir.join("program");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "-o"]).arg(&program).args(flags).arg(source("program.rs"));
    // What only the newest compilers are asked for.
    let output = command.env("RUSTC_BOOTSTRAP", "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut program = Command::new(program);
    program.arg(library("libforms.so"));
    let output = run(program, &dir);
    assert_eq!(said(&output, "problem:"), "");
    dir
}

fn of_rust(name: &str, flags: &[&str]) {
    if !is_built("libforms.so") {
        return;
    }
    let dir = made_by_rustc(name, flags);
    let told = |kind: &str, part: &str| -> i64 {
        kind_of(&dir, kind).iter().map(|profile| time_in(profile, part)).sum()
    };
    for site in ["wait_for_mutex", "wait_for_rwlock", "wait_for_lazy", "wait_in_rust"] {
        let waited = told("lock", site);
        assert!(seen(waited), "{site}: {waited} ns");
    }
    assert_eq!(told("lock", "wait_for_nothing"), 0);
    assert!(told("block", "wait_for_nothing") > 5 * HOLD / 2, "{}", told("block", "wait_for_nothing"));
    let mut by_cause = BTreeMap::<String, i64>::new();
    for profile in kind_of(&dir, "block") {
        for ([cause], nanos) in by_labels(&profile, ["wait"]) {
            *by_cause.entry(cause).or_default() += nanos;
        }
    }
    // Where functions are merged into each other and have left no names, a park may be unknown, and nothing else.
    let unknown = by_cause.get("unknown").copied().unwrap_or_default();
    assert!(flags.contains(&"-Clto=fat") || unknown < HOLD / 2, "{by_cause:?}");
    remove(&dir);
}

/// Of functions without names nobody knows what they wait for. That is what is said of them.
fn stripped() {
    if !is_built("libforms.so") {
        return;
    }
    let dir = made_by_rustc("stripped", &["-O", "-Cstrip=symbols"]);
    let [lock, block] = ["lock", "block"]
        .map(|kind| kind_of(&dir, kind).iter().map(|profile| profile.totals()[1]).sum::<i64>());
    // The library's own, which has names.
    assert!(seen(lock), "{lock} ns");
    assert!(block > 8 * HOLD / 2, "{block} ns");
    remove(&dir);
}
