//! Threads that neither run nor wait in a call of their own: stopped, traced, or until their child has its own memory.

use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::os::gettid;

use super::common::{burn, directory, flush, skip, stop};
use super::{largest, seconds, start, state_of};

/// A process that is stopped for two seconds: threads that waited and threads that ran. None of the time is told as work
/// or as a wait for what they did before.
pub(crate) fn process() {
    let (profiler, dir) = start("stopped", "cpu,wall");
    let pid = std::process::id();
    let spawn = |name: &str, work: fn()| thread::Builder::new().name(name.into()).spawn(work).unwrap();
    let busy = spawn("busy", || burn(Duration::from_millis(1500)));
    let both = spawn("both", || {
        let end = Instant::now() + Duration::from_millis(4500);
        while Instant::now() < end {
            burn(Duration::from_millis(2));
            thread::sleep(Duration::from_millis(8));
        }
    });
    let script = format!("sleep 0.7; kill -STOP {pid}; sleep 2; kill -CONT {pid}");
    let mut other = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    [busy, both].into_iter().for_each(|thread| thread.join().unwrap());
    other.wait().unwrap();
    flush(&profiler);
    stop(profiler);
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "state", "wait"]);
    println!("{told:#?}");
    let of = |name: &str, wait: &str| {
        let key = |[thread, state, told]: &[String; 3]| thread == name && state == "off_cpu" && told == wait;
        told.iter().filter(|(at, _)| key(at)).map(|(_, time)| time).sum::<f64>()
    };
    for name in ["busy", "both"] {
        assert!((1.5..2.5).contains(&of(name, "process")), "{name} was stopped for {}", of(name, "process"));
    }
    assert!(of("both", "timer") < 2.6, "{}", of("both", "timer"));
}

const TRACER: &str = r#"
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **arguments) {
    int thread = atoi(arguments[1]), status;
    usleep(500000);
    if (ptrace(PTRACE_SEIZE, thread, 0, 0)) return 77;
    if (ptrace(PTRACE_INTERRUPT, thread, 0, 0) || waitpid(thread, &status, __WALL) != thread) return 1;
    sleep(1);
    return ptrace(PTRACE_DETACH, thread, 0, 0) ? 1 : 0;
}
"#;

fn program(dir: &Path, source: &str) -> Option<std::path::PathBuf> {
    std::fs::create_dir_all(dir).unwrap();
    let (code, program) = (dir.join("tracer.c"), dir.join("tracer"));
    std::fs::write(&code, source).unwrap();
    let made = Command::new("cc").arg("-o").arg(&program).arg(&code).status();
    made.is_ok_and(|status| status.success()).then_some(program)
}

/// A thread that another process stops for a second, as a debugger does, while it works.
pub(crate) fn thread() {
    let tools = directory("tracer");
    let Some(tracer) = program(&tools, TRACER) else {
        return skip("a thread that is traced", "there is no C compiler `cc`");
    };
    let (profiler, dir) = start("traced", "cpu,wall");
    let (tell, tid) = std::sync::mpsc::channel();
    let work = move || {
        // SAFETY: plain numbers. Without it, Yama lets no child trace us.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
        tell.send(gettid()).unwrap();
        let end = Instant::now() + Duration::from_millis(2500);
        while Instant::now() < end {
            burn(Duration::from_millis(2));
            thread::sleep(Duration::from_millis(8));
        }
    };
    let traced = thread::Builder::new().name("traced".into()).spawn(work).unwrap();
    let mut child: Child = Command::new(tracer).arg(tid.recv().unwrap().to_string()).spawn().unwrap();
    // The tracer has stopped it by then, if it may.
    thread::sleep(Duration::from_millis(1000));
    let snapshot = everprof::threads().unwrap();
    traced.join().unwrap();
    let status = child.wait().unwrap();
    flush(&profiler);
    stop(profiler);
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "state", "wait", "syscall"]);
    std::fs::remove_dir_all(&tools).unwrap();
    println!("{told:#?}");
    if status.code() == Some(77) {
        return skip("a thread that is traced", "ptrace is not permitted");
    }
    assert!(status.success(), "{status}");
    let all: f64 = told.iter().filter(|(key, _)| key[0] == "traced").map(|(_, time)| time).sum();
    assert!((2.3..2.9).contains(&all), "{all} of 2.5 s");
    // Where it was stopped, between two instructions or in its sleep, is left to chance; but it read no page.
    let state = state_of(&snapshot, "traced").unwrap();
    println!("{state:?}");
    assert!(state[0] == "off_cpu" && ["process", "timer"].contains(&&*state[1]), "{state:?}");
    let disk: f64 =
        told.iter().filter(|(key, _)| key[0] == "traced" && key[2] == "disk").map(|(_, time)| time).sum();
    assert!(disk < 0.2, "{disk}");
}

/// The parent of a child of `vfork` waits until that calls `exec`, and no signal ends it.
pub(crate) fn vforked() {
    const SOURCE: &str = r#"
        #include <sys/wait.h>
        #include <unistd.h>
        int wait_for_child(void) {
            int child = vfork();
            if (child == 0) { usleep(400000); _exit(0); }
            return waitpid(child, 0, 0) == child ? 0 : 1;
        }
    "#;
    let tools = directory("vfork");
    std::fs::create_dir_all(&tools).unwrap();
    let (code, library) = (tools.join("vfork.c"), tools.join("vfork.so"));
    std::fs::write(&code, SOURCE).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("a thread that waits for its vforked child", "there is no C compiler `cc`");
    }
    let path = std::ffi::CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library has no initialisers.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    // SAFETY: the handle is live.
    let function = unsafe { libc::dlsym(handle, c"wait_for_child".as_ptr()) };
    // SAFETY: the function has this type in the source above.
    let wait = unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn() -> i32>(function) };
    let (profiler, dir) = start("vforked", "wall");
    let parent = thread::Builder::new().name("parent".into()).spawn(move || {
        (0..4).for_each(|_| assert_eq!(wait(), 0));
    });
    thread::sleep(Duration::from_millis(200));
    // No signal ends that wait.
    let state = state_of(&everprof::threads().unwrap(), "parent").unwrap();
    assert_eq!((&*state[0], &*state[1]), ("off_cpu", "process"), "{state:?}");
    parent.unwrap().join().unwrap();
    flush(&profiler);
    stop(profiler);
    let told = seconds(&largest(&dir, "wall"), ["thread_name", "state", "wait", "syscall"]);
    println!("{told:#?}");
    let of = |wait: &str| -> f64 {
        let is = |key: &[String; 4]| key[0] == "parent" && key[2] == wait;
        told.iter().filter(|(key, _)| is(key)).map(|(_, time)| time).sum()
    };
    assert!((1.4..1.9).contains(&of("process")), "{} of 1.6 s", of("process"));
    std::fs::remove_dir_all(&tools).unwrap();
}
