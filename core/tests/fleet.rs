//! A fleet's instance: its turns, the duties of kinds, and the file that it watches; and what is there on request when it
//! is not its turn. Each case runs in a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

#[path = "common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::{Kind, Profile};
use everprof::{ErrorKind, Profiler};
use everprof_probe::os::Clock;

use common::{burn, by_labels, directory, flush, kind_of, profiles, remove, stop, time_in};

#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

const CASES: &[(&str, fn())] = &[
    ("who_rests_costs_nothing_and_answers_all_the_same", rests),
    ("a_request_is_answered_while_it_is_not_its_turn", request),
    ("turns_begin_and_end_with_windows_and_no_profile_mixes", turns),
    ("a_kind_on_duty_is_taken_for_its_part_and_sums_are_right", duty),
    ("a_share_that_changes_ends_the_profile_and_is_told_by_its_tags", changes),
    ("a_forked_child_takes_turns_of_its_own", fork),
    ("a_watched_file_changes_options_and_gives_them_back", watched),
    ("files_are_swapped_cut_and_wrong_and_the_old_options_stay", swapped),
    ("the_watched_file_wins_and_says_so", wins),
    ("all_kinds_at_once_stay_within_the_budget", budget),
];

fn main() {
    common::main("fleet", CASES, 2);
}

fn starting(dir: &Path, options: &[(&str, &str)]) -> Profiler {
    let builder = Profiler::builder().dir(dir).rate_hz(500).service("shop").tag("instance", "pod-1");
    let builder = builder.set("symbolize", "names").set("cpu_budget_percent", "100");
    options.iter().fold(builder, |builder, (name, value)| builder.set(*name, *value)).start().unwrap()
}

/// Waits for what a thread of ours is about to do.
fn until(what: &str, patience: Duration, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < patience, "{what}: not within {patience:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// POSIX timers of this process; none where the kernel does not tell.
fn timers() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/timers").ok()?;
    Some(text.lines().filter(|line| line.starts_with("ID:")).count())
}

#[inline(never)]
fn worked(time: Duration) {
    burn(time);
}

#[inline(never)]
fn allocated(count: usize) {
    for _ in 0..count {
        std::hint::black_box(vec![0u8; 64 << 10]);
    }
}

fn seconds(profile: &Profile) -> f64 {
    time_in(profile, "fleet::worked") as f64 / 1e9
}

fn sum(profile: &Profile) -> i64 {
    profile.totals().last().copied().unwrap_or_default()
}

fn rests() {
    let dir = directory("rests");
    let profiler =
        starting(&dir, &[("fleet_share", "0"), ("kinds", "cpu,wall,heap,lock"), ("period_s", "1")]);
    let stats = profiler.stats();
    println!("{} {} {:?} {:?}", stats.active, stats.active_reason, stats.active_kinds, timers());
    assert!(!stats.active && stats.active_kinds.is_empty() && stats.active_reason.contains("fleet_share=0"));
    match timers() {
        Some(timers) => assert_eq!(timers, 0),
        None => common::skip("that there are no timers", "the kernel has no /proc/self/timers"),
    }
    thread::sleep(Duration::from_millis(500));
    let (before, begin) = (profiler.stats(), Clock::Process.now().unwrap());
    let mut spent = Vec::new();
    for _ in 0..20 {
        worked(Duration::from_millis(100));
        allocated(100);
        thread::sleep(Duration::from_millis(100));
        spent.push(profiler.stats().threads_cpu);
    }
    let after = profiler.stats();
    let own = after.threads_cpu.saturating_sub(before.threads_cpu);
    println!(
        "{own:?} of our own in 4 s; process {:?}",
        Duration::from_nanos(Clock::Process.now().unwrap() - begin)
    );
    assert_eq!(
        (after.signals, after.samples, after.alloc_samples, after.exported),
        (before.signals, 0, 0, 0)
    );
    assert_eq!((after.alloc_slots, after.lock_slots), (0, 0), "nothing is hooked");
    assert!(after.threads >= 2, "{} threads", after.threads);
    let error = everprof::snapshot(Kind::Heap).unwrap_err();
    println!("{error}");
    assert!(
        error.kind() == ErrorKind::Unavailable
            && error.to_string().contains("nothing is taken but what is asked for")
    );
    // What was set meanwhile is known.
    let labels = everprof::Labels::new([("tenant", "acme")]);
    let _guard = labels.enter();
    assert!(own < Duration::from_millis(20), "{own:?}");

    // On request everything is there, and what was asked for is over when it ends.
    for _ in 0..2 {
        let [cpu, wall, heap] =
            [Kind::Cpu, Kind::Wall, Kind::Alloc].map(|kind| everprof::record(kind).unwrap());
        worked(Duration::from_millis(400));
        allocated(1_000);
        let heap = heap.finish().unwrap();
        let (cpu, wall) = (cpu.finish().unwrap(), wall.finish().unwrap());
        println!("cpu {:.3} s, wall {:.3} s, {} bytes", seconds(&cpu), seconds(&wall), sum(&heap));
        assert!((0.3..0.6).contains(&seconds(&cpu)) && seconds(&wall) >= 0.3);
        let labelled = by_labels(&cpu, ["tenant"])[&["acme".to_string()]] as f64 / 1e9;
        assert!(labelled > 0.9 * seconds(&cpu), "{labelled}");
        assert!((30e6..130e6).contains(&(sum(&heap) as f64)), "65 MB in samples of 512 KiB");
        assert!(!cpu.tags.contains_key("fleet_share"), "it is no part of anything");
        assert!(everprof::threads().unwrap().samples().len() > 1);
        assert_eq!(timers().unwrap_or_default(), 0);
    }
    flush(&profiler);
    let signals = profiler.stats().signals;
    worked(Duration::from_millis(300));
    flush(&profiler);
    assert_eq!(profiler.stats().signals, signals);
    assert_eq!(profiler.stats().exported, 0, "nothing of a period");
    // Also a recording that is given up.
    drop(everprof::record(Kind::Cpu).unwrap());
    until("the timers go", Duration::from_secs(5), || timers().unwrap_or_default() == 0);
    stop(profiler);
    assert!(!dir.exists() || profiles(&dir).is_empty());
    let _ = std::fs::remove_dir_all(dir);
}

fn request() {
    let dir = directory("request");
    let profiler = starting(&dir, &[("fleet_share", "0"), ("serve", "0")]);
    let address = profiler.stats().serve_address.unwrap();
    let work = thread::spawn(|| worked(Duration::from_secs(3)));
    let before = Clock::Process.now().unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "GET /debug/pprof/profile?seconds=1 HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.") && head.contains(" 200 "), "{head}");
    let profile = everprof::encode::pprof::decode(&answer[end + 4..]).unwrap();
    let used = (Clock::Process.now().unwrap() - before) as f64 / 1e9;
    println!("{:.3} s by request, of {used:.3} s", seconds(&profile));
    assert!(seconds(&profile) > 0.05 && (0.7 * used - 0.05..1.05 * used).contains(&seconds(&profile)));
    assert!(!profiler.stats().active);
    work.join().unwrap();
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

fn turns() {
    let dir = directory("turns");
    let window = 5_000_000_000;
    let profiler = starting(
        &dir,
        &[("fleet_share", "50"), ("fleet_window_s", "5"), ("period_s", "3"), ("kinds", "cpu,alloc")],
    );
    let ended = AtomicBool::new(false);
    let (mut active, mut rested) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                worked(Duration::from_millis(10));
                allocated(10);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let begin = Instant::now();
        let mut told = String::new();
        while begin.elapsed() < Duration::from_secs(24) {
            let stats = profiler.stats();
            *if stats.active { &mut active } else { &mut rested } += 1;
            let reason = stats.active_reason.split('(').nth(1).unwrap().to_string();
            if reason != told {
                println!("{:.1} s: {}", begin.elapsed().as_secs_f64(), stats.active_reason);
                told = reason;
            }
            thread::sleep(Duration::from_millis(50));
        }
        ended.store(true, Ordering::Relaxed);
    });
    println!("{active} looks found it active, {rested} resting");
    assert!(active > 90 && rested > 90, "half of the windows, and never more than two of a kind in a row");
    stop(profiler);
    let all = profiles(&dir);
    assert!(all.len() >= 4, "{}", all.len());
    let mut windows = std::collections::BTreeSet::new();
    for profile in &all {
        let (begin, end) = (profile.time_nanos, profile.time_nanos + profile.duration_nanos);
        assert_eq!(profile.tags.get("fleet_share").map(String::as_str), Some("50"));
        // Whatever the offset, nothing is longer than two windows of its own, and periods are of 3 s.
        assert!(end - begin < 4_000_000_000, "{}", profile.duration_nanos);
        windows.insert((begin, end));
    }
    let windows: Vec<_> = windows.into_iter().collect();
    for pair in windows.windows(2) {
        assert!(pair[1].0 >= pair[0].1, "periods overlap: {pair:?}");
    }
    let told: i64 = windows.iter().map(|(begin, end)| end - begin).sum();
    println!("{} periods of {:.1} s in all", windows.len(), told as f64 / 1e9);
    assert!(told >= window && told < 4 * window);
    remove(&dir);
}

fn duty() {
    let dir = directory("duty");
    let options = [("kinds", "cpu,alloc"), ("duty", "alloc:2s/6s"), ("interval_bytes", "64KiB")];
    let profiler = starting(&dir, &options);
    let (begin, mut count) = (Instant::now(), 0u64);
    let mut on = 0;
    let mut looks = 0;
    while begin.elapsed() < Duration::from_secs(18) {
        worked(Duration::from_millis(5));
        allocated(10);
        count += 10;
        looks += 1;
        on += u32::from(profiler.stats().active_kinds.contains(&"alloc"));
        thread::sleep(Duration::from_millis(5));
    }
    stop(profiler);
    let bytes = (count * (64 << 10)) as f64;
    let told: f64 = kind_of(&dir, "alloc").iter().map(|profile| sum(profile) as f64).sum();
    let (cpu, all): (f64, f64) = kind_of(&dir, "cpu")
        .iter()
        .map(|profile| (seconds(profile), profile.duration_nanos as f64 / 1e9))
        .fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    println!(
        "on at {on} of {looks} looks; {:.1} MB told of {:.1} MB; times 3: {:.3}; cpu {cpu:.2} s in {all:.2} s",
        told / 1e6,
        bytes / 1e6,
        told * 3.0 / bytes
    );
    assert!((0.85..1.15).contains(&(told * 3.0 / bytes)));
    assert!(cpu > 0.2 && (17.0..19.5).contains(&all), "the other kinds go on");
    let profiles = kind_of(&dir, "alloc");
    let of_duty: Vec<f64> = profiles.iter().map(|profile| profile.duration_nanos as f64 / 1e9).collect();
    println!("alloc profiles of {of_duty:?} s");
    assert!(of_duty.iter().all(|seconds| *seconds < 2.6), "{of_duty:?}");
    assert!(
        profiles.iter().all(|profile| profile.tags.get("duty").map(String::as_str) == Some("alloc:2s/6s"))
    );
    remove(&dir);
}

fn changes() {
    let dir = directory("changes");
    let profiler = starting(&dir, &[]);
    worked(Duration::from_millis(300));
    everprof::set("fleet_share", "99.5").unwrap();
    assert!(everprof::set("fleet_share", "101").is_err());
    until("a turn", Duration::from_secs(5), || profiler.stats().active_reason.contains("99.5"));
    let is_active = profiler.stats().active;
    worked(Duration::from_millis(300));
    everprof::set("fleet_share", "0").unwrap();
    assert!(!profiler.stats().active);
    worked(Duration::from_millis(300));
    everprof::set("fleet_share", "100").unwrap();
    assert!(profiler.stats().active);
    worked(Duration::from_millis(300));
    stop(profiler);
    let mut all = profiles(&dir);
    all.sort_by_key(|profile| profile.time_nanos);
    // What is left for the stop has no work in it.
    let told = all.iter().map(|profile| (profile.tags.get("fleet_share").cloned(), seconds(profile)));
    let told: Vec<_> = told.filter(|(_, seconds)| *seconds > 0.0).collect();
    println!("{told:?}");
    let shares: Vec<_> = told.iter().map(|(share, _)| share.as_deref()).collect();
    assert_eq!(shares, if is_active { vec![None, Some("99.5"), None] } else { vec![None, None] });
    assert!(told.iter().all(|(_, seconds)| (0.25..0.36).contains(seconds)), "each has its own work");
    remove(&dir);
}

fn fork() {
    let dir = directory("fork");
    let profiler = starting(&dir, &[("fleet_share", "0"), ("kinds", "cpu")]);
    // SAFETY: the child does what a child of a threaded process may, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        thread::sleep(Duration::from_millis(300));
        let is_quiet = timers().unwrap_or_default() == 0 && !profiler.stats().active;
        everprof::set("fleet_share", "100").unwrap();
        worked(Duration::from_millis(300));
        let is_on = profiler.stats().active;
        stop(profiler);
        std::process::exit(i32::from(!(is_quiet && is_on)));
    }
    let mut status = -1;
    // SAFETY: it is our child, and the status is ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    stop(profiler);
    let all = profiles(&dir);
    println!("{} profiles, all of the child", all.len());
    assert!(!all.is_empty());
    assert!(all.iter().all(|profile| profile.tags.get("instance").map(String::as_str) != Some("pod-1")));
    remove(&dir);
}

const PATIENCE: Duration = Duration::from_secs(10);

fn conf(name: &str, text: &str) -> (PathBuf, PathBuf) {
    let dir = directory(name);
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("everprof.conf");
    std::fs::write(&file, text).unwrap();
    (dir, file)
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

fn listen() {
    log::set_logger(&MESSAGES).unwrap();
    log::set_max_level(log::LevelFilter::Info);
}

fn heard(what: &str) -> usize {
    MESSAGES.0.lock().unwrap().iter().filter(|message| message.contains(what)).count()
}

fn watched() {
    listen();
    let (dir, file) = conf("watched", "rate_hz = 250 # less\nservice = of-the-file\n");
    let config = file.display().to_string();
    let profiler = starting(&dir.join("out"), &[("config", &config)]);
    assert_eq!(profiler.stats().wanted_rate_hz.round(), 250.0, "the file wins over the program's 500");
    std::fs::write(
        &file,
        "rate_hz = 100\nkinds = cpu,alloc\nfleet_share = 0\nservice = other\nperiod_s = 30",
    )
    .unwrap();
    until("it is read", PATIENCE, || !profiler.stats().active);
    assert_eq!(profiler.stats().wanted_rate_hz.round(), 100.0);
    until("it is told", PATIENCE, || heard("service can") > 0 && heard("changed") > 0);
    println!("{:#?}", MESSAGES.0.lock().unwrap());
    assert_eq!(heard("service can change at a start only"), 1, "and only that");
    assert_eq!(heard("kinds, rate_hz, period_s, fleet_share changed"), 1);
    std::fs::write(&file, "kinds = cpu,alloc\n").unwrap();
    until("it is read", PATIENCE, || profiler.stats().active);
    let stats = profiler.stats();
    assert_eq!((stats.wanted_rate_hz.round(), stats.active_kinds.as_slice()), (500.0, &["cpu", "alloc"][..]));
    std::fs::write(&file, "").unwrap();
    until("it is read", PATIENCE, || profiler.stats().active_kinds == ["cpu"]);
    // To touch it is no change.
    let before = MESSAGES.0.lock().unwrap().len();
    std::fs::write(&file, "").unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(MESSAGES.0.lock().unwrap().len(), before);
    stop(profiler);
    // The watch ends with the profiler.
    let names = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .collect::<String>()
    };
    until("its thread ends", PATIENCE, || !names().contains("everprof-config"));
    let all = profiles(&dir.join("out"));
    assert!(all.iter().all(|profile| profile.tags.get("service").map(String::as_str) == Some("of-the-file")));
    remove(&dir);
}

fn swapped() {
    listen();
    let (dir, file) = conf("swapped", "");
    std::fs::remove_file(&file).unwrap();
    // As Kubernetes has it: a link to a link, which is turned.
    for (version, text) in
        [("v1", "rate_hz = 101"), ("v2", "rate_hz = 102"), ("v3", "rate_hz = 103\nrate_hz = 1")]
    {
        std::fs::create_dir(dir.join(version)).unwrap();
        std::fs::write(dir.join(version).join("everprof.conf"), text).unwrap();
    }
    let turn = |version: &str| {
        std::os::unix::fs::symlink(version, dir.join("..tmp")).unwrap();
        std::fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
    };
    let config = file.display().to_string();
    // It is not there yet: that is told, and nothing else.
    let profiler = starting(&dir.join("out"), &[("config", &config)]);
    let rate = || profiler.stats().wanted_rate_hz.round();
    assert_eq!((rate(), heard("everprof.conf not read")), (500.0, 1));
    assert!(profiler.stats().last_problem.is_some_and(|problem| problem.contains("everprof.conf")));
    turn("v1");
    std::os::unix::fs::symlink("..data/everprof.conf", &file).unwrap();
    until("it appears", PATIENCE, || rate() == 101.0);
    turn("v2");
    until("the link is turned", PATIENCE, || rate() == 102.0);
    turn("v3");
    until("what is wrong is told", PATIENCE, || heard("rate_hz is given on line 1 already") == 1);
    assert_eq!(rate(), 102.0, "the old options stay");
    turn("v1");
    until("it is right again", PATIENCE, || rate() == 101.0);
    // A file that is renamed into place.
    std::fs::write(dir.join("new"), "rate_hz = 104").unwrap();
    std::fs::rename(dir.join("new"), &file).unwrap();
    until("it is renamed", PATIENCE, || rate() == 104.0);
    // What is written slowly is not read in halves: each half would be right.
    let mut slow = std::fs::File::create(&file).unwrap();
    for part in ["rate_hz = 1", "0", "5\n", "# and\n", "log = info\n", "period_s = 7\n"] {
        slow.write_all(part.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(400));
        assert_eq!(rate(), 104.0, "{part}");
    }
    until("it is whole", PATIENCE, || rate() == 105.0);
    // Gone, a directory, a pipe that nobody writes to, too long, not text: the options stay, and each is told once.
    let wrong: [(&str, &dyn Fn()); 5] = [
        ("everprof.conf not read", &|| {}),
        ("no regular file", &|| std::fs::create_dir(&file).unwrap()),
        ("no regular file", &|| {
            let path = std::ffi::CString::new(config.as_str()).unwrap();
            // SAFETY: a path with an end.
            assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        }),
        ("longer than 64 KiB", &|| std::fs::write(&file, vec![b'#'; 1 << 20]).unwrap()),
        ("not UTF-8", &|| std::fs::write(&file, [0xff; 9]).unwrap()),
    ];
    for (said, make) in wrong {
        let _ = std::fs::remove_dir(&file).is_ok() || std::fs::remove_file(&file).is_ok();
        let before = MESSAGES.0.lock().unwrap().len();
        make();
        thread::sleep(Duration::from_millis(3_500));
        let told: Vec<String> = MESSAGES.0.lock().unwrap().drain(before..).collect();
        println!("{told:?}");
        assert!(told.len() <= 1 && told.iter().all(|told| told.contains(said)), "{said}: {told:?}");
        assert_eq!(rate(), 105.0);
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "rate_hz = 106").unwrap();
    until("it is right again", PATIENCE, || rate() == 106.0);
    stop(profiler);
    remove(&dir);
}

fn wins() {
    let (dir, file) = conf("wins", "rate_hz = 250\n");
    let config = file.display().to_string();
    let profiler = starting(&dir.join("out"), &[("config", &config)]);
    let error = everprof::set("rate_hz", "19").unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("everprof.conf line 1, which wins"));
    everprof::set("period_s", "30").unwrap();
    assert!(everprof::set("config", "").is_err());
    // What the program said meanwhile is what comes back.
    std::fs::write(&file, "period_s = 5\n").unwrap();
    until("it is read", PATIENCE, || profiler.stats().wanted_rate_hz.round() == 500.0);
    everprof::set("rate_hz", "77").unwrap();
    assert!(everprof::set("period_s", "10").is_err());
    std::fs::write(&file, "").unwrap();
    until("it is read", PATIENCE, || everprof::set("period_s", "10").is_ok());
    assert_eq!(profiler.stats().wanted_rate_hz.round(), 77.0);
    stop(profiler);
    remove(&dir);
}

fn budget() {
    let dir = directory("budget");
    // Without optimisation, what our threads do whatever the rates are takes three per cent by itself.
    let (percent, budget) = if cfg!(debug_assertions) { ("10", 0.1) } else { ("3", 0.03) };
    // The budget is for sampling: what it costs to name a period and to write it has nothing to do with rates.
    let kinds = "cpu,wall,offcpu,threads,alloc,heap,peak,lock,mutex,block";
    let builder = Profiler::builder().dir(&dir).set("kinds", kinds).rate_hz(1_000).set("wall_rate_hz", "200");
    let builder =
        builder.set("interval_bytes", "64KiB").set("lock_threshold_ns", "1000").set("period_s", "3600");
    let profiler = builder.set("cpu_budget_percent", percent).set("symbolize", "names").start().unwrap();
    let ended = AtomicBool::new(false);
    let lock = Mutex::new(0u64);
    let mut shares = Vec::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let mut count = lock.lock().unwrap();
                    *count += 1;
                    worked(Duration::from_micros(200));
                    drop(count);
                    allocated(20);
                }
            });
        }
        let begin = Instant::now();
        let mut before = (profiler.stats().own_cpu(), profiler.stats().process_cpu, begin);
        while begin.elapsed() < Duration::from_secs(100) {
            thread::sleep(Duration::from_secs(10));
            let stats = profiler.stats();
            let (own, process, now) = (stats.own_cpu(), stats.process_cpu, Instant::now());
            let had = (process - before.1).max(now - before.2);
            let share = (own - before.0).as_secs_f64() / had.as_secs_f64();
            before = (own, process, now);
            println!(
                "{:.2} %; {:.0} Hz, one in {} bytes, waits from {:?}; threads {:?} handler {:?} hooks {:?}; {:?}",
                share * 100.0,
                stats.rate_hz,
                stats.interval_bytes,
                stats.lock_threshold,
                stats.threads_cpu,
                stats.handler_time,
                stats.hooks_time,
                stats.active_kinds,
            );
            shares.push(share);
            // It has come within the budget, and stays there.
            if shares.len() > 1 && shares[shares.len() - 2] <= budget {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    println!("shares of ten seconds each, of {percent} %: {shares:.4?}");
    stop(profiler);
    for kind in kinds.split(',') {
        assert!(!kind_of(&dir, kind).is_empty(), "{kind}");
    }
    let (last, before) = (shares[shares.len() - 1], shares[shares.len() - 2]);
    assert!(before <= budget && last < 1.2 * budget, "{shares:?}");
    remove(&dir);
}
