//! What becomes of a call where the server fails, down to the frame: bounded in time and in memory, and told rightly.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use everprof::encode::Dialect;
use everprof::export::{Loss, Outcome};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame, head,
    header, take,
};
use crate::{exporter, now, set};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Says nothing, not even which settings it has.
    Silent,
    /// Takes the call and says no more.
    Hang,
    /// Takes the call and closes, or resets.
    Close,
    /// Has as much room as it began with, and reads no more than that.
    NoRoom,
    /// Has other manners.
    Ssh,
    Http1,
    /// A balancer without a server behind it.
    Http1Unavailable,
    RefusedStream,
    Reset,
    /// Goes away before it has looked at the call, or after.
    GoAwayBefore,
    GoAwayAfter,
    EndlessHead,
    EndlessContinuations,
    EndlessMessage,
    EndlessPings,
    EndlessSettings,
    /// Ends the answer without trailers; with some that have no status.
    NoTrailers,
    NoStatus,
    /// An answer, before it has read anything of the body.
    Early,
    /// One byte a second.
    Drip,
}

fn server(act: Act) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(&mut stream.unwrap(), act));
        }
    });
    address
}

fn serve(stream: &mut TcpStream, act: Act) {
    let mut say = |bytes: &[u8]| stream.write_all(bytes);
    let settings = frame(SETTINGS, 0, 0, &[]);
    match act {
        Act::Silent => return thread::sleep(Duration::from_secs(30)),
        Act::Ssh => return say(b"SSH-2.0-OpenSSH_9\r\n").unwrap(),
        Act::Http1 => {
            say(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").unwrap();
            take(stream, true);
            return;
        }
        Act::Http1Unavailable => {
            say(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n").unwrap();
            take(stream, true);
            return;
        }
        _ => say(&settings).unwrap(),
    }
    take(stream, !matches!(act, Act::NoRoom | Act::Early));
    let mut say = |bytes: &[u8]| stream.write_all(bytes);
    let answer = frame(HEADERS, END_HEADERS, 1, &head());
    match act {
        Act::Hang | Act::NoRoom => thread::sleep(Duration::from_secs(30)),
        Act::RefusedStream => say(&frame(RST_STREAM, 0, 1, &7u32.to_be_bytes())).unwrap(),
        Act::Reset => say(&frame(RST_STREAM, 0, 1, &2u32.to_be_bytes())).unwrap(),
        Act::GoAwayBefore => say(&frame(GOAWAY, 0, 0, &[0; 8])).unwrap(),
        Act::GoAwayAfter => say(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2])).unwrap(),
        Act::EndlessHead => {
            let more: Vec<u8> = (0..60).flat_map(|n| header(&format!("x-{n}"), &"v".repeat(120))).collect();
            let _ = say(&frame(HEADERS, 0, 1, &[head(), more.clone()].concat()));
            while say(&frame(CONTINUATION, 0, 1, &more)).is_ok() {}
        }
        Act::EndlessContinuations => {
            let _ = say(&frame(HEADERS, 0, 1, &head()));
            while say(&frame(CONTINUATION, 0, 1, &[])).is_ok() {}
        }
        Act::EndlessMessage => {
            let _ = say(&answer);
            let _ = say(&frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff]));
            // Whatever room it is given.
            while say(&frame(DATA, 0, 1, &[0; 16_000])).is_ok() {}
        }
        Act::EndlessPings => while say(&frame(PING, 0, 0, &[0; 8])).is_ok() {},
        Act::EndlessSettings => while say(&settings).is_ok() {},
        Act::NoTrailers => say(&[answer, frame(DATA, END_STREAM, 1, &[0; 5])].concat()).unwrap(),
        Act::NoStatus => {
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &header("x", "y"));
            say(&[answer, trailers].concat()).unwrap();
        }
        Act::Early => {
            let no = [head(), header("grpc-status", "16")].concat();
            say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &no)).unwrap();
            say(&frame(RST_STREAM, 0, 1, &0u32.to_be_bytes())).unwrap();
            thread::sleep(Duration::from_secs(2));
        }
        Act::Drip => {
            for byte in answer {
                if say(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_secs(1));
            }
        }
        _ => {}
    }
    if matches!(act, Act::RefusedStream | Act::Reset | Act::GoAwayBefore | Act::GoAwayAfter) {
        thread::sleep(Duration::from_millis(200));
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Lost(Loss),
    Later,
    Cut,
}

fn attempt(act: Act, delivery: &str) -> (Expected, String, Duration) {
    let push = format!("otlp+grpc://{}", server(act));
    let mut exporter = exporter(&[("push", &push), ("push_delivery", delivery)]);
    let mut set = set(Dialect::Otlp, 1, now());
    if matches!(act, Act::NoRoom | Act::Early) {
        set.profiles[0].bytes.resize(4 << 20, 0);
    }
    let begin = Instant::now();
    let outcome = exporter.attempt(&set);
    let (expected, error) = match outcome {
        Outcome::Lost(loss, error) => (Expected::Lost(loss), error),
        Outcome::Later(error, None) => (Expected::Later, error),
        Outcome::Cut(error) => (Expected::Cut, error),
        other => panic!("{act:?}: {other:?}"),
    };
    (expected, error.to_string(), begin.elapsed())
}

#[test]
fn each_fault_has_its_class_and_an_end() {
    use Expected::{Cut, Later, Lost};
    let unknown = (Lost(Loss::Unknown), Cut);
    let same = |expected| (expected, expected);
    let faults: &[(Act, (Expected, Expected))] = &[
        (Act::Silent, same(Later)),
        (Act::Hang, unknown),
        (Act::Close, unknown),
        (Act::NoRoom, same(Cut)),
        (Act::Ssh, same(Later)),
        (Act::Http1, same(Lost(Loss::Refused))),
        (Act::Http1Unavailable, same(Cut)),
        (Act::RefusedStream, same(Later)),
        (Act::Reset, unknown),
        (Act::GoAwayBefore, same(Later)),
        (Act::GoAwayAfter, unknown),
        (Act::EndlessHead, unknown),
        (Act::EndlessContinuations, unknown),
        (Act::EndlessMessage, unknown),
        (Act::EndlessPings, unknown),
        (Act::EndlessSettings, unknown),
        (Act::NoTrailers, unknown),
        (Act::NoStatus, unknown),
        (Act::Early, same(Lost(Loss::Refused))),
        (Act::Drip, unknown),
    ];
    let before = peak_kib();
    thread::scope(|scope| {
        let mut attempts = Vec::new();
        for (act, (once, again)) in faults {
            for (delivery, expected) in [("at_most_once", once), ("at_least_once", again)] {
                attempts.push((act, expected, scope.spawn(move || attempt(*act, delivery))));
            }
        }
        for (act, expected, attempt) in attempts {
            let (found, problem, took) = attempt.join().unwrap();
            assert_eq!(found, *expected, "{act:?}: {problem}");
            assert!(took < Duration::from_secs(15), "{act:?} took {took:?}");
            assert!(problem.len() < 500 && !problem.contains(char::is_control), "{problem:?}");
            println!("{act:?}: {problem} ({took:.1?})");
        }
    });
    // All of them together, with their servers in this process.
    let grown = peak_kib() - before;
    assert!(grown < 200 << 10, "{grown} KiB");
}

fn peak_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn nobody_there_is_tried_again() {
    for push in ["otlp+grpc://127.0.0.1:1", "parca+grpc://nobody.invalid:7070"] {
        let outcome = exporter(&[("push", push)]).attempt(&set(Dialect::Otlp, 1, now()));
        assert!(matches!(outcome, Outcome::Later(_, None)), "{push}: {outcome:?}");
    }
}
