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
