//! The truth of the wall clock: threads wait in known calls for known parts of their time, and the profile says so.
//!
//! Each case runs in a process of its own. Ground truth is the clock of each thread: what it did and for how long, it
//! measures itself.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "wall/answers.rs"]
mod answers;
#[path = "wall/calls.rs"]
mod calls;
#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::{Activity, Bound, LabelValue, Profile};
use everprof::{Labels, Profiler};
use everprof_probe::os::{Clock, gettid, monotonic, ready_time};

use common::{LOOKS_BUDGET, burn, by_labels, directory, flush, kind_of, names, stop};

const CASES: &[(&str, fn())] = &[
    ("each_wait_is_told_with_its_call", each_wait),
    ("time_is_running_ready_or_waiting_and_nothing_else", parts_of_time),
    ("no_call_is_interrupted", calls::none_is_interrupted),
    ("never_means_never", calls::never_means_never),
    ("a_service_that_waits_for_its_upstream", upstream),
    ("threads_that_hardly_run_and_wait_for_answers", answers::answers),
    ("waits_carry_the_labels_of_their_request", labelled),
];

/// A way to wait, for a given time at a go.
type Wait = Box<dyn FnMut() + Send>;

fn main() {
    // More than one chance: the clocks of a machine that others use as well are read with gaps between them.
    common::main("wall", CASES, 3);
}

fn start(name: &str, rate: u32) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let profiler = Profiler::builder()
        .dir(&dir)
        .set("kinds", "cpu,wall")
        .set("cpu_budget_percent", LOOKS_BUDGET)
        .set("wall_rate_hz", rate.to_string())
        .set("symbolize", "names")
        .start()
        .unwrap();
    (profiler, dir)
}

/// The one wall profile below a directory that has the most in it.
fn wall(dir: &std::path::Path) -> Profile {
    let found = kind_of(dir, "wall").into_iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    found
}

/// A thread for each way to wait: it burns 2 ms and waits 18, again and again.
fn each_wait() {
    let pause = Duration::from_millis(18);
    let (profiler, dir) = start("waits", 50);
    let waits: Vec<(&str, Wait)> = vec![
        ("timer", Box::new(move || thread::sleep(pause))),
        ("thread", {
            let (lock, condition) = (Mutex::new(()), Condvar::new());
            Box::new(move || drop(condition.wait_timeout(lock.lock().unwrap(), pause).unwrap()))
        }),
        ("network", Box::new(calls::receive(pause))),
        ("pipe", Box::new(calls::read_pipe(pause))),
        ("events", Box::new(calls::wait_for_events(pause))),
        ("process", Box::new(calls::wait_for_child(pause))),
    ];
    let kinds: Vec<&str> = waits.iter().map(|(kind, _)| *kind).collect();
    let (asked, (tell, told)) = (Arc::new(AtomicU32::new(0)), mpsc::channel());
    for (kind, mut wait) in waits {
        let (asked, tell) = (asked.clone(), tell.clone());
        let work = move || {
            let mut answered = 0;
            loop {
                burn(Duration::from_millis(2));
                let question = asked.load(Ordering::Relaxed);
                if question != answered {
                    answered = question;
                    tell.send((kind, Instant::now(), time_waited())).unwrap();
                }
                wait();
            }
        };
        thread::Builder::new().name(format!("w-{kind}")).spawn(work).unwrap();
    }
    // When, and how long each had waited by then. It tells that itself while it runs: of one that is in the queue for a
    // processor, nobody knows yet since when.
    let ask = || -> BTreeMap<&str, (Instant, f64)> {
        asked.fetch_add(1, Ordering::Relaxed);
        told.iter().take(kinds.len()).map(|(kind, at, waited)| (kind, (at, waited))).collect()
    };
    // By then all of them are known; what follows is one profile.
    thread::sleep(Duration::from_millis(1200));
    flush(&profiler);
    let before = ask();
    thread::sleep(Duration::from_secs(4));
    let after = ask();
    flush(&profiler);
    let mut all = kind_of(&dir, "wall");
    all.sort_by_key(|profile| profile.time_nanos);
    let profile = &all[1];
    let told = by_labels(profile, ["thread_name", "state", "wait", "syscall"]);
    println!("{told:#?}");
    let mut off = Vec::new();
    for kind in kinds {
        let ((begin, before), (end, after)) = (before[kind], after[kind]);
        let waited = after - before;
        // The profile is a little longer: it begins before the one before it is written.
        let more = (profile.duration_nanos as f64 / 1e9 - (end - begin).as_secs_f64()).max(0.0);
        let of = |wait: &str| -> f64 {
            let is = |[thread, state, told, _]: &[String; 4]| {
                *thread == format!("w-{kind}") && state == "off_cpu" && (told == wait || wait.is_empty())
            };
            told.iter().filter(|(key, _)| is(key)).map(|(_, nanos)| *nanos as f64 / 1e9).sum()
        };
        println!("{kind}: {:.3} of {waited:.3} s, and of {more:.3} s more, of that {:.3}", of(""), of(kind));
        off.push((kind, of(""), waited, more, of(kind) / of("")));
    }
    for (kind, all, waited, more, right) in off {
        // What it did in the time that the profile has more, nobody has counted.
        assert!(all > 0.88 * waited && all < 1.12 * waited + more, "{kind}: {all} of {waited}");
        // `process` begins children and `pipe` writes, which takes its own waits.
        assert!(right > 0.9, "{kind}: {right}");
    }
    let complete =
        |stack| names(profile, stack).iter().any(|name| name.contains("clone3") || *name == "_start");
    let (mut all, mut whole) = (0, 0);
    for sample in profile.samples().filter(|sample| state(profile, sample.labels) == "off_cpu") {
        all += sample.values[1];
        whole += if complete(profile.get_stack(sample.stack)) { sample.values[1] } else { 0 };
    }
    println!("complete to the root: {:.4}", whole as f64 / all as f64);
    assert!(whole as f64 > 0.97 * all as f64);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Seconds for which the calling thread has neither run nor been ready to, by the kernel's own account, from some moment on.
fn time_waited() -> f64 {
    loop {
        let ready = ready_time(gettid()).unwrap();
        let (now, used) = (monotonic(), Clock::Thread(gettid()).now().unwrap());
        // Unless it had to give its processor away between two of these.
        if ready_time(gettid()).unwrap() == ready {
            return (now - used - ready) as f64 / 1e9;
        }
    }
}

fn state(profile: &Profile, labels: everprof::profile::LabelsId) -> String {
    let label = profile.get_labels(labels).iter().find(|label| label.key == "state");
    label.map_or(String::new(), |label| match &label.value {
        LabelValue::Text(text) => text.clone(),
        LabelValue::Number(..) => String::new(),
    })
}

/// Threads that run, that sleep, and that do both: of each, the parts add up to its life.
fn parts_of_time() {
    let dir = directory("parts");
    let builder = Profiler::builder().dir(&dir).set("kinds", "cpu,wall,offcpu").set("symbolize", "names");
    let builder = builder.set("cpu_budget_percent", LOOKS_BUDGET);
    let profiler = builder.set("wall_rate_hz", "20").start().unwrap();
    let begin = Instant::now();
    let work: [(&str, fn()); 3] = [
        ("runs", || burn(Duration::from_millis(700))),
        ("sleeps", || thread::sleep(Duration::from_millis(1500))),
        ("both", || {
            (0..100).for_each(|_| {
                burn(Duration::from_millis(3));
                thread::sleep(Duration::from_millis(12));
            })
        }),
    ];
    let threads: Vec<_> = work
        .into_iter()
        .map(|(name, work)| {
            let timed = move || {
                let begin = Instant::now();
                work();
                // Found by now, and followed to the end.
                (name, begin.elapsed().as_secs_f64())
            };
            thread::Builder::new().name(name.into()).spawn(timed).unwrap()
        })
        .collect();
    let truth: Vec<(&str, f64)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    flush(&profiler);
    stop(profiler);
    println!("{:?} in all", begin.elapsed());
    let off = kind_of(&dir, "offcpu").into_iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    let profile = wall(&dir);
    let told = by_labels(&profile, ["thread_name", "state"]);
    // A kind of its own for what is not on a processor: the same figures, and nothing else.
    assert_eq!((off.default_sample_type.as_str(), off.totals().len()), ("off_cpu", 2));
    let mut rest = told.clone();
    rest.retain(|[_, state], _| state != "on_cpu");
    assert_eq!(by_labels(&off, ["thread_name", "state"]), rest);
    println!("{told:#?}");
    for (name, life) in truth {
        let of = |state: &str| {
            told.get(&[name.to_owned(), state.to_owned()]).copied().unwrap_or_default() as f64 / 1e9
        };
        let all = of("on_cpu") + of("runnable") + of("off_cpu");
        println!(
            "{name}: {all:.3} of {life:.3} s: {:.3} {:.3} {:.3}",
            of("on_cpu"),
            of("runnable"),
            of("off_cpu")
        );
        // A thread is told from its birth, which the kernel says within 5 ms, to its end, which is seen at the next look:
        // the middle between two of them, 50 ms and half as much by chance apart, and more on a crowded machine.
        // Before its first line of code it may have waited for a processor.
        assert!(all < life + 0.15 + of("runnable") && all > life - 0.06 - of("runnable"), "{name}");
        match name {
            "runs" => assert!(of("on_cpu") > 0.65 && of("off_cpu") < 0.1),
            "sleeps" => assert!(of("on_cpu") < 0.01 && of("off_cpu") > 1.4),
            _ => assert!((0.28..0.35).contains(&of("on_cpu")) && of("off_cpu") > 1.15),
        }
    }
}

#[inline(never)]
fn fetch_from_upstream(receive: &mut impl FnMut()) {
    receive();
    std::hint::black_box(());
}

/// Requests that take 1 ms of work and wait 9 ms for somebody else.
fn upstream() {
    let (profiler, dir) = start("upstream", 50);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let serve = || {
                let mut receive = calls::receive(Duration::from_millis(9));
                for _ in 0..200 {
                    burn(Duration::from_millis(1));
                    fetch_from_upstream(&mut receive);
                }
            };
            thread::Builder::new().name(format!("server-{number}")).spawn(serve).unwrap()
        })
        .collect();
    // A pool without work must not change the picture.
    let (hang_up, idle) = mpsc::channel::<()>();
    let idle = Arc::new(Mutex::new(idle));
    for _ in 0..8 {
        let idle = idle.clone();
        thread::spawn(move || _ = idle.lock().map(|idle| idle.recv()));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    flush(&profiler);
    drop(hang_up);
    stop(profiler);
    let verdict = wall(&dir).verdict().unwrap();
    println!("{verdict}\n{verdict:#?}");
    let servers = verdict.groups.iter().find(|group| group.name == "server").unwrap();
    let (waits, runs) = (servers.share(Activity::Network), servers.share(Activity::OnCpu));
    assert!(waits / (waits + runs) > 0.8, "{servers:?}");
    // On a machine that others use as well, the threads wait for processors too.
    let crowded = servers.share(Activity::Runnable) > 0.2;
    match verdict.bound {
        Bound::Wait(Activity::Network) => {}
        Bound::Mixed(Activity::Network) if crowded => {}
        Bound::Cpu if servers.share(Activity::Runnable) > 0.4 => {}
        other => panic!("{other:?}"),
    }
    assert!(verdict.waits_in.iter().any(|name| name.contains("fetch_from_upstream")));
}

fn labelled() {
    let (profiler, dir) = start("labelled", 50);
    let thread = thread::spawn(|| {
        for round in 0..60 {
            let labels = Labels::new([("tenant", if round % 3 == 0 { "a" } else { "b" }), ("state", "mine")]);
            let _guard = labels.enter();
            burn(Duration::from_millis(5));
            thread::sleep(Duration::from_millis(20));
        }
    });
    thread.join().unwrap();
    stop(profiler);
    // A label of the program's that is called as one of ours gives way there, and only there.
    let cpu = kind_of(&dir, "cpu").into_iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    assert!(by_labels(&cpu, ["state"]).contains_key(&["mine".to_owned()]));
    let profile = wall(&dir);
    assert!(!by_labels(&profile, ["state"]).contains_key(&["mine".to_owned()]));
    let told = by_labels(&profile, ["tenant", "wait"]);
    println!("{told:#?}");
    let of =
        |tenant: &str| told.get(&[tenant.to_owned(), "timer".to_owned()]).copied().unwrap_or_default() as f64;
    let share = of("a") / (of("a") + of("b"));
    // 60 rounds at 50 looks a second: about 50 looks, a third of them at `a`.
    assert!((share - 1.0 / 3.0).abs() < 3.0 * (2.0 / 9.0 / 45.0_f64).sqrt(), "{share}");
}
