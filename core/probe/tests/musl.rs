//! musl, whose loader is the C library: slots of a dynamic program are hooked there as elsewhere, and a static program has none.
//!
//! The program is built now. Where there is no musl, or no standard library of Rust's for it, the test says that it was skipped.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-musl";

const PROGRAM: &str = r#"
use std::hint::black_box;
use everprof_probe::{heap, malloc};

fn is_counted() -> bool {
    let before = heap::mark();
    drop(black_box(Vec::<u8>::with_capacity(black_box(1000))));
    heap::mark() != before
}

fn main() {
    let patched = malloc::start(malloc::Config { mappings: false });
    let during = is_counted();
    malloc::stop();
    println!("{} {} {during} {}", patched.changed > 0, patched.foreign, is_counted());
}

// What libgcc for glibc asks that for, and can do without.
#[unsafe(no_mangle)]
extern "C" fn _dl_find_object(_: usize, _: usize) -> i32 {
    -1
}
"#;

#[test]
fn slots_are_hooked_where_the_loader_is_the_c_library_and_not_found_where_there_is_none() {
    if !has("musl-gcc", "-dumpversion") || !has_standard_library() {
        eprintln!("!!! SKIPPED: musl, because musl-gcc or Rust's standard library for it is not installed");
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("musl");
    std::fs::create_dir_all(dir.join("src")).unwrap();
    // The compiler's library for unwinding, as an archive: the shared one is glibc's.
    std::fs::write(dir.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc -lc )\n").unwrap();
    let found_there = format!("-L native={}", dir.display());
    let dynamic = format!("-C target-feature=-crt-static -C linker=musl-gcc {found_there}");
    assert_eq!(output(&dir, "dynamic", &dynamic), "true 0 true false\n");
    assert_eq!(output(&dir, "static", ""), "false 0 false false\n");
}

fn output(dir: &Path, name: &str, flags: &str) -> String {
    let probe = env!("CARGO_MANIFEST_DIR");
    let manifest = format!(
        "[package]\nname = \"musl\"\nedition = \"2024\"\n[dependencies]\neverprof-probe = {{ path = {probe:?} }}\n[workspace]\n"
    );
    std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(dir.join("src/main.rs"), PROGRAM).unwrap();
    std::fs::copy(Path::new(probe).join("../../Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    let target: PathBuf = dir.join(name);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--target", TARGET, "--target-dir"]).arg(&target);
    let built = cargo.current_dir(dir).env("RUSTFLAGS", flags).status().unwrap();
    assert!(built.success(), "{name}");
    let output = Command::new(target.join(TARGET).join("debug/musl")).output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn has_standard_library() -> bool {
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let found = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    found.is_ok_and(|found| {
        let path = String::from_utf8_lossy(&found.stdout);
        Path::new(path.trim()).read_dir().is_ok_and(|mut files| files.next().is_some())
    })
}

fn has(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}
