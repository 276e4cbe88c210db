//! Accounts that are hard to keep: thousands of threads, a process that is stopped, time in the kernel alone, rates and
//! names that change all the time, timers that are refused, another process's numbers of threads.
//!
//! Each case runs in a process of its own. Ground truth is the process's CPU clock, as in `truth.rs`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use everprof::options::Rate;
use everprof::profile::{LabelValue, Profile};
use everprof::{ErrorKind, Profiler, Stats};
use everprof_probe::os::Clock;

use common::{burn, directory, flush, profiles, skip, stop, this_program, time_in};

const CASES: &[(&str, fn())] = &[
    ("thousands_of_threads", thousands_of_threads),
    ("stopped_for_seconds", stopped_for_seconds),
    ("time_in_the_kernel", time_in_the_kernel),
    ("rates_change_while_threads_churn", rates_change),
    ("thread_renames_itself", thread_renames_itself),
    ("timers_refused_for_a_while", timers_refused),
    ("proc_of_another_namespace", proc_of_another_namespace),
];

fn main() {
    // More than one chance, as for the other totals: other programs use the machine.
    common::main("hostile", CASES, 3);
}

/// What came of a run: the profiles, and the totals beside the kernel's.
struct Outcome {
    profiles: Vec<Profile>,
    stats: Stats,
}

impl Outcome {
    fn time_in(&self, part: &str) -> i64 {
        self.profiles.iter().map(|profile| time_in(profile, part)).sum()
    }
}

/// Runs `work` under the profiler, and compares the sum of the profiles with what the process used.
fn run(name: &str, work: impl FnOnce(&Profiler)) -> Outcome {
    let dir = directory(name);
    let begin = Clock::Process.now().unwrap();
    let builder = Profiler::builder().dir(&dir).set("symbolize", "names");
    let profiler = builder.set("cpu_budget_percent", "100").start().unwrap();
    let before = Clock::Process.now().unwrap();
    work(&profiler);
    let used = Clock::Process.now().unwrap() - before;
    flush(&profiler);
    let stats = profiler.stats();
    stop(profiler);
    let at_most = Clock::Process.now().unwrap() - begin;
    let profiles = profiles(&dir);
    let _ = std::fs::remove_dir_all(&dir);
    let total: i64 = profiles.iter().map(|profile| profile.totals()[1]).sum();
    let (ratio, most) = (total as f64 / used as f64, 1.01 * at_most as f64 / used as f64);
    println!(
        "{name}: ratio {ratio:.4} of {:.3} s, at most {most:.4}; {} samples, {:?} in our threads",
        used as f64 / 1e9,
        stats.samples,
        stats.threads_cpu
    );
    assert!((0.98..most).contains(&ratio), "the total is off: {ratio} is not within 0.98 and {most}");
    Outcome { profiles, stats }
}

/// Threads that live already and threads that come, all at work for a moment and then at rest.
fn thousands_of_threads() {
    const EACH: usize = 1000;
    let barrier = Arc::new(Barrier::new(2 * EACH + 1));
    let crowd = || -> Vec<_> {
        let life = |barrier: Arc<Barrier>| {
            move || {
                burn(Duration::from_micros(200));
                barrier.wait();
                burn(Duration::from_micros(500));
                barrier.wait();
            }
        };
        let one = || thread::Builder::new().stack_size(64 << 10).spawn(life(barrier.clone())).unwrap();
        (0..EACH).map(|_| one()).collect()
    };
    let mut threads = crowd();
    let outcome = run("thousands", |profiler| {
        threads.extend(crowd());
        barrier.wait();
        barrier.wait();
        flush(profiler);
        assert!(profiler.stats().threads >= 1);
        threads.drain(..).for_each(|thread| thread.join().unwrap());
    });
    let own = outcome.stats.threads_cpu;
    assert!(own < Duration::from_secs(2), "{own:?} for two thousand threads");
}

fn stopped_for_seconds() {
    let pid = std::process::id();
    let script = format!("sleep 0.3; kill -STOP {pid}; sleep 2.5; kill -CONT {pid}");
    let outcome = run("stopped", |_| {
        let mut other = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let begin = Instant::now();
        burn(Duration::from_millis(800));
        assert!(begin.elapsed() > Duration::from_millis(800));
        other.wait().unwrap();
        burn(Duration::from_millis(200));
    });
    assert!(outcome.stats.handler_time < Duration::from_millis(500), "{:?}", outcome.stats);
    assert!(outcome.time_in("burn") > 900_000_000);
}

#[inline(never)]
fn read_zeros(time: Duration) {
    let mut file = std::fs::File::open("/dev/zero").unwrap();
    let mut into = vec![0; 4 << 20];
    let clock = Clock::Thread(everprof_probe::os::gettid());
    let begin = clock.now().unwrap();
    while clock.now().unwrap() - begin < time.as_nanos() as u64 {
        file.read_exact(&mut into).unwrap();
    }
}

/// Calls of a millisecond each: every signal waits for the end of one.
fn time_in_the_kernel() {
    let outcome = run("kernel", |_| {
        thread::spawn(|| read_zeros(Duration::from_millis(800))).join().unwrap();
    });
    let read = outcome.time_in("read_zeros");
    assert!((720_000_000..900_000_000).contains(&read), "{read}");
}

fn rates_change() {
    let outcome = run("rates", |profiler| {
        thread::scope(|scope| {
            let churn = scope.spawn(|| {
                for _ in 0..150 {
                    thread::spawn(|| burn(Duration::from_millis(6))).join().unwrap();
                }
            });
            let mut rate = 7;
            while !churn.is_finished() {
                rate = (rate * 31) % 4_999 + 1;
                profiler.set_rate(Rate::new(rate).unwrap()).unwrap();
                thread::sleep(Duration::from_millis(7));
            }
        });
    });
    let burned = outcome.time_in("burn");
    assert!(burned > 700_000_000, "{burned} of 0.9 s");
}

fn thread_renames_itself() {
    let work = || {
        for number in 0..400 {
            let name = std::ffi::CString::new(format!("name-{number}")).unwrap();
            // SAFETY: the kernel copies the name.
            unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            burn(Duration::from_millis(2));
        }
    };
    let outcome = run("names", |profiler| {
        let thread = thread::spawn(work);
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(150));
            flush(profiler);
        }
        thread.join().unwrap();
    });
    let named = outcome.profiles.iter().flat_map(|profile| {
        let labels = profile.samples().flat_map(|sample| profile.get_labels(sample.labels));
        labels.filter_map(|label| match &label.value {
            LabelValue::Text(name) if name.starts_with("name-") => Some(name.clone()),
            _ => None,
        })
    });
    let names: BTreeSet<String> = named.collect();
    println!("{names:?}");
    assert!(!names.is_empty() && names.len() < 40, "{names:?}");
    assert!(outcome.time_in("burn") > 750_000_000);
}

fn set_pending(soft: Option<u64>) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a live value.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_SIGPENDING, &mut limit) }, 0);
    limit.rlim_cur = soft.unwrap_or(limit.rlim_max);
    // SAFETY: the limit is a live value.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) }, 0);
}

#[inline(never)]
fn refused_and_then_timed(may_go: &AtomicBool) {
    while !may_go.load(Ordering::Relaxed) {
        burn(Duration::from_millis(5));
    }
    burn(Duration::from_millis(600));
}

/// No timer can be made for a thread that is born now; then the limit is raised again.
fn timers_refused() {
    static MAY_GO: AtomicBool = AtomicBool::new(false);
    let mut untold = 0;
    let outcome = run("refused", |profiler| {
        set_pending(Some(0));
        let late = thread::Builder::new().name("late".into());
        let late = late.spawn(|| refused_and_then_timed(&MAY_GO)).unwrap();
        let until = |timed: bool| {
            while timed == (profiler.stats().threads_untimed > 0) {
                burn(Duration::from_millis(5));
                flush(profiler);
            }
        };
        until(false);
        burn(Duration::from_millis(300));
        flush(profiler);
        untold = profiler.stats().unsampled_cpu.as_nanos();
        set_pending(None);
        until(true);
        MAY_GO.store(true, Ordering::Relaxed);
        late.join().unwrap();
    });
    let told = outcome.time_in("threads without a timer");
    println!("{untold} ns were told while there was no timer, {told} in all");
    assert!(told > 100_000_000 && untold > 100_000_000);
    assert!(outcome.time_in("refused_and_then_timed") > 500_000_000, "it is timed later");
}

/// In a new PID namespace the `/proc` that is mounted still counts by the old one.
fn proc_of_another_namespace() {
    const INSIDE: &str = "EVERPROF_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let error = Profiler::builder().dir(directory("inside")).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("PID namespace"), "{error}");
        return burn(Duration::from_millis(50));
    }
    for options in [&["-pf"][..], &["-Upf"]] {
        let inside = |program: &std::ffi::OsStr| {
            Command::new("unshare").args(options).arg(program).env(INSIDE, "1").status()
        };
        if inside("true".as_ref()).is_ok_and(|status| status.success()) {
            assert!(inside(this_program().get_program()).unwrap().success());
            return;
        }
    }
    skip("a /proc of another PID namespace", "unshare -p is not permitted");
}
