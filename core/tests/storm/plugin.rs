//! A library of C code, compiled now and loaded with `dlopen`.

use std::ffi::{CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicI32;

const SOURCE: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
static int by_value(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
__attribute__((noinline)) int plugin_leaf(int n) {
    volatile int sum = 0;
    for (int i = 0; i < n; i++) sum += i * i;
    return sum;
}
/* Recursion, the C library through the PLT, and a callback into the host. */
__attribute__((noinline)) int plugin_work(int depth, int n, int (*callback)(int)) {
    int numbers[16];
    char text[64];
    if (depth > 0) return plugin_work(depth - 1, n, callback) + 1;
    for (int i = 0; i < 16; i++) numbers[i] = (i * 7919 + n) % 101;
    qsort(numbers, 16, sizeof(int), by_value);
    memset(text, 'x', sizeof text - 1);
    text[63] = 0;
    return numbers[3] + (int)strlen(text) + plugin_leaf(n) + (callback ? callback(n) : 0);
}
/* A handler that never returns, as in programs that give up after a time. */
static sigjmp_buf away;
static volatile sig_atomic_t armed;
static void jump(int signal) { if (armed) { armed = 0; siglongjmp(away, signal); } }
int plugin_jump(volatile int *stop) {
    struct sigaction action = {.sa_handler = jump, .sa_flags = SA_ONSTACK};
    volatile int jumps = 0;
    sigaction(SIGUSR2, &action, 0);
    while (!*stop) {
        if (sigsetjmp(away, 1) == 0) { armed = 1; while (!*stop) plugin_leaf(50); }
        else jumps++;
    }
    armed = 0;
    return jumps;
}
/* A thread that is cancelled at any instruction. */
static void *spin(void *unused) {
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, 0);
    for (;;) plugin_leaf(50);
    return unused;
}
int plugin_spinner(pthread_t *thread) { return pthread_create(thread, 0, spin, 0); }
"#;

pub(crate) type Callback = extern "C" fn(c_int) -> c_int;
pub(crate) type Jump = extern "C" fn(*const AtomicI32) -> c_int;
pub(crate) type Spinner = extern "C" fn(*mut libc::pthread_t) -> c_int;
pub(crate) type Work = extern "C" fn(c_int, c_int, Option<Callback>) -> c_int;

/// Compiles the library into `dir`; `None` without a C compiler, and then the test is skipped.
pub(crate) fn compile(dir: &Path) -> Option<PathBuf> {
    std::fs::create_dir_all(dir).unwrap();
    let (source, library) = (dir.join("plugin.c"), dir.join("plugin.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let made = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-pthread", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        crate::skip("code from a library loaded at run time", "there is no C compiler `cc`");
        return None;
    }
    Some(library)
}

/// A loaded library; [`Plugin::close`] unloads it.
pub(crate) struct Plugin {
    handle: *mut c_void,
    pub(crate) work: Work,
    pub(crate) jump: Jump,
    pub(crate) spinner: Spinner,
}

impl Plugin {
    pub(crate) fn open(library: &Path) -> Plugin {
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the library has no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY) };
        assert!(!handle.is_null());
        let find = |name: &std::ffi::CStr| {
            // SAFETY: the handle is live, the name is a C string.
            let function = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!function.is_null());
            function
        };
        // SAFETY: the function has this type in the source above.
        let work = unsafe { std::mem::transmute::<*mut c_void, Work>(find(c"plugin_work")) };
        // SAFETY: as above.
        let jump = unsafe { std::mem::transmute::<*mut c_void, Jump>(find(c"plugin_jump")) };
        // SAFETY: as above.
        let spinner = unsafe { std::mem::transmute::<*mut c_void, Spinner>(find(c"plugin_spinner")) };
        Plugin { handle, work, jump, spinner }
    }

    pub(crate) fn close(self) {
        // SAFETY: the handle is live, and nobody calls the library any more.
        unsafe { libc::dlclose(self.handle) };
    }
}
