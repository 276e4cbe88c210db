use super::*;
use crate::profile::{Function, Kind, Line, Location, StackId};

fn stack(profile: &mut Profile, functions: &[&str]) -> StackId {
    let locations: Vec<LocationId> = functions
        .iter()
        .map(|name| {
            let name = profile.string(name);
            let function = profile.function(Function { name, ..Function::default() });
            let lines = vec![Line { function, line: 0, column: 0 }];
            profile.location(Location { lines, ..Location::default() })
        })
        .collect();
    profile.stack(&locations)
}

fn add(profile: &mut Profile, functions: &[&str], labels: &[(&str, &str)], nanos: i64) {
    let stack = stack(profile, functions);
    let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::text(*key, *value)).collect();
    let labels = profile.labels(&labels);
    profile.add(stack, labels, &[1, nanos]);
}

const OFF: (&str, &str) = ("state", "off_cpu");

#[test]
fn a_service_that_waits_for_its_upstream_is_wait_bound_and_the_place_is_named() {
    let mut profile = Profile::new(Kind::Wall);
    let worker = |n: &'static str| ("thread_name", n);
    add(
        &mut profile,
        &["recv", "std::net::read", "shop::fetch"],
        &[OFF, ("wait", "network"), worker("w-1")],
        900,
    );
    add(&mut profile, &["shop::render"], &[("state", "on_cpu"), worker("w-2")], 90);
    add(&mut profile, &["syscall", "park"], &[OFF, ("wait", "thread"), worker("pool")], 100_000);
    add(&mut profile, &["epoll_wait"], &[OFF, ("wait", "events"), worker("everprof")], 1_000_000);
    let verdict = profile.verdict().unwrap();
    assert_eq!(verdict.bound, Bound::Idle, "one per cent of the time is work");
    add(&mut profile, &["recv", "shop::fetch"], &[OFF, ("wait", "network"), worker("w-1")], 900);
    let verdict = profile.verdict().unwrap();
    assert_eq!(verdict.bound, Bound::Wait(Activity::Network));
    assert_eq!(verdict.waits_in, ["shop::fetch"]);
    assert_eq!(verdict.groups.first().unwrap().name, "w");
    assert!(verdict.to_string().contains("95 % waiting for the network, 5 % on CPU"), "{verdict}");
}

#[test]
fn locks_are_told_by_their_functions_and_requests_by_their_labels() {
    let mut profile = Profile::new(Kind::Wall);
    let thread = ("wait", "thread");
    add(
        &mut profile,
        &["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended"],
        &[OFF, thread],
        60,
    );
    add(&mut profile, &["syscall", "std::sync::Condvar::wait"], &[OFF, thread, ("endpoint", "/a")], 30);
    add(&mut profile, &["syscall", "std::sync::Condvar::wait"], &[OFF, thread], 500);
    add(&mut profile, &["clock_nanosleep"], &[OFF, ("wait", "timer")], 200);
    add(&mut profile, &["a::b"], &[("state", "runnable")], 10);
    let verdict = profile.verdict().unwrap();
    let of = |activity| verdict.all.of(activity);
    assert_eq!([of(Activity::Lock), of(Activity::Thread), of(Activity::Idle)], [60, 30, 500]);
    assert_eq!([of(Activity::Timer), of(Activity::Runnable)], [200, 10], "a thread that works is not asleep");
    assert_eq!(verdict.bound, Bound::Wait(Activity::Timer));
}

#[test]
fn the_place_of_a_wait_is_the_applications_and_no_plumbing() {
    let plumbing = [
        "__rust_try",
        "catch_unwind<(), core::panic::unwind_safe::AssertUnwindSafe<std::thread::lifecycle::spawn_unchecked::{closure#1}>>",
        "{closure#0}<shop::main::{closure_env#0}, ()>",
        "<alloc::boxed::Box<dyn core::ops::function::FnOnce<()>> as core::ops::function::FnOnce<()>>::call_once",
        "core::ops::function::FnOnce::call_once{{vtable.shim}}",
        "std::sys::backtrace::__rust_begin_short_backtrace",
        "__rust_begin_short_backtrace<shop::main, ()>",
        "start_thread",
        "[truncated]",
    ];
    assert_eq!(plumbing.into_iter().find(|name| is_of_application(name)), None);
    let own = [
        "shop::main",
        "shop::Cache<K,V>::get",
        "shop::serve::{{closure}}",
        "cart::total<core::num::NonZero>",
    ];
    assert!(own.into_iter().all(is_of_application));
}

#[test]
fn names_lose_their_numbers_but_not_themselves() {
    let names = ["worker-12", "tokio-rt-worker", "pool 3", "7", ""].map(without_number);
    assert_eq!(names, ["worker", "tokio-rt-worker", "pool", "7", ""]);
    assert!(Profile::new(Kind::Cpu).verdict().is_err());
    assert_eq!(Profile::new(Kind::Wall).verdict().unwrap().bound, Bound::Idle);
}

fn upstream(profile: &mut Profile, endpoint: &str, nanos: i64) {
    let functions = ["tokio::net::TcpStream::poll", "shop::fetch::{{closure}}", "shop::cart::{{closure}}"];
    let labels = [("endpoint", endpoint), ("state", "awaiting"), ("wait", "network")];
    add(profile, &functions, &labels, nanos);
}

#[test]
fn what_tasks_await_bounds_a_service_whose_threads_do_not_wait() {
    let mut profile = Profile::new(Kind::Wall);
    let (worker, cart) = (("thread_name", "rt-1"), ("endpoint", "/cart"));
    add(&mut profile, &["shop::price"], &[("state", "on_cpu"), worker, cart], 50);
    add(&mut profile, &["epoll_wait"], &[OFF, ("wait", "events"), worker], 950);
    upstream(&mut profile, "/cart", 900);
    let verdict = profile.verdict().unwrap();
    assert_eq!(verdict.bound, Bound::Wait(Activity::Network));
    assert_eq!(verdict.waits_in, ["shop::fetch", "shop::cart"]);
    let groups: Vec<(&str, u64)> =
        verdict.groups.iter().map(|group| (group.name.as_str(), group.total())).collect();
    assert_eq!(groups, [("async tasks", 900), ("rt", 1000)], "awaiting is no thread's time");
    assert!(
        verdict.to_string().contains("that threads and tasks were at work, 95 % waiting for the network")
    );
}

#[test]
fn tasks_of_threads_that_never_rest_wait_for_these() {
    let mut profile = Profile::new(Kind::Wall);
    let worker = ("thread_name", "rt-1");
    add(&mut profile, &["shop::price"], &[("state", "on_cpu"), worker], 800);
    add(&mut profile, &["epoll_wait"], &[OFF, ("wait", "events"), worker], 200);
    upstream(&mut profile, "/cart", 20_000);
    let verdict = profile.verdict().unwrap();
    assert_eq!((verdict.bound, verdict.all.total()), (Bound::Cpu, 1000));
    assert!(!verdict.to_string().contains("network"), "{verdict}");
}

#[test]
fn each_kind_of_request_has_a_verdict_of_its_own() {
    let mut profile = Profile::new(Kind::Wall);
    let (worker, trace) = (("thread_name", "rt-1"), ("trace_id", "1234"));
    let search = ("endpoint", "/search");
    add(&mut profile, &["shop::score"], &[("state", "on_cpu"), worker, search, trace], 300);
    add(&mut profile, &["shop::score"], &[("state", "on_cpu"), worker, ("endpoint", "/cart")], 10);
    add(&mut profile, &["epoll_wait"], &[OFF, ("wait", "events"), worker], 5_000);
    upstream(&mut profile, "/cart", 500);
    let told: Vec<String> = profile.verdict().unwrap().requests.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "endpoint=/cart: wait-bound: of 0.0 s, 98 % waiting for the network, 2 % on CPU; most of the wait is in \
             shop::fetch, called by shop::cart",
            "endpoint=/search: CPU-bound: of 0.0 s, 100 % on CPU",
        ]
    );
}

#[test]
fn tasks_that_wait_for_work_are_idle_and_those_that_wait_for_their_turn_are_ready() {
    let mut profile = Profile::new(Kind::Wall);
    let mut task = |function: &str, wait: &str, nanos| {
        add(&mut profile, &[function, "shop::serve"], &[("state", "awaiting"), ("wait", wait)], nanos);
    };
    task("tokio::time::interval::Interval::poll_tick", "timer", 1_000);
    task("<tokio::sync::mpsc::Rx<T,S>>::recv", "task", 2_000);
    task("<tokio::sync::oneshot::Receiver<T>>::poll", "task", 30);
    task("tokio::time::sleep::Sleep::poll_elapsed", "timer", 20);
    task("tokio::task::yield_now", "turn", 10);
    task("tokio::sync::batch_semaphore::Semaphore::poll_acquire", "lock", 5);
    let all = profile.verdict().unwrap().all;
    let of = |activity| all.of(activity);
    assert_eq!([of(Activity::Idle), of(Activity::Thread), of(Activity::Runnable)], [3_000, 30, 10]);
    assert_eq!([of(Activity::Lock), of(Activity::Timer)], [5, 20]);
}

/// However many threads sleep beside: by the time that passed, not by that of all threads.
#[test]
fn a_thread_that_computes_among_a_thousand_that_sleep_is_what_the_service_does() {
    let mut profile = Profile::new(Kind::Wall);
    for worker in 0..1_000 {
        let name: &'static str = if worker % 2 == 0 { "even" } else { "odd" };
        add(&mut profile, &["syscall", "park"], &[OFF, ("wait", "thread"), ("thread_name", name)], 10_000);
    }
    // Of the same name as threads that sleep.
    add(&mut profile, &["shop::batch"], &[("state", "on_cpu"), ("thread_name", "even")], 2_000);
    add(&mut profile, &["shop::batch"], &[("state", "runnable"), ("thread_name", "even")], 3_000);
    assert_eq!(profile.verdict().unwrap().bound, Bound::Idle, "no time is known to have passed");
    profile.duration_nanos = 10_000;
    let verdict = profile.verdict().unwrap();
    assert_eq!(verdict.bound, Bound::Cpu);
    assert!(verdict.to_string().starts_with("CPU-bound, and short of processors: "), "{verdict}");
    profile.duration_nanos = 100_000;
    assert_eq!(profile.verdict().unwrap().bound, Bound::Idle, "a twentieth of one thread's time");
    // Half of it waits for the disk, and half for a processor.
    let mut profile = Profile::new(Kind::Wall);
    for (state, wait, nanos) in [("off_cpu", "disk", 46), ("runnable", "", 50), ("on_cpu", "", 4)] {
        add(&mut profile, &["fsync"], &[("state", state), ("wait", wait)], nanos);
    }
    assert!(profile.verdict().unwrap().to_string().starts_with("short of processors, and waiting: of "));
}

/// A service without work: threads that wait for signals, for clients and for their next requests, and a pool.
#[test]
fn an_idle_service_is_never_called_wait_bound() {
    let mut profile = Profile::new(Kind::Wall);
    let mut waits = |thread: &'static str, functions: &[&str], wait: &'static str| {
        add(&mut profile, functions, &[OFF, ("wait", wait), ("thread_name", thread)], 10_000);
    };
    waits("ctrl-c", &["read", "ctrlc::platform::block_ctrl_c", "shop::main"], "pipe");
    waits("signals", &["recv", "signal_hook::iterator::wait"], "network");
    waits("listens", &["poll", "shop::serve"], "events");
    waits("conn-1", &["recv", "std::net::TcpStream::read", "shop::connection"], "client");
    waits("udp", &["recvfrom", "shop::names"], "network");
    waits("pool-1", &["syscall", "std::sync::Condvar::wait", "shop::pool"], "thread");
    waits("pool-2", &["syscall", "std::sync::mpmc::recv", "shop::pool"], "thread");
    waits("ticks", &["clock_nanosleep", "shop::tick"], "timer");
    // What it does all the same: 0.4 % of each thread's time but the connection's, which works for 3 %.
    for (thread, nanos) in [("ticks", 40), ("udp", 40), ("conn-1", 300)] {
        add(&mut profile, &["shop::work"], &[("state", "on_cpu"), ("thread_name", thread)], nanos);
    }
    let verdict = profile.verdict().unwrap();
    assert_eq!(verdict.bound, Bound::Idle, "{verdict}");
    assert_eq!(verdict.all.share(Activity::Idle), 1.0 - 380.0 / 80_380.0, "{verdict:?}");
    // With a request at hand that client is waited for.
    let labels = [OFF, ("wait", "client"), ("thread_name", "conn-1"), ("endpoint", "/upload")];
    add(&mut profile, &["recv", "shop::body"], &labels, 20_000);
    assert_eq!(profile.verdict().unwrap().bound, Bound::Wait(Activity::Network));
}

#[test]
fn between_two_labelled_requests_a_connection_is_idle_and_an_upstream_is_not() {
    let mut profile = Profile::new(Kind::Wall);
    let (thread, request) = (("thread_name", "w-1"), ("endpoint", "/a"));
    let on_cpu = ("state", "on_cpu");
    add(&mut profile, &["shop::render"], &[on_cpu, thread, request], 60);
    add(&mut profile, &["shop::parse"], &[on_cpu, thread], 30);
    add(&mut profile, &["recv", "shop::next"], &[OFF, ("wait", "network"), thread], 2_000);
    add(&mut profile, &["recv", "shop::fetch"], &[OFF, ("wait", "network"), thread, request], 500);
    add(&mut profile, &["nanosleep", "shop::retry"], &[OFF, ("wait", "timer"), thread, request], 10);
    let all = profile.verdict().unwrap().all;
    let of = |activity| all.of(activity);
    assert_eq!([of(Activity::Idle), of(Activity::Network), of(Activity::Timer)], [2_000, 500, 10]);
    // One that seldom labels what it does is told by its waits alone.
    add(&mut profile, &["shop::other"], &[on_cpu, thread], 200);
    assert_eq!(profile.verdict().unwrap().all.of(Activity::Network), 2_500);
}

/// What a request waits for is never idle, whatever else its group does.
#[test]
fn waits_of_requests_stay_what_they_are_in_groups_that_hardly_run() {
    let mut profile = Profile::new(Kind::Wall);
    let (thread, request) = (("thread_name", "w-1"), ("endpoint", "/a"));
    let lock = ["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended", "shop::stock"];
    let message = ["syscall", "std::sync::mpmc::recv", "shop::stock"];
    for (functions, wait, labelled, nanos) in [
        (&lock[..], "thread", true, 1),
        (&lock, "thread", false, 20),
        (&message, "thread", false, 300),
        (&["nanosleep", "shop::stock"], "timer", true, 4_000),
        (&["nanosleep", "shop::stock"], "timer", false, 50_000),
    ] {
        let labels: Vec<_> =
            [OFF, ("wait", wait), thread].into_iter().chain(labelled.then_some(request)).collect();
        add(&mut profile, functions, &labels, nanos);
    }
    let verdict = profile.verdict().unwrap();
    let of = |activity| verdict.all.of(activity);
    assert_eq!([of(Activity::Lock), of(Activity::Timer), of(Activity::Idle)], [1, 4_000, 50_320]);
    let activities = profile.activities().unwrap();
    let is_idle = |activity: &Activity| *activity == Activity::Idle;
    assert_eq!(activities.iter().filter(|activity| is_idle(activity)).count(), 3, "{activities:?}");
}

#[test]
fn loops_of_libraries_are_idle_under_any_label_and_what_they_call_is_not() {
    let mut profile = Profile::new(Kind::Wall);
    let (thread, role) = (("thread_name", "rt-1"), ("role", "worker"));
    let park = "tokio::runtime::scheduler::multi_thread::worker::Context::park_internal";
    let mut waits = |functions: &[&str], wait: &'static str, state: &'static str, nanos| {
        add(&mut profile, functions, &[("state", state), ("wait", wait), thread, role], nanos);
    };
    waits(&["epoll_wait", "mio::poll::Poll::poll", park], "events", "off_cpu", 1);
    waits(&["syscall", "std::sync::mpmc::recv", "shop::ask", park], "thread", "off_cpu", 10);
    let head = "hyper::proto::h1::conn::Conn<I,B,T>::poll_read_head";
    waits(
        &["<tokio::net::TcpStream as AsyncRead>::poll_read", head, "shop::connection"],
        "network",
        "awaiting",
        100,
    );
    waits(
        &["tokio::net::poll_read", head, "hyper::client::conn", "shop::fetch"],
        "network",
        "awaiting",
        1_000,
    );
    waits(
        &["tokio::net::poll_read", "redis::aio::read", "shop::get", "h2::server::poll"],
        "network",
        "awaiting",
        10_000,
    );
    let all = profile.verdict().unwrap().all;
    let of = |activity| all.of(activity);
    assert_eq!([of(Activity::Idle), of(Activity::Thread), of(Activity::Network)], [101, 10, 11_000]);
}

#[test]
fn event_loops_that_mostly_wait_are_not_called_cpu_bound_where_no_task_tells_what_it_waits_for() {
    let mut profile = Profile::new(Kind::Wall);
    let worker = ("thread_name", "tokio-rt-worker");
    let events = [OFF, ("wait", "events"), ("syscall", "epoll_wait"), worker];
    add(&mut profile, &["shop::render"], &[("state", "on_cpu"), worker], 13);
    add(&mut profile, &["epoll_wait", "mio::poll::Poll::poll"], &events, 30);
    add(&mut profile, &["syscall", "std::thread::park"], &[OFF, ("wait", "thread"), worker], 57);
    let verdict = profile.verdict().unwrap();
    assert_eq!(verdict.bound, Bound::Idle);
    let words = verdict.to_string();
    assert!(words.starts_with("mostly idle: ") && words.contains("13.0 %"), "{words}");
    assert!(words.contains("Labels::wrap"), "{words}");
    // A loop that runs most of the time is bound by its processor,
    add(&mut profile, &["shop::render"], &[("state", "on_cpu"), worker], 200);
    assert_eq!(profile.verdict().unwrap().bound, Bound::Cpu);
    // and so are workers that take turns, beside a loop that hardly ever runs.
    let mut profile = Profile::new(Kind::Wall);
    add(&mut profile, &["shop::render"], &[("state", "on_cpu"), ("thread_name", "worker-1")], 20);
    add(
        &mut profile,
        &["syscall", "std::thread::park"],
        &[OFF, ("wait", "thread"), ("thread_name", "worker-2")],
        80,
    );
    add(&mut profile, &["epoll_wait"], &events, 100);
    assert_eq!(profile.verdict().unwrap().bound, Bound::Cpu);
}

/// Adds what a thread waited for the network and what it ran besides.
fn asks(profile: &mut Profile, thread: &str, function: &str, wait: &str, millis: i64) {
    let labels = [OFF, ("wait", wait), ("thread_name", thread)];
    add(profile, &["recv", "std::net::TcpStream::read", function], &labels, millis * 1_000_000);
}

fn runs(profile: &mut Profile, thread: &str, millis: i64) {
    add(profile, &["shop::work"], &[("state", "on_cpu"), ("thread_name", thread)], millis * 1_000_000);
}

#[test]
fn answers_that_come_are_waited_for_by_threads_that_hardly_run() {
    let mut profile = Profile::new(Kind::Wall);
    // Of most of its waits nobody knows who said the last word.
    asks(&mut profile, "asks-1", "shop::price", "network", 53_000);
    asks(&mut profile, "asks-1", "shop::price", "answer", 6_500);
    runs(&mut profile, "asks-1", 300);
    let verdict = profile.verdict().unwrap();
    assert_eq!((verdict.bound, verdict.all.of(Activity::Idle)), (Bound::Wait(Activity::Network), 0));
    assert_eq!(verdict.waits_in, ["shop::price"]);
    assert_eq!(profile.activities().unwrap(), [Activity::Network, Activity::Network, Activity::OnCpu]);
    // A pool of which each thread has a request now and then, and waits for its upstream meanwhile.
    let mut profile = Profile::new(Kind::Wall);
    let parked = ["syscall", "std::sync::mpmc::recv", "shop::pool"];
    add(&mut profile, &parked, &[OFF, ("wait", "thread"), ("thread_name", "pool-1")], 1_000_000_000_000);
    asks(&mut profile, "pool-1", "shop::price", "answer", 20_000);
    runs(&mut profile, "pool-1", 100);
    assert_eq!(profile.verdict().unwrap().bound, Bound::Wait(Activity::Network));
}

#[test]
fn waits_for_work_are_idle_though_somebody_asked_for_it() {
    // What is known to be for an answer, what is not, and how long the thread ran; and what of it is no idle wait.
    for (what, [owed, open, ran], told) in [
        ("there was nothing, each time that it asked", [60_000, 0, 40], 0),
        ("messages that nobody asked for, or that are late", [0, 60_000, 500], 0),
        ("one beat of a heart among them that was not answered at once", [60, 60_000, 500], 60),
    ] {
        let mut profile = Profile::new(Kind::Wall);
        asks(&mut profile, "hears", "shop::hear", "network", open);
        asks(&mut profile, "hears", "shop::hear", "answer", owed);
        runs(&mut profile, "hears", ran);
        let verdict = profile.verdict().unwrap();
        assert_eq!(
            (verdict.bound, verdict.all.of(Activity::Network)),
            (Bound::Idle, told * 1_000_000),
            "{what}"
        );
    }
    // Half a second each, told twice; and a fifth of a second, told as often.
    assert_eq!([come_soon(240, 60_000_000_000), come_soon(600, 60_000_000_000)], [false, true]);
    assert!(!come_soon(60, 60_000_000_000), "looks too seldom to know");
}

#[test]
fn without_names_each_wait_for_an_answer_is_judged_by_itself_and_labels_go_before() {
    let mut profile = Profile::new(Kind::Wall);
    asks(&mut profile, "asks", "read", "answer", 30_000);
    asks(&mut profile, "asks", "read", "network", 30_000);
    runs(&mut profile, "asks", 300);
    let all = profile.verdict().unwrap().all;
    let seconds = |activity| all.of(activity) / 1_000_000_000;
    assert_eq!([seconds(Activity::Network), seconds(Activity::Idle)], [30, 30]);
    // A worker whose work is labelled asks for the next piece of it outside of labels.
    let labels = [("state", "on_cpu"), ("thread_name", "asks"), ("endpoint", "/a")];
    add(&mut profile, &["shop::work"], &labels, 400_000_000);
    assert_eq!(profile.verdict().unwrap().all.of(Activity::Network), 0);
}
