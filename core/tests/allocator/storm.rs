//! The storm: allocations of Rust and of C by the million, while signals rain, processes fork, threads come and go and libraries
//! are loaded and unloaded, with everything on.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::Kind;
use everprof_probe::heap;
use everprof_probe::os::gettid;
use everprof_probe::thread::find;

use super::c::{Library, compile};
use super::forge::{Random, expire};
use super::{amount, common, sums, total};

const USER: &str = include_str!("../malloc/user.c");
const THREADS: usize = 2;

static STOP: AtomicBool = AtomicBool::new(false);
static TARGETS: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Allocations and bytes of Rust and of C, in the functions that profiles are asked for.
static TRUTH: [[AtomicU64; 2]; 2] = [const { [const { AtomicU64::new(0) }; 2] }; 2];
static ROUNDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
const FORKS: usize = 0;
const CHURNED: usize = 1;
const LOADED: usize = 2;
const SIGNALS: usize = 3;

type Allocate = extern "C" fn(usize) -> *mut libc::c_void;
type Free = extern "C" fn(*mut libc::c_void);

fn count(place: usize, bytes: usize) {
    TRUTH[place][0].fetch_add(1, Ordering::Relaxed);
    TRUTH[place][1].fetch_add(bytes as u64, Ordering::Relaxed);
}

fn truth(place: usize) -> [u64; 2] {
    TRUTH[place].each_ref().map(|number| number.load(Ordering::Relaxed))
}

/// Sizes of all sorts, small ones most.
fn size(random: &mut Random) -> usize {
    let bits = random.next();
    1 + (bits >> 8) as usize % (16 << (bits % 9))
}

#[inline(never)]
fn storm_of_rust(size: usize) -> Vec<u8> {
    let block = black_box(Vec::with_capacity(size));
    count(0, size);
    block
}

fn work_of_rust(seed: u64) {
    TARGETS.lock().unwrap().push(gettid());
    let (mut random, mut kept) = (Random(seed), Vec::with_capacity(256));
    while !STOP.load(Ordering::Relaxed) {
        kept.push(storm_of_rust(size(&mut random)));
        if kept.len() == 256 {
            kept.swap_remove(random.next() as usize % 256);
            if random.next() % 64 == 0 {
                kept.clear();
            }
        }
    }
}

fn work_of_c(allocate: Allocate, free: Free, seed: u64) {
    TARGETS.lock().unwrap().push(gettid());
    let (mut random, mut kept) = (Random(seed), Vec::with_capacity(256));
    while !STOP.load(Ordering::Relaxed) {
        let size = size(&mut random);
        kept.push(allocate(size));
        count(1, size);
        if kept.len() == 256 {
            free(kept.swap_remove(random.next() as usize % 256));
            if random.next() % 64 == 0 {
                kept.drain(..).for_each(|block| free(block));
            }
        }
    }
    kept.drain(..).for_each(|block| free(block));
}

fn churn() {
    while !STOP.load(Ordering::Relaxed) {
        let threads: Vec<_> =
            (0..4).map(|n| thread::spawn(move || drop(black_box(vec![1_u8; 1000 << n])))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        ROUNDS[CHURNED].fetch_add(4, Ordering::Relaxed);
    }
}

fn fork() {
    while !STOP.load(Ordering::Relaxed) {
        // SAFETY: the child runs ordinary code, as programs that fork do.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // A child that hangs is killed, which the parent sees.
            // SAFETY: plain number.
            unsafe { libc::alarm(60) };
            (0..200).for_each(|n| drop(black_box(vec![1_u8; 100 * n])));
            // Most are gone before they have a profiler of their own, some are not.
            if ROUNDS[FORKS].load(Ordering::Relaxed).is_multiple_of(4) {
                thread::sleep(Duration::from_millis(50));
                (0..200).for_each(|n| drop(black_box(vec![1_u8; 100 * n])));
            }
            // SAFETY: ends the child at once: locks of the C library may be held by threads that are not here.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a live value.
        while unsafe { libc::waitpid(child, &mut status, 0) } == -1 {}
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "a child ended with {status:x}");
        ROUNDS[FORKS].fetch_add(1, Ordering::Relaxed);
    }
}

fn load(path: PathBuf) {
    while !STOP.load(Ordering::Relaxed) {
        let library = Library::open(&path, libc::RTLD_LAZY);
        // SAFETY: the function has this type.
        let work: extern "C" fn(i32) -> i32 = unsafe { library.find("user_works") };
        assert_eq!(work(50), 0);
        thread::sleep(Duration::from_millis(ROUNDS[LOADED].load(Ordering::Relaxed) % 3));
        assert_eq!(work(50), 0);
        library.close();
        ROUNDS[LOADED].fetch_add(1, Ordering::Relaxed);
    }
}

/// Thousands of signals a second to each thread that works.
fn rain() {
    while !STOP.load(Ordering::Relaxed) {
        let targets = TARGETS.lock().unwrap().clone();
        for _ in 0..20 {
            for slot in targets.iter().filter_map(|tid| find(*tid)) {
                ROUNDS[SIGNALS].fetch_add(u64::from(expire(slot)), Ordering::Relaxed);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn storm() {
    let dir = common::directory("allocator-storm");
    let [stays, goes] = ["stays", "goes"].map(|name| compile(&dir, name, USER, &["-Wl,-z,lazy"]));
    let stays = Library::open(&stays, libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let allocate: Allocate = unsafe { stays.find("user_allocates") };
    // SAFETY: as above.
    let free: Free = unsafe { stays.find("user_frees") };
    let options = [
        ("kinds", "cpu,alloc,heap,lock,mutex,block"),
        ("malloc", "on"),
        ("rate_hz", "1000"),
        ("symbolize", "names"),
    ];
    let profiles = dir.join("profiles");
    let profiler = super::start(&profiles, 65_536, &options);
    let wanted = amount(1_000_000, 10_000_000);
    let begin = Instant::now();
    let mut threads: Vec<thread::JoinHandle<()>> = (0..THREADS as u64)
        .flat_map(|n| {
            [
                thread::spawn(move || work_of_rust(n)),
                thread::spawn(move || work_of_c(allocate, free, 100 + n)),
            ]
        })
        .collect();
    threads.extend([
        thread::spawn(churn),
        thread::spawn(fork),
        thread::spawn(move || load(goes)),
        thread::spawn(rain),
    ]);
    let all = || truth(0)[0] + truth(1)[0];
    while all() < wanted && begin.elapsed() < Duration::from_secs(amount(60, 3000)) {
        thread::sleep(Duration::from_millis(500));
        let _ = profiler.flush();
    }
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    common::flush(&profiler);
    let stats = profiler.stats();
    let rounds = ROUNDS.each_ref().map(|rounds| rounds.load(Ordering::Relaxed));
    println!(
        "{} allocations in {:.1} s, {} samples of them, {} lost; {} forks, {} threads, {} libraries, {} signals",
        all(),
        begin.elapsed().as_secs_f64(),
        stats.alloc_samples,
        stats.alloc_lost,
        rounds[FORKS],
        rounds[CHURNED],
        rounds[LOADED],
        rounds[SIGNALS],
    );
    assert!(
        all() >= wanted.min(500_000) && rounds.iter().all(|rounds| *rounds > 0) && stats.alloc_samples > 0
    );
    for (place, function) in ["storm_of_rust", "user_allocates"].into_iter().enumerate() {
        let (told, truth) = (total(&profiles, Kind::Alloc, function), truth(place));
        println!("{function}: {told:?} of {truth:?}");
        // What was lost is told as such, of nobody's. A sample stands for 64 KiB and more: five sigma.
        let sigma = (truth[1] as f64 / 65_536.0).sqrt() * 67_000.0;
        let off = told[1] as f64 - truth[1] as f64;
        assert!(
            off < 5.0 * sigma && (off > -5.0 * sigma || stats.alloc_lost > 0),
            "{function}: {off} of {truth:?}"
        );
    }
    // With that all is told; threads that come and go have their part, and the libraries that do.
    let everything: i64 =
        super::profiles(&profiles, Kind::Alloc).iter().map(|profile| profile.totals()[1]).sum();
    let of_storm = (truth(0)[1] + truth(1)[1]) as f64;
    println!(
        "all in all {:.3} of what the storm allocated, {} samples lost",
        everything as f64 / of_storm,
        stats.alloc_lost
    );
    assert!((0.96..1.5).contains(&(everything as f64 / of_storm)), "{everything} of {of_storm}");
    // All of the storm was given back; what else the test keeps are some lists.
    let last = super::profiles(&profiles, Kind::Heap).pop().unwrap();
    for function in ["storm_of_rust", "user_allocates", "user_works", "churn"] {
        assert_eq!(sums(&last, function)[2..], [0; 2], "{function}");
    }
    assert!(heap::count_live() < 20, "{} blocks are still known", heap::count_live());
    common::stop(profiler);
    assert!(everprof_probe::scratch::idle());
    common::remove(&dir);
}
