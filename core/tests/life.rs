//! The life of a process around the profiler: fork, exec, exit, panics, and other users of the signal.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use everprof::export::{Exporter, Set};
use everprof::{ErrorKind, Profiler};

use common::{burn, directory, flush, profiles, stop, time_in};

const CASES: &[(&str, fn())] = &[
    ("fork_child_goes_on_under_a_name_of_its_own", fork_child_goes_on),
    ("fork_and_exec_storm_kills_nobody", fork_and_exec_storm),
    ("exec_leaves_no_signal_behind", exec_leaves_no_signal_behind),
    ("exit_writes_the_last_profile", exit_writes_the_last_profile),
    ("panic_writes_the_last_profile", panic_writes_the_last_profile),
    ("start_and_stop_race_with_busy_threads", start_and_stop_race),
    ("start_behind_a_stop_samples", start_behind_a_stop),
    ("exporter_that_panics_fails_with_its_set_alone", exporter_that_panics),
    ("fork_in_a_destructor_of_a_thread_does_no_harm", fork_in_a_destructor),
    ("signal_of_another_is_left_to_it", signal_of_another_is_left_to_it),
    ("signal_taken_away_later_does_not_kill", signal_taken_away_later),
    ("foreign_signals_reach_the_chained_handler", foreign_signals_are_chained),
    ("exporter_that_hangs_costs_a_bounded_memory", exporter_that_hangs),
    ("perf_events_end_though_a_child_has_them", perf_events_end),
    ("switched_off_by_the_environment", switched_off_by_the_environment),
    ("unwritable_directory_leaves_the_host_alone", unwritable_directory),
];

fn main() {
    common::main("life", CASES, 2);
}

/// Forks, runs `child` in the child, and returns its exit code.
fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the child runs ordinary code, as programs that fork do; the C library makes that work.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        child();
        // SAFETY: runs the exit handlers, which is what is tested.
        unsafe { libc::exit(0) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live value.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert!(libc::WIFEXITED(status), "the child was killed: {status:x}");
    libc::WEXITSTATUS(status)
}

/// Nanoseconds of burning in every profile.
fn burned(dir: &Path) -> i64 {
    profiles(dir).iter().map(|profile| time_in(profile, "burn")).sum()
}

fn instances(dir: &Path) -> BTreeSet<String> {
    profiles(dir).into_iter().filter_map(|profile| profile.tags.get("instance").cloned()).collect()
}

#[inline(never)]
fn work_of_the_child() {
    burn(Duration::from_millis(400));
}

fn fork_child_goes_on() {
    let dir = directory("fork");
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    burn(Duration::from_millis(200));
    let code = fork(|| {
        work_of_the_child();
        thread::spawn(work_of_the_child).join().unwrap();
        // At its exit it would wait 2 seconds, which a crowded machine may not find time in.
        flush(&profiler);
    });
    assert_eq!(code, 0);
    burn(Duration::from_millis(200));
    stop(profiler);
    assert_eq!(instances(&dir).len(), 2, "parent and child have an instance each");
    let profiles = profiles(&dir);
    let child = profiles.iter().find(|profile| time_in(profile, "work_of_the_child") > 0).unwrap();
    let (worked, total) = (time_in(child, "work_of_the_child"), child.totals()[1]);
    assert!(worked > 500_000_000 && worked * 10 > total * 8, "{worked} of {total}");
    common::remove(&dir);
}

fn busy(stop: &'static AtomicBool, threads: usize) -> Vec<thread::JoinHandle<()>> {
    let spin = move || {
        while !stop.load(Ordering::Relaxed) {
            burn(Duration::from_millis(1));
        }
    };
    (0..threads).map(|_| thread::spawn(spin)).collect()
}

fn fork_and_exec_storm() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let dir = directory("storm");
    let profiler = Profiler::builder().dir(&dir).rate_hz(1000).start().unwrap();
    let busy = busy(&STOP, 3);
    for round in 0..60 {
        assert!(Command::new("/bin/true").status().unwrap().success());
        let mut with_hook = Command::new("/bin/true");
        // A hook forces a real fork instead of posix_spawn.
        // SAFETY: the hook does nothing.
        unsafe { with_hook.pre_exec(|| Ok(())) };
        assert!(with_hook.status().unwrap().success(), "round {round}");
        assert_eq!(fork(|| burn(Duration::from_millis(3))), 0);
    }
    STOP.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    stop(profiler);
    common::remove(&dir);
}

fn exec_leaves_no_signal_behind() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let dir = directory("exec");
    let profiler = Profiler::builder().dir(&dir).rate_hz(10_000).start().unwrap();
    let _busy = busy(&STOP, 3);
    burn(Duration::from_millis(100));
    std::mem::forget(profiler);
    // Burning in the new program would meet a timer or a pending signal that survived.
    let error =
        Command::new("/bin/sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).exec();
    panic!("{error}");
}

fn exit_writes_the_last_profile() {
    let dir = directory("exit");
    let code = fork(|| {
        let profiler = Profiler::builder().dir(&dir).set("symbolize", "names").start().unwrap();
        burn(Duration::from_millis(200));
        std::mem::forget(profiler);
        std::process::exit(3);
    });
    assert_eq!(code, 3);
    assert!(burned(&dir) > 100_000_000);
    common::remove(&dir);
}

fn panic_writes_the_last_profile() {
    let dir = directory("panic");
    let path = dir.clone();
    let panicked = thread::spawn(move || {
        let _profiler = Profiler::builder().dir(&path).set("symbolize", "names").start().unwrap();
        burn(Duration::from_millis(200));
        // Without a word: it is not what a reader of the output should look for.
        std::panic::set_hook(Box::new(|_| {}));
        panic!("as planned");
    });
    assert!(panicked.join().is_err());
    let _ = std::panic::take_hook();
    assert!(burned(&dir) > 100_000_000);
    common::remove(&dir);
}

fn start_and_stop_race() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let dir = directory("race");
    let busy = busy(&STOP, 4);
    for _ in 0..40 {
        let profiler = Profiler::builder().dir(&dir).rate_hz(10_000).set("symbolize", "off").start().unwrap();
        burn(Duration::from_millis(5));
        stop(profiler);
    }
    // Two threads that start at once: one wins, the other hears why.
    let outcomes: Vec<_> = (0..2)
        .map(|_| {
            let dir = dir.clone();
            thread::spawn(move || Profiler::builder().dir(dir).start())
        })
        .map(|thread| thread.join().unwrap())
        .collect();
    let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::AlreadyRunning) && errors.len() < 2);
    STOP.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    drop(outcomes);
    common::remove(&dir);
}

/// One thread starts while another stops: the profiler that is told to end does not shut the doors of the next one.
fn start_behind_a_stop() {
    let dir = directory("behind");
    let start = || Profiler::builder().dir(&dir).rate_hz(1000).set("symbolize", "off").start();
    let mut profiler = start().unwrap();
    for round in 0..40 {
        profiler = thread::scope(|scope| {
            let next = scope.spawn(|| {
                loop {
                    match start() {
                        Ok(next) => return next,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyRunning, "{error}"),
                    }
                }
            });
            let _ = profiler.stop();
            next.join().unwrap()
        });
        let recorder = everprof::recorder::Recorder::new();
        // The ticks of a crowded machine may miss a thread for a while.
        let samples = (0..50).any(|_| {
            burn(Duration::from_millis(20));
            flush(&profiler);
            profiler.stats().samples > 0
        });
        let stats = profiler.stats();
        assert!(stats.running && samples, "round {round}: {stats:?}");
        assert!(recorder.record(&Default::default()), "round {round}: the door is shut");
    }
    stop(profiler);
    common::remove(&dir);
}

struct Panics(u32);

impl Exporter for Panics {
    fn name(&self) -> String {
        "one that panics".into()
    }

    fn export(&mut self, _: &Set) -> everprof::Result<()> {
        self.0 += 1;
        assert!(self.0 > 1, "as planned");
        Ok(())
    }
}

fn exporter_that_panics() {
    // Without a word, as above.
    std::panic::set_hook(Box::new(|_| {}));
    let exporters = || vec![Box::new(Panics(0)) as Box<dyn Exporter>];
    let start = Profiler::builder().rate_hz(1000).set("symbolize", "off").exporters(exporters).start();
    let profiler = start.unwrap();
    burn(Duration::from_millis(50));
    flush(&profiler);
    let stats = profiler.stats();
    assert_eq!((stats.exported, stats.export_failures), (0, 1));
    assert!(stats.last_problem.unwrap().contains("panicked"));
    burn(Duration::from_millis(50));
    flush(&profiler);
    let stats = profiler.stats();
    assert_eq!((stats.running, stats.exported, stats.export_failures), (true, 1, 1));
    let _ = std::panic::take_hook();
    stop(profiler);
}

/// Forks when it is dropped: in a destructor of a value of the thread.
struct Forks(bool);

impl Drop for Forks {
    fn drop(&mut self) {
        if !std::mem::take(&mut self.0) {
            return;
        }
        let code = fork(|| {
            // The child has a profiler of its own that answers.
            let there = everprof::threads().map(|profile| profile.samples().len());
            // SAFETY: nothing of the parent's is to be cleaned up here.
            unsafe { libc::_exit(i32::from(!there.is_ok_and(|there| there == 3))) };
        });
        assert_eq!(code, 0, "the child");
    }
}

/// The first fork of the thread is in its last destructor, and one before it was in its work: what we keep on a thread
/// while it forks has to be there in both.
fn fork_in_a_destructor() {
    thread_local! {
        static FORKS: std::cell::RefCell<Forks> = const { std::cell::RefCell::new(Forks(false)) };
    }
    let dir = directory("destructor");
    let profiler = Profiler::builder().dir(&dir).set("symbolize", "off").start().unwrap();
    let forks = thread::spawn(|| {
        FORKS.with_borrow_mut(|forks| forks.0 = true);
        // SAFETY: nothing of the parent's is to be cleaned up here.
        fork(|| unsafe { libc::_exit(0) })
    });
    assert_eq!(forks.join().unwrap(), 0);
    stop(profiler);
    common::remove(&dir);
}

static FOREIGN: AtomicU32 = AtomicU32::new(0);

extern "C" fn foreign_handler(_: i32) {
    FOREIGN.fetch_add(1, Ordering::Relaxed);
}

fn take_sigprof(handler: usize) {
    // SAFETY: the handler, if it is one, only counts.
    unsafe { libc::signal(libc::SIGPROF, handler) };
}

fn foreign() -> usize {
    foreign_handler as *const () as usize
}

fn signal_of_another_is_left_to_it() {
    let dir = directory("occupied");
    take_sigprof(foreign());
    let refused = Profiler::builder().dir(&dir).set("signal", "prof").start().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    assert!(profiler.stats().signal > libc::SIGPROF, "a real-time signal");
    burn(Duration::from_millis(300));
    // SAFETY: has a handler.
    unsafe { libc::raise(libc::SIGPROF) };
    assert_eq!(FOREIGN.load(Ordering::Relaxed), 1);
    stop(profiler);
    assert!(burned(&dir) > 200_000_000);
    common::remove(&dir);
}

fn signal_taken_away_later() {
    let dir = directory("taken");
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    take_sigprof(foreign());
    burn(Duration::from_millis(2500));
    flush(&profiler);
    let stats = profiler.stats();
    assert!(stats.signal != libc::SIGPROF, "{stats:?}");
    assert!(stats.last_problem.unwrap().contains("another library"));
    let before = FOREIGN.load(Ordering::Relaxed);
    burn(Duration::from_millis(300));
    assert_eq!(FOREIGN.load(Ordering::Relaxed), before, "our timers do not disturb it any more");
    stop(profiler);
    assert!(burned(&dir) > 300_000_000);
    common::remove(&dir);
}

static PASSED_ON: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

extern "C" fn wants_all(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: who asks for it is given the kernel's information.
    let told = unsafe { (*info).si_signo };
    assert!(told == signal && !context.is_null());
    PASSED_ON[0].fetch_add(1, Ordering::Relaxed);
}

extern "C" fn wants_little(signal: i32) {
    assert_eq!(signal, libc::SIGUSR2);
    PASSED_ON[1].fetch_add(1, Ordering::Relaxed);
}

/// Two signals that others had before us, as happens where they set their handlers at the moment of our start: what is
/// not ours goes to whom it belongs, while we run and after.
fn foreign_signals_are_chained() {
    let dir = directory("chained");
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    let handlers = [
        (libc::SIGUSR1, wants_all as *const () as usize, libc::SA_SIGINFO),
        (libc::SIGUSR2, wants_little as *const () as usize, 0),
    ];
    for (signal, handler, flags) in handlers {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        // SAFETY: the action is live and whole.
        assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
        assert!(everprof_probe::sigprof::install(signal));
    }
    let raise_all = || {
        for (signal, ..) in handlers {
            // SAFETY: has a handler.
            unsafe { libc::raise(signal) };
        }
    };
    let passed_on = || PASSED_ON.each_ref().map(|count| count.load(Ordering::Relaxed));
    raise_all();
    assert_eq!(passed_on(), [1, 1], "while we run");
    stop(profiler);
    raise_all();
    assert_eq!(passed_on(), [2, 2], "and after");
}

struct Hanging;

static HANGS: AtomicBool = AtomicBool::new(true);
static EXPORTED: AtomicU32 = AtomicU32::new(0);

impl Exporter for Hanging {
    fn name(&self) -> String {
        "a disk that does not answer".into()
    }

    fn export(&mut self, _: &Set) -> everprof::Result<()> {
        EXPORTED.fetch_add(1, Ordering::SeqCst);
        while HANGS.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Periods go on to end while the first one is not exported: only so many are kept, and the others are told.
fn exporter_that_hangs() {
    const ENDS: u32 = 20;
    let exporters = || vec![Box::new(Hanging) as Box<dyn Exporter>];
    let builder = Profiler::builder().rate_hz(1000).set("symbolize", "off").exporters(exporters);
    // Eight sets of so few samples.
    let profiler = builder.set("push_queue_bytes", "64KiB").start().unwrap();
    thread::scope(|scope| {
        for _ in 0..ENDS {
            burn(Duration::from_millis(20));
            scope.spawn(|| assert_eq!(profiler.flush().unwrap_err().kind(), ErrorKind::Unavailable));
        }
    });
    HANGS.store(false, Ordering::Relaxed);
    flush(&profiler);
    let (stats, exported) = (profiler.stats(), EXPORTED.load(Ordering::SeqCst));
    assert!((5..15).contains(&exported), "{exported} were kept");
    assert!(stats.export_evicted >= 5 && stats.export_failures == stats.export_evicted, "{stats:?}");
    assert!(stats.last_problem.unwrap().contains("given up"));
    stop(profiler);
}

/// A child of a fork has the descriptors of the parent's events, and closing them in the parent alone ends nothing.
fn perf_events_end() {
    let dir = directory("events");
    let start = Profiler::builder().dir(&dir).rate_hz(1000).set("cpu_clock", "perf_event").start();
    let profiler = start.unwrap();
    flush(&profiler);
    if profiler.stats().cpu_clock != "perf_event" {
        return common::skip("the end of perf events", "they are not permitted here");
    }
    // SAFETY: the child waits to be killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }
    stop(profiler);
    take_sigprof(foreign());
    burn(Duration::from_millis(200));
    let late = FOREIGN.load(Ordering::Relaxed);
    // SAFETY: the child is ours.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: nothing is asked but that it is gone.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    assert_eq!(late, 0, "signals after the stop");
    common::remove(&dir);
}

fn switched_off_by_the_environment() {
    let dir = directory("off");
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("EVERPROF_ENABLED", "false") };
    let profiler = Profiler::builder().dir(&dir).set("enabled", "true").start().unwrap();
    burn(Duration::from_millis(50));
    assert!(!profiler.stats().running);
    stop(profiler);
    assert!(!dir.exists());
}

fn unwritable_directory() {
    let dir = directory("unwritable");
    std::fs::write(&dir, "a file").unwrap();
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    burn(Duration::from_millis(100));
    flush(&profiler);
    let stats = profiler.stats();
    // Flushing is tried again where the machine is slow.
    assert!(stats.export_failures >= 1, "{stats:?}");
    assert!(stats.last_problem.unwrap().contains("unwritable"));
    std::fs::remove_file(&dir).unwrap();
    burn(Duration::from_millis(100));
    stop(profiler);
    assert!(!profiles(&dir).is_empty(), "the next period is tried again");
    common::remove(&dir);
}
