//! The server's beginning and end, and what happens around a fork.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use everprof::Profiler;

use crate::client::{connect, get, parse, serving};
use crate::common::{burn, directory, stop};

fn threads() -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.map(|name| name.trim().to_string()).filter(|name| name.starts_with("everprof")).collect()
}

/// What the descriptors of this process lead to.
fn sockets() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect()
}

/// Waits until something holds, which it does soon.
fn soon(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}: not within 30 s");
}

pub(crate) fn port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = directory("taken");
    let profiler = Profiler::builder().dir(&dir).set("serve", &address).start().unwrap();
    let stats = profiler.stats();
    assert_eq!(stats.serve_address, None);
    assert!(stats.last_problem.unwrap().contains(&format!("serve={address} cannot be had")));
    burn(Duration::from_millis(100));
    stop(profiler);
    assert!(!crate::common::profiles(&dir).is_empty(), "everything else goes on");
    std::fs::remove_dir_all(&dir).unwrap();
}

pub(crate) fn nothing_is_left() {
    let before = sockets();
    for round in 0..3 {
        let (profiler, address) = serving(|builder| builder);
        assert_eq!(get(&address, "/debug/pprof/").status, 200);
        let mut waiting = connect(&address).unwrap();
        write!(waiting, "GET /debug/pprof/profile?seconds=60 HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut idle = connect(&address).unwrap();
        soon("both threads", || {
            threads().iter().filter(|name| *name != "everprof" && *name != "everprof-out").count() == 2
        });
        profiler.stop().unwrap();
        // The end is told, also to those who wait: whose recording has begun loses it, who comes too late hears why.
        for stream in [&mut waiting, &mut idle] {
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "round {round}: {answer}");
        }
        assert!(connect(&address).is_err(), "round {round}: nobody listens");
        drop((waiting, idle));
        TcpListener::bind(&address).unwrap();
        soon("our threads ended", || threads().is_empty());
        assert_eq!(sockets(), before, "round {round}");
    }
}

pub(crate) fn fork() {
    let before = sockets();
    let (profiler, address) = serving(|builder| builder);
    let mut kept = connect(&address).unwrap();
    // A recording is under way, and a connection open, when the fork happens.
    write!(
        kept,
        "GET /debug/pprof/profile?seconds=3 HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    thread::sleep(Duration::from_millis(300));
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    // SAFETY: the child runs ordinary code, as programs that fork do; the C library makes that work.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let own: BTreeSet<PathBuf> = sockets().difference(&before).cloned().collect();
        // The pair and the client's end of the connection are this test's.
        let is_clean = own.len() == 3 && profiler.stats().serve_address.is_none();
        theirs.write_all(&[u8::from(is_clean)]).unwrap();
        thread::sleep(Duration::from_secs(120));
        std::process::exit(0);
    }
    let mut told = [0];
    ours.read_exact(&mut told).unwrap();
    assert_eq!(told, [1], "the child has copies of the server's sockets, or says that it listens");
    let mut answer = Vec::new();
    kept.read_to_end(&mut answer).unwrap();
    assert_eq!(parse(&answer).unwrap().status, 200, "the parent's recording went on");
    assert_eq!(get(&address, "/debug/pprof/cmdline").status, 200);
    profiler.stop().unwrap();
    // The child lives, and does not keep the port.
    TcpListener::bind(&address).unwrap();
    // SAFETY: the child is ours.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: nothing is asked but that it is gone.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

pub(crate) fn unix_socket() {
    let dir = directory("unix");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("pull.sock");
    // What a process that was killed left behind.
    drop(UnixListener::bind(&path).unwrap());
    let place = format!("unix:{}", path.display());
    let (profiler, address) = serving(|builder| builder.set("serve", &place));
    assert_eq!(address, place);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /debug/pprof/ HTTP/1.1\r\nHost: any.name\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(parse(&answer).unwrap().status, 200);
    profiler.stop().unwrap();
    assert!(!path.exists(), "the socket goes with the server");
    // A file that is no socket stays what it is.
    std::fs::write(&path, "a file").unwrap();
    let profiler = Profiler::builder().dir(&dir).set("serve", &place).start().unwrap();
    assert!(profiler.stats().last_problem.unwrap().contains("cannot be had"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    drop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// One that lives and does not take connections, since its process stands still, say: nobody waits for it.
pub(crate) fn socket_of_others() {
    let dir = directory("others");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("pull.sock");
    let theirs = UnixListener::bind(&path).unwrap();
    // SAFETY: numbers are given: a queue for one.
    unsafe { libc::listen(theirs.as_raw_fd(), 0) };
    let waiting = UnixStream::connect(&path).unwrap();
    let place = format!("unix:{}", path.display());
    let profiler = Profiler::builder().dir(&dir).set("serve", &place).start().unwrap();
    assert!(profiler.stats().last_problem.unwrap().contains("cannot be had"));
    drop(profiler);
    assert!(path.exists() && theirs.accept().is_ok(), "it is theirs");
    drop(waiting);
    // A link that leads nowhere is not followed, and stays.
    let link = dir.join("link.sock");
    std::os::unix::fs::symlink(dir.join("nothing"), &link).unwrap();
    let place = format!("unix:{}", link.display());
    let profiler = Profiler::builder().dir(&dir).set("serve", &place).start().unwrap();
    assert!(profiler.stats().last_problem.unwrap().contains("cannot be had"));
    drop(profiler);
    assert!(link.is_symlink() && !dir.join("nothing").exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A port is free as soon as the stop returns, also where connections were open, and a thread that forks finds it so.
pub(crate) fn again_and_again() {
    let (first, address) = serving(|builder| builder);
    assert_eq!(get(&address, "/debug/pprof/cmdline").status, 200);
    let kept = connect(&address).unwrap();
    first.stop().unwrap();
    for round in 0..10 {
        let (profiler, again) = serving(|builder| builder.set("serve", &address));
        assert_eq!(again, address, "round {round}");
        let mut waiting = connect(&address).unwrap();
        write!(waiting, "GET /debug/pprof/wall?seconds=60 HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let children: Vec<_> = (0..3).map(|_| Command::new("true").spawn().unwrap()).collect();
        assert_eq!(get(&address, "/debug/pprof/cmdline").status, 200, "round {round}");
        profiler.stop().unwrap();
        children.into_iter().for_each(|mut child| drop(child.wait()));
    }
    drop(kept);
}

pub(crate) fn nothing_is_asked_for() {
    let before = sockets();
    let profiler = Profiler::builder().dir(directory("quiet")).start().unwrap();
    assert!(threads().iter().all(|name| name == "everprof" || name == "everprof-out"), "{:?}", threads());
    assert_eq!((sockets(), profiler.stats().serve_address), (before, None));
}
