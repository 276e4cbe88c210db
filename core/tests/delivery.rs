//! From the sample to the server: several exporters at once, failures, the end of the process, a fork.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;
#[cfg(feature = "grpc")]
#[path = "push/frames.rs"]
mod frames;
#[cfg(feature = "grpc")]
#[path = "formats/otlp_proto.rs"]
mod otlp_proto;
#[path = "push/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use everprof::encode::pprof;
use everprof::profiler::Builder;
use everprof::{ErrorKind, Profiler};

use common::{burn, directory, flush, kind_of, names, stop, this_program};
use server::{Act, Server, YES};

const TARGET: &str = "EVERPROF_TEST_TARGET";

fn main() {
    let cases: &[(&str, fn())] = &[
        ("one_that_hangs_keeps_nobody_waiting", one_that_hangs_keeps_nobody_waiting),
        ("what_failed_is_sent_again_and_once", what_failed_is_sent_again_and_once),
        ("an_outage_is_bounded_and_told", an_outage_is_bounded_and_told),
        ("the_last_profile_is_sent_at_exit", the_last_profile_is_sent_at_exit),
        ("program_that_exits", program_that_exits),
        ("a_child_has_a_queue_of_its_own", a_child_has_a_queue_of_its_own),
        ("a_child_has_no_socket_of_its_parent", a_child_has_no_socket_of_its_parent),
        ("program_that_forks", program_that_forks),
        ("a_name_that_nobody_looks_up_holds_nothing_up", a_name_that_nobody_looks_up_holds_nothing_up),
        ("program_without_names", program_without_names),
        ("a_server_that_hangs_does_not_hold_the_exit_up", a_server_that_hangs_does_not_hold_the_exit_up),
        ("the_hosts_logger_may_panic_or_hang", the_hosts_logger_may_panic_or_hang),
        ("hostile_answers_cost_neither_memory_nor_time", hostile_answers_cost_neither_memory_nor_time),
        #[cfg(feature = "grpc")]
        ("a_child_calls_by_itself", a_child_calls_by_itself),
        ("secrets_are_in_no_message", secrets_are_in_no_message),
        ("what_this_build_cannot_do_is_an_error", what_this_build_cannot_do_is_an_error),
    ];
    common::main("delivery", cases, 2);
}

fn builder(push: &str) -> Builder {
    let builder = Profiler::builder().rate_hz(1000).service("shop").set("symbolize", "names");
    builder.set("cpu_budget_percent", "100").set("push", push)
}

fn path(asked: &server::Asked) -> String {
    asked.line().split(' ').nth(1).unwrap().to_string()
}

fn one_that_hangs_keeps_nobody_waiting() {
    let (hangs, takes) = (Server::new(&[Act::Hang]), Server::new(&[YES]));
    let dir = directory("several");
    let push = format!("pyroscope+http://{},post+http://{},dir", hangs.address, takes.address);
    let profiler = builder(&push).dir(&dir).start().unwrap();
    for round in 0..3 {
        burn(Duration::from_millis(100));
        assert_eq!(profiler.flush().unwrap_err().kind(), ErrorKind::Unavailable, "one has not answered");
        let asked = takes.next();
        let profile = pprof::decode(&asked.body).unwrap();
        assert!(common::time_in(&profile, "burn") > 50_000_000, "round {round}");
    }
    let stats = profiler.stats();
    assert!(stats.exported >= 5, "{stats:?}");
    // The rest of the day of the one that hangs is not waited for.
    assert_eq!(profiler.stop().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(hangs.asked().len() <= 3);
    assert!(kind_of(&dir, "cpu").len() >= 3);
    common::remove(&dir);
}

fn what_failed_is_sent_again_and_once() {
    const BUSY: Act = Act::Answer("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
    let server = Server::new(&[BUSY, BUSY, YES]);
    let dir = directory("again");
    let push = format!("dir,put+http://{}/{{id}}", server.address);
    let profiler = builder(&push).dir(&dir).start().unwrap();
    burn(Duration::from_millis(100));
    // The second answer may be the one to a try that a flush has hurried.
    flush(&profiler);
    let asked: Vec<_> = (0..3).map(|_| server.next()).collect();
    stop(profiler);
    let ids: BTreeSet<String> = asked.iter().map(path).collect();
    assert_eq!(ids.len(), 1, "the same profile under the same ID: {ids:?}");
    assert!(asked.iter().all(|again| again.body == asked[0].body));
    let later: Vec<String> = server.asked().iter().map(path).collect();
    assert!(!later.contains(&path(&asked[0])), "it was taken, and is not sent any more");
    let profile = pprof::decode(&asked[0].body).unwrap();
    let local = kind_of(&dir, "cpu");
    assert!(
        local
            .iter()
            .any(|local| local.totals() == profile.totals() && local.time_nanos == profile.time_nanos)
    );
    let stack = profile.samples().find(|sample| {
        names(&profile, profile.get_stack(sample.stack)).iter().any(|name| name.contains("burn"))
    });
    assert!(stack.is_some());
    common::remove(&dir);
}

fn an_outage_is_bounded_and_told() {
    let server =
        Server::new(&[Act::Answer("HTTP/1.1 503 No\r\nretry-after: 600\r\ncontent-length: 0\r\n\r\n")]);
    log::set_logger(&KEEP).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let push = format!("post+http://{}", server.address);
    let profiler = builder(&push).set("push_queue_bytes", "64KiB").start().unwrap();
    for _ in 0..20 {
        burn(Duration::from_millis(20));
        // Nobody waits for a server that wants to be left alone.
        flush(&profiler);
    }
    let stats = profiler.stats();
    assert!(stats.export_evicted >= 10 && stats.export_failures == stats.export_evicted, "{stats:?}");
    assert_eq!((stats.exported, stats.export_retries), (0, 1));
    assert_eq!(server.asked().len(), 1, "it is left alone");
    profiler.stop().unwrap();
    let told = || {
        MESSAGES.lock().unwrap().iter().any(|message| message.contains("could not be sent before the end"))
    };
    assert!(
        (0..600).any(|_| told() || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }),
        "the loss is told"
    );
    assert_eq!(server.asked().len(), 0);
}

fn the_last_profile_is_sent_at_exit() {
    let server = Server::new(&[YES]);
    let mut child = this_program()
        .env("EVERPROF_TEST_CASE", "program_that_exits")
        .env(TARGET, format!("post+http://{}", server.address))
        .spawn()
        .unwrap();
    let asked = server.next();
    assert!(child.wait().unwrap().success());
    let profile = pprof::decode(&asked.body).unwrap();
    assert!(common::time_in(&profile, "burn") > 50_000_000);
    assert_eq!(server.asked().len(), 0);
}

/// Only for the one above: by itself it has nowhere to send to.
fn program_that_exits() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let profiler = builder(&target).start().unwrap();
    std::mem::forget(profiler);
    burn(Duration::from_millis(100));
}

/// The C library's, which has no end in time where its servers do not answer: here it never has. Addresses need none.
#[unsafe(no_mangle)]
extern "C" fn getaddrinfo() -> i32 {
    NAMES.store(true, std::sync::atomic::Ordering::SeqCst);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

static NAMES: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn a_name_that_nobody_looks_up_holds_nothing_up() {
    let mut child = this_program()
        .env("EVERPROF_TEST_CASE", "program_without_names")
        .env(TARGET, "post+http://profiles.example")
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    assert!(child.wait().unwrap().success());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// Flushes, forks, stops, starts, and exits while its exporter looks for a name. Only for the one above.
fn program_without_names() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let within = |most: f64, what: &str, work: &dyn Fn()| {
        let begin = std::time::Instant::now();
        work();
        assert!(begin.elapsed().as_secs_f64() < most, "{what}: {:?}", begin.elapsed());
    };
    let profiler = builder(&target).start().unwrap();
    burn(Duration::from_millis(50));
    within(3.0, "flush", &|| assert!(profiler.flush().is_err()));
    assert!(NAMES.load(std::sync::atomic::Ordering::SeqCst), "this getaddrinfo is not the one in use");
    within(1.0, "record", &|| {
        let recording = everprof::record(everprof::profile::Kind::Cpu).unwrap();
        burn(Duration::from_millis(20));
        recording.finish().unwrap();
    });
    within(5.0, "fork", &|| {
        // SAFETY: the child ends at once, by its exit handlers.
        let child = unsafe { libc::fork() };
        if child == 0 {
            std::thread::sleep(Duration::from_millis(100));
            burn(Duration::from_millis(20));
            std::process::exit(0);
        }
        let mut status = 0;
        // SAFETY: the child is ours.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
    });
    let stopping = std::cell::Cell::new(Some(profiler));
    within(3.0, "stop", &|| assert!(stopping.take().unwrap().stop().is_err()));
    // And once more: the one before still looks, and this one is stopped by the exit.
    std::mem::forget(builder(&target).start().unwrap());
    burn(Duration::from_millis(20));
}

fn a_server_that_hangs_does_not_hold_the_exit_up() {
    for act in [Act::Hang, Act::Drip, Act::EndlessHead] {
        let server = Server::new(&[act]);
        let mut child = this_program()
            .env("EVERPROF_TEST_CASE", "program_that_exits")
            .env(TARGET, format!("post+http://{}", server.address))
            .spawn()
            .unwrap();
        server.next();
        let begin = std::time::Instant::now();
        assert!(child.wait().unwrap().success());
        assert!(begin.elapsed() < Duration::from_secs(4), "{act:?}: {:?}", begin.elapsed());
    }
}

fn hostile_answers_cost_neither_memory_nor_time() {
    use everprof::encode::{Encoded, Set};
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let kind = everprof::profile::Kind::Cpu;
    let set = Set {
        profiles: vec![Encoded::pprof(kind, &everprof::profile::Profile::new(kind))],
        ..Set::default()
    };
    let attempt = |act| {
        let server = Server::new(&[act]);
        let mut options = everprof::Options::default();
        options.set("push", &format!("post+http://{}", server.address)).unwrap();
        let begin = std::time::Instant::now();
        let outcome = everprof::export::of_options(&options).unwrap().remove(0).attempt(&set);
        (outcome, begin.elapsed())
    };
    _ = attempt(YES);
    let before = peak();
    for act in [
        Act::EndlessHead,
        Act::EndlessBody,
        Act::Answer("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n"),
        Act::Endless("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n", "x"),
        Act::Endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n"),
        Act::Endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3fffffff\r\n", "x"),
        Act::Endless("HTTP/1.1 500 No\r\ncontent-length: 1073741824\r\n\r\n", "x"),
        Act::Endless("HTTP/1.1 500 No\r\ncontent-encoding: gzip\r\n\r\n", "x"),
        Act::Endless("", "HTTP/1.1 100 Continue\r\n\r\n"),
        Act::Endless("HTTP/1.1 200 OK\r\n", "a: b\r\n"),
        Act::Endless("HTTP/1.1 200 ", "O"),
    ] {
        let (outcome, took) = attempt(act);
        // What says that more will come is waited for as long as a request may take.
        assert!(took < Duration::from_secs(11), "{act:?}: {took:?}");
        assert!(format!("{outcome:?}").len() < 1_000, "{act:?}: {outcome:?}");
    }
    let grown = peak() - before;
    assert!(grown < 4 << 10, "{grown} KiB more");
}

/// What is said about a lost profile goes through code of the host's. It costs neither the thread that says it, nor anybody who
/// has profiles for it meanwhile.
fn the_hosts_logger_may_panic_or_hang() {
    static BAD: Bad = Bad;
    struct Bad;
    impl log::Log for Bad {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let said = record.args().to_string();
            assert!(!said.contains("401"), "this logger does not like that");
            if said.contains("402") {
                std::thread::sleep(Duration::from_secs(120));
            }
        }
        fn flush(&self) {}
    }
    std::panic::set_hook(Box::new(|_| {}));
    log::set_logger(&BAD).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    const NO: Act = Act::Answer("HTTP/1.1 401 No\r\n\r\n");
    const PAY: Act = Act::Answer("HTTP/1.1 402 Pay\r\n\r\n");
    let (server, dir) = (Server::new(&[NO, NO, PAY, YES]), directory("logger"));
    let profiler = builder(&format!("post+http://{},dir", server.address)).dir(&dir).start().unwrap();
    for _ in 0..2 {
        burn(Duration::from_millis(20));
        flush(&profiler);
    }
    assert_eq!(profiler.stats().export_refused, 2, "the thread has outlived its words");
    for round in 3..6 {
        burn(Duration::from_millis(20));
        assert!(profiler.flush().is_err(), "it says something for two minutes");
        assert!(kind_of(&dir, "cpu").len() >= round, "the directory does not wait for that");
    }
    assert_eq!(server.asked().len(), 3);
    let _ = std::panic::take_hook();
    std::process::exit(0);
}

fn a_child_has_a_queue_of_its_own() {
    let server = Server::new(&[Act::Answer("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")]);
    let push = format!("put+http://{}/{{instance}}/{{id}}", server.address);
    let profiler = builder(&push).start().unwrap();
    burn(Duration::from_millis(100));
    flush(&profiler);
    assert!(profiler.stats().export_retries > 0);
    // SAFETY: the child goes on with what a child may do, and everprof goes on in it.
    let child = unsafe { libc::fork() };
    if child == 0 {
        std::thread::sleep(Duration::from_millis(200));
        burn(Duration::from_millis(100));
        flush(&profiler);
        // SAFETY: ends this process, without the exit handlers of the test.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    let paths: BTreeSet<String> = server.asked().iter().map(path).collect();
    let split =
        |path: &String| path[1..].split_once('/').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
    let (instances, ids): (BTreeSet<String>, BTreeSet<String>) = paths.iter().map(split).unzip();
    assert_eq!(instances.len(), 2, "{paths:?}");
    assert_eq!(ids.len(), paths.len(), "no profile of the parent is sent by the child: {paths:?}");
    drop(profiler);
}

/// In the middle of a request, whatever that waits for: an answer, room to write, somebody who takes it.
fn a_child_has_no_socket_of_its_parent() {
    let dir = directory("sockets");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("full.sock");
    let full = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // SAFETY: the descriptor is open; a second call makes the queue shorter.
    assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
    let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let hangs = Server::new(&[Act::Hang]);
    let mut targets =
        vec![format!("post+http://{}", hangs.address), format!("post+unix://{}", path.display())];
    // Nobody takes what the kernel has taken.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    if cfg!(feature = "grpc") {
        targets.push(format!("otlp+grpc://{}", silent.local_addr().unwrap()));
    }
    for target in targets {
        let mut program = this_program();
        program.env("EVERPROF_TEST_CASE", "program_that_forks").env(TARGET, &target);
        let mut child = program.spawn().unwrap();
        assert!(child.wait().unwrap().success(), "{target}");
    }
    common::remove(&dir);
}

/// Only for the one above: all sockets of this process are everprof's.
fn program_that_forks() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let sockets = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let files = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        files.filter(|file| file.to_string_lossy().starts_with("socket:")).count()
    };
    // Those that this program was born with.
    let before = sockets();
    let profiler = builder(&target).start().unwrap();
    burn(Duration::from_millis(50));
    assert!(profiler.flush().is_err(), "it is under way");
    assert_eq!(sockets(), before + 1);
    // SAFETY: the child does what any thread may, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_right = sockets() == before;
        // SAFETY: ends this process, without exit handlers.
        unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child has one more");
    assert_eq!(sockets(), before + 1, "the parent's is as it was");
    // SAFETY: ends this process; what is under way would take its time.
    unsafe { libc::_exit(0) };
}

/// Over gRPC: parent and child, each with calls of its own.
#[cfg(feature = "grpc")]
fn a_child_calls_by_itself() {
    use prost::Message;
    use std::io::Read;
    let (address, asked) = frames::server_that_says_yes();
    let profiler = builder(&format!("otlp+grpc://{address}")).start().unwrap();
    burn(Duration::from_millis(100));
    profiler.flush().unwrap();
    // SAFETY: the child goes on with what a child may do, and everprof goes on in it.
    let child = unsafe { libc::fork() };
    if child == 0 {
        std::thread::sleep(Duration::from_millis(200));
        burn(Duration::from_millis(100));
        let is_sent = profiler.flush().is_ok() && profiler.stats().exported == 1;
        // SAFETY: ends this process, without the exit handlers of the test.
        unsafe { libc::_exit(if is_sent { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    burn(Duration::from_millis(100));
    profiler.flush().unwrap();
    let mut instances = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let calls: Vec<Vec<u8>> = asked.try_iter().collect();
    for call in &calls {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&call[5..]).read_to_end(&mut plain).unwrap();
        let request = otlp_proto::Request::decode(plain.as_slice()).unwrap();
        let of = &request.resource_profiles[0];
        let text = otlp_proto::text(&request);
        assert!(text.contains("burn"), "{text}");
        let instance = &of.resource.as_ref().unwrap().attributes;
        instances.extend(
            instance.iter().filter(|pair| pair.key == "service.instance.id").map(|pair| format!("{pair:?}")),
        );
        ids.extend(of.scope_profiles[0].profiles.iter().map(|profile| profile.profile_id.clone()));
    }
    assert_eq!((calls.len(), instances.len(), ids.len()), (3, 2, 6));
    stop(profiler);
}

static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static KEEP: Keep = Keep;

/// Keeps what is logged.
struct Keep;

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        MESSAGES.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn secrets_are_in_no_message() {
    log::set_logger(&KEEP).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let echo =
        "HTTP/1.1 401 No\r\n\r\nBearer sesame-open? sesame-key? sesame-sig? YW5uOnNlc2FtZS1wdw==? sesame-pw?";
    let server = Server::new(&[Act::Answer(echo)]);
    let at = server.address;
    let push = format!(
        "post+http://ann:sesame-pw@{at}/?sig=sesame-sig,pyroscope+http://{at},post+http://{at}/?sig=sesame-sig"
    );
    let profiler = builder(&push)
        .set("push_token", "sesame-open")
        .set("push_headers", "x-key=sesame-key")
        .start()
        .unwrap();
    burn(Duration::from_millis(50));
    flush(&profiler);
    let stats = profiler.stats();
    assert!(stats.export_refused >= 3, "{stats:?}");
    stop(profiler);
    let messages = MESSAGES.lock().unwrap().join("\n");
    assert!(messages.contains("401") && messages.contains("[hidden]"), "{messages}");
    let mut options = everprof::Options::default();
    options.set("push", &push).unwrap();
    let wrong = options.set("push", "post+http://ann:sesame-pw@h/#").unwrap_err();
    let shown = format!("{messages} {stats:?} {options:?} {wrong} {wrong:?}");
    assert!(!shown.contains("sesame") && !shown.contains("YW5uOn"), "{shown}");
}

fn what_this_build_cannot_do_is_an_error() {
    let error = builder("post+http://u:p@h").set("push", "http://ann:pw@h").start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(
        error.to_string().contains("say what the server understands") && !error.to_string().contains("pw")
    );
    if cfg!(not(feature = "grpc")) {
        let error = builder("otlp+grpc://ann:pw@127.0.0.1:1").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("feature `grpc`") && !error.to_string().contains("pw"), "{error}");
    }
    let started = builder("post+https://ann:pw@127.0.0.1:1").start();
    if cfg!(feature = "tls") {
        return stop(started.unwrap());
    }
    let error = started.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("TLS") && !error.to_string().contains("pw"), "{error}");
}
