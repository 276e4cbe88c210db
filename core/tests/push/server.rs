//! A server that does what a script says, one act a request, and keeps what it was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// What the server does with one request.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)] // not all of them are used by each of the binaries that this is part of
pub(crate) enum Act {
    /// Reads the request and sends these bytes; behind an answer that says how long it is, the connection stays open.
    Answer(&'static str),
    /// The same, and closes the connection, which it has not said.
    AnswerAndClose(&'static str),
    /// Sends these bytes as soon as it has the head, and closes.
    Early(&'static str),
    /// Reads the request and says nothing.
    Hang,
    /// Reads the head only, and says nothing.
    HangEarly,
    /// Reads the request and resets the connection.
    Reset,
    /// Resets the connection with the head.
    ResetEarly,
    /// Reads the request and closes.
    Close,
    /// Reads the request, and answers with a head that never ends.
    EndlessHead,
    /// Reads the request, says yes, and sends a body that never ends.
    EndlessBody,
    /// Reads the request, sends the first text, and then the second for ever.
    Endless(&'static str, &'static str),
    /// Reads the request, and sends an answer byte by byte, too slowly to be done in time.
    Drip,
}

pub(crate) const YES: Act = Act::Answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let find =
            |line: &'_ str| line.split_once(": ").is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        self.head
            .lines()
            .skip(1)
            .find(|line| find(line))
            .and_then(|line| line.split_once(": "))
            .map(|(_, value)| value)
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Receiver<Asked>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// One that follows the script, and then does its last act for ever.
    pub(crate) fn new(script: &[Act]) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), script)
    }

    /// The same, at that address.
    pub(crate) fn at(address: SocketAddr, script: &[Act]) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (told, asked) = mpsc::channel();
        let (script, connections) = (Arc::new(script.to_vec()), Arc::new(AtomicUsize::new(0)));
        let (count, at) = (connections.clone(), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (told, script, at) = (told.clone(), script.clone(), at.clone());
                let next = move || *script.get(at.fetch_add(1, Ordering::SeqCst)).or(script.last()).unwrap();
                // A connection that hangs keeps none after it waiting.
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while serve(&mut stream, &next, &told) {}
                });
            }
        });
        Self { address, asked, connections }
    }

    /// How many connections there were.
    #[allow(dead_code)] // not in each of the binaries that this is part of
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The requests that came since.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.try_iter().collect()
    }

    /// The next request.
    #[allow(dead_code)] // not in each of the binaries that this is part of
    pub(crate) fn next(&self) -> Asked {
        self.asked.recv_timeout(Duration::from_secs(60)).expect("no request within a minute")
    }
}

/// One request; says whether the connection stays open.
fn serve(stream: &mut TcpStream, next: &impl Fn() -> Act, told: &mpsc::Sender<Asked>) -> bool {
    let Some((head, rest)) = head(stream) else { return false };
    let act = next();
    let mut asked = Asked { head, body: rest };
    let length: usize = asked.header("content-length").unwrap().parse().unwrap();
    if let Act::Early(_) | Act::HangEarly | Act::ResetEarly = act {
        let _ = told.send(asked);
        match act {
            Act::Early(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            Act::HangEarly => thread::sleep(Duration::from_secs(30)),
            _ => reset(stream),
        }
        return false;
    }
    let mut left = vec![0; length - asked.body.len()];
    if stream.read_exact(&mut left).is_err() {
        return false;
    }
    asked.body.extend(left);
    let _ = told.send(asked);
    match act {
        Act::Answer(answer) => {
            return stream.write_all(answer.as_bytes()).is_ok() && stays(answer);
        }
        Act::AnswerAndClose(answer) => _ = stream.write_all(answer.as_bytes()),
        Act::Hang => thread::sleep(Duration::from_secs(30)),
        Act::Reset => reset(stream),
        Act::EndlessHead => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"x-more: and more of it, and more of it, and more of it\r\n").is_ok() {}
        }
        Act::EndlessBody => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }
        Act::Endless(head, piece) => {
            let _ = stream.write_all(head.as_bytes());
            let many = piece.repeat(1 + 4096 / piece.len());
            while stream.write_all(many.as_bytes()).is_ok() {}
        }
        Act::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" {
                if stream.write_all(&[*byte]).is_err() {
                    return false;
                }
                thread::sleep(Duration::from_secs(1));
            }
        }
        _ => {}
    }
    false
}

/// Whether the connection stays open behind an answer: where that says how long it is, and is as long.
fn stays(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    head.contains("chunked") || head.contains(&format!("content-length: {}", body.len()))
}

/// The head of a request, and what came with it of the body.
pub(crate) fn head(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8(bytes).unwrap(), rest));
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Ends the connection at once, with what is on its way.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is open, and the option is of that type.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}
