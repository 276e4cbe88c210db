//! The storm: everything that a host may do, all at once, while signals come as fast as they can be sent.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof_probe::os::gettid;
use everprof_probe::sigprof;
use everprof_probe::thread::find;

use crate::amount;
use crate::common::{burn, directory};
use crate::forge::{Random, expire};
use crate::plugin::{self, Plugin};
use crate::stacks::{Guarded, deep_and_idle, least_stack, on_signal, set_alternate};

static STOP: AtomicBool = AtomicBool::new(false);
static TARGETS: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static ROUNDS: [AtomicU64; 9] = [const { AtomicU64::new(0) }; 9];

/// Does `work` again and again, as a target of signals, and counts.
fn repeat(index: usize, mut work: impl FnMut()) {
    TARGETS.lock().unwrap().push(gettid());
    while !STOP.load(Ordering::Relaxed) {
        work();
        ROUNDS[index].fetch_add(1, Ordering::Relaxed);
    }
}

fn load_and_unload(library: PathBuf) {
    repeat(0, || {
        let plugin = Plugin::open(&library);
        black_box((plugin.work)(30, 2000, None));
        plugin.close();
    });
}

fn panic_and_catch() {
    #[inline(never)]
    fn panic_deep(depth: u32) {
        let held = vec![depth; 4];
        if depth == 0 {
            // Past the hook, which would print.
            std::panic::resume_unwind(Box::new(held));
        }
        panic_deep(depth - 1);
        drop(black_box(held));
    }
    repeat(1, || assert!(std::panic::catch_unwind(|| panic_deep(40)).is_err()));
}

fn allocate_and_free() {
    let (mut random, mut kept) = (Random(7), Vec::new());
    repeat(2, || {
        kept.push(vec![0_u8; random.next() as usize % 20_000]);
        if kept.len() > 100 {
            kept.swap_remove(random.next() as usize % 100);
        }
    });
}

fn fork_and_exec() {
    let mut round = 0;
    repeat(3, || {
        round += 1;
        if round % 4 == 0 {
            assert!(Command::new("/bin/true").status().unwrap().success());
            return;
        }
        // SAFETY: the child runs ordinary code, as programs that fork do.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // A child that hangs is killed, which the parent sees.
            // SAFETY: plain number.
            unsafe { libc::alarm(40) };
            burn(Duration::from_millis(2));
            // Not `exit`: the C library's lock of exit handlers may be held by the thread that unloads a library, which
            // is not here to release it.
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a live value.
        while unsafe { libc::waitpid(child, &mut status, 0) } == -1 {}
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "a child ended with {status:x}");
    });
}

fn start_threads() {
    repeat(4, || {
        let work = || black_box(deep_and_idle(10));
        let threads = [libc::PTHREAD_STACK_MIN, 64 << 10, 2 << 20]
            .map(|size| thread::Builder::new().stack_size(size).spawn(work).unwrap());
        threads.into_iter().for_each(|thread| {
            thread.join().unwrap();
        });
    });
}

extern "C" fn own_handler(_: i32) {
    ROUNDS[5].fetch_add(1, Ordering::Relaxed);
    (0..300_u64).for_each(|n| {
        black_box(n);
    });
}

fn change_alternate_stacks() {
    let memory = Guarded::new(64 << 10);
    let mut size = 3 * least_stack() + 4096;
    repeat(6, || {
        size = if size + 1000 > 64 << 10 { 3 * least_stack() + 4096 } else { size + 1000 };
        assert!(set_alternate(&memory, size));
        // SAFETY: both have handlers.
        unsafe { libc::raise(libc::SIGUSR1) };
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGUSR2) };
        black_box(deep_and_idle(50));
    });
    assert!(set_alternate(&memory, 0));
}

fn recurse_and_fail() {
    repeat(7, || {
        black_box(deep_and_idle(3000));
        // SAFETY: there is no such descriptor.
        assert_eq!(unsafe { libc::close(-1) }, -1);
        (0..100_u64).for_each(|n| {
            black_box(n);
        });
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    });
}

fn expire_all() {
    while !STOP.load(Ordering::Relaxed) {
        let targets = TARGETS.lock().unwrap().clone();
        for _ in 0..200 {
            for slot in targets.iter().filter_map(|tid| find(*tid)) {
                expire(slot);
            }
        }
    }
}

pub(crate) fn everything_at_once() {
    let library_dir = directory("all-plugin");
    let Some(library) = plugin::compile(&library_dir) else { return };
    on_signal(libc::SIGUSR1, own_handler, libc::SA_ONSTACK | libc::SA_RESTART);
    on_signal(libc::SIGUSR2, own_handler, libc::SA_RESTART);
    let dir = directory("all");
    let work: [Box<dyn FnOnce() + Send>; 7] = [
        Box::new(move || load_and_unload(library)),
        Box::new(panic_and_catch),
        Box::new(allocate_and_free),
        Box::new(fork_and_exec),
        Box::new(start_threads),
        Box::new(change_alternate_stacks),
        Box::new(recurse_and_fail),
    ];
    let mut threads: Vec<_> = work.into_iter().map(thread::spawn).collect();
    threads.push(thread::spawn(expire_all));
    let (began, wanted) = (Instant::now(), amount(500_000, 10_000_000));
    let longest = Duration::from_secs(amount(25, 3600));
    let (mut restarts, mut samples) = (0, 0);
    while sigprof::cost().0 < wanted && began.elapsed() < longest {
        // Over and over: start, change the rate, flush, and stop while signals rain.
        let builder = Profiler::builder().dir(&dir).rate_hz(1000).set("cpu_budget_percent", "100");
        let profiler = builder.set("symbolize", "off").set("max_bytes", "10000000").start().unwrap();
        for rate in ["99", "10000", "1", "997"] {
            thread::sleep(Duration::from_millis(150));
            profiler.set("rate_hz", rate).unwrap();
        }
        let _ = profiler.flush();
        samples += profiler.stats().samples;
        let _ = profiler.stop();
        restarts += 1;
    }
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let rounds: Vec<u64> = ROUNDS.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect();
    println!(
        "{} signals in {:.1} s, {samples} samples, {restarts} starts; dlopen {}, panics {}, malloc {}, forks {}, threads {}, own handlers {}, alternate stacks {}, failing calls {}",
        sigprof::cost().0,
        began.elapsed().as_secs_f64(),
        rounds[0],
        rounds[1],
        rounds[2],
        rounds[3],
        3 * rounds[4],
        rounds[5],
        rounds[6],
        rounds[7],
    );
    assert!(rounds[..8].iter().all(|rounds| *rounds > 0) && samples > 0);
    assert!(everprof_probe::scratch::idle());
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_dir_all(&library_dir).unwrap();
}
