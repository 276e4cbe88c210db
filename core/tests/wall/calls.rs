//! Ways to wait for a given time, and a C library whose calls are not to be interrupted.

use std::ffi::{CString, c_int, c_void};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use everprof::Profiler;

use super::common::{directory, skip, stop};

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
/* Waits `count` times for two milliseconds in one of four calls, and says how many of them failed. */
int wait_often(int way, int count) {
    int failed = 0, epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        struct timespec pause = {0, 2000000};
        struct timeval interval = {0, 2000};
        struct epoll_event event;
        int result = way == 0 ? poll(0, 0, 2)
            : way == 1 ? epoll_wait(epoll, &event, 1, 2)
            : way == 2 ? nanosleep(&pause, 0)
            : select(0, 0, 0, 0, &interval);
        if (result < 0) failed++;
    }
    return failed;
}
"#;

/// 10,000 calls of a C library, under 99 looks a second and 99 samples a second of CPU time: none fails. The threads have
/// been there for a while: one that has just been met while it ran is asked for a sample by a signal, once.
pub(crate) fn none_is_interrupted() {
    let dir = directory("interrupted");
    std::fs::create_dir_all(&dir).unwrap();
    let (source, library) = (dir.join("waits.c"), dir.join("waits.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let made = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("calls of a C library that are not interrupted", "there is no C compiler `cc`");
    }
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library has no initialisers.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    // SAFETY: the handle is live, the name a C string.
    let function = unsafe { libc::dlsym(handle, c"wait_often".as_ptr()) };
    // SAFETY: the function has this type in the source above.
    let wait_often =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(c_int, c_int) -> c_int>(function) };
    let profiler = Profiler::builder()
        .dir(dir.join("profiles"))
        .set("kinds", "cpu,wall")
        .set("wall_rate_hz", "99")
        .set("symbolize", "off")
        .start()
        .unwrap();
    let threads: Vec<_> = (0..8)
        .map(|way| {
            std::thread::spawn(move || {
                wait_often(way % 4, 600);
                wait_often(way % 4, 1250)
            })
        })
        .collect();
    let failed: Vec<c_int> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let stats = profiler.stats();
    stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
    println!("failed: {failed:?}, {} signals", stats.signals);
    assert_eq!(failed, [0; 8], "calls that failed");
}
