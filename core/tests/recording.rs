//! Recordings: profiles of a stretch, beside the periods, which must not notice them.
//!
//! Each case runs in a process of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use everprof::export::{Exporter, Set};
use everprof::profile::{Kind, Profile};
use everprof::{ErrorKind, Profiler, Recording};
use everprof_probe::os::Clock;

use common::{burn, by_labels, directory, flush, kind_of, profiles, stop, time_in};

const CASES: &[(&str, fn())] = &[
    ("a_recording_has_what_was_done_in_it", one),
    ("a_recording_looks_at_waits_where_the_periods_do_not", of_waits),
    ("who_asks_at_the_wrong_time_is_told_so", wrong_times),
    ("recordings_change_no_sum_of_the_periods", sums),
    ("recordings_change_no_sum_of_the_wall_clock", wall_sums),
    ("nobody_waits_for_an_exporter_that_hangs", exporter_hangs),
    ("ten_thousand_recordings_at_once_do_no_harm", storm),
    ("recordings_race_with_stops_and_starts", races),
    ("a_recording_does_not_cross_a_fork", fork),
    ("the_verdict_of_the_last_period_is_in_the_statistics", verdict),
];

fn main() {
    common::main("recording", CASES, 3);
}

fn start(name: &str, kinds: &str) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let profiler = Profiler::builder()
        .dir(&dir)
        .rate_hz(500)
        .set("kinds", kinds)
        .set("symbolize", "names")
        .set("cpu_budget_percent", "100")
        .start()
        .unwrap();
    (profiler, dir)
}

#[inline(never)]
fn before() {
    burn(Duration::from_millis(300));
}

#[inline(never)]
fn within() {
    burn(Duration::from_millis(500));
}

#[inline(never)]
fn after() {
    burn(Duration::from_millis(300));
}

fn seconds(profile: &Profile, function: &str) -> f64 {
    time_in(profile, function) as f64 / 1e9
}

fn one() {
    let (profiler, dir) = start("one", "cpu");
    before();
    let begin = Instant::now();
    let recording = everprof::record(Kind::Cpu).unwrap();
    within();
    let profile = recording.finish().unwrap();
    let took = begin.elapsed().as_secs_f64();
    after();
    let of = |function| seconds(&profile, function);
    let (before, within, after) = (of("recording::before"), of("recording::within"), of("recording::after"));
    println!("{before} {within} {after} in {} s", profile.duration_nanos as f64 / 1e9);
    // A sample stands for what was used since the one before it: 4 ms by the kernel's tick, and more where it is late.
    assert!(before < 0.03 && after == 0.0 && (0.45..0.56).contains(&within));
    assert!((0.49..took).contains(&(profile.duration_nanos as f64 / 1e9)));
    assert!(profile.tags.contains_key("service") && profile.tags.contains_key("effective_rate_hz"));
    flush(&profiler);
    let periods = profiles(&dir);
    assert_eq!(periods.len(), 1, "a recording begins no new period");
    let all: f64 = ["before", "within", "after"]
        .map(|function| seconds(&periods[0], &format!("recording::{function}")))
        .iter()
        .sum();
    assert!((1.05..1.15).contains(&all), "{all}");
    stop(profiler);
    std::fs::remove_dir_all(dir).unwrap();
}

fn of_waits() {
    let (profiler, dir) = start("waits", "cpu");
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let begin = Instant::now();
    let recording = everprof::record(Kind::Wall).unwrap();
    thread::sleep(Duration::from_millis(500));
    let profile = recording.finish().unwrap();
    let took = begin.elapsed().as_secs_f64();
    let slept = seconds(&profile, "sleep");
    println!("{slept} s asleep in {} s", profile.duration_nanos as f64 / 1e9);
    assert!((0.8..2.0 * took + 0.1).contains(&slept), "two threads slept");
    assert!(profile.verdict().is_ok());
    flush(&profiler);
    assert!(kind_of(&dir, "wall").is_empty());
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

fn wrong_times() {
    assert_eq!(everprof::record(Kind::Cpu).unwrap_err().kind(), ErrorKind::Unavailable);
    let (profiler, dir) = start("wrong", "cpu");
    let all: Vec<_> = (0..16).map(|_| everprof::record(Kind::Cpu).unwrap()).collect();
    let error = everprof::record(Kind::Cpu).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("16"), "{error}");
    drop(all);
    let recording = everprof::record(Kind::Cpu).unwrap();
    stop(profiler);
    let error = recording.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("stopped"), "{error}");
    let _ = std::fs::remove_dir_all(dir);
}

#[inline(never)]
fn heavy(done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        burn(Duration::from_millis(5));
    }
}

/// A tenth of a processor, in pieces that are shorter than a period.
#[inline(never)]
fn light(done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        burn(Duration::from_micros(500));
        thread::sleep(Duration::from_micros(4_500));
    }
}

/// CPU seconds of the process, and of one of its threads.
fn used(thread: u32) -> (f64, f64) {
    let seconds = |clock: Clock| clock.now().unwrap() as f64 / 1e9;
    (seconds(Clock::Process), seconds(Clock::Thread(thread)))
}

/// Ten recordings overlap, begin and end at any time, and periods end in them, while the rate changes: the periods tell
/// what they would have told without them, of each thread, though all have the same name.
fn sums() {
    let (profiler, dir) = start("sums", "cpu");
    let done = Arc::new(AtomicBool::new(false));
    let spawn = |work: fn(&AtomicBool)| {
        let (done, (tell, told)) = (done.clone(), std::sync::mpsc::channel());
        let work = move || {
            tell.send(everprof_probe::os::gettid()).unwrap();
            work(&done);
        };
        let thread = thread::Builder::new().name("same".into()).spawn(work).unwrap();
        (thread, told.recv().unwrap())
    };
    let ((a, _), (b, light_id)) = (spawn(heavy), spawn(light));
    thread::sleep(Duration::from_millis(300));
    flush(&profiler);
    let periods_before = profiles(&dir);
    let (begin, before) = (Instant::now(), used(light_id));
    let mut open: Vec<(Recording, (f64, f64))> = Vec::new();
    let mut compared = 0;
    for round in 0..60 {
        if open.len() == 10 {
            let (recording, before) = open.remove(round % 10);
            let profile = recording.finish().unwrap();
            let (told, truth) = (profile.totals()[1] as f64 / 1e9, used(light_id).0 - before.0);
            // Of each thread up to a period and a tick at either end, and the machine's delays.
            assert!((told - truth).abs() < 0.05 * truth + 0.1, "{told} of {truth}");
            compared += 1;
        }
        open.push((everprof::record(Kind::Cpu).unwrap(), used(light_id)));
        thread::sleep(Duration::from_millis(60));
        match round {
            20 | 40 => flush(&profiler),
            30 => profiler.set("rate_hz", "100").unwrap(),
            50 => drop(open.drain(..5)),
            _ => {}
        }
    }
    flush(&profiler);
    let (time, after) = (begin.elapsed().as_secs_f64(), used(light_id));
    done.store(true, Ordering::Relaxed);
    a.join().unwrap();
    b.join().unwrap();
    let periods = profiles(&dir);
    assert_eq!((periods_before.len(), periods.len()), (1, 4), "as many as there were flushes");
    let sum = |of: &dyn Fn(&Profile) -> f64| -> f64 {
        periods.iter().map(of).sum::<f64>() - periods_before.iter().map(of).sum::<f64>()
    };
    let total = sum(&|profile| profile.totals()[1] as f64 / 1e9) / (after.0 - before.0);
    let small = sum(&|profile| seconds(profile, "recording::light")) / (after.1 - before.1);
    let length = sum(&|profile| profile.duration_nanos as f64 / 1e9) / time;
    let counted = sum(&|profile| profile.totals()[0] as f64);
    println!(
        "{compared} compared; told of all {total:.4}, of the light one {small:.4}, of the time {length:.4}"
    );
    assert!(compared >= 45);
    assert!((0.97..1.03).contains(&total), "{total}");
    // About 150 samples of 0.4 s, at a rate that changes.
    assert!((0.65..1.35).contains(&small), "{small}");
    assert!((0.98..1.05).contains(&length), "{length}");
    assert!(counted > 0.0);
    stop(profiler);
    std::fs::remove_dir_all(dir).unwrap();
}

/// What running, ready and waiting come to of three threads, with recordings of each kind that overlap and without any:
/// each thread has all of the time, and the shares are those of the threads' own clocks.
fn wall_sums() {
    const NAMES: [&str; 3] = ["sleeps", "works", "both"];
    let (profiler, dir) = start("wall_sums", "wall");
    let (tell, told) = std::sync::mpsc::channel();
    for (name, work, pause) in [(NAMES[0], 0, 10), (NAMES[1], 10, 0), (NAMES[2], 3, 7)] {
        let tell = tell.clone();
        let work = move || {
            tell.send((name, everprof_probe::os::gettid())).unwrap();
            loop {
                burn(Duration::from_millis(work));
                thread::sleep(Duration::from_millis(pause));
            }
        };
        thread::Builder::new().name(name.into()).spawn(work).unwrap();
    }
    let ids: Vec<_> = told.iter().take(3).collect();
    thread::sleep(Duration::from_millis(500));
    for is_recorded in [false, true] {
        let flush = || {
            let begin = Instant::now();
            flush(&profiler);
            begin.elapsed().as_nanos() as f64
        };
        let mut late = flush();
        let known = kind_of(&dir, "wall").len();
        let used = || ids.iter().map(|(_, id)| Clock::Thread(*id).now().unwrap()).collect::<Vec<_>>();
        let before = used();
        let mut open = Vec::new();
        for round in 0..60 {
            if is_recorded {
                let kind = [Kind::Wall, Kind::OffCpu, Kind::Cpu][round % 3];
                open.push(everprof::record(kind).unwrap());
            }
            thread::sleep(Duration::from_millis(50));
            if open.len() == 7 {
                let recording: Recording = open.remove(round % 7);
                recording.finish().unwrap();
            }
        }
        late += flush();
        let after = used();
        drop(open);
        let profiles = kind_of(&dir, "wall");
        assert_eq!(profiles.len(), known + 1);
        // Files are listed by name, and named by time.
        let profile = profiles.iter().max_by_key(|profile| profile.time_nanos).unwrap();
        let sums = by_labels(profile, ["thread_name", "state"]);
        let time = profile.duration_nanos as f64;
        for (at, (name, _)) in ids.iter().enumerate() {
            let of = |state: &str| *sums.get(&[(*name).into(), state.into()]).unwrap_or(&0) as f64;
            let (on, all) = (of("on_cpu"), of("on_cpu") + of("runnable") + of("off_cpu"));
            let truth = (after[at] - before[at]) as f64;
            println!(
                "recorded: {is_recorded}, {name}: {:.4} of the time, {:.4} of its clock",
                all / time,
                on / truth
            );
            // At either end a look comes late by what the machine has to do meanwhile, in the time of a flush. How long a thread
            // has waited that runs at the end is told by the next look, a tenth of a second later: in the next period.
            let next = if *name == "both" { 1e8 } else { 0.0 };
            assert!((all - time).abs() < 0.01 * time + late + next + 1e7, "{name}: {all} of {time}, {late}");
            assert!((on - truth).abs() < 0.02 * truth + late + 3e7, "{name}: {on} of {truth}, {late}");
        }
    }
    stop(profiler);
    std::fs::remove_dir_all(dir).unwrap();
}

/// One that hangs, and before that asks everprof itself.
struct Hangs;

static IS_LET_GO: AtomicBool = AtomicBool::new(false);
static ASKED: Mutex<Option<(usize, i64)>> = Mutex::new(None);

impl Exporter for Hangs {
    fn name(&self) -> String {
        "a server that does not answer".into()
    }

    fn export(&mut self, _: &Set) -> everprof::Result<()> {
        let recording = everprof::record(Kind::Cpu)?;
        burn(Duration::from_millis(50));
        let threads = everprof::threads()?.samples().len();
        let recorded = recording.finish()?.totals()[1];
        *ASKED.lock().unwrap() = Some((threads, recorded));
        while !IS_LET_GO.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The exporter answers only once all of this is over.
fn exporter_hangs() {
    let start = Profiler::builder().rate_hz(1000).set("symbolize", "names");
    let profiler = start.exporters(|| vec![Box::new(Hangs)]).start().unwrap();
    burn(Duration::from_millis(50));
    let error = profiler.flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    while ASKED.lock().unwrap().is_none() {
        thread::sleep(Duration::from_millis(10));
    }
    let (threads, recorded) = ASKED.lock().unwrap().unwrap();
    assert!(threads == 4 && recorded > 0, "the exporter may ask: {threads}, {recorded}");
    let callers: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                if number % 2 == 0 {
                    return everprof::threads().unwrap().samples().len() >= 4;
                }
                let recording = everprof::record([Kind::Cpu, Kind::Wall][number / 2 % 2]).unwrap();
                thread::sleep(Duration::from_millis(20));
                recording.finish().unwrap().duration_nanos >= 20_000_000
            })
        })
        .collect();
    assert!(callers.into_iter().all(|caller| caller.join().unwrap()));
    let recording = everprof::record(Kind::Cpu).unwrap();
    within();
    let told = seconds(&recording.finish().unwrap(), "recording::within");
    assert!((0.4..0.6).contains(&told), "{told}");
    assert_eq!(profiler.stats().exported, 0, "it hangs");
    IS_LET_GO.store(true, Ordering::Relaxed);
    stop(profiler);
}

fn storm() {
    let (profiler, dir) = start("storm", "cpu");
    let (finished, refused) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let before = used(everprof_probe::os::gettid()).0;
    let threads: Vec<_> = (0..100)
        .map(|_| {
            let (finished, refused) = (finished.clone(), refused.clone());
            thread::spawn(move || {
                for _ in 0..100 {
                    match everprof::record(Kind::Cpu).and_then(Recording::finish) {
                        Ok(_) => _ = finished.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (finished, refused) = (finished.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    println!("{finished} finished, {refused} refused");
    assert_eq!(finished + refused, 10_000);
    assert!(finished >= 16);
    // It goes on as if nothing had been.
    let recording = everprof::record(Kind::Cpu).unwrap();
    within();
    let told = seconds(&recording.finish().unwrap(), "recording::within");
    assert!((0.4..0.6).contains(&told), "{told}");
    flush(&profiler);
    let all: f64 = profiles(&dir).iter().map(|profile| profile.totals()[1] as f64 / 1e9).sum();
    let truth = used(everprof_probe::os::gettid()).0 - before;
    println!("told {all} of {truth} s");
    assert!((0.9..1.1).contains(&(all / truth)), "{all} of {truth}");
    stop(profiler);
    std::fs::remove_dir_all(dir).unwrap();
}

fn races() {
    let done = Arc::new(AtomicBool::new(false));
    let finished = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let (done, finished) = (done.clone(), finished.clone());
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let kind = if number % 2 == 0 { Kind::Cpu } else { Kind::Wall };
                    let recorded = everprof::record(kind).and_then(|recording| {
                        thread::sleep(Duration::from_millis(number));
                        recording.finish()
                    });
                    match recorded {
                        Ok(_) => _ = finished.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                    }
                    let _ = everprof::threads();
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let (profiler, dir) = start("races", "cpu");
        burn(Duration::from_millis(20));
        let _ = profiler.flush();
        burn(Duration::from_millis(20));
        stop(profiler);
        let _ = std::fs::remove_dir_all(dir);
    }
    done.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    println!("{} finished", finished.load(Ordering::Relaxed));
    assert!(finished.load(Ordering::Relaxed) > 0);
}

fn fork() {
    let (profiler, dir) = start("fork", "cpu");
    let recording = everprof::record(Kind::Cpu).unwrap();
    let dropped = everprof::record(Kind::Wall).unwrap();
    // SAFETY: the child goes on as a process of its own, and only everprof has other threads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let error = recording.finish().unwrap_err();
        let is_told = error.kind() == ErrorKind::Unsupported && error.to_string().contains("fork");
        drop(dropped);
        let own = everprof::record(Kind::Cpu).unwrap();
        within();
        let told = seconds(&own.finish().unwrap(), "recording::within");
        let threads = everprof::threads().unwrap().samples().len();
        println!("in the child: {error}; {told} s, {threads} threads");
        let passed = is_told && (0.4..0.6).contains(&told) && threads == 3;
        // SAFETY: nothing of the parent's is to be cleaned up here.
        unsafe { libc::_exit(if passed { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the status is live.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0, "the child");
    within();
    let told = seconds(&recording.finish().unwrap(), "recording::within");
    assert!((0.4..0.6).contains(&told), "{told}");
    drop(dropped);
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

fn verdict() {
    let (profiler, dir) = start("verdict", "cpu,wall");
    assert!(profiler.stats().verdict.is_none(), "nothing was closed yet");
    burn(Duration::from_millis(600));
    flush(&profiler);
    let verdict = profiler.stats().verdict.unwrap();
    println!("{verdict}");
    assert_eq!(verdict.bound, everprof::profile::Bound::Cpu);
    assert!(profiler.stats().verdict.unwrap().all.total() > 500_000_000);
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}
