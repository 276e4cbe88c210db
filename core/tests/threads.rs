//! Snapshots of all threads: each live one exactly once, with its name, its state and its stack.
//!
//! Each case runs in a process of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use everprof::profile::{Kind, LabelValue, Profile, Sample};
use everprof::{ErrorKind, Labels, Profiler};
use everprof_probe::os::gettid;

use common::{directory, flush, kind_of, names, stop};

const CASES: &[(&str, fn())] = &[
    ("each_thread_is_there_once_with_its_state", each_once),
    ("they_are_those_of_the_kernel_where_one_takes_anothers_place", as_the_kernel_says),
    ("threads_that_come_and_go_do_no_harm", churn),
    ("a_thousand_threads_at_once", thousand),
    ("a_thread_that_holds_signals_back_is_there_as_well", deaf),
    ("a_period_ends_with_a_snapshot_where_that_is_asked_for", of_periods),
    ("without_a_profiler_there_is_none", without),
];

fn main() {
    common::main("threads", CASES, 3);
}

fn start(name: &str, kinds: &str) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let profiler =
        Profiler::builder().dir(&dir).set("kinds", kinds).set("symbolize", "names").start().unwrap();
    (profiler, dir)
}

/// The value of a label as text.
fn label(profile: &Profile, sample: &Sample<'_>, key: &str) -> Option<String> {
    let labels = profile.get_labels(sample.labels);
    labels.iter().find(|label| label.key == key).map(|label| match &label.value {
        LabelValue::Text(text) => text.clone(),
        LabelValue::Number(number, _) => number.to_string(),
    })
}

/// The ids of a snapshot's threads, each of which may be there only once.
fn ids(profile: &Profile) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    for sample in profile.samples() {
        assert_eq!(sample.values, [1]);
        let id = label(profile, &sample, "thread_id").unwrap().parse().unwrap();
        assert!(ids.insert(id), "thread {id} is there twice");
    }
    ids
}

/// The one sample of a thread of that name.
fn of_name<'p>(profile: &'p Profile, name: &str) -> Sample<'p> {
    let mut found =
        profile.samples().filter(|sample| label(profile, sample, "thread_name").as_deref() == Some(name));
    let sample = found.next().unwrap_or_else(|| panic!("{name} is not there"));
    assert!(found.next().is_none(), "{name} is there twice");
    sample
}

#[inline(never)]
fn waits_for_the_end(end: &mpsc::Receiver<()>) -> u32 {
    let _ = end.recv();
    std::hint::black_box(1)
}

#[inline(never)]
fn runs_for_ever() {
    loop {
        std::hint::spin_loop();
    }
}

fn each_once() {
    let mut told = 0;
    let (profiler, dir) = start("once", "cpu");
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.into()).spawn(work).unwrap();
    };
    let (_end, ended) = mpsc::channel::<()>();
    let labels = Labels::new([("tenant", "a")]);
    spawn("waiter", Box::new(move || _ = labels.run(|| waits_for_the_end(&ended))));
    spawn("sleeper", Box::new(|| thread::sleep(Duration::from_secs(3600))));
    spawn("runner", Box::new(runs_for_ever));
    thread::sleep(Duration::from_millis(300));
    for round in 0..500 {
        // On a crowded machine it may take a while until the one that runs gets a processor just then.
        if round >= 10 && told > 0 {
            break;
        }
        let profile = everprof::threads().unwrap();
        assert!(profile.tags.contains_key("service"));
        assert_eq!(profile.totals(), [ids(&profile).len() as i64]);
        let of = |name, key| label(&profile, &of_name(&profile, name), key);
        if of("waiter", "state").as_deref() == Some("unknown") {
            return common::skip("states of threads", "there is no /proc/self/task/TID/syscall here");
        }
        assert_eq!(of("waiter", "state").as_deref(), Some("off_cpu"));
        assert_eq!(of("waiter", "wait").as_deref(), Some("thread"));
        assert_eq!(of("waiter", "syscall").as_deref(), Some("futex"));
        assert_eq!(of("waiter", "tenant").as_deref(), Some("a"));
        assert_eq!(of("sleeper", "wait").as_deref(), Some("timer"), "round {round}");
        let runs = of("runner", "state").unwrap();
        assert!(runs == "on_cpu" || runs == "runnable", "{runs}");
        let stack = names(&profile, profile.get_stack(of_name(&profile, "runner").stack));
        told += u32::from(stack.iter().any(|name| name.contains("runs_for_ever")));
        assert_eq!(of("everprof", "state").as_deref(), Some("on_cpu"));
        let stack = names(&profile, profile.get_stack(of_name(&profile, "waiter").stack));
        assert!(stack.iter().any(|name| name.contains("waits_for_the_end")), "{stack:?}");
        assert!(ids(&profile).contains(&gettid()));
    }
    println!("the one that runs told its stack {told} times");
    assert!(told > 0);
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

/// Every thread of the process with its name, as the kernel tells them.
fn of_the_kernel() -> BTreeMap<u32, String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    let named = ids.filter_map(|id: u32| {
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
        Some((id, name.trim_end().to_owned()))
    });
    named.collect()
}

/// One thread ends and another begins between two snapshots, so that there are as many as before.
fn as_the_kernel_says() {
    let (profiler, dir) = start("kernel", "cpu");
    let begin = |round: usize| {
        let (end, ended) = mpsc::channel::<()>();
        let work = move || waits_for_the_end(&ended);
        (end, thread::Builder::new().name(format!("thread {round}")).spawn(work).unwrap())
    };
    let mut living: std::collections::VecDeque<_> = (0..8).map(begin).collect();
    let mut compared = 0;
    for round in 8..10_000 {
        if compared == 50 {
            break;
        }
        if let Some((end, thread)) = living.pop_front() {
            drop(end);
            thread.join().unwrap();
        }
        living.push_back(begin(round));
        let before = of_the_kernel();
        let profile = everprof::threads().unwrap();
        // A thread has its name a moment after its birth.
        if of_the_kernel() != before
            || before.values().filter(|name| name.starts_with("thread ")).count() != 8
        {
            continue;
        }
        let told: BTreeMap<u32, String> = profile
            .samples()
            .map(|sample| {
                let of = |key| label(&profile, &sample, key).unwrap_or_default();
                (of("thread_id").parse().unwrap(), of("thread_name"))
            })
            .collect();
        assert_eq!((&told, told.len()), (&before, profile.samples().count()), "round {round}");
        compared += 1;
    }
    println!("{compared} snapshots compared");
    assert!(compared == 50);
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

/// While 2,000 threads a second and more begin and end, those that stay are all there.
fn churn() {
    let (profiler, dir) = start("churn", "cpu");
    let stay = Arc::new((Mutex::new(()), Condvar::new()));
    let (tell, told) = mpsc::channel();
    for _ in 0..50 {
        let (stay, tell) = (stay.clone(), tell.clone());
        thread::spawn(move || {
            tell.send(gettid()).unwrap();
            drop(stay.1.wait(stay.0.lock().unwrap()));
        });
    }
    let staying: BTreeSet<u32> = told.iter().take(50).collect();
    let (done, born) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let breeders: Vec<_> = (0..2)
        .map(|_| {
            let (done, born) = (done.clone(), born.clone());
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let some: Vec<_> = (0..20).map(|_| thread::spawn(|| {})).collect();
                    some.into_iter().for_each(|thread| thread.join().unwrap());
                    born.fetch_add(20, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut shots = 0;
    while shots < 30 || born.load(Ordering::Relaxed) < 2_000 {
        let profile = everprof::threads().unwrap();
        let there = ids(&profile);
        let missing: Vec<_> = staying.difference(&there).collect();
        assert!(missing.is_empty(), "{missing:?} of {} threads", there.len());
        shots += 1;
    }
    println!("{shots} snapshots, {} threads that came and went", born.load(Ordering::Relaxed));
    done.store(true, Ordering::Relaxed);
    breeders.into_iter().for_each(|thread| thread.join().unwrap());
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

/// One that holds every signal back and runs: it cannot be asked, and is there with a mark, over and over.
fn deaf() {
    let (profiler, dir) = start("deaf", "cpu");
    let spawn = |name: &str, work: fn()| {
        thread::Builder::new().name(name.into()).spawn(work).unwrap();
    };
    spawn("deaf", || {
        // SAFETY: all-zero is a valid set.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is live.
        unsafe { libc::sigfillset(&mut all) };
        // SAFETY: the set is live and was filled.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut()) };
        runs_for_ever();
    });
    thread::sleep(Duration::from_millis(300));
    for _ in 0..20 {
        let profile = everprof::threads().unwrap();
        let of = |name, key| label(&profile, &of_name(&profile, name), key).unwrap_or_default();
        let deaf = of("deaf", "state");
        assert!(deaf == "on_cpu" || deaf == "runnable", "{deaf}");
        let stack = names(&profile, profile.get_stack(of_name(&profile, "deaf").stack));
        assert!(matches!(stack[..], ["[running]" | "[waiting for a processor]"]), "{stack:?}");
    }
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

fn thousand() {
    let (profiler, dir) = start("thousand", "cpu");
    let barrier = Arc::new(Barrier::new(1001));
    for _ in 0..1000 {
        let barrier = barrier.clone();
        thread::Builder::new()
            .stack_size(64 << 10)
            .name("idle".into())
            .spawn(move || {
                barrier.wait();
                thread::sleep(Duration::from_secs(3600));
            })
            .unwrap();
    }
    barrier.wait();
    thread::sleep(Duration::from_millis(100));
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        let profile = everprof::threads().unwrap();
        println!("{:?} for {} threads", begin.elapsed(), ids(&profile).len());
        let mut states: BTreeMap<Option<String>, u32> = BTreeMap::new();
        for sample in profile.samples() {
            if label(&profile, &sample, "thread_name").as_deref() == Some("idle") {
                *states.entry(label(&profile, &sample, "wait")).or_default() += 1;
            }
        }
        println!("{states:?}");
        assert_eq!(states.values().sum::<u32>(), 1000);
    }
    stop(profiler);
    let _ = std::fs::remove_dir_all(dir);
}

fn of_periods() {
    let (profiler, dir) = start("periods", "threads");
    flush(&profiler);
    flush(&profiler);
    let found = kind_of(&dir, "threads");
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|profile| ids(profile).contains(&gettid()) && profile.duration_nanos == 0));
    assert!(kind_of(&dir, "cpu").is_empty());
    let error = everprof::record(Kind::Threads).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("everprof::threads"), "{error}");
    stop(profiler);
    std::fs::remove_dir_all(dir).unwrap();
}

fn without() {
    assert_eq!(everprof::threads().unwrap_err().kind(), ErrorKind::Unavailable);
}
