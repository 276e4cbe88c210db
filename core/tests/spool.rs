//! Outages that outlive the process: what waits on disk, who sends it, and what becomes of it where the disk or the process
//! fails. Each minute of an outage is a flush here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;
#[path = "push/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof::encode::pprof;
use everprof::profiler::Builder;

use common::{burn, directory, flush, remove, skip, stop, this_program};
use server::{Act, Asked, Server, YES};

const TARGET: &str = "EVERPROF_TEST_TARGET";
const PLACE: &str = "EVERPROF_TEST_PLACE";

fn main() {
    let cases: &[(&str, fn())] = &[
        ("an_hour_of_outage_loses_nothing", an_hour_of_outage_loses_nothing),
        (
            "the_oldest_on_disk_give_way_and_memory_is_bounded",
            the_oldest_on_disk_give_way_and_memory_is_bounded,
        ),
        ("who_comes_next_sends_what_a_killed_one_has_left", who_comes_next_sends_what_a_killed_one_has_left),
        ("a_child_holds_nothing_of_its_parent", a_child_holds_nothing_of_its_parent),
        ("what_cannot_be_sent_at_the_end_waits_on_disk", what_cannot_be_sent_at_the_end_waits_on_disk),
        ("what_hangs_at_the_end_costs_no_other_profile", what_hangs_at_the_end_costs_no_other_profile),
        ("program_that_hangs_at_its_end", program_that_hangs_at_its_end),
        (
            "a_file_limit_costs_the_spool_and_not_the_profiles",
            a_file_limit_costs_the_spool_and_not_the_profiles,
        ),
        (
            "a_full_disk_costs_the_spool_and_not_the_profiles",
            a_full_disk_costs_the_spool_and_not_the_profiles,
        ),
        ("what_was_sent_of_a_set_is_not_sent_again", what_was_sent_of_a_set_is_not_sent_again),
        ("no_secret_is_on_the_disk", no_secret_is_on_the_disk),
        ("a_server_that_is_there_costs_the_disk_nothing", a_server_that_is_there_costs_the_disk_nothing),
        ("program_in_an_outage", program_in_an_outage),
        ("program_that_exits", program_that_exits),
    ];
    common::main("spool", cases, 2);
}

fn builder(at: SocketAddr, place: &Path) -> Builder {
    let builder = Profiler::builder().rate_hz(1000).service("shop").set("symbolize", "names");
    let builder = builder.set("cpu_budget_percent", "100").set("push_spool", place.display().to_string());
    builder.set("push", format!("put+http://{at}/{{instance}}/{{sequence}}/{{time}}/{{id}}"))
}

/// An address at which nobody listens, and later somebody may.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One minute.
fn minute(profiler: &Profiler) {
    burn(Duration::from_millis(20));
    flush(profiler);
}

/// Instance and sequence of a request.
fn of(asked: &Asked) -> (String, u64) {
    let mut parts = asked.line().split(' ').nth(1).unwrap().split('/').skip(1);
    (parts.next().unwrap().to_string(), parts.next().unwrap().parse().unwrap())
}

/// The sets on disk.
fn kept(place: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![place.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|end| end == "set") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn an_hour_of_outage_loses_nothing() {
    const MINUTES: u64 = 60;
    let (at, place) = (nobody(), directory("hour"));
    let profiler = builder(at, &place).set("push_queue_bytes", "64KiB").start().unwrap();
    for _ in 0..MINUTES {
        minute(&profiler);
    }
    wait_for("all on disk", || profiler.stats().spool_sets == MINUTES);
    let stats = profiler.stats();
    assert_eq!((stats.exported, stats.export_failures), (0, 0), "{stats:?}");
    assert!(stats.export_retries >= 1 && stats.spool_bytes > 0);
    assert_eq!(kept(&place).len() as u64, MINUTES);
    let server = Server::at(at, &[YES]);
    minute(&profiler);
    let asked: Vec<Asked> = (0..=MINUTES).map(|_| server.next()).collect();
    wait_for("nothing left", || profiler.stats().spool_sets == 0);
    let stats = profiler.stats();
    assert_eq!((stats.exported, stats.export_failures), (MINUTES + 1, 0), "{stats:?}");
    assert!(kept(&place).is_empty());
    // What happens now comes first, and then the newest of what has waited; one set may have been under way at that moment.
    let order: Vec<u64> = asked.iter().map(|asked| of(asked).1).collect();
    let falling = order.windows(2).filter(|two| two[0] == two[1] + 1).count() as u64;
    assert!(falling >= MINUTES - 2, "{order:?}");
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len() as u64, MINUTES + 1, "each once: {order:?}");
    // Each has its own time, which is in the path as well, and none overlaps another.
    let mut times: Vec<(u64, i64, i64)> = asked
        .iter()
        .map(|asked| {
            let profile = pprof::decode(&asked.body).unwrap();
            assert!(asked.line().contains(&format!("/{}/", profile.time_nanos / 1_000_000_000)));
            assert!(common::time_in(&profile, "burn") > 5_000_000);
            (of(asked).1, profile.time_nanos, profile.duration_nanos)
        })
        .collect();
    times.sort_unstable();
    assert!(times.windows(2).all(|two| two[0].1 + two[0].2 <= two[1].1), "{times:?}");
    stop(profiler);
    remove(&place);
}

fn the_oldest_on_disk_give_way_and_memory_is_bounded() {
    let (at, place) = (nobody(), directory("cap"));
    let profiler = builder(at, &place).set("push_spool_bytes", "96KiB").start().unwrap();
    for _ in 0..30 {
        minute(&profiler);
        assert!(profiler.stats().spool_bytes <= 96 << 10);
    }
    wait_for("the oldest are gone", || {
        let stats = profiler.stats();
        stats.export_evicted + stats.spool_sets == 30
    });
    let stats = profiler.stats();
    assert!((4..=12).contains(&stats.spool_sets), "{stats:?}");
    assert_eq!(stats.export_failures, stats.export_evicted);
    let server = Server::at(at, &[YES]);
    minute(&profiler);
    wait_for("nothing left", || profiler.stats().spool_sets == 0);
    let mut asked: Vec<u64> = server.asked().iter().map(|asked| of(asked).1).collect();
    asked.sort_unstable_by_key(|sequence| std::cmp::Reverse(*sequence));
    // The last one may have gone by the disk as well, and have taken the place of another there.
    assert!(asked.len() as u64 >= stats.spool_sets, "{asked:?}");
    let newest: Vec<u64> = (0..=30).rev().take(asked.len()).collect();
    assert_eq!(asked, newest);
    stop(profiler);
    remove(&place);
}

/// A program that is in an outage for so many minutes, and then goes on until it is killed.
fn program_in_an_outage() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    let profiler = builder(target.parse().unwrap(), &place).start().unwrap();
    (0..10).for_each(|_| minute(&profiler));
    if std::env::var_os("EVERPROF_TEST_FORKS").is_some() {
        // SAFETY: the child does what a child may do.
        if unsafe { libc::fork() } == 0 {
            std::fs::write(place.join("child"), std::process::id().to_string()).unwrap();
        }
    }
    std::thread::sleep(Duration::from_secs(120));
}

fn run(program: &str, target: SocketAddr, place: &Path) -> Command {
    let mut command = this_program();
    command.env("EVERPROF_TEST_CASE", program).env(TARGET, target.to_string()).env(PLACE, place);
    command
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn who_comes_next_sends_what_a_killed_one_has_left() {
    let (at, place) = (nobody(), directory("killed"));
    let child = run("program_in_an_outage", at, &place).spawn().unwrap();
    wait_for("ten on disk", || kept(&place).len() == 10);
    // One that lives beside it has its own, and leaves that one's alone, also where it looks for the dead at its start.
    let profiler = builder(at, &place).start().unwrap();
    minute(&profiler);
    wait_for("one more", || profiler.stats().spool_sets == 1);
    assert_eq!(kept(&place).len(), 11);
    kill(child);
    stop(profiler);
    assert!(kept(&place).len() >= 11, "what waits at the stop is kept");
    let left = kept(&place).len();
    let server = Server::at(at, &[YES]);
    let profiler = builder(at, &place).start().unwrap();
    minute(&profiler);
    let asked: Vec<(String, u64)> = (0..=left).map(|_| of(&server.next())).collect();
    let instances: BTreeSet<&String> = asked.iter().map(|(instance, _)| instance).collect();
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), left + 1, "each once: {asked:?}");
    assert_eq!(instances.len(), 3, "each under the instance that it is of: {asked:?}");
    wait_for("nothing left", || profiler.stats().spool_sets == 0);
    assert_eq!(profiler.stats().export_failures, 0);
    stop(profiler);
    assert!(kept(&place).is_empty());
    remove(&place);
}

/// The lock of the parent's folder goes with an open file, of which the child has a copy at first.
fn a_child_holds_nothing_of_its_parent() {
    let (at, place) = (nobody(), directory("forks"));
    let parent = run("program_in_an_outage", at, &place).env("EVERPROF_TEST_FORKS", "1").spawn().unwrap();
    let child = place.join("child");
    wait_for("a child", || std::fs::read_to_string(&child).is_ok_and(|pid| !pid.is_empty()));
    assert!(kept(&place).len() >= 10);
    kill(parent);
    let server = Server::at(at, &[YES]);
    let profiler = builder(at, &place).start().unwrap();
    minute(&profiler);
    let asked: BTreeSet<(String, u64)> = (0..11).map(|_| of(&server.next())).collect();
    assert_eq!(asked.len(), 11);
    let pid: i32 = std::fs::read_to_string(&child).unwrap().parse().unwrap();
    // SAFETY: no memory is touched; the child of the child is asked whether it lives, and ended.
    assert_eq!(unsafe { libc::kill(pid, 0) }, 0, "the child has lived all the time");
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    stop(profiler);
    remove(&place);
}

/// A program with one profile at its end.
fn program_that_exits() {
    let Ok(target) = std::env::var(TARGET) else { return };
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    let delivery = std::env::var("EVERPROF_PUSH_DELIVERY").unwrap_or_default();
    let builder = builder(target.parse().unwrap(), &place).set("push_delivery", delivery);
    std::mem::forget(builder.start().unwrap());
    burn(Duration::from_millis(50));
}

fn what_cannot_be_sent_at_the_end_waits_on_disk() {
    let (at, place) = (nobody(), directory("exit"));
    let exit = |target| {
        let mut child = run("program_that_exits", target, &place)
            .env("EVERPROF_PUSH_DELIVERY", "at_least_once")
            .spawn()
            .unwrap();
        let begin = Instant::now();
        assert!(child.wait().unwrap().success());
        begin.elapsed()
    };
    exit(at);
    assert_eq!(kept(&place).len(), 1, "nobody was there");
    // The second one finds a server that takes requests and never answers, and the first one's profile.
    let hangs = Server::new(&[Act::Hang]);
    let took = exit(hangs.address);
    assert!(took < Duration::from_secs(8), "two seconds, and the start of a process: {took:?}");
    assert_eq!(kept(&place).len(), 2, "another server's is not its business");
    let server = Server::at(at, &[YES]);
    exit(at);
    let asked: BTreeSet<String> = (0..2).map(|_| of(&server.next()).0).collect();
    assert_eq!(asked.len(), 2, "its own and the first one's");
    assert_eq!(kept(&place).len(), 1);
    remove(&place);
}

/// The C library's, which has no end in time where its servers do not answer: here it never has. Addresses need none.
#[unsafe(no_mangle)]
extern "C" fn getaddrinfo() -> i32 {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Two profiles, of which the first is under way when the program ends. Only for the one below.
fn program_that_hangs_at_its_end() {
    let Ok(push) = std::env::var("EVERPROF_TEST_PUSH") else { return };
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    let profiler = builder(nobody(), &place).set("push", push).start().unwrap();
    burn(Duration::from_millis(50));
    assert!(profiler.flush().is_err(), "it is under way");
    burn(Duration::from_millis(50));
    std::mem::forget(profiler);
}

/// A program may end while its exporter waits: for an answer, for somebody who takes it, for the address of a name. What may
/// have arrived is not kept; all else is.
fn what_hangs_at_the_end_costs_no_other_profile() {
    let place = directory("hangs");
    std::fs::create_dir_all(&place).unwrap();
    let socket = place.join("full.sock");
    let full = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // SAFETY: the descriptor is open; a second call makes the queue shorter.
    assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
    let _waits = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    // The same over TCP: the kernel answers no more than it may keep.
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&busy), 0) }, 0);
    let at = busy.local_addr().unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300)).ok();
    let _wait: Vec<_> = std::iter::from_fn(connect).take(8).collect();
    let hangs = Server::new(&[Act::Hang]);
    let path = "{instance}/{sequence}/{id}";
    for (what, push, expected) in [
        ("an answer", format!("post+http://{}/{path}", hangs.address), 1),
        ("the answer to what may be sent again", format!("put+http://{}/{path}", hangs.address), 2),
        ("an address", format!("post+http://{at}/{path}"), 2),
        ("a connection", format!("put+unix://{}:/{path}", socket.display()), 2),
        ("a name", format!("put+http://profiles.example/{path}"), 2),
    ] {
        let place = place.join(what);
        let mut program = run("program_that_hangs_at_its_end", nobody(), &place);
        let mut child = program.env("EVERPROF_TEST_PUSH", &push).spawn().unwrap();
        let begin = Instant::now();
        assert!(child.wait().unwrap().success());
        assert!(begin.elapsed() < Duration::from_secs(8), "{what}: {:?}", begin.elapsed());
        assert_eq!(kept(&place).len(), expected, "{what}");
    }
    remove(&place);
}

fn outage_without_a_disk(place: &Path) {
    let at = nobody();
    let profiler = builder(at, place).start().unwrap();
    (0..5).for_each(|_| minute(&profiler));
    let stats = profiler.stats();
    assert_eq!((stats.spool_sets, stats.export_failures), (0, 0), "{stats:?}");
    assert!(kept(place).is_empty());
    let server = Server::at(at, &[YES]);
    minute(&profiler);
    let order: Vec<u64> = (0..6).map(|_| of(&server.next()).1).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5], "from memory, in order");
    stop(profiler);
}

fn a_file_limit_costs_the_spool_and_not_the_profiles() {
    let place = directory("limit");
    let limit = libc::rlimit { rlim_cur: 100, rlim_max: 100 };
    // SAFETY: the limit is a live value.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
    outage_without_a_disk(&place);
    // And a place where nobody may write, whoever that is.
    outage_without_a_disk(Path::new("/proc/self/fdinfo"));
    remove(&place);
}

fn a_full_disk_costs_the_spool_and_not_the_profiles() {
    let place = directory("full");
    std::fs::create_dir_all(&place).unwrap();
    let path = std::ffi::CString::new(place.display().to_string()).unwrap();
    let apart = || {
        // SAFETY: no memory is touched.
        let us = unsafe { libc::getuid() };
        let user = if us == 0 { 0 } else { libc::CLONE_NEWUSER };
        // SAFETY: this process, which has one thread, gets file systems of its own.
        let apart = unsafe { libc::unshare(user | libc::CLONE_NEWNS) } == 0;
        // Where root is somebody else, the files are still ours.
        apart && (user == 0 || std::fs::write("/proc/self/uid_map", format!("{us} {us} 1")).is_ok())
    };
    // SAFETY: all texts end with a zero.
    let mount = || unsafe {
        libc::mount(c"tmpfs".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=4k".as_ptr().cast())
    };
    let mounted = apart() && mount() == 0;
    if !mounted {
        remove(&place);
        return skip("a full disk", "no file system can be mounted here");
    }
    // One page is all there is.
    std::fs::write(place.join("ballast"), [1; 4096]).unwrap();
    assert!(std::fs::write(place.join("more"), [1; 4096]).is_err());
    outage_without_a_disk(&place);
}

/// A server that takes the first profile of a set and wants to be left alone then, in which time the profiler ends.
fn what_was_sent_of_a_set_is_not_sent_again() {
    const NO: Act = Act::Answer("HTTP/1.1 503 No\r\nretry-after: 600\r\ncontent-length: 0\r\n\r\n");
    let (place, server) = (directory("parts"), Server::new(&[YES, NO, YES]));
    let start = || builder(server.address, &place).set("kinds", "cpu,wall").start().unwrap();
    let profiler = start();
    minute(&profiler);
    wait_for("the rest on disk", || profiler.stats().spool_sets == 1);
    assert_eq!(profiler.stats().export_failures, 0);
    let _ = profiler.stop();
    // What came by the stop is there as well.
    wait_for("both on disk", || kept(&place).len() == 2);
    let [sent, refused] = &server.asked()[..] else { panic!("it is not left alone") };
    let profiler = start();
    minute(&profiler);
    wait_for("nothing left", || kept(&place).is_empty() && profiler.stats().exported == 3);
    let later: Vec<String> = server.asked().iter().map(|asked| asked.line().to_string()).collect();
    assert_eq!(later.len(), 5, "two sets of two, and the rest: {later:?}");
    assert!(
        !later.contains(&sent.line().to_string()) && later.contains(&refused.line().to_string()),
        "{later:?}"
    );
    assert_eq!(profiler.stats().export_failures, 0);
    stop(profiler);
    remove(&place);
}

fn no_secret_is_on_the_disk() {
    let place = directory("secrets");
    let at = nobody();
    let push =
        format!("post+http://ann:sesame-pw@{at}/?sig=sesame-sig,pyroscope+http://{at}/sesame-in-a-long-path");
    let profiler = builder(at, &place)
        .set("push", push)
        .set("push_token", "sesame-open")
        .set("push_headers", "x-key=sesame-key")
        .start()
        .unwrap();
    // Of a profile without a sample, Pyroscope gets nothing.
    burn(Duration::from_millis(300));
    minute(&profiler);
    wait_for("both on disk", || profiler.stats().spool_sets == 2);
    stop(profiler);
    let files = kept(&place);
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let is_there = |secret: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        assert!(is_there(b"shop") && !is_there(b"sesame") && !is_there(b"YW5uOn"), "{}", file.display());
        assert!(!file.display().to_string().contains("sesame"));
    }
    remove(&place);
}

fn a_server_that_is_there_costs_the_disk_nothing() {
    let (server, place) = (Server::new(&[YES]), directory("healthy"));
    let profiler = builder(server.address, &place).start().unwrap();
    (0..3).for_each(|_| minute(&profiler));
    assert_eq!((profiler.stats().exported, place.exists()), (3, false));
    stop(profiler);
    assert!(kept(&place).is_empty());
    let _ = std::fs::remove_dir_all(&place);
}
