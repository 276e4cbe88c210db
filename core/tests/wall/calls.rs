//! Ways to wait for a given time, and a C library whose calls are not to be interrupted.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use everprof::Profiler;

use super::common::{LOOKS_BUDGET, directory, skip, stop};

/// Waits for a datagram that comes from another thread, or from nobody.
pub(crate) fn receive(time: Duration) -> impl FnMut() + Send + 'static {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(time)).unwrap();
    move || _ = socket.recv(&mut [0; 8])
}

/// Waits for a byte in a pipe that another thread writes after the time.
pub(crate) fn read_pipe(time: Duration) -> impl FnMut() + Send + 'static {
    let (mut answer, mut to_answer) = std::io::pipe().unwrap();
    let (mut asked, mut ask) = std::io::pipe().unwrap();
    std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || {
            while asked.read(&mut [0; 1]).is_ok_and(|read| read == 1) {
                std::thread::sleep(time);
                _ = to_answer.write(&[1]);
            }
        })
        .unwrap();
    move || {
        ask.write_all(&[1]).unwrap();
        answer.read_exact(&mut [0; 1]).unwrap();
    }
}

/// Waits in `epoll_wait`.
pub(crate) fn wait_for_events(time: Duration) -> impl FnMut() + Send + 'static {
    // SAFETY: makes a descriptor.
    let epoll = unsafe { libc::epoll_create1(0) };
    let millis = time.as_millis() as c_int;
    move || {
        // SAFETY: all zero is an event.
        let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
        // SAFETY: the event is ours to write.
        unsafe { libc::epoll_wait(epoll, &mut event, 1, millis) };
    }
}

/// Waits for a child process.
pub(crate) fn wait_for_child(time: Duration) -> impl FnMut() + Send + 'static {
    let seconds = format!("{}", time.as_secs_f64());
    move || _ = Command::new("sleep").arg(&seconds).status().unwrap()
}

const SOURCE: &str = r#"
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

static long long now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int wait_once(int way, int epoll, long long nanos) {
    int millis = (nanos + 999999) / 1000000;
    struct timespec pause = {nanos / 1000000000, nanos % 1000000000};
    struct timeval interval = {nanos / 1000000000, nanos % 1000000000 / 1000};
    struct epoll_event event;
    return way == 0 ? poll(0, 0, millis)
        : way == 1 ? epoll_wait(epoll, &event, 1, millis)
        : way == 2 ? nanosleep(&pause, 0)
        : select(0, 0, 0, 0, &interval);
}

/* Waits `count` times for two milliseconds in one of four calls, after it has worked for `burst` microseconds of CPU
   time, and says how many of the calls failed. */
int wait_often(int way, int count, int burst) {
    int failed = 0, epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        long long end = now(CLOCK_THREAD_CPUTIME_ID) + burst * 1000LL;
        while (burst && now(CLOCK_THREAD_CPUTIME_ID) < end) {}
        if (wait_once(way, epoll, 2000000) < 0) failed++;
    }
    return failed;
}

/* Waits `count` times for so many milliseconds, begins again where a call was interrupted, as careful programs do, and
   says how often that was for one wait at the most. */
int wait_whole(int way, int count, int millis) {
    int worst = 0, epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        int interrupted = 0;
        long long end = now(CLOCK_MONOTONIC) + millis * 1000000LL, left;
        while ((left = end - now(CLOCK_MONOTONIC)) > 0)
            if (wait_once(way, epoll, left) < 0) interrupted++;
        if (interrupted > worst) worst = interrupted;
    }
    return worst;
}
"#;

/// The ways of the library: `poll`, `epoll_wait`, `nanosleep`, `select`.
pub(crate) const WAYS: c_int = 4;

/// The functions of the library.
#[allow(dead_code)]
#[derive(Clone, Copy)]
pub(crate) struct Library {
    pub(crate) wait_often: extern "C" fn(way: c_int, count: c_int, burst: c_int) -> c_int,
    pub(crate) wait_whole: extern "C" fn(way: c_int, count: c_int, millis: c_int) -> c_int,
}

/// Makes the library; says loudly what is not tested where that cannot be.
pub(crate) fn library(dir: &Path, what: &str) -> Option<Library> {
    std::fs::create_dir_all(dir).unwrap();
    let (source, library) = (dir.join("waits.c"), dir.join("waits.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let made = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if !made.is_ok_and(|status| status.success()) {
        skip(what, "there is no C compiler `cc`");
        return None;
    }
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library has no initialisers.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    // SAFETY: the handle is live, the name a C string.
    let function = |name: &CStr| unsafe { libc::dlsym(handle, name.as_ptr()) };
    type Function = extern "C" fn(c_int, c_int, c_int) -> c_int;
    // SAFETY: the functions have this type in the source above.
    let typed = |function| unsafe { std::mem::transmute::<*mut c_void, Function>(function) };
    Some(Library { wait_often: typed(function(c"wait_often")), wait_whole: typed(function(c"wait_whole")) })
}

fn start(dir: &Path, wall_signal: &str) -> Profiler {
    Profiler::builder()
        .dir(dir.join("profiles"))
        .set("kinds", "cpu,wall")
        .set("cpu_budget_percent", LOOKS_BUDGET)
        .set("wall_rate_hz", "99")
        .set("wall_signal", wall_signal)
        .set("symbolize", "off")
        .start()
        .unwrap()
}

/// 10,000 calls of a C library, under 99 looks a second and 99 samples a second of CPU time: none fails. Half of the
/// threads work between their calls, so that their timers expire. All have been there for a while: one that has just
/// been met while it ran is asked for a sample by a signal, once.
pub(crate) fn none_is_interrupted() {
    let dir = directory("interrupted");
    let Some(library) = library(&dir, "calls of a C library that are not interrupted") else { return };
    let profiler = start(&dir, "auto");
    let threads: Vec<_> = (0..8)
        .map(|number| {
            std::thread::spawn(move || {
                let (way, burst) = (number % WAYS, if number < WAYS { 0 } else { 200 });
                (library.wait_often)(way, 500, burst);
                (library.wait_often)(way, 1250, burst)
            })
        })
        .collect();
    let failed: Vec<c_int> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let stats = profiler.stats();
    stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
    println!("failed: {failed:?}, {} signals, of them {} for stacks", stats.signals, stats.wall_signals);
    assert_eq!(failed, [0; 8], "calls that failed");
}

/// With `wall_signal = never` no call fails, from the first one of a thread on: also of threads that are met while they
/// run, of which there are many here.
pub(crate) fn never_means_never() {
    let dir = directory("never");
    let Some(library) = library(&dir, "calls under wall_signal=never") else { return };
    let profiler = start(&dir, "never");
    let old: Vec<_> =
        (0..4).map(|way| std::thread::spawn(move || (library.wait_often)(way, 1250, 200))).collect();
    let mut failed = 0;
    for round in 0..125 {
        let life = move |way| (library.wait_often)(way, 10, 300 + 50 * round % 400);
        let young: Vec<_> = (0..4).map(|way| std::thread::spawn(move || life(way))).collect();
        failed += young.into_iter().map(|thread| thread.join().unwrap()).sum::<c_int>();
    }
    failed += old.into_iter().map(|thread| thread.join().unwrap()).sum::<c_int>();
    let stats = profiler.stats();
    stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
    println!("{failed} failed; {} signals, of them {} for stacks", stats.signals, stats.wall_signals);
    assert_eq!((failed, stats.wall_signals), (0, 0), "calls that failed, and signals to threads that wait");
}
