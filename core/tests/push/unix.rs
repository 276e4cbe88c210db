//! Servers that listen on a Unix socket: each protocol over it, and what becomes of a profile where nobody is there.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use everprof::encode::Dialect;
use everprof::export::{Loss, Outcome};

use crate::server::{Asked, head};
use crate::{exporter, now, set};

/// A socket in a directory of its own; one answers yes to everything on it.
fn server(name: &str) -> (PathBuf, Receiver<Asked>) {
    let dir = std::env::temp_dir().join(format!("everprof-unix-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("a:b.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (told, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some((head, body)) = head(&mut stream) else { continue };
            let mut asked = Asked { head, body };
            let length: usize = asked.header("content-length").unwrap().parse().unwrap();
            let mut left = vec![0; length - asked.body.len()];
            stream.read_exact(&mut left).unwrap();
            asked.body.extend(left);
            told.send(asked).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    (path, asked)
}

#[test]
fn each_protocol_goes_over_a_socket() {
    let (path, asked) = server("each");
    let socket = path.display().to_string().replace(':', "%3A");
    for (protocol, dialect, rest, line) in [
        ("pyroscope", Dialect::Pyroscope, ":/base", "POST /base/push.v1.PusherService/Push HTTP/1.1"),
        ("parca", Dialect::Parca, "", "POST /api/profiles/writeraw HTTP/1.1"),
        ("datadog", Dialect::Datadog, "", "POST /profiling/v1/input HTTP/1.1"),
        ("put", Dialect::Pprof, ":/{kind}?k=v", "PUT /cpu?k=v HTTP/1.1"),
        ("post", Dialect::Pprof, "", "POST / HTTP/1.1"),
    ] {
        let push = format!("{protocol}+unix://{socket}{rest}");
        // A proxy for all programs is none for this.
        let mut exporter = exporter(&[("push", &push), ("push_proxy", "http://127.0.0.1:1")]);
        assert_eq!(exporter.name(), format!("{protocol}+unix://{}", path.display()));
        let outcome = exporter.attempt(&set(dialect, 1, now()));
        assert!(matches!(outcome, Outcome::Sent), "{protocol}: {outcome:?}");
        let asked = asked.try_iter().last().unwrap();
        assert_eq!((asked.line(), asked.header("host")), (line, Some("localhost")));
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_socket_that_is_not_there_is_tried_again() {
    let outcome =
        exporter(&[("push", "post+unix:///nonexistent/x.sock")]).attempt(&set(Dialect::Pprof, 1, now()));
    assert!(matches!(outcome, Outcome::Later(_, None)), "{outcome:?}");
}

/// A listener that takes nobody, with as many waiting as it may keep.
fn full(name: &str) -> (PathBuf, UnixListener, Vec<UnixStream>) {
    let dir = std::env::temp_dir().join(format!("everprof-unix-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: the descriptor is open; a second call makes the queue shorter.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let waits = UnixStream::connect(&path).unwrap();
    (path, listener, vec![waits])
}

#[test]
fn a_socket_whose_queue_is_full_is_waited_for_as_long_as_any_other() {
    let (path, listener, waiting) = full("full");
    let push = format!("post+unix://{}", path.display());
    let begin = Instant::now();
    let outcome = exporter(&[("push", &push)]).attempt(&set(Dialect::Pprof, 1, now()));
    let Outcome::Later(error, None) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "no connection in time");
    let took = begin.elapsed().as_secs_f64();
    assert!((9.0..14.0).contains(&took), "{took}");
    // And no longer than it is full.
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(waiting);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if head(&mut stream).is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        }
    });
    let begin = Instant::now();
    let outcome = exporter(&[("push", &push)]).attempt(&set(Dialect::Pprof, 1, now()));
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_secs(8));
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_socket_that_closes_is_no_end_of_the_process() {
    let dir = std::env::temp_dir().join(format!("everprof-unix-{}-closes", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let mut large = set(Dialect::Pprof, 1, now());
    large.profiles[0].bytes.resize(4 << 20, 0);
    let outcome = exporter(&[("push", &format!("post+unix://{}", path.display()))]).attempt(&large);
    let is_right = matches!(outcome, Outcome::Later(..) | Outcome::Cut(_) | Outcome::Lost(Loss::Unknown, _));
    assert!(is_right, "{outcome:?}");
    fs::remove_dir_all(dir).unwrap();
}
