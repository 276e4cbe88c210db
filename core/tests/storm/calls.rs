//! What the host's calls see of the profiler: nothing. `errno` is kept, and a blocked call is not interrupted.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::os::gettid;

use crate::amount;
use crate::common::burn;
use crate::forge::{expire_until, timed_slot, unbounded};

static STOP: AtomicBool = AtomicBool::new(false);

fn errno() -> *mut i32 {
    // SAFETY: always valid.
    unsafe { libc::__errno_location() }
}

/// Threads that fail, and threads that leave a value in errno, find it as it was.
pub(crate) fn errno_is_kept() {
    static CHECKS: AtomicU64 = AtomicU64::new(0);
    let (profiler, dir) = unbounded("errno", 10_000);
    let (send, slots) = mpsc::channel();
    let threads: Vec<_> = (0..2)
        .map(|kind| {
            let send = send.clone();
            thread::spawn(move || {
                send.send(timed_slot(gettid())).unwrap();
                for number in (1..i32::MAX).take_while(|_| !STOP.load(Ordering::Relaxed)) {
                    let wanted = if kind == 0 {
                        // SAFETY: there is no such descriptor.
                        assert_eq!(unsafe { libc::close(-1) }, -1);
                        libc::EBADF
                    } else {
                        // SAFETY: the calling thread's own.
                        unsafe { *errno() = number };
                        number
                    };
                    (0..50_u64).for_each(|n| {
                        black_box(n);
                    });
                    // SAFETY: the calling thread's own.
                    assert_eq!(unsafe { *errno() }, wanted);
                    CHECKS.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let slots: Vec<_> = (0..2).map(|_| slots.recv().unwrap()).collect();
    expire_until(&slots, amount(50_000, 1_000_000));
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    println!("errno right {} times", CHECKS.load(Ordering::Relaxed));
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Runs a call until the storm is over and counts how often it was interrupted.
fn interrupted(mut call: impl FnMut() -> isize) -> u64 {
    let mut count = 0;
    while !STOP.load(Ordering::Relaxed) {
        // SAFETY: the calling thread's own.
        unsafe { *errno() = 0 };
        let result = call();
        // SAFETY: as above.
        count += u64::from(result == -1 && unsafe { *errno() } == libc::EINTR);
    }
    count
}

fn poll() -> u64 {
    // SAFETY: no descriptors.
    interrupted(|| unsafe { libc::poll(std::ptr::null_mut(), 0, 150) } as isize)
}

fn epoll_wait() -> u64 {
    // SAFETY: no preconditions.
    let epoll = unsafe { libc::epoll_create1(0) };
    // SAFETY: all-zero is a valid event.
    let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
    // SAFETY: room for one event.
    interrupted(|| unsafe { libc::epoll_wait(epoll, &mut event, 1, 150) } as isize)
}

fn nanosleep() -> u64 {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 150_000_000 };
    // SAFETY: the time is live.
    interrupted(|| unsafe { libc::nanosleep(&time, std::ptr::null_mut()) } as isize)
}

fn read() -> u64 {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe(ends.as_mut_ptr()) };
    thread::spawn(move || {
        while !STOP.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(150));
            // SAFETY: one byte, into a pipe of ours.
            unsafe { libc::write(ends[1], c"x".as_ptr().cast(), 1) };
        }
    });
    let mut byte = 0_u8;
    // SAFETY: room for one byte.
    interrupted(|| unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) })
}

fn semaphore() -> u64 {
    // SAFETY: all-zero is room for a semaphore, which is made next.
    let mut semaphore: libc::sem_t = unsafe { std::mem::zeroed() };
    // SAFETY: the semaphore is live.
    unsafe { libc::sem_init(&mut semaphore, 0, 0) };
    interrupted(|| {
        let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the time is live.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut until) };
        until.tv_nsec += 150_000_000;
        until.tv_sec += until.tv_nsec / 1_000_000_000;
        until.tv_nsec %= 1_000_000_000;
        // SAFETY: both are live.
        unsafe { libc::sem_timedwait(&mut semaphore, &until) as isize }
    })
}

fn condvar() -> u64 {
    let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    let mut early = 0;
    while !STOP.load(Ordering::Relaxed) {
        let (began, guard) = (Instant::now(), mutex.lock().unwrap());
        drop(condvar.wait_timeout(guard, Duration::from_millis(150)).unwrap());
        early += u64::from(began.elapsed() < Duration::from_millis(150));
    }
    early
}

type Call = (&'static str, fn() -> u64);

const CALLS: [Call; 6] = [
    ("poll", poll),
    ("epoll_wait", epoll_wait),
    ("nanosleep", nanosleep),
    ("read", read),
    ("sem_timedwait", semaphore),
    ("Condvar", condvar),
];

/// Runs every call, blocked, beside a thread that burns and beside `others`; what the kernel restarts is never
/// interrupted.
fn blocked_beside(others: impl FnOnce()) {
    let burner = thread::spawn(|| {
        while !STOP.load(Ordering::Relaxed) {
            burn(Duration::from_millis(5));
        }
    });
    let threads: Vec<_> = CALLS.into_iter().map(|(name, call)| (name, thread::spawn(call))).collect();
    others();
    STOP.store(true, Ordering::Relaxed);
    burner.join().unwrap();
    let counts: Vec<_> = threads.into_iter().map(|(name, thread)| (name, thread.join().unwrap())).collect();
    println!("interrupted calls: {counts:?}");
    // A thread is signalled only while it uses CPU time, or once when it is discovered running; between that look and the
    // signal it may have gone to sleep, so once is possible and more is not.
    assert!(counts.iter().all(|(_, count)| *count <= 1), "{counts:?}");
}

/// Threads that live long, one of which holds every signal back, as threads that wait for signals do.
pub(crate) fn calls_are_restarted_beside_a_deaf_thread() {
    let (profiler, dir) = unbounded("blocked", 1000);
    let secluded = thread::spawn(|| {
        // SAFETY: all-zero is a valid set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is live.
        unsafe { libc::sigfillset(&mut set) };
        // SAFETY: the set is live; the old one is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        while !STOP.load(Ordering::Relaxed) {
            burn(Duration::from_millis(5));
        }
    });
    blocked_beside(|| thread::sleep(Duration::from_secs(amount(4, 120))));
    secluded.join().unwrap();
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Threads that come and go, so that new ones are looked for all the time.
pub(crate) fn calls_are_restarted_while_threads_churn() {
    let (profiler, dir) = unbounded("restarted", 1000);
    blocked_beside(|| {
        let end = Instant::now() + Duration::from_secs(amount(4, 120));
        while Instant::now() < end {
            thread::spawn(|| burn(Duration::from_millis(3))).join().unwrap();
            thread::sleep(Duration::from_millis(10));
        }
    });
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}
