//! `go tool pprof`, the reference reader, for every test that asks it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Whether Go is here. Skips loudly where it is not, and fails in CI.
pub(crate) fn is_here(test: &str) -> bool {
    let here = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    if !here {
        println!("!!! SKIPPED: {test}, because there is no `go` on this machine");
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has to be able to run it");
    }
    here
}

/// The output of `go tool pprof` with `arguments`, which must succeed.
pub(crate) fn go_pprof(arguments: &[&str]) -> String {
    // The tool itself, built once: `go tool` looks through its sources at every call.
    static TOOL: LazyLock<PathBuf> = LazyLock::new(|| {
        let output =
            Command::new("go").args(["tool", "-n", "pprof"]).env("GOTOOLCHAIN", "local").output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    });
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-home-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let output = Command::new(&*TOOL)
        .args(arguments)
        .env("GOTOOLCHAIN", "local")
        .env("PPROF_TMPDIR", &home)
        .env("PPROF_BINARY_PATH", &home)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go tool pprof {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
