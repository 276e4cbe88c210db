//! Pages of the wall clock: a service that waits for its upstream, one that computes, and one that has nothing to do.

use std::fs;
use std::path::Path;

use everprof::encode::flamegraph::{self, PageOptions};
use everprof::profile::{Kind, Label, Profile};

use crate::Builder;

/// The pages by name.
pub(crate) fn pages() -> [(&'static str, Profile); 9] {
    [
        ("wall", waiting()),
        ("wall-cpu", computing()),
        ("wall-idle", idle()),
        ("wall-hostile", hostile()),
        ("wall-tasks", asynchronous(400)),
        ("wall-crowded", asynchronous(9_000)),
        ("wall-loops", loops()),
        ("wall-sleepers", sleepers()),
        ("wall-short", short()),
    ]
}

/// A page of what ran and what waited.
pub(crate) fn kinds(cpu: &Profile) -> String {
    flamegraph::kinds_html(&[("cpu", cpu), ("wall", &computing())], &PageOptions::default())
}

/// Writes beside a page what `Profile::verdict` says, which the page has to say too.
pub(crate) fn expect(directory: &Path, name: &str, profile: &Profile) {
    let verdict = profile.verdict().unwrap();
    let groups: Vec<serde_json::Value> = verdict
        .groups
        .iter()
        .map(|group| {
            let nanos: serde_json::Map<String, serde_json::Value> = group
                .nanos
                .iter()
                .map(|(activity, nanos)| (activity.name().into(), (*nanos).into()))
                .collect();
            serde_json::json!({ "name": group.name, "nanos": nanos })
        })
        .collect();
    let expected = serde_json::json!({
        "bound": format!("{:?}", verdict.bound), "groups": groups, "waits_in": verdict.waits_in,
    });
    fs::write(directory.join(format!("{name}.verdict.json")), expected.to_string()).unwrap();
}

pub(crate) const POOL: &str = "clone3;start_thread;std::sys::pal::unix::thread::Thread::new::thread_start;shop::pool::Worker::run;\
    shop::handlers::handle";
const PARK: &str = "clone3;start_thread;std::sys::pal::unix::thread::Thread::new::thread_start;shop::pool::Worker::run;\
    std::sync::mpsc::Receiver<T>::recv;std::sys::sync::condvar::futex::Condvar::wait;syscall";

/// A sample of milliseconds: what a thread did, for what it waited, and where.
pub(crate) fn add(b: &mut Builder, thread: &str, endpoint: &str, doing: &str, path: &str, millis: i64) {
    let mut labels = vec![Label::text("thread_name", thread)];
    if !endpoint.is_empty() {
        labels.push(Label::text("endpoint", endpoint));
    }
    let (state, wait, syscall) = match doing {
        "on_cpu" | "runnable" => (doing, "", ""),
        "network" => ("off_cpu", doing, "recvfrom"),
        "events" => ("off_cpu", doing, "epoll_wait"),
        "disk" => ("off_cpu", doing, "pread64"),
        "timer" => ("off_cpu", doing, "clock_nanosleep"),
        _ => ("off_cpu", doing, "futex"),
    };
    labels.push(Label::text("state", state));
    if !wait.is_empty() {
        labels.extend([Label::text("wait", wait), Label::text("syscall", syscall)]);
    }
    let locations = b.stack(path);
    let stack = b.profile.stack(&locations);
    let labels = b.profile.labels(&labels);
    b.profile.add(stack, labels, &[(millis + 51) / 52, millis * 1_000_000]);
}

/// Four workers of which each request waits for an upstream.
pub(crate) fn waiting() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.1");
    b.profile.period = 52_631_579;
    for worker in 0..4 {
        let thread = format!("worker-{worker}");
        let mut add = |endpoint: &str, doing: &str, path: &str, millis: i64| {
            add(&mut b, &thread, endpoint, doing, path, millis + worker);
        };
        let handle = |path: &str| format!("{POOL};{path}");
        add(
            "/cart",
            "network",
            &handle("shop::handlers::cart;shop::upstream::fetch;std::net::tcp::TcpStream::read;recv"),
            6_400,
        );
        add(
            "/cart",
            "on_cpu",
            &handle("shop::handlers::cart;shop::pricing::total;core::iter::traits::iterator::Iterator::fold"),
            520,
        );
        add(
            "/cart",
            "on_cpu",
            &handle("shop::handlers::cart;shop::upstream::fetch;serde_json::de::from_slice"),
            310,
        );
        add("/cart", "runnable", &handle("shop::handlers::cart;shop::pricing::total"), 90);
        add(
            "/list",
            "disk",
            &handle("shop::handlers::list;shop::catalog::load;std::fs::File::read;pread64"),
            700,
        );
        add(
            "/list",
            "thread",
            &handle(
                "shop::handlers::list;shop::catalog::lock;std::sys::sync::mutex::futex::Mutex::lock_contended;syscall",
            ),
            430,
        );
        add(
            "/list",
            "timer",
            &handle("shop::handlers::list;shop::retry::backoff;std::thread::sleep;clock_nanosleep"),
            240,
        );
        add(
            "/list",
            "thread",
            &handle(
                "shop::handlers::list;shop::batch::join;std::sync::poison::condvar::Condvar::wait;syscall",
            ),
            150,
        );
        add("/list", "pipe", &handle("shop::handlers::list;shop::render::pipe;std::io::Read::read;read"), 60);
        add("/list", "on_cpu", &handle("shop::handlers::list;shop::render::page;deflate;deflate_slow"), 880);
        add("", "thread", PARK, 50_000);
    }
    add(
        &mut b,
        "acceptor",
        "",
        "events",
        "clone3;start_thread;shop::server::accept;mio::poll::Poll::poll;epoll_wait",
        59_700,
    );
    add(
        &mut b,
        "acceptor",
        "",
        "on_cpu",
        "clone3;start_thread;shop::server::accept;mio::poll::Poll::poll",
        300,
    );
    add(
        &mut b,
        "flusher",
        "",
        "timer",
        "clone3;start_thread;shop::flush::run;std::thread::sleep;clock_nanosleep",
        59_990,
    );
    add(
        &mut b,
        "flusher",
        "",
        "disk",
        "clone3;start_thread;shop::flush::run;std::fs::File::sync_all;fsync",
        10,
    );
    add(
        &mut b,
        "compactor",
        "",
        "on_cpu",
        "clone3;start_thread;shop::compactor::run;ZSTD_compressBlock_doubleFast",
        2_400,
    );
    add(
        &mut b,
        "compactor",
        "",
        "timer",
        "clone3;start_thread;shop::compactor::run;std::thread::sleep;clock_nanosleep",
        500,
    );
    add(&mut b, "everprof", "", "events", "clone3;start_thread;everprof::drain::run;epoll_wait", 60_000);
    b.profile
}

/// The part of it that is off the processor, as the kind of its own that it is.
pub(crate) fn off_cpu() -> Profile {
    let wall = waiting();
    let ran = Label::text("state", "on_cpu");
    let mut off = wall.filter(|sample| !wall.get_labels(sample.labels).contains(&ran));
    off.sample_types = Kind::OffCpu.sample_types();
    off.period_type = Kind::OffCpu.period_type();
    off.default_sample_type = Kind::OffCpu.default_sample_type().to_owned();
    off
}

fn computing() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    for worker in 0..2 {
        let thread = format!("worker-{worker}");
        add(&mut b, &thread, "/cart", "on_cpu", &format!("{POOL};shop::pricing::total"), 9_000);
        add(&mut b, &thread, "/cart", "runnable", &format!("{POOL};shop::pricing::total"), 500);
        add(&mut b, &thread, "/cart", "network", &format!("{POOL};shop::upstream::fetch;recv"), 400);
    }
    b.profile
}

/// Two workers that run tasks now and then, of which nobody tells what they wait for.
fn loops() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    add(&mut b, "tokio-rt-worker-0", "", "on_cpu", &format!("{POOL};shop::pricing::total"), 1_300);
    add(&mut b, "tokio-rt-worker-0", "", "events", &format!("{POOL};epoll_wait"), 8_700);
    add(&mut b, "tokio-rt-worker-1", "", "thread", PARK, 10_000);
    b.profile
}

/// Two workers that run tasks for so many milliseconds each, and tasks that await an upstream.
fn asynchronous(millis: i64) -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    for worker in 0..2 {
        let thread = format!("tokio-rt-worker-{worker}");
        add(&mut b, &thread, "/cart", "on_cpu", &format!("{POOL};shop::pricing::total"), millis);
        add(&mut b, &thread, "", "thread", PARK, 10_000 - millis);
    }
    let path =
        "[awaiting];shop::cart::{{closure}};shop::upstream::fetch::{{closure}};tokio::net::TcpStream::poll";
    let locations = b.stack(path);
    let stack = b.profile.stack(&locations);
    let labels = [("endpoint", "/cart"), ("state", "awaiting"), ("wait", "network")];
    let labels = b.profile.labels(&labels.map(|(key, value)| Label::text(key, value)));
    b.profile.add(stack, labels, &[60, 60_000_000_000]);
    b.profile
}

fn idle() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    for worker in 0..8 {
        add(&mut b, &format!("worker-{worker}"), "", "thread", PARK, 60_000);
    }
    b.profile
}

/// One that computes among a thousand that sleep.
fn sleepers() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    let minute = b.profile.duration_nanos / 1_000_000;
    for worker in 0..1_000 {
        add(&mut b, &format!("worker-{worker}"), "", "thread", PARK, minute);
    }
    add(&mut b, "batch", "", "on_cpu", "clone3;start_thread;shop::batch::run", minute);
    b.profile
}

/// Threads that write to a disk, for half of the time without a processor.
fn short() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    for (doing, millis) in [("on_cpu", 400), ("runnable", 5_000), ("disk", 4_600)] {
        add(&mut b, "journal", "", doing, "clone3;start_thread;shop::journal::write;fsync", millis);
    }
    b.profile
}

/// Names of threads and functions that try to be something else.
fn hostile() -> Profile {
    let mut b = Builder::of(Kind::Wall, "1.0");
    let names = [
        "<img src=x onerror=window.pwned=1>",
        "\u{202e}gnp.exe",
        "__proto__",
        "",
        "activity",
        "\u{1}activity",
    ];
    for (place, name) in names.iter().enumerate() {
        let path = format!("main;shop::{name}::wait;recv");
        add(&mut b, name, name, "network", &path, 100 * (place as i64 + 1));
        add(&mut b, name, "", "on_cpu", &path, 10);
    }
    for key in ["activity", "\u{1}activity"] {
        let labels = b.profile.labels(&[Label::text("state", "on_cpu"), Label::text(key, "network")]);
        let locations = b.stack("main;shop::labelled");
        let stack = b.profile.stack(&locations);
        b.profile.add(stack, labels, &[1, 7_000_000]);
    }
    let long = "x".repeat(1 << 20);
    add(&mut b, &long, "", "network", &format!("main;shop::{long}"), 5_000);
    b.profile
}
