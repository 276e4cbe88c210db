//! The preloaded library in programs that were not written here: what it tells of them, and that they do not notice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;

mod manners;
mod programs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use everprof::profile::{Kind, Profile};
use everprof::store;

const CASES: &[(&str, fn())] = &[
    ("sqlite_is_told_as_it_counts_itself", programs::sqlite),
    ("python_is_told_as_its_script_says", programs::python),
    ("redis_on_jemalloc_is_told_as_it_counts_itself", programs::redis),
    ("threads_and_locks_of_a_program_are_seen", programs::threads),
    ("a_daemon_is_followed_through_its_forks", programs::daemon),
    ("output_and_exit_code_are_the_programs", manners::unharmed),
    ("messages_come_where_they_are_asked_for", manners::messages),
    ("a_signal_ends_the_program_as_ever", manners::signal),
    ("the_first_program_is_profiled_and_what_it_becomes", manners::first),
    ("a_program_with_anothers_rights_is_left_alone", manners::privileged),
    ("all_programs_or_some_are_profiled_where_that_is_wanted", manners::chosen),
];

fn main() {
    if std::env::var_os("EVERPROF_TEST_CASE").is_none() {
        build();
    }
    common::main("preload", CASES, 2);
}

/// Builds the library as this test was built.
fn build() {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["build", "--quiet", "--package", "everprof-preload", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml"));
    // The folder of the build, above those of the profile and of the tests.
    command.arg("--target-dir").arg(library().ancestors().nth(2).unwrap());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    assert!(command.status().unwrap().success());
}

fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().with_file_name("libeverprof_preload.so")
}

/// A command by the shell, with the library and options; every case has its own directory for profiles.
fn shell(dir: &Path, script: &str, options: &[(&str, &str)]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    under(&mut command, dir, options);
    command
}

/// Puts the library and options into a command's environment.
fn under(command: &mut Command, dir: &Path, options: &[(&str, &str)]) {
    command.env_remove("EVERPROF_TEST_CASE").env("LD_PRELOAD", library()).env("EVERPROF_DIR", dir);
    command.env("EVERPROF_SYMBOLIZE", "names").env("EVERPROF_CPU_BUDGET_PERCENT", "100");
    for (name, value) in options {
        command.env(format!("EVERPROF_{}", name.to_ascii_uppercase()), value);
    }
}

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    println!("{:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// Whether a program is installed; where it is not, that is said.
fn has(program: &str) -> bool {
    let found = Command::new("bash").args(["-c", &format!("command -v {program} >/dev/null")]).status();
    let found = found.unwrap().success();
    if !found {
        common::skip(program, "it is not installed");
    }
    found
}

/// The profiles of a kind of all programs of a name, in the order of their periods.
fn profiles(dir: &Path, program: &str, kind: Kind) -> Vec<Profile> {
    let found = store::list(dir, &store::Query::default().kind(kind.name())).unwrap_or_default();
    let of_program = found.iter().filter(|entry| entry.path.starts_with(dir.join(program)));
    of_program.map(|entry| store::read(&entry.path).unwrap()).collect()
}

/// The names of the programs that left profiles.
fn programs(dir: &Path) -> Vec<String> {
    let folders =
        std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The sum of the values at `place` over stacks that hold a function whose name begins so.
fn sum(profile: &Profile, function: &str, place: usize) -> i64 {
    let holds = |stack| {
        common::names(profile, profile.get_stack(stack)).iter().any(|name| name.starts_with(function))
    };
    profile.samples().filter(|sample| holds(sample.stack)).map(|sample| sample.values[place]).sum()
}
