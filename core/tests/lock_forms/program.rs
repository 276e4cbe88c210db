//! Waits of a program of Rust that knows nothing of everprof, which comes with a library. Compiled by main.rs.
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, RwLock, mpsc};
use std::thread;
use std::time::Duration;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

const HOLD: Duration = Duration::from_millis(50);
static MUTEX: Mutex<()> = Mutex::new(());
static RWLOCK: RwLock<()> = RwLock::new(());
static BEGUN: AtomicBool = AtomicBool::new(false);
static LAZY: LazyLock<()> = LazyLock::new(|| {
    // Somebody else waits for this one; its own wait is none.
    BEGUN.store(true, Ordering::SeqCst);
    let lock = Mutex::new(());
    drop(Condvar::new().wait_timeout(lock.lock().unwrap(), HOLD * 2).unwrap());
});

#[inline(never)]
fn wait_for_mutex() {
    drop(MUTEX.lock().unwrap());
    std::hint::black_box(());
}

#[inline(never)]
fn wait_for_rwlock() {
    drop(RWLOCK.read().unwrap());
    std::hint::black_box(());
}

#[inline(never)]
fn wait_for_lazy() {
    std::hint::black_box(&*LAZY);
}

/// A condition, a channel, a park, and the ends of threads.
#[inline(never)]
fn wait_for_nothing() {
    let lock = Mutex::new(());
    drop(Condvar::new().wait_timeout(lock.lock().unwrap(), HOLD).unwrap());
    let (send, receive) = mpsc::channel::<()>();
    let _ = receive.recv_timeout(HOLD);
    drop(send);
    thread::park_timeout(HOLD);
    thread::spawn(|| thread::sleep(HOLD)).join().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| thread::sleep(HOLD));
    });
}

fn held<T>(hold: impl FnOnce() -> T + Send, wait: fn()) {
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let held = hold();
            send.send(()).unwrap();
            thread::sleep(HOLD);
            drop(held);
        });
        receive.recv().unwrap();
        wait();
    });
}

fn main() {
    let library = CString::new(std::env::args().nth(1).unwrap()).unwrap();
    let (now, local) = (2, 0);
    let handle = unsafe { dlopen(library.as_ptr(), now | local) };
    assert!(!handle.is_null());
    let find = |name: &str| {
        let name = CString::new(name).unwrap();
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(dlsym(handle, name.as_ptr())) }
    };
    assert_eq!(find("forms_start")(), 0);
    held(|| MUTEX.lock().unwrap(), wait_for_mutex);
    held(|| RWLOCK.write().unwrap(), wait_for_rwlock);
    let first = thread::spawn(|| _ = &*LAZY);
    while !BEGUN.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    wait_for_lazy();
    first.join().unwrap();
    wait_for_nothing();
    find("forms_wait")();
    find("forms_stop")();
    println!("done");
}
