//! The wall clock where the kernel tells less: no `/proc/.../syscall`, no reading of memory, as under gVisor or a sandbox.
//!
//! Each case runs in a process of its own, in which `open` is ours (a program's own function stands before the C
//! library's) and a filter of system calls forbids the rest. Ground truth are the threads' own counts.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr, dead_code)]

#[path = "wall/calls.rs"]
mod calls;
#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::{LabelValue, Profile};
use everprof::{Profiler, Stats};
use everprof_probe::os::{Clock, gettid, ready_time};

use common::{LOOKS_BUDGET, burn, directory, flush, kind_of, names, stop};

const CASES: &[(&str, fn())] = &[
    ("kernel_does_not_tell_the_call", untold),
    ("kernel_does_not_tell_and_nobody_may_be_asked", untold_never),
    ("memory_is_read_through_the_file", second_way),
    ("stacks_cannot_be_read", unreadable),
    ("each_wait_is_interrupted_once_at_most", once_at_most),
    ("threads_that_work_between_their_waits", bursts),
    ("a_thread_that_holds_the_signal_back", deaf),
];

fn main() {
    common::main("wall_signal", CASES, 3);
}

/// What a path ends with that nobody may open.
static HIDDEN: Mutex<&str> = Mutex::new("");

/// Stands before the C library's function of that name.
///
/// # Safety
///
/// As of that function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(path) }.to_bytes();
    let hidden = *HIDDEN.lock().unwrap();
    if !hidden.is_empty() && name.starts_with(b"/proc/") && name.ends_with(hidden.as_bytes()) {
        // SAFETY: takes no argument and cannot fail.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: always the calling thread's own.
        unsafe { *errno = libc::ENOENT };
        return -1;
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int }
}

/// From now on `call` fails in this process with EPERM, as in many sandboxes.
fn forbid(call: c_long) {
    let step = |code: u32, yes, no, k| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let mut program = [
        // The number of the call.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is live.
    let set =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(set, 0);
}

fn start(dir: &Path, wall_signal: &str) -> Profiler {
    Profiler::builder()
        .dir(dir.join("profiles"))
        .set("kinds", "cpu,wall")
        .set("cpu_budget_percent", LOOKS_BUDGET)
        .set("wall_rate_hz", "99")
        .set("wall_signal", wall_signal)
        .set("symbolize", "names")
        .start()
        .unwrap()
}

/// What the threads that waited were told as.
struct Outcome {
    profile: Profile,
    stats: Stats,
    /// By thread name: how often one of its waits was interrupted at most.
    worst: Vec<c_int>,
    /// For how many seconds each of them lived.
    lives: Vec<f64>,
}

const NAMES: [&str; 4] = ["poll", "epoll", "sleep", "select"];

/// Four threads that wait for 300 ms, five times each, in four calls.
fn wait_in_four_ways(name: &str, wall_signal: &str) -> Option<Outcome> {
    let dir = directory(name);
    let library = calls::library(&dir, name)?;
    let profiler = start(&dir, wall_signal);
    let one = |(way, name): (c_int, &str)| {
        let work = move || {
            let begin = Instant::now();
            ((library.wait_whole)(way, 5, 300), begin.elapsed().as_secs_f64())
        };
        thread::Builder::new().name(name.into()).spawn(work).unwrap()
    };
    let threads: Vec<_> = (0..calls::WAYS).zip(NAMES).map(one).collect();
    let (worst, lives): (Vec<c_int>, Vec<f64>) =
        threads.into_iter().map(|thread| thread.join().unwrap()).unzip();
    flush(&profiler);
    let stats = profiler.stats();
    stop(profiler);
    let profile =
        kind_of(&dir.join("profiles"), "wall").into_iter().max_by_key(|one| one.totals()[1]).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    println!("{:#?}", off_cpu(&profile));
    println!(
        "worst {worst:?}; {} signals to threads that waited, {} looks without the kernel's help; {:?}",
        stats.wall_signals, stats.wall_untold, stats.last_problem
    );
    Some(Outcome { profile, stats, worst, lives })
}

fn off_cpu(profile: &Profile) -> BTreeMap<[String; 3], (f64, f64)> {
    by_state(profile, &["off_cpu"])
}

/// Seconds in some states by thread, wait and call, and of that with a whole stack.
fn by_state(profile: &Profile, states: &[&str]) -> BTreeMap<[String; 3], (f64, f64)> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels);
        let value = |key: &str| {
            let label = labels.iter().find(|label| label.key == key);
            label.map_or(String::new(), |label| match &label.value {
                LabelValue::Text(text) => text.clone(),
                LabelValue::Number(number, _) => number.to_string(),
            })
        };
        if states.contains(&value("state").as_str()) {
            let sum: &mut (f64, f64) = sums.entry(["thread_name", "wait", "syscall"].map(value)).or_default();
            let names = names(profile, profile.get_stack(sample.stack));
            let whole = names.iter().any(|name| name.contains("clone3") || *name == "_start");
            sum.0 += sample.values[1] as f64 / 1e9;
            sum.1 += if whole { sample.values[1] as f64 / 1e9 } else { 0.0 };
        }
    }
    sums
}

impl Outcome {
    /// Seconds that `thread` waited, and of that with a whole stack.
    fn of(&self, thread: &str, wait: &str) -> (f64, f64) {
        let all = off_cpu(&self.profile);
        let own = all.iter().filter(|(key, _)| key[0] == thread && (wait.is_empty() || key[1] == wait));
        own.fold((0.0, 0.0), |sum, (_, time)| (sum.0 + time.0, sum.1 + time.1))
    }

    /// 1.5 s of waits each, from a thread's birth to the look after its end, which may be a round and a half later. On a
    /// crowded machine some of it is time in which it was ready to go on.
    fn is_complete(&self) {
        let life = by_state(&self.profile, &["off_cpu", "runnable", "on_cpu"]);
        for (name, lived) in NAMES.into_iter().zip(&self.lives) {
            let all: f64 = life.iter().filter(|(key, _)| key[0] == name).map(|(_, (all, _))| all).sum();
            let (waited, _) = self.of(name, "");
            println!("{name}: {waited:.3} of a life of {all:.3} s, {lived:.3} by itself");
            let range = lived - 0.05..lived + 0.3;
            assert!(range.contains(&all) && waited > 0.75 * all, "{name}: {waited} of {all}, {lived}");
        }
    }
}

/// Threads are asked, once for each wait, and tell the call themselves.
fn untold() {
    *HIDDEN.lock().unwrap() = "/syscall";
    let Some(outcome) = wait_in_four_ways("untold", "auto") else { return };
    outcome.is_complete();
    assert!(outcome.worst.iter().all(|worst| *worst <= 1), "{:?}", outcome.worst);
    for (name, wait) in NAMES.into_iter().zip(["timer", "events", "timer", "timer"]) {
        let ((all, _), (right, whole)) = (outcome.of(name, ""), outcome.of(name, wait));
        assert!(right > 0.9 * all && whole > 0.9 * all, "{name}: {right} and {whole} of {all}");
    }
    let stats = outcome.stats;
    // 20 waits, and those of the main thread and of our own.
    assert!((15..60).contains(&stats.wall_signals), "{}", stats.wall_signals);
    assert!(stats.last_problem.unwrap().contains("does not tell where threads wait"));
}

fn untold_never() {
    *HIDDEN.lock().unwrap() = "/syscall";
    let Some(outcome) = wait_in_four_ways("untold-never", "never") else { return };
    outcome.is_complete();
    assert_eq!((outcome.worst, outcome.stats.wall_signals), (vec![0; 4], 0));
    assert!(outcome.stats.wall_untold > 0);
    assert!(outcome.stats.last_problem.unwrap().contains("wall_signal=never"));
}

fn second_way() {
    forbid(libc::SYS_process_vm_readv);
    let Some(outcome) = wait_in_four_ways("second", "auto") else { return };
    outcome.is_complete();
    assert_eq!((outcome.worst.clone(), outcome.stats.wall_untold), (vec![0; 4], 0));
    for name in NAMES {
        let (all, whole) = outcome.of(name, "");
        assert!(whole > 0.95 * all, "{name}: {whole} of {all}");
    }
}

/// Neither way: no tables can be made either, so that all there is are the leaf and the call.
fn unreadable() {
    forbid(libc::SYS_process_vm_readv);
    *HIDDEN.lock().unwrap() = "/mem";
    for wall_signal in ["auto", "never"] {
        let Some(outcome) = wait_in_four_ways("unreadable", wall_signal) else { return };
        outcome.is_complete();
        let most = i32::from(wall_signal == "auto");
        assert!(outcome.worst.iter().all(|worst| *worst <= most), "{:?}", outcome.worst);
        let (all, told) = (outcome.of("sleep", "").0, outcome.of("sleep", "timer").0);
        assert!(told > 0.9 * all, "the kernel tells the call: {told} of {all}");
    }
}

/// 10,000 calls of two milliseconds and some long ones while each is asked: no wait is interrupted twice.
fn once_at_most() {
    *HIDDEN.lock().unwrap() = "/syscall";
    let dir = directory("once");
    let Some(library) = calls::library(&dir, "waits that are interrupted once at most") else { return };
    let profiler = start(&dir, "auto");
    let one = |number| {
        let (way, millis) = (number % calls::WAYS, if number < 8 { 2 } else { 450 });
        thread::spawn(move || (library.wait_whole)(way, 2500 / millis, millis))
    };
    let threads: Vec<_> = (0..12).map(one).collect();
    let worst: Vec<c_int> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let stats = profiler.stats();
    stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
    println!("worst {worst:?}, {} signals to threads that waited", stats.wall_signals);
    assert!(worst.iter().all(|worst| *worst <= 1), "{worst:?}");
    // On a crowded machine there are fewer looks.
    assert!(stats.wall_signals > 30, "that was to be tested");
}

/// They are asked again and again, and run between: what is told is right still.
fn bursts() {
    *HIDDEN.lock().unwrap() = "/syscall";
    let dir = directory("bursts");
    let profiler = start(&dir, "auto");
    let work = || {
        let begin = Instant::now();
        for _ in 0..100 {
            burn(Duration::from_millis(2));
            thread::sleep(Duration::from_millis(18));
        }
        let busy = Clock::Thread(gettid()).now().unwrap() + ready_time(gettid()).unwrap();
        begin.elapsed().as_secs_f64() - busy as f64 / 1e9
    };
    let waited = thread::Builder::new().name("both".into()).spawn(work).unwrap().join().unwrap();
    stop(profiler);
    let profile =
        kind_of(&dir.join("profiles"), "wall").into_iter().max_by_key(|one| one.totals()[1]).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let told = off_cpu(&profile);
    println!("{told:#?}");
    let of = |wait: &str| -> f64 {
        told.iter().filter(|(key, _)| key[0] == "both" && key[1] == wait).map(|(_, (all, _))| all).sum()
    };
    let all = of("timer") + of("other") + of("disk");
    for state in ["on_cpu", "runnable", "off_cpu"] {
        let of = by_state(&profile, &[state]);
        let time: f64 = of.iter().filter(|(key, _)| key[0] == "both").map(|(_, (all, _))| all).sum();
        println!("{state}: {time:.3} s");
    }
    println!("{all:.3} of {waited:.3} s");
    assert!((all - waited).abs() < 0.1 + 0.03 * waited, "{all} of {waited}");
    assert!(of("timer") > 0.9 * all, "{told:?}");
}

/// A thread that holds every signal back is asked once and never answers; its time is told without a stack.
fn deaf() {
    *HIDDEN.lock().unwrap() = "/syscall";
    let dir = directory("deaf");
    let profiler = start(&dir, "auto");
    let work = || {
        // SAFETY: all zero is a set of signals.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is ours.
        unsafe { libc::sigfillset(&mut all) };
        // SAFETY: the set is initialised.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()) };
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(300));
            burn(Duration::from_millis(2));
        }
    };
    thread::Builder::new().name("deaf".into()).spawn(work).unwrap().join().unwrap();
    flush(&profiler);
    let stats = profiler.stats();
    stop(profiler);
    let profile =
        kind_of(&dir.join("profiles"), "wall").into_iter().max_by_key(|one| one.totals()[1]).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let told = off_cpu(&profile);
    let all: f64 = told.iter().filter(|(key, _)| key[0] == "deaf").map(|(_, (all, _))| all).sum();
    println!("{all} of 3 s, {} signals sent; {told:#?}", stats.wall_signals);
    assert!((2.7..3.2).contains(&all), "{all}");
    assert!(stats.wall_signals < 15, "{}", stats.wall_signals);
}
