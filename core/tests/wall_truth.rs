//! The truth of the wall clock by figures: what each thread counted itself, beside what the profile says of it.
//!
//! What a thread waits is exact, by clocks: its life without what it ran and what it was ready to run. Only where it
//! waited is left to chance. Of `N` looks that found it waiting, a share `p` has the standard deviation
//! `sqrt(w * p * (1 - p) / N)`, where `w = 1 + 1/12`, the mean of the squares of looks' distances, which are spread evenly
//! over half to one and a half of the period, by the square of their mean; three of them is the tolerance.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr, dead_code)]

#[path = "wall/calls.rs"]
mod calls;
#[path = "common/mod.rs"]
mod common;
#[path = "wall/lives.rs"]
mod lives;
#[path = "wall/odd.rs"]
mod odd;
#[path = "wall/stopped.rs"]
mod stopped;

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof::profile::{LabelValue, Profile, Sample};
use everprof_probe::os::{Clock, gettid, ready_time};

use common::{burn, by_labels, directory, flush, kind_of, skip, stop};

const CASES: &[(&str, fn())] = &[
    ("waits_in_known_proportions", || proportions(RATE, 4, 1)),
    ("waits_in_known_proportions_at_10_hz", || proportions(10, 24, 4)),
    ("waits_in_known_proportions_at_49_hz", || proportions(49, 8, 1)),
    ("waits_in_known_proportions_at_250_hz", || proportions(250, 4, 1)),
    ("waits_in_known_proportions_of_300_threads", || proportions(10, 300, 40)),
    ("waits_for_a_disk", disk),
    ("more_threads_than_processors", crowd),
    ("threads_that_live_for_a_moment", young),
    ("threads_that_end_before_the_next_look", lives::lives),
    ("a_process_that_is_stopped", stopped::process),
    ("a_thread_that_is_traced", stopped::thread),
    ("a_thread_that_waits_for_its_vforked_child", stopped::vforked),
    ("pages_that_are_read_from_a_file", odd::pages),
    ("a_stop_in_the_middle_of_waits", odd::begun_again),
    ("a_first_thread_that_ends_before_the_others", odd::first_thread),
    ("no_room_for_another_file", odd::no_room),
    ("a_process_with_another_root", odd::another_root),
];

fn main() {
    // More than one chance: three standard deviations are exceeded now and then, and others use the machine.
    common::main("wall_truth", CASES, 3);
}

pub(crate) const RATE: u32 = 99;

pub(crate) fn start(name: &str, kinds: &str) -> (Profiler, PathBuf) {
    start_at(name, kinds, RATE)
}

fn start_at(name: &str, kinds: &str, rate: u32) -> (Profiler, PathBuf) {
    let dir = directory(name);
    let builder = Profiler::builder().dir(&dir).set("kinds", kinds).set("symbolize", "names");
    // As many looks as were asked for, on any machine.
    let builder = builder.set("wall_rate_hz", rate.to_string()).set("cpu_budget_percent", "100");
    (builder.start().unwrap(), dir)
}

pub(crate) fn largest(dir: &Path, kind: &str) -> Profile {
    let profile = kind_of(dir, kind).into_iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    profile
}

/// Seconds by the values of some labels.
pub(crate) fn seconds<const N: usize>(profile: &Profile, keys: [&str; N]) -> BTreeMap<[String; N], f64> {
    by_labels(profile, keys).into_iter().map(|(key, nanos)| (key, nanos as f64 / 1e9)).collect()
}

/// How a snapshot tells the thread of that name: its state, and what it waits for.
pub(crate) fn state_of(snapshot: &Profile, name: &str) -> Option<[String; 2]> {
    let text = |sample: &Sample<'_>, key: &str| {
        let labels = snapshot.get_labels(sample.labels).iter();
        let values = labels.filter(|label| label.key == key).map(|label| match &label.value {
            LabelValue::Text(text) => text.clone(),
            LabelValue::Number(number, _) => number.to_string(),
        });
        values.collect::<String>()
    };
    let sample = snapshot.samples().find(|sample| text(sample, "thread_name") == name)?;
    Some(["state", "wait"].map(|key| text(&sample, key)))
}

/// What the calling thread does with its time, by its own clocks.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    at: Instant,
    ran: u64,
    ready: u64,
}

impl Clocks {
    pub(crate) fn now() -> Self {
        let ran = Clock::Thread(gettid()).now().unwrap();
        Self { at: Instant::now(), ran, ready: ready_time(gettid()).unwrap() }
    }

    /// Seconds that it has waited since.
    pub(crate) fn waited(self) -> f64 {
        let now = Self::now();
        let busy = (now.ran - self.ran) + (now.ready - self.ready);
        (now.at - self.at).as_secs_f64() - busy as f64 / 1e9
    }
}

/// Each of some threads waits in six calls, in an order that chance decides, and notes how long; by `scale` times the
/// milliseconds that are written here.
fn proportions(rate: u32, threads: usize, scale: u64) {
    many_files();
    const NAMES: [[&str; 2]; 6] = [
        ["clock_nanosleep", "timer"],
        ["poll", "timer"],
        ["epoll_wait", "events"],
        ["futex", "thread"],
        ["read", "pipe"],
        ["recvfrom", "network"],
    ];
    let (profiler, dir) = start_at(&format!("proportions{rate}x{threads}"), "offcpu", rate);
    let begin = Instant::now();
    let work = move |number: u64| {
        let millis = |millis| Duration::from_millis(millis * scale);
        let lock = std::sync::Mutex::new(());
        let condition = std::sync::Condvar::new();
        let mut ways: [Box<dyn FnMut()>; 6] = [
            Box::new(|| thread::sleep(millis(4))),
            // SAFETY: no descriptors are given.
            Box::new(|| _ = unsafe { libc::poll(std::ptr::null_mut(), 0, 9 * scale as i32) }),
            Box::new(calls::wait_for_events(millis(6))),
            Box::new(|| drop(condition.wait_timeout(lock.lock().unwrap(), millis(12)).unwrap())),
            Box::new(calls::read_pipe(millis(5))),
            Box::new(calls::receive(millis(8))),
        ];
        let mut waited = [0.0; 6];
        let mut chance = number;
        let whole = Clocks::now();
        while begin.elapsed() < Duration::from_secs(8) {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let way = (chance >> 33) as usize % ways.len();
            let clocks = Clocks::now();
            ways[way]();
            waited[way] += clocks.waited();
        }
        (waited, whole.waited())
    };
    let workers: Vec<_> = (0..threads as u64)
        .map(|number| thread::Builder::new().name("worker".into()).spawn(move || work(number + 1)).unwrap())
        .collect();
    let truth: Vec<_> = workers.into_iter().map(|thread| thread.join().unwrap()).collect();
    flush(&profiler);
    stop(profiler);
    let profile = largest(&dir, "offcpu");
    // The profile says how many looks a second it comes from.
    let told_rate: f64 = profile.tags["effective_rate_hz"].parse().unwrap();
    let looks = told_rate * profile.totals()[1] as f64 / 1e9;
    let told = seconds(&profile, ["thread_name", "state", "syscall", "wait"]);
    let of = |is: &dyn Fn(&[String; 4]) -> bool| -> f64 {
        told.iter().filter(|(key, _)| key[1] == "off_cpu" && is(key)).map(|(_, time)| time).sum()
    };
    println!("{told:#?}");
    let all: f64 = truth.iter().map(|(_, all)| all).sum();
    let workers = of(&|[thread, ..]| thread == "worker");
    // The looks at threads that do not move are few: the rest are at the workers, and at those who write to them.
    let n = (looks - 150.0) * workers / of(&|[thread, ..]| thread == "worker" || thread == "writer");
    println!("{workers:.3} of {all:.3} s, {n:.0} looks found a worker waiting");
    // Each is told from its birth to the look after its end, which is a tenth of a second off at the most, or a round and a
    // half as long as they were: they all begin and end together.
    let off = threads as f64 * (1.5 / told_rate).max(0.1);
    assert!((workers - all).abs() < 0.01 * all + off, "{workers} of {all}, {off}");
    // An eighth of what was asked for: of a wait that more than one look has found there is one, and others use the machine.
    assert!(n > f64::from(rate) * threads as f64, "{n} looks");
    let ready: f64 =
        told.iter().filter(|(key, _)| key[0] == "worker" && key[1] == "runnable").map(|(_, time)| time).sum();
    // Who waits for another thread waits until that has a processor. On a crowded machine our looks wait for one as well, so
    // that they are not independent of what they find.
    let crowd = ready / (ready + workers);
    println!("crowd {crowd:.3}");
    let mut wrong = Vec::new();
    for (way, [call, wait]) in NAMES.into_iter().enumerate() {
        let p = truth.iter().map(|(waited, _)| waited[way]).sum::<f64>() / all;
        let seen =
            of(&|[thread, _, told, kind]| thread == "worker" && told == call && kind == wait) / workers;
        let sigma = ((1.0 + 1.0 / 12.0) * p * (1.0 - p) / n).sqrt();
        println!("{call}: {seen:.4} of {p:.4}, {:.2} sigma of {sigma:.4}", (seen - p) / sigma);
        if (seen - p).abs() > 3.0 * sigma + crowd * p {
            wrong.push(call);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// As many open files as are allowed: each thread above has six.
fn many_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a live value.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the same.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

/// A thread that writes, and waits until the disk has it.
fn disk() {
    let (profiler, dir) = start("disk", "offcpu");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("data");
    let work = move || {
        let mut file = std::fs::File::create(&path).unwrap();
        let mut waited = 0.0;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(4) {
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&[begin.elapsed().as_millis() as u8; 512 << 10]).unwrap();
            let clocks = Clocks::now();
            file.sync_data().unwrap();
            waited += clocks.waited();
        }
        waited
    };
    let waited = thread::Builder::new().name("writes".into()).spawn(work).unwrap().join().unwrap();
    stop(profiler);
    let profile = largest(&dir, "offcpu");
    let told = seconds(&profile, ["thread_name", "state", "wait", "syscall"]);
    println!("{told:#?}");
    if waited < 0.5 {
        return skip(
            "waits for a disk",
            "the file system here takes what it is given at once, as one in memory does",
        );
    }
    let key = ["writes", "off_cpu", "disk", "fdatasync"].map(str::to_owned);
    let of = told.get(&key).copied().unwrap_or_default();
    // Of 4 seconds; what is not in the call is mostly work.
    let (p, n) = (waited / 4.0, 4.0 * f64::from(RATE) * 0.5);
    let sigma = 4.0 * ((1.0 + 1.0 / 12.0) * p * (1.0 - p) / n).sqrt();
    println!("{of:.3} of {waited:.3} s, sigma {sigma:.3}");
    assert!((of - waited).abs() < 3.0 * sigma + 0.1, "{of} of {waited}");
}

/// Three times as many threads as processors, all at work: the kernel says how long each was ready and did not run.
fn crowd() {
    let count = 3 * thread::available_parallelism().unwrap().get();
    let (profiler, dir) = start("crowd", "cpu,wall");
    let done = Arc::new(Barrier::new(count + 1));
    let threads: Vec<_> = (0..count)
        .map(|number| {
            let done = done.clone();
            let work = move || {
                burn(Duration::from_millis(400));
                let ready = ready_time(gettid()).unwrap();
                done.wait();
                // Until the period is closed.
                done.wait();
                ready as f64 / 1e9
            };
            thread::Builder::new().name(format!("burns{number}x")).spawn(work).unwrap()
        })
        .collect();
    done.wait();
    thread::sleep(Duration::from_millis(50));
    flush(&profiler);
    done.wait();
    let truth: Vec<f64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    stop(profiler);
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "state"]);
    println!("{told:#?}\n{truth:.3?}");
    for (number, ready) in truth.iter().enumerate() {
        let of = |state: &str| {
            let key = [format!("burns{number}x"), state.to_owned()];
            told.get(&key).copied().unwrap_or_default()
        };
        // What comes after the thread has read it: its wait for the others, and for their last word.
        let runnable = of("runnable");
        assert!((runnable - ready).abs() < 0.02 * ready + 0.08, "{number}: {runnable} of {ready}");
        assert!((of("on_cpu") - 0.4).abs() < 0.03, "{number}: {}", of("on_cpu"));
    }
    assert!(truth.iter().sum::<f64>() > 0.5, "that was to be tested");
}

/// Threads that are born and end while nobody looks: no life is missing, and none counts twice.
fn young() {
    const EACH: usize = 10;
    let (profiler, dir) = start("young", "cpu,wall");
    // The profiler looks for others less often after a while in which nothing happens.
    thread::sleep(Duration::from_millis(500));
    let (tell, told) = mpsc::channel();
    for round in 0..12 {
        let life = Duration::from_millis(120 + 17 * round);
        let tell = tell.clone();
        let one = move || {
            let begin = Instant::now();
            burn(Duration::from_millis(5));
            thread::sleep(life);
            tell.send(begin.elapsed().as_secs_f64()).unwrap();
        };
        let threads: Vec<_> = (0..EACH)
            .map(|_| thread::Builder::new().name("young".into()).spawn(one.clone()).unwrap())
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    drop(tell);
    let lives: Vec<f64> = told.iter().collect();
    stop(profiler);
    let truth: f64 = lives.iter().sum();
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "state"]);
    println!("{told:#?}");
    let all: f64 = told.iter().filter(|(key, _)| key[0] == "young").map(|(_, time)| time).sum();
    // The end of each lies evenly between two looks, whose middle it is taken for; those of one round end together. Before
    // its first line of code a thread may have waited for a processor.
    let sigma = 1.5 / f64::from(RATE) / 12.0_f64.sqrt() * EACH as f64 * 12.0_f64.sqrt();
    let runnable = told.get(&["young".to_owned(), "runnable".to_owned()]).copied().unwrap_or_default();
    println!("{all:.3} of {truth:.3} s, sigma {sigma:.3}, ready {runnable:.3}");
    let least = truth - 3.0 * sigma - 0.01 * truth;
    assert!(all > least && all < truth + 3.0 * sigma + 0.03 * truth + runnable, "{all} of {truth}");
}
