//! What stands around a process and is not as usual: the working directory, `/proc`, the limits, a program that loads
//! and unloads the library that everprof is part of.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "common/mod.rs"]
mod common;

use std::ffi::{CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use everprof::{ErrorKind, Profiler};

use common::{burn, directory, profiles, skip, stop};

const CASES: &[(&str, fn())] = &[
    ("a_relative_directory_stays_where_it_was_at_the_start", relative_directory),
    ("a_directory_need_not_be_utf8", odd_directory),
    ("without_proc_the_start_is_refused", without_proc),
    ("without_timers_the_start_is_refused", without_timers),
    ("a_library_with_everprof_may_be_unloaded", unloaded_library),
];

fn main() {
    common::main("surroundings", CASES, 2);
}

/// As a daemon does: start, then leave the directory.
fn relative_directory() {
    let (home, away) = (directory("home"), directory("away"));
    for dir in [&home, &away] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::env::set_current_dir(&home).unwrap();
    let profiler = Profiler::builder().dir("profiles").start().unwrap();
    std::env::set_current_dir(&away).unwrap();
    burn(Duration::from_millis(50));
    stop(profiler);
    assert!(!profiles(&home.join("profiles")).is_empty());
    assert_eq!(std::fs::read_dir(&away).unwrap().count(), 0);
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::remove_dir_all(&away).unwrap();
}

fn odd_directory() {
    let dir = directory("odd").join(OsStr::from_bytes(b"\xff\xfe"));
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    burn(Duration::from_millis(50));
    stop(profiler);
    assert!(!profiles(&dir).is_empty());
    std::fs::remove_dir_all(dir.parent().unwrap()).unwrap();
}

/// Starts, and expects to be refused for `reason`; then works on as if nothing had been.
fn refused(dir: &Path, reason: &str) {
    let error = Profiler::builder().dir(dir).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains(reason), "{error}");
    burn(Duration::from_millis(50));
    assert!(profiles(dir).is_empty());
}

fn without_proc() {
    let dir = directory("jail");
    std::fs::create_dir_all(&dir).unwrap();
    // SAFETY: no pointer; where it is not permitted, nothing changes.
    unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    let path = CString::new(dir.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string.
    if unsafe { libc::chroot(path.as_ptr()) } != 0 {
        return skip("a start without /proc", "chroot is not permitted, nor a user namespace");
    }
    std::env::set_current_dir("/").unwrap();
    refused(Path::new("/profiles"), "/proc/self/task");
}

fn without_timers() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a live value.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &none) }, 0);
    refused(&directory("timers"), "ulimit -i");
}

type Function = extern "C" fn() -> i32;

/// Loads, starts and stops on a thread that ends, so that nothing of that thread holds the library; then unloads it, and
/// does what would run code that is gone.
fn unloaded_library() {
    if !library().exists() {
        return skip("a library that is unloaded", "the example `plugin` is not built: cargo test builds it");
    }
    let dir = directory("plugin");
    // SAFETY: nobody else reads the environment: there is one thread.
    unsafe { std::env::set_var("EVERPROF_DIR", &dir) };
    for _ in 0..2 {
        let handle = thread::spawn(move || load_and_profile(&library())).join().unwrap();
        // SAFETY: the handle is live, and nobody calls the library any more.
        unsafe { libc::dlclose(handle as *mut c_void) };
        burn(Duration::from_millis(20));
        // SAFETY: our handler stays; without the library's code this would be a jump into nothing.
        unsafe { libc::raise(libc::SIGPROF) };
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        // SAFETY: the child does nothing but end.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a live value.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0, "the child of a fork");
    }
    assert!(!profiles(&dir).is_empty());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Cargo builds examples beside the folder of tests.
fn library() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples/libplugin.so")
}

/// The handle of the library, as a number: it goes to another thread.
fn load_and_profile(library: &Path) -> usize {
    let path = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: the library has no constructors of its own.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    let find = |name: &std::ffi::CStr| {
        // SAFETY: the handle is live, the name is a C string.
        let function = unsafe { libc::dlsym(handle, name.as_ptr()) };
        assert!(!function.is_null());
        // SAFETY: both functions of the library can be called by this type; what `plugin_stop` returns is not read.
        unsafe { std::mem::transmute::<*mut c_void, Function>(function) }
    };
    let (start, end) = (find(c"plugin_start"), find(c"plugin_stop"));
    assert_eq!(start(), 0);
    burn(Duration::from_millis(100));
    let _ = end();
    // Its threads end soon after; until then they would keep it loaded.
    thread::sleep(Duration::from_millis(300));
    handle as usize
}
