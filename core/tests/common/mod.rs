//! What the tests that run whole processes share: each case in a process of its own, and the profiles it leaves.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use everprof::Profiler;
use everprof::profile::{LabelValue, LocationId, Profile};
use everprof_probe::os::{Clock, gettid};

pub(crate) const CASE: &str = "EVERPROF_TEST_CASE";

/// The budget of tests of looks at threads, in percent: without optimisation everything of ours costs some ten times as much, and the
/// governor would have looks come too seldom for what is measured there.
pub(crate) const LOOKS_BUDGET: &str = if cfg!(debug_assertions) { "10" } else { "1" };

/// Runs every case whose name holds the first argument, each in a process of its own (this program again), and says
/// how it went, as the standard test runner does. A case passes where its process ends with 0; it has `tries`.
pub(crate) fn main(suite: &str, cases: &[(&'static str, fn())], tries: u32) {
    if let Ok(name) = std::env::var(CASE) {
        let (_, case) = cases.iter().find(|(known, _)| *known == name).unwrap();
        return case();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return cases.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    let (mut filter, mut skipped) = (String::new(), Vec::new());
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--skip" => skipped.extend(arguments.next()),
            option if option.starts_with('-') => {}
            _ => filter = argument,
        }
    }
    let chosen = |name: &str| name.contains(&filter) && !skipped.iter().any(|skipped| name.contains(skipped));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, _) in cases.iter().filter(|(name, _)| chosen(name)) {
        let mut ended = Ended::Badly;
        for attempt in 0..tries {
            if attempt > 0 {
                println!("!!! {suite}::{name} FAILED at try {attempt} of {tries}");
            }
            ended = run_alone(name);
            if ended != Ended::Badly {
                break;
            }
        }
        let ok = ended == Ended::Well;
        println!("test {suite}::{name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed.push(*name) }
    }
    println!("\ntest result: {} passed; {} failed {failed:?}\n", passed, failed.len());
    assert!(failed.is_empty());
}

/// A command that runs this program again, by the emulator that `EVERPROF_TEST_RUNNER` names where it needs one.
pub(crate) fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let Ok(runner) = std::env::var("EVERPROF_TEST_RUNNER") else { return Command::new(program) };
    let mut words = runner.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(program);
    command
}

/// How the process of a case ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// With another code than 0: something was not as it should be.
    Badly,
    /// By a signal, or not at all.
    Crashed,
}

/// Runs one case in a process of its own that is killed if it hangs.
fn run_alone(name: &str) -> Ended {
    let mut child = this_program().env(CASE, name).spawn().unwrap();
    // The long forms of the storms take their time.
    let minutes = if std::env::var_os("EVERPROF_SOAK").is_some() { 60 } else { 3 };
    for _ in 0..minutes * 1200 {
        if let Some(status) = child.try_wait().unwrap() {
            if !status.success() {
                println!("{name}: {status}");
            }
            return match status.code() {
                Some(0) => Ended::Well,
                Some(_) => Ended::Badly,
                None => Ended::Crashed,
            };
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    println!("{name}: hung");
    Ended::Crashed
}

/// Closes the period at hand and waits until it is written, longer than a host at its exit would: builds of tests are
/// not optimised, and machines have other work.
pub(crate) fn flush(profiler: &Profiler) {
    let exported = (0..30).any(|_| profiler.flush().is_ok());
    assert!(exported, "no profile within a minute: {:?}", profiler.stats());
}

/// Stops, with the same patience for the last profile.
pub(crate) fn stop(profiler: Profiler) {
    flush(&profiler);
    // What is left is the work of the flush itself.
    if profiler.stop().is_err() {
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// Says loudly that something was not tested, which is a failure in CI.
pub(crate) fn skip(what: &str, why: &str) {
    println!("!!! SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has to be able to run it");
}

/// A profiler that writes into `dir`, at a rate that no budget lowers, and names functions only.
pub(crate) fn start(dir: &Path, rate: u32) -> Profiler {
    Profiler::builder()
        .dir(dir)
        .rate_hz(rate)
        .set("symbolize", "names")
        .set("cpu_budget_percent", "100")
        .start()
        .unwrap()
}

/// A directory of this process's own, empty.
pub(crate) fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("everprof-test-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// Removes a directory. A profiler that was dropped may be writing its last profile there, so more than one try.
pub(crate) fn remove(dir: &Path) {
    let gone = (0..300).any(|_| {
        std::fs::remove_dir_all(dir).is_ok() || {
            std::thread::sleep(Duration::from_millis(100));
            !dir.exists()
        }
    });
    assert!(gone, "{} stays", dir.display());
}

/// Every CPU profile below a directory.
pub(crate) fn profiles(dir: &Path) -> Vec<Profile> {
    kind_of(dir, "cpu")
}

/// Every profile of a kind below a directory.
pub(crate) fn kind_of(dir: &Path, kind: &str) -> Vec<Profile> {
    let end = format!(".{kind}.pb.gz");
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(&end) {
                found.push(everprof::encode::pprof::decode(&std::fs::read(path).unwrap()).unwrap());
            }
        }
    }
    found
}

/// The profile with the most time below a directory: stopping may leave a small one of everprof's own last work.
pub(crate) fn largest(dir: &Path) -> Profile {
    profiles(dir).into_iter().max_by_key(|profile| profile.totals()[1]).unwrap()
}

/// The function names of a stack, leaf first, inlined ones included.
pub(crate) fn names<'p>(profile: &'p Profile, stack: &[LocationId]) -> Vec<&'p str> {
    let lines = stack.iter().flat_map(|location| &profile.get_location(*location).lines);
    lines.map(|line| profile.text(profile.get_function(line.function).name)).collect()
}

/// Nanoseconds of the stacks that hold a function whose name contains `part`.
pub(crate) fn time_in(profile: &Profile, part: &str) -> i64 {
    profile
        .samples()
        .filter(|sample| {
            names(profile, profile.get_stack(sample.stack)).iter().any(|name| name.contains(part))
        })
        .map(|sample| sample.values[1])
        .sum()
}

/// Burns that much CPU time of the calling thread.
#[inline(never)]
pub(crate) fn burn(time: Duration) {
    let clock = Clock::Thread(gettid());
    let begin = clock.now().unwrap();
    while clock.now().unwrap() - begin < time.as_nanos() as u64 {
        burn_a_little();
    }
}

#[inline(never)]
fn burn_a_little() {
    for n in 0..20_000u64 {
        std::hint::black_box(n.wrapping_mul(31));
    }
}

/// Nanoseconds by the values of some labels.
pub(crate) fn by_labels<const N: usize>(profile: &Profile, keys: [&str; N]) -> BTreeMap<[String; N], i64> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels);
        let value = |key: &str| {
            labels.iter().find(|label| label.key == key).map_or(String::new(), |label| match &label.value {
                LabelValue::Text(text) => text.clone(),
                LabelValue::Number(number, _) => number.to_string(),
            })
        };
        *sums.entry(keys.map(value)).or_default() += sample.values[1];
    }
    sums
}
