//! Clients that mean no good, or do not care. Whatever they do, the host lives, the server answers others, and neither
//! descriptors nor memory grow beyond what is allowed for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use everprof_probe::os::Clock;

use crate::client::{ask, connect, get, parse, send, serving};

/// As many as the server has places for.
const PLACES: usize = 16;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The server answers somebody else; where all places are taken by those who may keep them for a moment, soon.
fn still_answers(address: &str) {
    for _ in 0..200 {
        if ask(address, "GET", "/debug/pprof/cmdline", "", "").is_ok_and(|response| response.status == 200) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("no answer within 10 s");
}

pub(crate) fn slow_clients() {
    let (_profiler, address) = serving(|builder| builder);
    let mut slow: Vec<TcpStream> = Vec::new();
    for n in 0..100 {
        let mut stream = connect(&address).unwrap();
        // Some say nothing at all, some a part of a head, some promise a body.
        let begin: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\nX: ",
            _ => b"POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n0x",
        };
        let _ = stream.write_all(begin);
        slow.push(stream);
        if n % 10 == 9 {
            slow.iter_mut().for_each(|stream| drop(stream.write(b"a")));
            still_answers(&address);
        }
    }
    // Byte by byte does not keep a place: the time is for the whole head.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        slow.iter_mut().for_each(|stream| drop(stream.write(b"a")));
        still_answers(&address);
        thread::sleep(Duration::from_millis(100));
    }
    let open = slow.iter().filter(|stream| {
        let mut stream: &TcpStream = stream;
        stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    });
    assert_eq!(open.count(), 0, "all of them were closed");
}

pub(crate) fn thousand_connections() {
    let (profiler, address) = serving(|builder| builder);
    still_answers(&address);
    let (files, memory) = (descriptors(), resident_kib());
    let mut open = Vec::new();
    for n in 0..1000 {
        // What the kernel's queue does not hold waits for the next look of the server.
        let stream = (0..100)
            .find_map(|_| connect(&address).inspect_err(|_| thread::sleep(Duration::from_millis(10))).ok());
        open.push(stream.expect("a connection"));
        // Ours are in the same process.
        let theirs = descriptors().saturating_sub(files + open.len());
        assert!(theirs <= 2 * PLACES + 2, "{theirs} descriptors after {n} connections");
    }
    still_answers(&address);
    drop(open);
    still_answers(&address);
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 16 << 10, "{grown} KiB more");
    assert!(profiler.stats().serve_refused > 100, "{:?}", profiler.stats());
}

pub(crate) fn no_requests() {
    let (_profiler, address) = serving(|builder| builder);
    let memory = resident_kib();
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let long = format!(
        "GET /debug/pprof/profile?seconds=1&x={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a".repeat(60_000)
    );
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "Host: localhost\r\n".repeat(500));
    for (bytes, statuses) in [
        (huge.as_bytes(), &[431][..]),
        (long.as_bytes(), &[431]),
        (many.as_bytes(), &[400, 431]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
        (b"GET /debug/pprof/cmdline\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        (b"GET http://localhost/debug/pprof/cmdline HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        (b"GET /debug/pprof/../pprof/cmdline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[404]),
        (b"GET //debug/pprof/cmdline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[404]),
        (b"GET /debug/pprof/%2e%2e/cmdline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[404]),
        (b"GET /debug/pprof/profile?seconds=-9223372036854775809&format=%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[400]),
        (b"GET /debug/pprof/goroutine?seconds=1e9 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[400]),
        (b"GET /debug/pprof/profile?seconds=99999999 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[400]),
        (b"DELETE /debug/pprof/profile HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[405]),
        (b"POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[501]),
        (b"POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n", &[413]),
        (b"GET /debug/pprof/cmdline HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", &[403]),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        match send(&address, bytes) {
            Ok(response) => assert!(statuses.contains(&response.status), "{shown}: {response:?}"),
            // A client that does not stop sending may miss the answer.
            Err(error) => assert!(bytes.len() > 10_000, "{shown}: {error}"),
        }
    }
    random_bytes(&address);
    pipelines_and_halves(&address);
    still_answers(&address);
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 16 << 10, "{grown} KiB more");
}

/// Requests that were damaged at random, always the same ones.
fn random_bytes(address: &str) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..300 {
        let mut bytes = b"GET /debug/pprof/cmdline?seconds=1&debug=2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc".to_vec();
        for _ in 0..1 + next() % 6 {
            let at = (next() % bytes.len() as u64) as usize;
            match next() % 3 {
                0 => bytes[at] = next() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, next() as u8),
            }
        }
        let mut stream = connect(address).unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        // An answer, or none where the request was never whole.
        assert!(answer.is_empty() || parse(&answer).is_some(), "{:?}", String::from_utf8_lossy(&bytes));
    }
}

fn pipelines_and_halves(address: &str) {
    // Several requests at once are answered in their order, and a client that has said all may stop sending.
    let mut stream = connect(address).unwrap();
    let one = "GET /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /debug/pprof/trace HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{one}{one}{last}").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(
        (answer.matches("HTTP/1.1 404").count(), answer.matches("heap is not followed").count()),
        (3, 2),
        "{answer}"
    );
}

pub(crate) fn those_who_leave() {
    let (profiler, address) = serving(|builder| builder);
    // More recordings than may be at work, all of them left alone.
    for n in 0..20 {
        let mut stream = connect(&address).unwrap();
        write!(stream, "GET /debug/pprof/profile?seconds=600 HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        thread::sleep(Duration::from_millis(50));
        match n % 2 {
            0 => drop(stream),
            _ => stream.shutdown(Shutdown::Write).unwrap(),
        }
        // So often, and no more often, recordings may be asked for.
        thread::sleep(Duration::from_millis(250));
    }
    for _ in 0..100 {
        if get(&address, "/debug/pprof/profile?seconds=1").status == 200 {
            return drop(profiler);
        }
        thread::sleep(Duration::from_millis(300));
    }
    panic!("recordings that nobody waits for are still at work");
}

pub(crate) fn recordings_are_bounded() {
    let (_profiler, address) = serving(|builder| builder);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let ask = || scope.spawn(|| get(&address, "/debug/pprof/profile?seconds=5").status);
        let waiting: Vec<_> = (0..12).map(|_| ask()).collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    // On a busy machine one may come when another has ended.
    assert!(count(200) + count(503) == 12 && (8..12).contains(&count(200)), "{statuses:?}");
    // And not more than so many a second of what costs something.
    let statuses: Vec<u16> = thread::scope(|scope| {
        let ask =
            || scope.spawn(|| (0..20).map(|_| get(&address, "/debug/pprof/").status).collect::<Vec<_>>());
        let asking: Vec<_> = (0..6).map(|_| ask()).collect();
        asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(statuses.contains(&429) && statuses.contains(&200), "{statuses:?}");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(get(&address, "/debug/pprof/").status, 200);
}

/// Pages are asked for and never read.
pub(crate) fn nobody_reads() {
    let (_profiler, address) = serving(|builder| builder);
    let memory = resident_kib();
    let mut streams = Vec::new();
    for _ in 0..PLACES {
        let mut stream = connect(&address).unwrap();
        for _ in 0..40 {
            write!(stream, "GET /debug/pprof/wall?seconds=1&format=html HTTP/1.1\r\nHost: {address}\r\n\r\n")
                .unwrap();
        }
        streams.push(stream);
    }
    thread::sleep(Duration::from_secs(6));
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 48 << 10, "{grown} KiB more");
    thread::sleep(Duration::from_secs(8));
    still_answers(&address);
}

/// Refusals are answers too, and whoever gets one may keep his end open.
pub(crate) fn refused_and_staying() {
    let (_profiler, address) = serving(|builder| builder);
    still_answers(&address);
    let files = descriptors();
    let mut open = Vec::new();
    for n in 0..400 {
        let mut stream = connect(&address).unwrap();
        let _ = stream.write_all(b"nonsense\r\n\r\n");
        open.push(stream);
        let theirs = descriptors().saturating_sub(files + open.len());
        assert!(theirs <= 2 * PLACES + 2, "{theirs} descriptors after {n} refusals");
    }
    still_answers(&address);
}

/// To send without an end does not keep the server reading: what it throws away has an end.
pub(crate) fn endless_senders() {
    let (_profiler, address) = serving(|builder| builder);
    for begin in ["nonsense", "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"] {
        let mut stream = connect(&address).unwrap();
        stream.write_all(begin.as_bytes()).unwrap();
        // The buffers of the kernel take some megabytes.
        let taken = (0..1024).take_while(|_| stream.write_all(&[b'a'; 64 << 10]).is_ok()).count();
        assert!(taken < 256, "{} KiB after {begin:?}", 64 * taken);
    }
    still_answers(&address);
}

/// Who has said all that he has to say may end his half: what takes no time is answered, to those behind it too.
pub(crate) fn half_closed() {
    let (_profiler, address) = serving(|builder| builder);
    let request = |path: &str| format!("GET /debug/pprof/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (paths, answers) in [
        (&["threads?debug=1"][..], 1),
        (&["", "symbol?0x1", "threads", "heap"], 4),
        // A recording is one that nobody waits for.
        (&["profile?seconds=600"], 0),
    ] {
        let mut stream = connect(&address).unwrap();
        let all: String = paths.iter().map(|path| request(path)).collect();
        stream.write_all(all.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), answers, "{paths:?}: {answer}");
    }
    // A reset at each state is the end of the connection, and of nothing else.
    for path in ["threads", "profile?seconds=600", "wall?seconds=1&format=html"] {
        for bytes in [request(path), request(path).trim_end().to_string(), request(path).repeat(200)] {
            let mut stream = connect(&address).unwrap();
            let _ = stream.write_all(bytes.as_bytes());
            reset(stream);
        }
    }
    still_answers(&address);
}

fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    let option = std::ptr::from_ref(&linger).cast();
    // SAFETY: the option is read, and lives.
    unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, option, size) };
}

/// A process without descriptors, or that forbids itself any: the server waits, and neither turns in circles nor ends.
pub(crate) fn no_descriptors() {
    let (_profiler, address) = serving(|builder| builder);
    still_answers(&address);
    let (before, stream) = (descriptor_limit(), tcp_socket());
    cpu_of_server();
    // None for those who come in; and then fewer than the kernel's `poll` is to look at.
    for limit in [3, 1] {
        limit_descriptors(limit);
        if limit == 3 {
            call(&stream, &address);
        }
        let spent = cpu_of_server();
        thread::sleep(Duration::from_secs(2));
        let spent = cpu_of_server() - spent;
        limit_descriptors(before);
        assert!(spent < Duration::from_millis(200), "{spent:?} of two seconds at {limit}");
    }
    drop(stream);
    still_answers(&address);
}

/// A socket that is not connected yet.
fn tcp_socket() -> TcpStream {
    // SAFETY: numbers are given, and one is returned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: the descriptor is new, and nobody else's.
    unsafe { TcpStream::from_raw_fd(socket) }
}

fn call(stream: &TcpStream, address: &str) {
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address is read, and lives.
    let result = unsafe { libc::connect(stream.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) };
    assert_eq!(result, 0);
}

fn cpu_of_server() -> Duration {
    let is_server = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "everprof-serve")
    };
    // To look for it takes a descriptor.
    static SERVER: OnceLock<u32> = OnceLock::new();
    let id = SERVER.get_or_init(|| {
        let mut tasks = std::fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap);
        tasks.find(is_server).unwrap().file_name().to_str().unwrap().parse().unwrap()
    });
    Duration::from_nanos(Clock::Thread(*id).now().unwrap())
}

fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is live.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur
}

fn limit_descriptors(most: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is live.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = most;
    // SAFETY: likewise; only this process is meant.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}
