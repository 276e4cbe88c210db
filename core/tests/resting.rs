//! A process that rests by `fleet_share` or `duty`: what it costs nobody, what is told of it on request, and what it is told
//! that cannot be had. Its allocator is not everprof's. Each case runs in a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

#[path = "common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::{Kind, Label};
use everprof::{ErrorKind, Labels, Profiler};
use everprof_probe::os::{Clock, gettid};

use common::{burn, by_labels, directory, flush, kind_of, names, profiles, remove, stop, time_in};

const CASES: &[(&str, fn())] = &[
    ("labels_of_a_rest_leave_nothing_behind", labels),
    ("a_snapshot_in_a_rest_has_labels", snapshots),
    ("what_cannot_be_had_is_an_error_in_a_rest_as_well", kinds),
    ("what_cannot_be_had_is_told_once_and_not_at_each_turn", told_once),
    ("a_recording_that_ends_into_a_rest_has_all_of_its_time", recording),
    ("a_recording_of_cpu_time_ends_no_period_of_other_kinds", periods),
    ("a_turn_that_begins_without_descriptors_tells_nothing_from_before", no_descriptors),
];

fn main() {
    common::main("resting", CASES, 2);
}

fn starting(name: &str, options: &[(&str, &str)]) -> (Profiler, PathBuf) {
    let dir = directory(name);
    let builder = Profiler::builder().dir(&dir).set("symbolize", "names").set("period_s", "3600");
    let builder = builder.set("cpu_budget_percent", "100").set("fleet_share", "0");
    let profiler = options.iter().fold(builder, |builder, (name, value)| builder.set(*name, *value));
    (profiler.start().unwrap(), dir)
}

fn ended(profiler: Profiler, dir: &Path) {
    stop(profiler);
    if dir.exists() {
        remove(dir);
    }
}

fn used() -> f64 {
    Clock::Process.now().unwrap() as f64 / 1e9
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

#[inline(never)]
fn worked(time: Duration) {
    burn(time);
}

/// A request each, with a label of its own: nobody looks whether a sample has one, and the table does not fill up.
fn labels() {
    let (profiler, dir) = starting("labels", &[]);
    thread::sleep(Duration::from_millis(300));
    let requests = |what: &str| {
        let (begin, before) = (Instant::now(), everprof::labels::stats());
        for number in 0..100_000 {
            let _guard = Labels::new([(what, number.to_string())]).entered();
        }
        let after = everprof::labels::stats();
        println!("{what}: {:?} for 100,000 sets; {before:?}, then {after:?}", begin.elapsed());
        (after.sets - before.sets, after.overflowed - before.overflowed)
    };
    assert_eq!(requests("rest"), (0, 0));
    // A turn, and labels are kept for as long as a sample may name them. Then it rests again.
    everprof::set("fleet_share", "100").unwrap();
    {
        let _guard = Labels::new([("tenant", "acme")]).entered();
        worked(Duration::from_millis(400));
    }
    everprof::set("fleet_share", "0").unwrap();
    assert_eq!(requests("again"), (0, 0));
    flush(&profiler);
    let told: i64 =
        profiles(&dir).iter().map(|profile| by_labels(profile, ["tenant"])[&["acme".to_string()]]).sum();
    println!("{told} ns with the label");
    assert!((300_000_000..450_000_000).contains(&told));
    ended(profiler, &dir);
}

fn snapshots() {
    let (profiler, dir) = starting("snapshots", &[]);
    let done = AtomicBool::new(false);
    let found = thread::scope(|scope| {
        thread::Builder::new()
            .name("runner".into())
            .spawn_scoped(scope, || {
                let _guard = Labels::new([("tenant", "acme")]).entered();
                while !done.load(Ordering::Relaxed) {
                    // Each for a moment only: by the time that it is told, its set is gone from everywhere else.
                    let _inner = Labels::new([("request", format!("{:?}", Instant::now()))]).entered();
                    worked(Duration::from_micros(300));
                }
            })
            .unwrap();
        let mut found = (0, 0);
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(20));
            let profile = everprof::threads().unwrap();
            for sample in profile.samples() {
                let labels = profile.get_labels(sample.labels);
                let has = |key: &str| labels.iter().any(|label| label.key == key);
                let is_runner = labels.contains(&Label::text("thread_name", "runner"));
                let stack = names(&profile, profile.get_stack(sample.stack));
                // Who is asked while it has no processor does not always answer in time.
                if is_runner && stack.iter().any(|name| name.contains("burn")) {
                    found = (found.0 + u32::from(has("tenant") && has("request")), found.1 + 1);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        found
    });
    println!("of {} snapshots with a stack of the one that runs, {} have its labels", found.1, found.0);
    assert!(found.1 >= 20 && found.0 * 10 >= found.1 * 9);
    ended(profiler, &dir);
}

fn kinds() {
    listen();
    let (profiler, dir) =
        starting("kinds", &[("malloc", "off"), ("lock_threshold_ns", "off"), ("kinds", "cpu")]);
    for (kinds, in_it) in [
        ("cpu,heap", "allocations are not seen: the option malloc is off"),
        ("alloc", "allocations are not seen"),
        ("cpu,mutex", "lock_threshold_ns is off"),
        ("cpu,heap,lock", "allocations are not seen"),
    ] {
        // Of a rest, of a turn, and of a kind whose duty it is not.
        let mut told = Vec::new();
        for (share, duty) in [("0", ""), ("100", ""), ("100", "alloc:1s/3600s,mutex:1s/3600s,lock:1s/3600s")]
        {
            everprof::set("fleet_share", share).unwrap();
            everprof::set("duty", duty).unwrap();
            let error = everprof::set("kinds", kinds).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(in_it), "{error}");
            told.push(error.to_string());
            let stats = profiler.stats();
            assert!(stats.active_kinds.iter().all(|kind| *kind == "cpu"), "{:?}", stats.active_kinds);
            everprof::set("duty", "").unwrap();
        }
        assert!(told.iter().all(|error| *error == told[0]), "{told:?}");
        everprof::set("fleet_share", "0").unwrap();
    }
    // What can be had can be asked for, and is hooked only when it is its turn.
    everprof::set("lock_threshold_ns", "10000").unwrap();
    everprof::set("kinds", "cpu,lock").unwrap();
    flush(&profiler);
    assert_eq!(profiler.stats().lock_slots, 0);
    everprof::set("fleet_share", "100").unwrap();
    flush(&profiler);
    let stats = profiler.stats();
    println!("{:?}, {} slots", stats.active_kinds, stats.lock_slots);
    assert!(stats.active_kinds == ["cpu", "lock"] && stats.lock_slots > 0);
    assert_eq!((heard("allocations are"), heard("lock_threshold_ns is")), (0, 0), "errors, and no warnings");
    ended(profiler, &dir);

    // What was asked for at the start and cannot be had is told, and keeps nobody from taking turns.
    let (profiler, dir) = starting("kinds2", &[("malloc", "off"), ("kinds", "cpu,heap")]);
    everprof::set("fleet_share", "100").unwrap();
    assert!(profiler.stats().active);
    everprof::set("fleet_share", "0").unwrap();
    everprof::set("fleet_share", "100").unwrap();
    assert_eq!(heard("allocations are not seen"), 1);
    ended(profiler, &dir);
}

fn told_once() {
    listen();
    let options =
        [("fleet_share", "100"), ("malloc", "off"), ("kinds", "cpu,alloc"), ("duty", "alloc:1s/2s")];
    let (profiler, dir) = starting("once", &options);
    let mut turns = 0;
    let mut was_on = false;
    for _ in 0..45 {
        thread::sleep(Duration::from_millis(200));
        let is_on = profiler.stats().active_kinds.contains(&"alloc");
        turns += u32::from(is_on && !was_on);
        was_on = is_on;
    }
    println!("{turns} turns; {:#?}", MESSAGES.0.lock().unwrap());
    assert!(turns >= 3);
    assert_eq!(heard("allocations are not seen"), 1);
    ended(profiler, &dir);
}

/// Threads that have used less than a period have no sample, and their time is told all the same.
fn recording() {
    const THREADS: usize = 8;
    let (profiler, dir) = starting("recording", &[("rate_hz", "1"), ("kinds", "cpu")]);
    for round in 0..2 {
        let [ready, begun, worked_all, end] = [(); 4].map(|()| Barrier::new(THREADS + 1));
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (ready, begun, worked_all, end) = (&ready, &begun, &worked_all, &end);
                let work = move || {
                    // From before the recording, which it is not to tell.
                    worked(Duration::from_millis(50));
                    ready.wait();
                    begun.wait();
                    worked(Duration::from_millis(60));
                    worked_all.wait();
                    end.wait();
                };
                thread::Builder::new().name(format!("worker-{number}")).spawn_scoped(scope, work).unwrap();
            }
            ready.wait();
            let recording = everprof::record(Kind::Cpu).unwrap();
            let before = used();
            begun.wait();
            worked_all.wait();
            let truth = used() - before;
            let profile = recording.finish().unwrap();
            let told = profile.totals()[1] as f64 / 1e9;
            let by_thread = by_labels(&profile, ["thread_name"]);
            let workers = by_thread.iter().filter(|(names, _)| names[0].starts_with("worker-"));
            let workers: Vec<i64> = workers.map(|(_, nanos)| *nanos).collect();
            println!("round {round}: {told:.3} s told of {truth:.3} s; {workers:?}");
            end.wait();
            assert!((told - truth).abs() < 0.1 * truth, "{told} of {truth}");
            assert_eq!(workers.len(), THREADS, "{by_thread:?}");
            assert!(workers.iter().all(|nanos| (55_000_000..90_000_000).contains(nanos)), "{workers:?}");
        });
    }
    ended(profiler, &dir);
}

fn periods() {
    let options = [("fleet_share", "100"), ("kinds", "lock"), ("rate_hz", "500")];
    let (profiler, dir) = starting("periods", &options);
    let lock = Mutex::new(());
    thread::scope(|scope| {
        let held = lock.lock().unwrap();
        scope.spawn(|| drop(lock.lock().unwrap()));
        thread::sleep(Duration::from_millis(100));
        drop(held);
    });
    let recording = everprof::record(Kind::Cpu).unwrap();
    worked(Duration::from_millis(300));
    let profile = recording.finish().unwrap();
    let told = time_in(&profile, "worked") as f64 / 1e9;
    assert!((0.25..0.36).contains(&told), "{told}");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(profiler.stats().exported, 0, "the period goes on");
    flush(&profiler);
    assert_eq!((kind_of(&dir, "lock").len(), profiles(&dir).len()), (1, 0));
    ended(profiler, &dir);
}

/// It is its turn, and nobody can look who lives: what threads did by then is nobody's business, as at any beginning. One that
/// sets its first label meanwhile says itself that it is there, and is told from then on.
fn no_descriptors() {
    let done = AtomicBool::new(false);
    let (labelled, may_label) = (AtomicU32::new(0), AtomicBool::new(false));
    let of_labelled = || Clock::Thread(labelled.load(Ordering::Relaxed)).now().unwrap() as f64 / 1e9;
    let step = || {
        worked(Duration::from_millis(5));
        thread::sleep(Duration::from_millis(5));
    };
    let work = |is_labelled: bool| {
        if is_labelled {
            labelled.store(gettid(), Ordering::Relaxed);
        }
        while !done.load(Ordering::Relaxed) {
            let wants = is_labelled && may_label.load(Ordering::Relaxed);
            let _guard = wants.then(|| Labels::new([("tenant", "acme")]).entered());
            step();
        }
    };
    thread::scope(|scope| {
        let work = &work;
        for (name, is_labelled) in [("old", false), ("labelled", true)] {
            thread::Builder::new().name(name.into()).spawn_scoped(scope, move || work(is_labelled)).unwrap();
        }
        worked(Duration::from_millis(600));
        let (profiler, dir) = starting("descriptors", &[("rate_hz", "200"), ("kinds", "cpu")]);
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is ours to write.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) }, 0);
        let limit = |limit: libc::rlimit| {
            // SAFETY: the limit is live.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        limit(libc::rlimit { rlim_cur: 0, ..before });
        assert!(std::fs::read_dir("/proc/self/task").is_err(), "that was to be tested");
        everprof::set("fleet_share", "100").unwrap();
        worked(Duration::from_millis(300));
        thread::sleep(Duration::from_millis(700));
        let label = of_labelled();
        may_label.store(true, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(800));
        let (unseen, since_label) = (used(), of_labelled() - label);
        limit(before);
        thread::sleep(Duration::from_millis(1500));
        worked(Duration::from_millis(500));
        let seen = used() - unseen;
        flush(&profiler);
        let all = profiles(&dir);
        let told: f64 = all.iter().map(|profile| profile.totals()[1] as f64 / 1e9).sum();
        let by_thread: Vec<_> = all.iter().map(|profile| by_labels(profile, ["thread_name"])).collect();
        println!(
            "{told:.3} s told of {seen:.3} s, and of {since_label:.3} s of the one that said so, after {unseen:.3} s; {by_thread:?}"
        );
        done.store(true, Ordering::Relaxed);
        let all_seen = seen + since_label;
        assert!(told < all_seen + 0.15, "{told} of {all_seen}");
        // A second may go by before the directory is tried again.
        assert!(told > all_seen - 1.5 && told > 0.5, "{told} of {all_seen}");
        ended(profiler, &dir);
    });
}
