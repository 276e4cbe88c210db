//! What happens to a process while it is profiled: pages that are read from a file, a stop in the middle of waits, a first
//! thread that ends before the others, no room for files, another root.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::os::{gettid, ready_time};

use super::common::{burn, directory, flush, kind_of, names, skip, stop};
use super::{Clocks, RATE, largest, seconds, start};

/// Touches pages of a file that the kernel does not hold: it waits outside of any call.
#[inline(never)]
fn touches_pages(pages: &[u8]) -> u64 {
    // Not in their order, so that none is read ahead.
    let (count, mut sum) = (pages.len() / 4096, 0);
    let mut page = 0;
    for _ in 0..count {
        page = (page + count / 2 + 1) % count;
        sum += u64::from(std::hint::black_box(pages[page * 4096]));
    }
    sum
}

/// A thread that reads a mapped file whose pages are on disk alone.
pub(crate) fn pages() {
    const SIZE: usize = 16 << 20;
    let (profiler, dir) = start("pages", "offcpu");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("data");
    let work = move || {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&vec![7; SIZE]).unwrap();
        file.sync_all().unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let (begin, mut waited) = (Instant::now(), 0.0);
        while begin.elapsed() < Duration::from_secs(4) {
            // SAFETY: the descriptor is open.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            let (read, share, null) = (libc::PROT_READ, libc::MAP_SHARED, std::ptr::null_mut());
            // SAFETY: a mapping of its own.
            let at = unsafe { libc::mmap(null, SIZE, read, share, file.as_raw_fd(), 0) };
            assert_ne!(at, libc::MAP_FAILED);
            // SAFETY: the mapping was just made.
            unsafe { libc::madvise(at, SIZE, libc::MADV_RANDOM) };
            let clocks = Clocks::now();
            // SAFETY: the file is as long as the mapping, and nobody writes to it.
            touches_pages(unsafe { std::slice::from_raw_parts(at.cast(), SIZE) });
            waited += clocks.waited();
            // SAFETY: nobody looks at it any more.
            unsafe { libc::munmap(at, SIZE) };
        }
        waited
    };
    let waited = thread::Builder::new().name("reads".into()).spawn(work).unwrap().join().unwrap();
    stop(profiler);
    let profile = largest(&dir, "offcpu");
    let told = seconds(&profile, ["thread_name", "state", "wait", "syscall"]);
    println!("{told:#?}");
    if waited < 0.5 {
        return skip(
            "pages that are read from a disk",
            "the file system here has them in memory, or forgets none",
        );
    }
    let of = told.get(&["reads", "off_cpu", "disk", ""].map(str::to_owned)).copied().unwrap_or_default();
    let named: i64 = profile
        .samples()
        .filter(|one| {
            names(&profile, profile.get_stack(one.stack)).iter().any(|name| name.contains("touches_pages"))
        })
        .map(|one| one.values[1])
        .sum();
    let (p, n) = ((waited / 4.0).min(0.95), 4.0 * f64::from(RATE) * 0.5);
    let sigma = 4.0 * ((1.0 + 1.0 / 12.0) * p * (1.0 - p) / n).sqrt();
    println!("{of:.3} of {waited:.3} s, sigma {sigma:.3}; with its function {:.3}", named as f64 / 1e9);
    assert!((of - waited).abs() < 3.0 * sigma + 0.1, "{of} of {waited}");
    assert!(named as f64 / 1e9 > 0.9 * of, "the function that touches them is named");
}

/// After a stop the kernel goes on with calls that wait for a time as `restart_syscall`: they are told as what they are.
pub(crate) fn begun_again() {
    let (profiler, dir) = start("again", "wall");
    let spawn = |name: &str, work: fn()| thread::Builder::new().name(name.into()).spawn(work).unwrap();
    let threads = [
        spawn("sleeps", || thread::sleep(Duration::from_millis(3500))),
        // SAFETY: no descriptors are given.
        spawn("polls", || _ = unsafe { libc::poll(std::ptr::null_mut(), 0, 3500) }),
        spawn("waits", || {
            let (lock, condition) = (std::sync::Mutex::new(()), std::sync::Condvar::new());
            drop(condition.wait_timeout(lock.lock().unwrap(), Duration::from_millis(3500)));
        }),
    ];
    let script =
        format!("sleep 0.5; kill -STOP {pid}; sleep 0.5; kill -CONT {pid}", pid = std::process::id());
    std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    stop(profiler);
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "wait", "syscall"]);
    println!("{told:#?}");
    for (thread, wait, call) in
        [("sleeps", "timer", "clock_nanosleep"), ("polls", "timer", "poll"), ("waits", "thread", "futex")]
    {
        let of = told.get(&[thread, wait, call].map(str::to_owned)).copied().unwrap_or_default();
        assert!((2.6..3.7).contains(&of), "{thread}: {of} of 3 s in {call}");
    }
}

#[inline(never)]
fn sleeps_on(time: Duration) {
    // In parts, so that it is looked at again after the first thread has ended.
    (0..25).for_each(|_| thread::sleep(time / 25));
    std::hint::black_box(());
}

/// The first thread ends, and the others go on: what is left of it does nothing.
pub(crate) fn first_thread() {
    let (profiler, dir) = start("first", "cpu,wall");
    let work = move || {
        sleeps_on(Duration::from_millis(2500));
        let snapshot = everprof::threads().unwrap();
        flush(&profiler);
        let stats = profiler.stats();
        stop(profiler);
        let profile = largest(&dir, "wall");
        let has = |part| {
            profile.samples().any(|one| {
                names(&profile, profile.get_stack(one.stack)).iter().any(|name| name.contains(part))
            })
        };
        assert!(has("sleeps_on"), "stacks are whole, and named");
        let told = seconds(&profile, ["thread_name", "state", "wait", "syscall"]);
        println!("{told:#?}\n{} signals; {:?}", stats.wall_signals, stats.last_problem);
        let of_first: f64 = told.iter().filter(|(key, _)| key[0] == "first").map(|(_, time)| time).sum();
        assert!((0.4..1.1).contains(&of_first), "{of_first} of 0.5 s");
        assert_eq!((stats.wall_signals, stats.wall_untold, stats.last_problem), (0, 0, None));
        assert_eq!(super::state_of(&snapshot, "first"), None);
    };
    // SAFETY: the name is a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"first".as_ptr()) };
    // Where it fails, nobody else is there to say so.
    let guarded =
        || std::process::exit(if std::panic::catch_unwind(AssertUnwindSafe(work)).is_ok() { 0 } else { 1 });
    thread::Builder::new().name("others".into()).spawn(guarded).unwrap();
    thread::sleep(Duration::from_millis(500));
    // SAFETY: it ends the calling thread, which has nothing to be dropped any more.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// For a second no file can be opened: nobody is asked for that, and what could not be read then is not told twice.
pub(crate) fn no_room() {
    let (profiler, dir) = start("room", "wall");
    let (tell, told) = mpsc::channel();
    let work = move || {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(3500) {
            burn(Duration::from_millis(2));
            thread::sleep(Duration::from_millis(8));
        }
        tell.send((begin.elapsed().as_secs_f64(), ready_time(gettid()).unwrap() as f64 / 1e9)).unwrap();
    };
    let rival =
        thread::Builder::new().name("rival".into()).spawn(|| burn(Duration::from_millis(900))).unwrap();
    let both = thread::Builder::new().name("both".into()).spawn(work).unwrap();
    thread::sleep(Duration::from_millis(1200));
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is ours to write.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) };
    let none = libc::rlimit { rlim_cur: 0, ..before };
    for limit in [none, before] {
        // SAFETY: the limit is live.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        thread::sleep(Duration::from_secs(1));
    }
    [rival, both].into_iter().for_each(|thread| thread.join().unwrap());
    let stats = profiler.stats();
    stop(profiler);
    let (life, ready) = told.recv().unwrap();
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "state"]);
    println!(
        "{told:#?}\nlife {life:.3}, ready {ready:.3}; {} signals, {} untold",
        stats.wall_signals, stats.wall_untold
    );
    let of = |state: &str| told.get(&["both", state].map(str::to_owned)).copied().unwrap_or_default();
    let all = of("on_cpu") + of("runnable") + of("off_cpu");
    assert_eq!(stats.wall_signals, 0);
    assert!(stats.wall_untold > 0, "that was to be tested");
    assert!((all - life).abs() < 0.15 + 0.03 * life, "{all} of {life}");
    assert!((of("runnable") - ready).abs() < 0.1 + 0.05 * ready, "{} of {ready}", of("runnable"));
}

/// The process takes another root, in which there is no `/proc`: CPU time stays right, and threads that are known are
/// still followed to their end.
pub(crate) fn another_root() {
    let (profiler, dir) = start("root", "cpu,wall");
    let root = directory("empty");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::create_dir_all(&dir).unwrap();
    // The profiler writes below it from then on.
    std::fs::create_dir_all(root.join(dir.strip_prefix("/").unwrap())).unwrap();
    let work = || {
        for _ in 0..100 {
            burn(Duration::from_millis(15));
            thread::sleep(Duration::from_millis(15));
        }
    };
    let both = thread::Builder::new().name("both".into()).spawn(work).unwrap();
    thread::sleep(Duration::from_millis(1000));
    let path = CString::new(root.to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string.
    if unsafe { libc::chroot(path.as_ptr()) } != 0 {
        return skip("another root", "chroot is not permitted");
    }
    both.join().unwrap();
    thread::sleep(Duration::from_millis(1500));
    flush(&profiler);
    let stats = profiler.stats();
    stop(profiler);
    let told = seconds(
        &kind_of(&dir, "wall").into_iter().max_by_key(|one| one.totals()[1]).unwrap(),
        ["thread_name", "state"],
    );
    println!("{told:#?}; {} threads; {:?}", stats.threads, stats.last_problem);
    let of = |state: &str| told.get(&["both", state].map(str::to_owned)).copied().unwrap_or_default();
    assert!((1.4..1.65).contains(&of("on_cpu")), "{} of 1.5 s", of("on_cpu"));
    assert!((of("off_cpu") + of("runnable")) > 1.3, "{told:?}");
    assert!(stats.threads <= 3, "those that ended are let go: {}", stats.threads);
}
