//! What a wait is for, and where: told by what the kernel says and by the names of functions.

use super::Activity;
use crate::profile::{LocationId, Profile};

/// Functions whose wait is for a lock. Names of the standard library, parking_lot, and the C library.
const LOCKS: [&str; 8] = [
    "lock_contended",
    "lock_slow",
    "lock_shared_slow",
    "lock_exclusive_slow",
    "pthread_mutex_lock",
    "pthread_mutex_timedlock",
    "pthread_rwlock_",
    "lll_lock_wait",
];
/// So many functions from the leaf on say what a thread waits for.
const NEAR_LEAF: usize = 12;

pub(super) fn wait(
    profile: &Profile,
    stack: &[LocationId],
    wait: Option<&str>,
    syscall: Option<&str>,
    of_request: bool,
) -> Activity {
    let idle = |activity| if of_request { activity } else { Activity::Idle };
    if matches!(wait, Some("thread" | "events")) && is_loop(functions(profile, stack), &PARKS) {
        return Activity::Idle;
    }
    match wait.unwrap_or_default() {
        "network" if syscall.is_some_and(|call| call.starts_with("accept")) => idle(Activity::Network),
        "network" | "answer" => Activity::Network,
        "client" => idle(Activity::Network),
        "disk" => Activity::Disk,
        "lock" => Activity::Lock,
        "timer" => Activity::Timer,
        "thread" if functions(profile, stack).take(NEAR_LEAF).any(is_lock) => Activity::Lock,
        "thread" => idle(Activity::Thread),
        "events" => idle(Activity::Network),
        "process" => idle(Activity::Other),
        _ => Activity::Other,
    }
}

/// Functions of thread pools in which a worker without work waits for it, whatever labels the thread has.
const PARKS: [&str; 5] = [
    "multi_thread::worker::Context::park",
    "tokio::runtime::blocking::pool::Inner::run",
    "rayon_core::registry::main_loop",
    "rayon_core::registry::ThreadBuilder::run",
    "threadpool::spawn_in_pool",
];

/// Functions of servers in which a connection waits for its next request.
const NEXT_REQUESTS: [&str; 4] =
    ["::poll_read_head", "::poll_read_keep_alive", "h2::server::", "actix_http::h1::dispatcher::"];
/// The other side of the same protocols: it waits for an answer.
const CLIENTS: [&str; 6] =
    ["hyper::client", "hyper_util::client", "h2::client", "reqwest::", "ureq::", "awc::"];

/// Whether a loop of one of these names waits itself, and not what it has called: none of the application's functions is
/// nearer to the leaf, nor is there a client.
fn is_loop<'p>(functions: impl Iterator<Item = &'p str>, loops: &[&str]) -> bool {
    let is = |names: &[&str], function: &str| names.iter().any(|name| function.contains(name));
    let mut any = false;
    let mut near = functions.take_while(|function| !is_of_application(function));
    near.all(|function| {
        any |= is(loops, function);
        !is(&CLIENTS, function)
    }) && any
}

/// Functions in which a task waits for work, not for the end of it.
const IDLE_TASKS: [&str; 9] = [
    "time::interval",
    "TcpListener",
    "UnixListener",
    "::mpsc",
    "async_channel::",
    "flume::",
    "tokio::signal",
    "broadcast",
    "watch::Receiver",
];

/// What a task waits for.
pub(super) fn task_wait(profile: &Profile, stack: &[LocationId], wait: Option<&str>) -> Activity {
    let is_idle = |function: &str| IDLE_TASKS.iter().any(|part| function.contains(part));
    let waits_for_work = || functions(profile, stack).take(NEAR_LEAF).any(is_idle);
    match wait.unwrap_or_default() {
        "timer" | "network" | "task" | "process" | "other" if waits_for_work() => Activity::Idle,
        "network" if is_loop(functions(profile, stack), &NEXT_REQUESTS) => Activity::Idle,
        "network" => Activity::Network,
        "disk" => Activity::Disk,
        "lock" => Activity::Lock,
        "timer" => Activity::Timer,
        "task" => Activity::Thread,
        // It is ready, and waits for a thread.
        "turn" => Activity::Runnable,
        _ => Activity::Other,
    }
}

fn is_lock(function: &str) -> bool {
    LOCKS.iter().any(|lock| function.contains(lock))
}

fn functions<'p>(profile: &'p Profile, stack: &'p [LocationId]) -> impl Iterator<Item = &'p str> {
    let lines = stack.iter().flat_map(|location| &profile.get_location(*location).lines);
    lines.map(|line| profile.text(profile.get_function(line.function).name))
}

/// How names begin that say nothing of the application: of languages, their runtimes and the C library.
const LIBRARIES: [&str; 46] = [
    "std::",
    "core::",
    "alloc::",
    "<",
    "_",
    "tokio::",
    "mio::",
    "parking_lot",
    "hyper",
    "socket2::",
    "rustix::",
    "[",
    "async_",
    "axum",
    "everprof",
    "futures",
    "h2::",
    "http",
    "pin_project",
    "quinn",
    "redis::",
    "reqwest::",
    "rustls",
    "smol::",
    "sqlx",
    "tokio_",
    "tonic",
    "tower",
    "tracing",
    "want::",
    "tungstenite",
    "actix",
    "awc::",
    "crossbeam",
    "deadpool",
    "flume::",
    "lock_api::",
    "native_tls",
    "openssl::",
    "polling::",
    "r2d2",
    "rayon",
    "signal_hook",
    "threadpool::",
    "tiny_http::",
    "ureq",
];

/// Whether a function is the application's, not that of a library which the application waits in.
pub(crate) fn is_of_application(name: &str) -> bool {
    // What a function was made for says nothing of where it stands: `catch_unwind<std::thread::…>`.
    let path = name.split('<').next().unwrap_or_default();
    path.contains("::") && !LIBRARIES.iter().any(|library| name.starts_with(library))
}

/// So many functions of the application tell where it waits.
const PLACE: usize = 3;

/// Where the application waits: the innermost of its functions that are not a library's.
pub(super) fn place(profile: &Profile, stack: &[LocationId]) -> Vec<String> {
    // A closure is part of the function that has it.
    let whole = |name: &str| {
        let end = [name.find("::{{closure}}"), name.find("::{closure#")].into_iter().flatten().min();
        name.get(..end.unwrap_or(name.len())).unwrap_or(name).to_owned()
    };
    let mut place: Vec<String> = Vec::new();
    for function in functions(profile, stack).filter(|name| is_of_application(name)).map(whole) {
        if place.last() != Some(&function) {
            place.push(function);
        }
        if place.len() == PLACE {
            break;
        }
    }
    place
}

/// A thread's name without what numbers it: `worker-12` and `worker-3` are `worker`.
pub(super) fn without_number(name: &str) -> &str {
    let trimmed = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let trimmed = trimmed.trim_end_matches(['-', '_', '#', ':', '/', ' ', '.']);
    if trimmed.is_empty() { name } else { trimmed }
}
