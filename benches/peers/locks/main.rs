//! Locks of std, of parking_lot and of C, with everprof and without it; the package decides.

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use harness::{Locked, measure_lock, measure_wait};

#[cfg(feature = "everprof")]
fn start() -> everprof::Profiler {
    // Where no wait is to be a sample, it is one from a second on, or in proportion.
    let threshold = if std::env::args().any(|word| word == "unsampled") { "1000000000" } else { "100000" };
    let dir = std::env::temp_dir().join(format!("everprof-bench-{}", std::process::id()));
    let builder =
        everprof::Profiler::builder().dir(dir).set("kinds", "cpu,lock,mutex,block").set("period_s", "3600");
    builder
        .set("lock_threshold_ns", threshold)
        .exporters(|| vec![Box::new(Nowhere)])
        .start()
        .expect("it starts")
}

#[cfg(feature = "everprof")]
struct Nowhere;

#[cfg(feature = "everprof")]
impl everprof::export::Exporter for Nowhere {
    fn name(&self) -> String {
        "nowhere".into()
    }

    fn export(&mut self, _: &everprof::export::Set) -> everprof::Result<()> {
        Ok(())
    }
}

#[cfg(not(feature = "everprof"))]
fn start() {}

struct Native(std::cell::UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a pthread mutex is made to be shared.
unsafe impl Sync for Native {}

impl Native {
    fn lock(&self) {
        // SAFETY: a mutex that was initialised statically and does not move.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
    }

    fn unlock(&self) {
        // SAFETY: as above, and the calling thread holds it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}

static STD: Mutex<()> = Mutex::new(());
static PARKING_LOT: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
static NATIVE: Native = Native(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

/// The call by which locks wait, for a word that is not what it says.
fn futex() {
    static WORD: AtomicU32 = AtomicU32::new(1);
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is live, and there is no time to wait until.
    unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), wait, 0, std::ptr::null::<libc::timespec>()) };
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = arguments[1].parse().expect("a number of threads");
    let _profiler = start();
    // A program of one thread has locks of C that are cheaper, and everprof adds threads.
    std::thread::spawn(|| {
        loop {
            std::thread::park()
        }
    });
    if arguments[0] == "futex" {
        return measure_wait(&futex, 100_000);
    }
    let (lock, free): (Locked<'_>, &dyn Fn(u32)) = match arguments[0].as_str() {
        "std" => (
            &|work| {
                let _held = STD.lock().expect("nobody panics");
                work();
            },
            &|times| (0..times).for_each(|_| drop(std::hint::black_box(STD.lock().expect("nobody panics")))),
        ),
        "parking_lot" => (
            &|work| {
                let _held = PARKING_LOT.lock();
                work();
            },
            &|times| (0..times).for_each(|_| drop(std::hint::black_box(PARKING_LOT.lock()))),
        ),
        "pthread" => (
            &|work| {
                NATIVE.lock();
                work();
                NATIVE.unlock();
            },
            &|times| {
                for _ in 0..times {
                    NATIVE.lock();
                    NATIVE.unlock();
                }
            },
        ),
        other => panic!("no lock named {other:?}"),
    };
    measure_lock(lock, free, threads);
}
