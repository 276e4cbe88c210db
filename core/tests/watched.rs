//! The file that `config` names, as it should not be, and every option of the table while the profiler runs: each takes
//! effect, or says that it needs a start. Each case runs in a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use everprof::{ErrorKind, Options, Profiler};

use common::{directory, remove, skip, stop};

const CASES: &[(&str, fn())] = &[
    ("what_is_no_file_of_options_keeps_the_old_ones", wrong_files),
    ("a_file_that_changes_all_the_time_is_told_of_and_read_when_it_rests", restless),
    ("a_file_is_taken_as_a_whole_or_not_at_all", whole),
    ("content_counts_and_not_the_time_that_a_file_says", same_time),
    ("every_option_changes_at_once_or_says_that_it_needs_a_start", table),
];

fn main() {
    common::main("watched", CASES, 2);
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for what a thread of ours is about to do.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(
            begin.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}; {:#?}",
            MESSAGES.0.lock().unwrap()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Log messages, as the host has them.
struct Messages(Mutex<Vec<String>>);

static MESSAGES: Messages = Messages(Mutex::new(Vec::new()));

impl log::Log for Messages {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// What was said since the last call.
fn heard() -> Vec<String> {
    std::mem::take(&mut *MESSAGES.0.lock().unwrap())
}

struct Case {
    profiler: Profiler,
    dir: PathBuf,
    file: PathBuf,
}

impl Case {
    fn new(name: &str, text: &str, options: &[(&str, &str)]) -> Self {
        log::set_logger(&MESSAGES).unwrap();
        log::set_max_level(log::LevelFilter::Info);
        let dir = directory(name);
        fs::create_dir_all(&dir).unwrap();
        // Other users are to reach it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let file = dir.join("everprof.conf");
        fs::write(&file, text).unwrap();
        let builder = Profiler::builder().dir(dir.join("out")).set("config", file.display().to_string());
        let builder = builder.set("cpu_budget_percent", "100").set("symbolize", "names");
        let builder = options.iter().fold(builder, |builder, (name, value)| builder.set(*name, *value));
        let profiler = builder.start().unwrap();
        heard();
        Self { profiler, dir, file }
    }

    fn rate(&self) -> f64 {
        self.profiler.stats().wanted_rate_hz.round()
    }

    /// Nothing of the profiler hangs.
    fn answers(&self) {
        let begin = Instant::now();
        everprof::set("wall_rate_hz", "11").unwrap();
        everprof::set("wall_rate_hz", "10").unwrap();
        self.profiler.stats();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }

    /// Puts a file in its place at once.
    fn rename(&self, text: &[u8]) {
        let new = self.dir.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    fn end(self) {
        stop(self.profiler);
        remove(&self.dir);
    }
}

/// What is removed before something else comes into its place.
fn clear(file: &Path) {
    let _ = fs::remove_dir(file).is_ok() || fs::remove_file(file).is_ok();
}

fn wrong_files() {
    let case = Case::new("wrong", "rate_hz = 105\n", &[]);
    let file = case.file.clone();
    let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    let elsewhere = case.dir.join("elsewhere");
    fs::write(&elsewhere, "rate_hz = 106").unwrap();
    let fifo = || {
        // SAFETY: a path with an end.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    let wrong: [(&str, &str, &dyn Fn()); 12] = [
        ("a gigabyte", "longer than 64 KiB", &|| fs::File::create(&file).unwrap().set_len(1 << 30).unwrap()),
        ("removed", "everprof.conf not read", &|| {}),
        ("a gigabyte of text", "longer than 64 KiB", &|| fs::write(&file, vec![b'#'; 100 << 20]).unwrap()),
        ("a directory", "no regular file", &|| fs::create_dir(&file).unwrap()),
        ("a pipe", "no regular file", &fifo),
        ("a link to itself", "everprof.conf not read", &|| symlink(&file, &file).unwrap()),
        ("a link to nowhere", "everprof.conf not read", &|| symlink("/nonexistent/x", &file).unwrap()),
        ("a link through a file", "everprof.conf not read", &|| symlink(elsewhere.join("x"), &file).unwrap()),
        ("a link to a device", "no regular file", &|| symlink("/dev/zero", &file).unwrap()),
        ("no text", "not UTF-8", &|| fs::write(&file, b"rate_hz = 107\n\xff\xfe").unwrap()),
        ("zeros", "line 1", &|| fs::write(&file, [0; 4096]).unwrap()),
        ("cut off", "line 2 has no `=`", &|| fs::write(&file, "rate_hz = 108\nperi").unwrap()),
    ];
    let mut before = "";
    for (what, said, make) in wrong {
        clear(&file);
        heard();
        make();
        thread::sleep(Duration::from_millis(3_300));
        let told = heard();
        println!("{what}: {told:?}");
        assert!(
            told.len() <= 1 && told.iter().all(|told| told.starts_with("WARN") && told.contains(said)),
            "{what}"
        );
        // What is wrong as before is told already.
        assert!(!told.is_empty() || said == before, "{what}: nothing is told");
        before = said;
        assert_eq!(case.rate(), 105.0, "{what}");
        case.answers();
    }
    clear(&file);
    fs::write(&file, "rate_hz = 109").unwrap();
    until("it is right again", || case.rate() == 109.0);

    // Nobody may read it, after all files have been opened by another user.
    heard();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // SAFETY: the C library does it for all threads.
    if unsafe { libc::geteuid() } != 0 || unsafe { libc::seteuid(65_534) } != 0 {
        skip("a file that may not be read", "this is not root");
        return case.end();
    }
    thread::sleep(Duration::from_millis(2_500));
    // SAFETY: back to what it was.
    assert_eq!(unsafe { libc::seteuid(0) }, 0);
    let told: Vec<String> = heard().into_iter().filter(|told| told.contains("everprof.conf")).collect();
    println!("unreadable: {told:?}");
    assert!(told.len() == 1 && told[0].contains("Permission denied"), "{told:?}");
    assert_eq!(case.rate(), 109.0);
    fs::write(&file, "rate_hz = 110").unwrap();
    until("it may be read again", || case.rate() == 110.0);
    case.end();
}

fn restless() {
    let case = Case::new("restless", "rate_hz = 105\n", &[]);
    let mut last = 0;
    for number in 0..140 {
        last = 200 + number;
        let text = format!("rate_hz = {last}\n");
        // In one piece, and in place: cut off first, and then in halves.
        match number % 3 {
            0 => case.rename(text.as_bytes()),
            1 => fs::write(&case.file, &text).unwrap(),
            _ => {
                fs::write(&case.file, &text[..11]).unwrap();
                thread::sleep(Duration::from_millis(30));
                fs::write(&case.file, &text).unwrap();
            }
        }
        thread::sleep(Duration::from_millis(100));
        if number % 20 == 0 {
            case.answers();
        }
        assert_eq!(case.rate(), 105.0, "at {number}");
    }
    let told: Vec<String> = heard().into_iter().filter(|told| told.starts_with("WARN")).collect();
    println!("{told:?}");
    assert!(told.len() == 1 && told[0].contains("it changes all the time"), "{told:?}");
    until("it rests", || case.rate() == f64::from(last));
    assert_eq!(heard().iter().filter(|told| told.starts_with("WARN")).count(), 0);
    case.end();
}

fn whole() {
    let case = Case::new("whole", "rate_hz = 105\nperiod_s = 30\n", &[("malloc", "off"), ("kinds", "cpu")]);
    let state = |case: &Case| {
        let stats = case.profiler.stats();
        (stats.wanted_rate_hz.round(), stats.active_kinds, stats.active_reason.contains("=100"))
    };
    let before = state(&case);
    for (text, said) in [
        // Each line is right, and one cannot be had here.
        ("rate_hz = 77\nfleet_share = 0\nkinds = cpu,heap\n", "allocations are not seen"),
        ("rate_hz = 77\nkinds = cpu,lock\nlock_threshold_ns = off\n", "lock_threshold_ns is off"),
        ("rate_hz = 77\nfleet_share = 0\nperiod_s = 0\n", "line 3: period_s"),
        ("rate_hz = 77\nrate_hz = 78\n", "line 2: rate_hz is given on line 1 already"),
        ("rate_hz = 77\nconfig = /etc/x\n", "line 2: config names this file"),
    ] {
        heard();
        case.rename(text.as_bytes());
        until(said, || MESSAGES.0.lock().unwrap().iter().any(|told| told.contains(said)));
        thread::sleep(Duration::from_millis(1_500));
        let told = heard();
        println!("{told:?}");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(state(&case), before, "{text}");
        assert!(case.profiler.stats().last_problem.is_some_and(|problem| problem.contains(said)));
        // What the file that holds says, wins as before.
        assert!(everprof::set("rate_hz", "19").is_err());
    }
    case.rename(b"rate_hz = 78\n");
    until("it is right", || case.rate() == 78.0);
    case.end();
}

fn same_time() {
    let case = Case::new("same_time", "rate_hz = 105\n", &[]);
    let time = fs::metadata(&case.file).unwrap().modified().unwrap();
    for rate in [106, 107, 108] {
        // As long as it was, at the same place, and of the same time, as `cp -p` and `rsync --inplace --times` leave it.
        fs::write(&case.file, format!("rate_hz = {rate}\n")).unwrap();
        fs::File::options().write(true).open(&case.file).unwrap().set_modified(time).unwrap();
        assert_eq!(fs::metadata(&case.file).unwrap().modified().unwrap(), time);
        until("it is read", || case.rate() == f64::from(rate));
    }
    // Another file of an older time, as an archive brings it.
    case.rename(b"rate_hz = 109\n");
    let old = time - Duration::from_secs(86_400);
    fs::File::options().write(true).open(&case.file).unwrap().set_modified(old).unwrap();
    until("it is read", || case.rate() == 109.0);
    case.end();
}

/// For each option a value that it does not have by itself: from the vectors that all languages share.
fn values() -> BTreeMap<String, String> {
    let path = format!("{}/tests/vectors/options.json", env!("CARGO_MANIFEST_DIR"));
    let vectors: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut values = BTreeMap::from([("fleet_window_s".to_string(), "777".to_string())]);
    for case in vectors["set"].as_array().unwrap() {
        let (name, text) = (case["name"].as_str().unwrap(), case["text"].as_str().unwrap());
        let default = Options::default().get(name).unwrap();
        if text != default && !text.is_empty() {
            values.entry(name.to_string()).or_insert_with(|| text.to_string());
        }
    }
    values
}

fn table() {
    let case = Case::new("table", "", &[("kinds", "cpu,wall,alloc,lock"), ("malloc", "on")]);
    let values = values();
    let running = |name: &str, value: &str| match name {
        // As they are here.
        "malloc" => "off".to_string(),
        "kinds" => "cpu".to_string(),
        _ => value.to_string(),
    };
    let mut fixed = Vec::new();
    for spec in Options::table() {
        let value = values.get(spec.name).unwrap_or_else(|| panic!("no value of {}", spec.name));
        let value = running(spec.name, value);
        match everprof::set(spec.name, &value) {
            Ok(()) => assert!(spec.live, "{} is taken, and changes nothing", spec.name),
            Err(error) => {
                assert!(!spec.live, "{}: {error}", spec.name);
                assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
                let right = format!(
                    "the option {} cannot change while the profiler runs: stop it and start it anew",
                    spec.name
                );
                assert_eq!(error.to_string(), right);
                fixed.push(spec.name);
            }
        }
        // Back, as all of them are.
        let back = case_value(spec.name);
        if spec.live {
            everprof::set(spec.name, &back).unwrap();
        }
    }
    println!("{} need a start: {}", fixed.len(), fixed.join(", "));

    // What is live shows.
    type Seen = fn(&everprof::Stats) -> bool;
    let live: [(&str, &str, Seen); 9] = [
        ("rate_hz", "50", |stats| stats.wanted_rate_hz.round() == 50.0),
        ("wall_rate_hz", "5", |stats| stats.wall_rate_hz.round() == 5.0),
        ("interval_bytes", "1MiB", |stats| stats.interval_bytes == 1 << 20),
        ("interval_bytes", "off", |stats| stats.interval_bytes == 0),
        ("lock_threshold_ns", "77000", |stats| stats.lock_threshold == Duration::from_nanos(77_000)),
        ("kinds", "cpu,lock", |stats| stats.active_kinds == ["cpu", "lock"]),
        ("fleet_share", "0", |stats| !stats.active && stats.active_reason.contains("fleet_share=0")),
        ("fleet_window_s", "777", |_| true),
        ("duty", "lock:1s/3600s", |_| true),
    ];
    for (name, value, is_so) in live {
        everprof::set(name, value).unwrap();
        until(name, || is_so(&case.profiler.stats()));
    }
    everprof::set("fleet_share", "100").unwrap();
    until("duty", || case.profiler.stats().active_kinds.len() < 3);
    // A period is as long as was said last.
    everprof::set("period_s", "1").unwrap();
    everprof::set("log", "warn").unwrap();
    until("a period of a second", || case.dir.join("out").exists() || case.profiler.stats().exported > 0);
    heard();

    // By the file: what can change does, and the rest is told of, each by its name and none by its value.
    let others: String = fixed
        .iter()
        .filter(|name| **name != "config")
        .map(|name| format!("{name} = \"{}\"\n", values[*name].replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    case.rename(format!("{others}rate_hz = 60\n").as_bytes());
    until("it is read", || case.rate() == 60.0);
    until("it is told", || !MESSAGES.0.lock().unwrap().is_empty());
    let told = heard();
    println!("{told:?}");
    assert_eq!(told.len(), 1, "and at the level warn nothing else");
    for name in fixed.iter().filter(|name| **name != "config") {
        assert!(told[0].contains(name), "{name}");
    }
    assert!(told[0].contains("can change at a start only"));
    for spec in Options::table().iter().filter(|spec| spec.secret) {
        assert!(!told[0].contains(&values[spec.name]), "{}", spec.name);
    }
    case.end();
}

/// What the case of the table runs with.
fn case_value(name: &str) -> String {
    match name {
        "kinds" => "cpu,wall,alloc,lock".to_string(),
        "cpu_budget_percent" => "100".to_string(),
        _ => Options::default().get(name).unwrap(),
    }
}
