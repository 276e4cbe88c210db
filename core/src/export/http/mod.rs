//! HTTP/1.1, as far as a profile needs it to be sent: one request, one answer, one connection.
//!
//! On the thread of one exporter, which may wait: an async runtime would be many times as large as this. Everything of a
//! request has one end in time, and of an answer only as much is read as is of use: neither an endless head, nor a huge
//! body, nor one that drips costs memory or time. Nothing is decompressed, no redirect is followed, since a profile and
//! its credentials are for the server that was named. A connection is kept for requests that follow at once, as those of one
//! period do, and not for the next minute's: it would be broken by then, and a request on one that just breaks is one of which
//! nobody knows what became. What matters is whether the other side can have the profile, see [`Failure`].

mod after;
mod answer;
#[cfg_attr(not(feature = "grpc"), path = "no_grpc.rs")]
mod grpc;
mod hold;
mod names;
pub(crate) mod sockets;
mod text;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod wire;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::time::{Duration, Instant};

pub(super) use answer::Answer;
pub(super) use grpc::check as check_grpc;
pub(crate) use hold::Hold;
use names::Names;
use text::{arrange, harmless, without};
pub(super) use text::{base64, filled};
pub(super) use tls::Trust;
use wire::{Way, Wire};

use crate::options::Url;

/// From the look-up of the name to the first byte of the request, and from its last one to the head of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What has to go over in that time as well, and the longest for all of a request: a slow line is no reason to begin anew.
const CHUNK: usize = 64 << 10;
const LONGEST_UPLOAD: Duration = Duration::from_secs(120);
/// How long an open connection is listened to before the next request goes by it; and a new one, where the request before had
/// no answer: who takes connections for somebody who is not there closes them at once.
const MOMENT: Duration = Duration::from_millis(2);
const WARY: Duration = Duration::from_millis(50);
/// How long an answer is looked for that came before its request was whole.
const ANSWER_BEFORE: Duration = Duration::from_secs(1);
/// Why a request ended before its time.
const STOPPED: &str = "the profiler was stopped";

/// One request. Headers that the connection needs come by themselves.
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) content_type: &'a str,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: &'a [u8],
    /// How much of the body of an answer of success is to be read.
    pub(super) wanted: usize,
}

/// How a call of gRPC went.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// The status; 0 is yes.
    pub(super) code: u32,
    /// What the server says about it.
    pub(super) words: String,
    /// How long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// The beginning of the answer's message.
    pub(super) message: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The other side was not reached, or says that it did nothing with the request.
    NotSent(String),
    /// It broke off before it could have the whole request.
    Cut(String),
    /// It cannot be written at all.
    #[cfg_attr(not(feature = "grpc"), allow(dead_code))] // HTTP/1 takes what it is given
    Unfit(String),
    /// The request was sent, and nobody knows what became of it.
    Unknown(String),
}

impl Failure {
    pub(super) fn into_problem(self) -> String {
        match self {
            Failure::NotSent(problem)
            | Failure::Cut(problem)
            | Failure::Unfit(problem)
            | Failure::Unknown(problem) => problem,
        }
    }
}

/// The way to one server.
pub(super) struct Client {
    url: Url,
    /// The proxy that stands in between.
    proxy: Option<Url>,
    trust: Trust,
    timeout: Duration,
    hold: Option<Hold>,
    /// What no error may show, whatever the server sends back.
    secrets: Vec<String>,
    names: Names,
    /// The last request had no answer.
    is_wary: Cell<bool>,
    /// Whether a connection may be used again, and the one that the last answer left open.
    keeps: Cell<bool>,
    open: RefCell<Option<Wire>>,
    /// The connection of the calls of gRPC at hand.
    kept: grpc::Kept,
}

impl Client {
    pub(super) fn new(url: Url, trust: Trust, mut secrets: Vec<String>) -> Self {
        arrange(&mut secrets);
        Self {
            url,
            proxy: None,
            trust,
            timeout: TIMEOUT,
            hold: None,
            secrets,
            names: Names::default(),
            is_wary: Cell::new(false),
            keeps: Cell::new(false),
            open: RefCell::new(None),
            kept: grpc::Kept::default(),
        }
    }

    /// The same, which keeps its connection until it hangs up.
    pub(super) fn keeping(self) -> Self {
        Self { keeps: Cell::new(true), ..self }
    }

    /// The same by a proxy.
    pub(super) fn by(self, proxy: Option<Url>) -> Self {
        Self { proxy, ..self }
    }

    /// The same with another end in time.
    pub(super) fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same, whose requests somebody may end.
    pub(super) fn held(self, hold: Hold) -> Self {
        Self { hold: Some(hold), ..self }
    }

    /// Sends a request and reads the answer.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeout;
        let kept = self.open.take().and_then(|mut wire| (!wire.is_done(MOMENT)).then_some(wire));
        let was_kept = kept.is_some();
        let mut wire = kept.map_or_else(|| self.connect(deadline), Ok).map_err(Failure::NotSent)?;
        if let Err(error) = self.write(&mut wire, request) {
            // A server that does not want so much may say so before it has all, and closes then.
            wire.until(Instant::now() + self.timeout.min(ANSWER_BEFORE));
            return match answer::read(&mut wire, 0) {
                Ok((answer, _)) => Ok(answer),
                // It was closed at this moment.
                Err(_) if was_kept => self.send(request),
                Err(_) => Err(Failure::Cut(told("it was not taken", &error))),
            };
        }
        wire.until(Instant::now() + self.timeout);
        let read = answer::read(&mut wire, request.wanted);
        self.is_wary.set(read.is_err());
        match read {
            Ok((answer, is_open)) => {
                self.open.replace(Some(wire).filter(|_| is_open && self.keeps.get()));
                Ok(answer)
            }
            Err(error) => {
                // One that closes behind its answers and does not say so is to cost no second profile.
                self.keeps.set(self.keeps.get() && !was_kept);
                let problem = told("no answer", &error);
                match wire.is_incomplete() {
                    true => Err(Failure::Cut(problem)),
                    false => Err(Failure::Unknown(problem)),
                }
            }
        }
    }

    /// No more requests for now.
    pub(super) fn hang_up(&self) {
        self.open.take();
        self.end_calls();
    }

    fn connect(&self, deadline: Instant) -> Result<Wire, String> {
        let mut wire = Wire::open(&self.url, &self.way(&self.trust), deadline)?;
        match self.is_wary.get() && wire.is_done(WARY) {
            true => Err("connections are taken there, and closed at once".to_string()),
            false => Ok(wire),
        }
    }

    fn way<'a>(&'a self, trust: &'a Trust) -> Way<'a> {
        Way { proxy: self.proxy.as_ref(), trust, names: &self.names, hold: self.hold.as_ref() }
    }

    fn write(&self, wire: &mut Wire, request: &Request<'_>) -> io::Result<()> {
        let direct = self.proxy.as_ref().filter(|_| !self.url.is_secure);
        // A proxy that hands requests on wants to know the server; one of a tunnel sees nothing of them.
        let place = direct.map_or(String::new(), |_| format!("http://{}", self.url.authority()));
        // One name is spelled as of old: there are proxies that know it only so, and add another one.
        let mut head = format!(
            "{} {place}{} HTTP/1.1\r\nhost: {}\r\nuser-agent: everprof/{}\r\naccept: */*\r\n{}\
             content-type: {}\r\nContent-Length: {}\r\n",
            request.method,
            request.path,
            self.url.authority(),
            env!("CARGO_PKG_VERSION"),
            if self.keeps.get() { "" } else { "connection: close\r\n" },
            request.content_type,
            request.body.len()
        );
        if let Some(credentials) = direct.and_then(proxy_credentials) {
            head += &credentials;
        }
        for (name, value) in &request.headers {
            // What comes of tags has no line ends; should it have any, they would begin another header.
            let value: String = value.chars().filter(|letter| !letter.is_control()).collect();
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let end = Instant::now() + LONGEST_UPLOAD.max(self.timeout);
        wire.until(Instant::now() + self.timeout);
        wire.write_all(head.as_bytes())?;
        for chunk in request.body.chunks(CHUNK) {
            wire.until(end.min(Instant::now() + self.timeout));
            wire.write_all(chunk)?;
        }
        wire.flush()
    }

    /// The first words of a text of the server's, without our secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        harmless(&without(text, &self.secrets))
    }

    /// What an answer says, for an error: its status and the first words of its body, without our secrets.
    pub(super) fn describe(&self, answer: &Answer) -> String {
        let words = self.clean(&String::from_utf8_lossy(&answer.body));
        let colon = if words.is_empty() { "" } else { ": " };
        format!("it answers {}{colon}{words}", answer.status)
    }
}

/// The header by which a proxy lets us through.
fn proxy_credentials(proxy: &Url) -> Option<String> {
    let (user, password) = proxy.user.as_ref()?;
    Some(format!("proxy-authorization: Basic {}\r\n", base64(format!("{user}:{password}").as_bytes())))
}

/// What to do about a proxy that wants credentials, or others.
pub(super) const PROXY_WANTS: &str =
    "the proxy answers 407: give it a user and a password, http://user:password@host:port, in push_proxy";

fn told(what: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => format!("{what} in time"),
        _ => format!("{what}: {error}"),
    }
}
