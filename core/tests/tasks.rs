//! The truth of what tasks wait for: programs on tokio and on an executor of their own whose tasks await known things for
//! known parts of their time, and the wall profile says so.
//!
//! Each case runs in a process of its own. Ground truth is the clock: each task measures itself how long it awaited.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;
#[path = "tasks/crowd.rs"]
mod crowd;
#[path = "tasks/off.rs"]
mod off;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use everprof::profile::{Activity, Bound, LabelValue};
use everprof::{Labels, Profiler};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use common::{burn, directory, flush, kind_of, names, stop};

const CASES: &[(&str, fn())] = &[
    ("few_awaits_are_all_told_with_their_kind_and_place", few),
    ("of_many_awaits_some_stand_for_all", many),
    ("an_await_is_told_for_the_innermost_wrap", nested),
    ("of_several_at_once_one_is_told_and_the_given_up_ones_too", several),
    ("what_goes_on_is_told_in_each_profile", long),
    ("a_service_whose_tasks_wait_for_their_upstream", upstream),
    ("a_service_whose_tasks_compute", computing),
    ("tasks_of_any_executor_and_on_any_thread", executors),
    ("profilers_come_and_go_while_tasks_await", comings),
    ("waits_that_are_switched_off_leave_every_waker_alone", off::by_option),
    ("a_future_without_waits_leaves_its_waker_alone", off::by_future),
    ("in_a_crowd_long_waits_are_told_as_well_as_short_ones", crowd::crowd),
    ("a_storm_of_signals_while_stacks_are_taken", storm),
];

fn main() {
    // More than one chance: timers of a machine that others use as well are late at times.
    common::main("tasks", CASES, 3);
}

fn start(name: &str) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let profiler = Profiler::builder()
        .dir(&dir)
        .set("kinds", "cpu,wall")
        .set("cpu_budget_percent", "10")
        .set("symbolize", "names")
        .start()
        .unwrap();
    (profiler, dir)
}

/// Everything that the wall profiles below a directory tell.
struct Told {
    /// Samples of awaiting tasks: the functions of the stack, leaf first, the labels, and nanoseconds.
    awaits: Vec<(Vec<String>, BTreeMap<String, String>, i64)>,
}

/// Whether two amounts of seconds are as equal as the clocks of a crowded machine allow.
fn assert_near(what: &str, told: f64, right: f64, part: f64) {
    println!("{what}: {told:.3} of {right:.3} s");
    assert!((told - right).abs() < part * right + 0.03, "{what}: {told:.3} of {right:.3} s");
}

impl Told {
    fn read(dir: &std::path::Path) -> Told {
        let mut awaits = Vec::new();
        for profile in &kind_of(dir, "wall") {
            for sample in profile.samples() {
                let text = |value: &LabelValue| match value {
                    LabelValue::Text(text) => text.clone(),
                    LabelValue::Number(number, _) => number.to_string(),
                };
                let labels = profile.get_labels(sample.labels);
                let labels: BTreeMap<String, String> =
                    labels.iter().map(|label| (label.key.clone(), text(&label.value))).collect();
                if labels.get("state").is_some_and(|state| state == "awaiting") {
                    let stack = names(profile, profile.get_stack(sample.stack));
                    let stack = stack.into_iter().map(str::to_owned).collect();
                    awaits.push((stack, labels, sample.values[1]));
                }
            }
        }
        std::fs::remove_dir_all(dir).unwrap();
        Told { awaits }
    }

    /// Seconds with these labels, in stacks that hold a function of that name.
    fn seconds(&self, labels: &[(&str, &str)], function: &str) -> f64 {
        let has = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| found.get(*key).is_some_and(|found| found == value))
        };
        let is = |stack: &[String]| function.is_empty() || stack.iter().any(|name| name.contains(function));
        let found = self.awaits.iter().filter(|(stack, labels, _)| has(labels) && is(stack));
        found.map(|(_, _, nanos)| *nanos as f64 / 1e9).sum()
    }
}

/// Seconds that futures took, by name, as their tasks measure it.
#[derive(Clone, Default)]
struct Truth(Arc<Mutex<BTreeMap<&'static str, f64>>>);

impl Truth {
    async fn time<T>(&self, name: &'static str, future: impl Future<Output = T>) -> T {
        let begin = Instant::now();
        let done = future.await;
        *self.0.lock().unwrap().entry(name).or_default() += begin.elapsed().as_secs_f64();
        done
    }

    fn of(&self, name: &str) -> f64 {
        self.0.lock().unwrap()[name]
    }
}

async fn wait_for_timer() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

async fn wait_for_task() {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let _ = tell.send(());
    });
    let _ = told.await;
}

async fn wait_for_blocking() {
    tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(30))).await.unwrap();
}

async fn wait_for_lock(lock: &tokio::sync::Mutex<()>) {
    drop(lock.lock().await);
}

async fn wait_for_socket(stream: &mut TcpStream) {
    stream.write_all(&[1]).await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
}

/// A server in a thread of its own that answers each byte after a while.
fn server(time: Duration) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move |mut stream: std::net::TcpStream| {
        stream.set_nodelay(true).unwrap();
        while stream.read_exact(&mut [0]).is_ok() {
            std::thread::sleep(time);
            if stream.write_all(&[2]).is_err() {
                return;
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

fn runtime(workers: usize) -> tokio::runtime::Runtime {
    let mut builder = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(workers.max(1)).enable_all().build().unwrap()
}

fn labels(endpoint: &str) -> Labels {
    Labels::new([("endpoint", endpoint)])
}

fn finish(profiler: Profiler, dir: &std::path::Path) -> Told {
    flush(&profiler);
    stop(profiler);
    Told::read(dir)
}

/// Some twenty polls a second: every one is watched, and the sums are exact.
fn few() {
    let (profiler, dir) = start("few");
    let truth = Truth::default();
    let address = server(Duration::from_millis(50));
    runtime(0).block_on(async {
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        let holder = lock.clone();
        let hold = async move {
            loop {
                let held = holder.lock().await;
                tokio::time::sleep(Duration::from_millis(45)).await;
                drop(held);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let hold = tokio::spawn(hold);
        let work = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for _ in 0..12 {
                truth.time("timer", wait_for_timer()).await;
                truth.time("task", wait_for_task()).await;
                truth.time("blocking", wait_for_blocking()).await;
                truth.time("lock", wait_for_lock(&lock)).await;
                truth.time("network", wait_for_socket(&mut stream)).await;
            }
        };
        labels("/a").wrap(work).await;
        hold.abort();
    });
    let told = finish(profiler, &dir);
    for (name, wait, function) in [
        ("timer", "timer", "wait_for_timer"),
        ("task", "task", "wait_for_task"),
        ("blocking", "task", "wait_for_blocking"),
        ("lock", "lock", "wait_for_lock"),
        ("network", "network", "wait_for_socket"),
    ] {
        let labels = [("wait", wait), ("endpoint", "/a")];
        assert_near(name, told.seconds(&labels, function), truth.of(name), 0.05);
    }
    // What is told is the task's stack alone: no frame of ours, nor of the executor's, and a root of its own.
    for (stack, labels, _) in &told.awaits {
        assert_eq!(stack.last().unwrap(), "[awaiting]", "{stack:?}");
        assert!(
            !stack.iter().any(|name| name.starts_with("everprof") || name.contains("worker")),
            "{stack:?}"
        );
        assert!(stack.iter().any(|name| name.contains("tasks::few")), "{stack:?}");
        assert!(!labels.contains_key("thread_name"), "{labels:?}");
    }
}

/// 100,000 awaits, most of them short: some are watched and stand for all.
fn many() {
    const TASKS: u32 = 20;
    const TURNS: u32 = 10;
    let (profiler, dir) = start("many");
    let truth = Truth::default();
    let begin = Instant::now();
    runtime(2).block_on(async {
        let work = |truth: Truth| async move {
            for _ in 0..450 {
                for _ in 0..TURNS {
                    truth.time("turns", tokio::task::yield_now()).await;
                }
                truth.time("longer", tokio::time::sleep(Duration::from_millis(5))).await;
            }
        };
        let tasks: Vec<_> =
            (0..TASKS).map(|_| tokio::spawn(labels("/many").wrap(work(truth.clone())))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let told = finish(profiler, &dir);
    // On each thread some 200 a second are watched, of which one in eleven is a longer one. On a crowded machine a thread
    // has polled less in a tick than it does in the next, or the other way round: the chance is not always that.
    let watched = 200.0 * 2.0 * elapsed / 2.0 / f64::from(TURNS + 1);
    let sigma = 1.0 / watched.sqrt();
    let (longer, right) = (told.seconds(&[("wait", "timer")], ""), truth.of("longer"));
    let (turns, short) = (told.seconds(&[("wait", "turn")], ""), truth.of("turns"));
    println!(
        "{elapsed:.1} s: longer {longer:.2} of {right:.2}, turns {turns:.2} of {short:.2}, sigma {sigma:.3}"
    );
    assert!((longer / right - 1.0).abs() < 3.0 * sigma, "{longer} of {right} s, sigma {sigma}");
    // The lengths of turns differ much, so their sum is known less well than that of equal waits.
    assert!(turns > 0.3 * short && turns < 3.0 * short, "{turns} of {short} s");
}

fn nested() {
    let (profiler, dir) = start("nested");
    let (inner, outer) = (Truth::default(), Truth::default());
    runtime(0).block_on(async {
        let stage = Labels::new([("stage", "inner")]);
        let work = async {
            for _ in 0..20 {
                stage.wrap(inner.time("timer", wait_for_timer())).await;
                outer.time("timer", wait_for_timer()).await;
            }
        };
        labels("/outer").wrap(work).await;
    });
    let told = finish(profiler, &dir);
    let both = [("endpoint", "/outer"), ("stage", "inner")];
    assert_near("inner", told.seconds(&both, ""), inner.of("timer"), 0.05);
    let all = inner.of("timer") + outer.of("timer");
    assert_near("inner and outer", told.seconds(&[("endpoint", "/outer")], ""), all, 0.05);
}

async fn wait_in_select(stream: &mut TcpStream) {
    tokio::select! {
        () = wait_for_socket(stream) => {}
        () = tokio::time::sleep(Duration::from_secs(100)) => {}
    }
}

async fn wait_with_a_limit(stream: &mut TcpStream) {
    tokio::time::timeout(Duration::from_secs(100), wait_for_socket(stream)).await.unwrap();
}

async fn wait_given_up(stream: &mut TcpStream) {
    let endless = labels("/given-up").wrap(stream.read_u8());
    assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
}

async fn wait_for_both(one: &mut TcpStream, other: &mut TcpStream) {
    tokio::join!(wait_for_socket(one), wait_for_socket(other));
}

fn several() {
    let (profiler, dir) = start("several");
    let truth = Truth::default();
    let address = server(Duration::from_millis(50));
    runtime(0).block_on(async {
        let work = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut other = TcpStream::connect(address).await.unwrap();
            for _ in 0..12 {
                truth.time("select", wait_in_select(&mut stream)).await;
                truth.time("limit", wait_with_a_limit(&mut stream)).await;
                truth.time("both", wait_for_both(&mut stream, &mut other)).await;
                truth.time("given up", wait_given_up(&mut stream)).await;
            }
        };
        labels("/several").wrap(work).await;
    });
    let told = finish(profiler, &dir);
    for (name, function) in
        [("select", "wait_in_select"), ("limit", "wait_with_a_limit"), ("both", "wait_for_both")]
    {
        let seconds = told.seconds(&[("wait", "network")], function);
        assert_near(name, seconds, truth.of(name), 0.05);
    }
    let given_up = told.seconds(&[("endpoint", "/given-up"), ("wait", "network")], "wait_given_up");
    assert_near("given up", given_up, truth.of("given up"), 0.05);
}

fn long() {
    let (profiler, dir) = start("long");
    let begin = Instant::now();
    let rests = runtime(1);
    let endless = labels("/endless").wrap(std::future::pending::<()>());
    let handle = rests.spawn(endless);
    let mut told = 0.0;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        flush(&profiler);
    }
    let profiles = kind_of(&dir, "wall");
    let read = Told::read(&dir);
    for profile in &profiles {
        let length = profile.duration_nanos as f64 / 1e9;
        println!("a profile of {length:.3} s");
        told += length;
    }
    let seconds = read.seconds(&[("endpoint", "/endless")], "");
    assert_near("endless", seconds, told.min(begin.elapsed().as_secs_f64()), 0.1);
    assert!(profiles.len() >= 3 && read.awaits.len() >= 3, "one in each of {} profiles", profiles.len());
    handle.abort();
    stop(profiler);
}

#[inline(never)]
async fn fetch_stock(stream: &mut TcpStream) {
    wait_for_socket(stream).await;
}

/// Requests of two milliseconds of work that wait so many for their upstream.
fn serve(name: &str, upstream: u64) -> everprof::profile::Verdict {
    let (profiler, dir) = start(name);
    let address = (upstream > 0).then(|| server(Duration::from_millis(upstream)));
    runtime(2).block_on(async {
        let connection = || async move {
            let mut stream = None;
            if let Some(address) = address {
                stream = Some(TcpStream::connect(address).await.unwrap());
            }
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(3) {
                let request = async {
                    burn(Duration::from_millis(2));
                    match &mut stream {
                        Some(stream) => fetch_stock(stream).await,
                        None => tokio::task::yield_now().await,
                    }
                };
                labels("/product").wrap(request).await;
            }
        };
        let connections: Vec<_> = (0..3).map(|_| tokio::spawn(connection())).collect();
        for connection in connections {
            connection.await.unwrap();
        }
    });
    flush(&profiler);
    stop(profiler);
    let profiles = kind_of(&dir, "wall");
    let profile = profiles.into_iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let verdict = profile.verdict().unwrap();
    println!("{verdict}");
    verdict.requests.iter().for_each(|request| println!("{request}"));
    verdict
}

fn upstream() {
    let verdict = serve("async-upstream", 90);
    assert_eq!(verdict.bound, Bound::Wait(Activity::Network));
    assert!(verdict.waits_in.iter().any(|name| name == "tasks::fetch_stock"), "{:?}", verdict.waits_in);
    let request = &verdict.requests[0];
    assert_eq!(request.group.name, "endpoint=/product");
    // On a machine that others use as well, requests wait for processors too.
    let is_crowded = request.group.share(Activity::Runnable) > 0.25;
    let expected = if is_crowded { Bound::Mixed(Activity::Network) } else { Bound::Wait(Activity::Network) };
    assert!([expected, verdict.bound].contains(&request.bound), "{request}");
    let (waits, runs) = (request.group.share(Activity::Network), request.group.share(Activity::OnCpu));
    assert!(waits / (waits + runs) > 0.9 && waits > 0.6, "{request}");
    let workers = verdict.groups.iter().find(|group| group.name.starts_with("tokio")).unwrap();
    assert!(workers.share(Activity::Network) < 0.1, "awaiting is no thread's time: {workers:?}");
}

fn computing() {
    let verdict = serve("async-computing", 0);
    assert_eq!(verdict.bound, Bound::Cpu);
}

/// Polls a future to its end, each time on another thread.
fn block_on_many_threads(future: impl Future<Output = ()> + Send) {
    struct Bell(Mutex<bool>, Condvar);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }
    }
    let bell = Arc::new(Bell(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        let poll = || future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if std::thread::scope(|scope| scope.spawn(poll).join().unwrap()) {
            return;
        }
        let mut rung = bell.0.lock().unwrap();
        while !std::mem::take(&mut *rung) {
            rung = bell.1.wait(rung).unwrap();
        }
    }
}

/// Is ready after a time, by a thread that wakes whoever polled it last: also after it has been given up.
struct Woken(Option<Instant>, Duration);

impl Future for Woken {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (time, waker) = (self.1, context.waker().clone());
        match self.0 {
            Some(begin) if begin.elapsed() >= time => return Poll::Ready(()),
            Some(_) => {}
            None => self.0 = Some(Instant::now()),
        }
        std::thread::spawn(move || {
            std::thread::sleep(time);
            waker.wake();
        });
        Poll::Pending
    }
}

async fn wait_for_anything(millis: u64) {
    Woken(None, Duration::from_millis(millis)).await;
}

fn executors() {
    let (profiler, dir) = start("executors");
    let truth = Truth::default();
    let work = async {
        for _ in 0..10 {
            truth.time("moved", labels("/moved").wrap(wait_for_anything(60))).await;
        }
    };
    block_on_many_threads(work);
    // A future that is not `Send`, on a thread of its own.
    let local = async {
        let shared = std::rc::Rc::new(Labels::new([("endpoint", "/local")]));
        let kept = shared.clone();
        let wait = async {
            truth.time("local", wait_for_anything(200)).await;
            drop(kept);
        };
        shared.wrap(wait).await;
    };
    runtime(0).block_on(local);
    // One that is given up before it is woken: the clone of the waker outlives it.
    for _ in 0..20 {
        let mut given_up = Box::pin(labels("/given-up").wrap(wait_for_anything(30)));
        let waker = Waker::noop();
        assert!(given_up.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    std::thread::sleep(Duration::from_millis(100));
    let told = finish(profiler, &dir);
    for (name, endpoint) in [("moved", "/moved"), ("local", "/local")] {
        let seconds = told.seconds(&[("endpoint", endpoint), ("wait", "other")], "wait_for_anything");
        assert_near(name, seconds, truth.of(name), 0.05);
    }
    assert!(told.seconds(&[("endpoint", "/given-up")], "") < 0.05);
}

fn comings() {
    let rests = runtime(2);
    let labels = labels("/on");
    let work = |labels: Labels| async move {
        loop {
            labels.wrap(tokio::time::sleep(Duration::from_millis(20))).await;
        }
    };
    let tasks: Vec<_> = (0..10).map(|_| rests.spawn(work(labels.clone()))).collect();
    let endless = rests.spawn(labels.wrap(std::future::pending::<()>()));
    for round in 0..5 {
        let (profiler, dir) = start("comings");
        let begin = Instant::now();
        std::thread::sleep(Duration::from_millis(600));
        let told = finish(profiler, &dir);
        let (seconds, elapsed) = (told.seconds(&[("endpoint", "/on")], ""), begin.elapsed().as_secs_f64());
        println!("round {round}: {seconds:.2} s of {elapsed:.2}");
        // Of all that was awaited before the start, and of futures that were not polled since, nothing.
        assert!(seconds > 3.0 && seconds < 10.0 * elapsed * 1.5, "{seconds} of {elapsed}");
        std::thread::sleep(Duration::from_millis(100));
    }
    tasks.into_iter().chain([endless]).for_each(|task| task.abort());
}

/// 1,000 signals a second into threads that poll as fast as they can.
fn storm() {
    let dir = directory("awaits-storm");
    let profiler = Profiler::builder()
        .dir(&dir)
        .rate_hz(1000)
        .set("kinds", "cpu,wall")
        .set("symbolize", "names")
        .set("cpu_budget_percent", "100")
        .start()
        .unwrap();
    runtime(4).block_on(async {
        let work = |number: u64| async move {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(4) {
                burn(Duration::from_micros(20 + number * 7));
                tokio::task::yield_now().await;
                if number.is_multiple_of(5) {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
            }
        };
        let tasks: Vec<_> = (0..50).map(|number| tokio::spawn(labels("/storm").wrap(work(number)))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let stats = profiler.stats();
    let told = finish(profiler, &dir);
    println!("{} signals, {} stacks of awaits", stats.signals, told.awaits.len());
    assert!(stats.signals > 5 && stats.lost == 0, "{stats:?}");
    assert!(told.seconds(&[("endpoint", "/storm")], "tasks::storm") > 5.0);
}
