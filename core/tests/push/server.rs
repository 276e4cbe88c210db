//! A server that does what a script says, one act a connection, and keeps what it was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// What the server does with one connection.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)] // not all of them are used by each of the binaries that this is part of
pub(crate) enum Act {
    /// Reads the request and sends these bytes.
    Answer(&'static str),
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
        let script = script.to_vec();
        thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                let act = *script.get(at).or(script.last()).unwrap();
                let told = told.clone();
                // A connection that hangs keeps none after it waiting.
                thread::spawn(move || serve(stream.unwrap(), act, &told));
            }
        });
        Self { address, asked }
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

fn serve(mut stream: TcpStream, act: Act, told: &mpsc::Sender<Asked>) {
    let Some((head, rest)) = head(&mut stream) else { return };
    let mut asked = Asked { head, body: rest };
    let length: usize = asked.header("content-length").unwrap().parse().unwrap();
    if let Act::Early(_) | Act::HangEarly | Act::ResetEarly = act {
        told.send(asked).unwrap();
        return match act {
            Act::Early(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            Act::HangEarly => thread::sleep(Duration::from_secs(30)),
            _ => reset(&stream),
        };
    }
    let mut left = vec![0; length - asked.body.len()];
    if stream.read_exact(&mut left).is_err() {
        return;
    }
    asked.body.extend(left);
    let _ = told.send(asked);
    match act {
        Act::Answer(answer) => _ = stream.write_all(answer.as_bytes()),
        Act::Hang => thread::sleep(Duration::from_secs(30)),
        Act::Reset => reset(&stream),
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
                    return;
                }
                thread::sleep(Duration::from_secs(1));
            }
        }
        _ => {}
    }
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
