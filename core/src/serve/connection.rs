//! One connection: what it waits for, and what is done when that is there. Nothing here blocks, and every wait has an end.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use everprof_probe::os::{Awaited, Watched};

use super::head::{self, Head, MOST_HEAD, Refusal};
use super::listener::Stream;
use super::{COUNTS, access, wire};
use crate::options::Secret;
use crate::pull::{self, Allowance, Answer, Method, Reply, Ticket};

/// For the head of a request, from its first byte; and for its body.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Until the first byte of a request.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// Longer than any recording and its names.
const WORK_TIME: Duration = Duration::from_secs(pull::LONGEST as u64 + 120);
/// A reader must take something within this, and everything within that.
const STALL_TIME: Duration = Duration::from_secs(10);
const WRITE_TIME: Duration = Duration::from_secs(60);
/// For the client to close after the last answer.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Requests on one connection.
const MOST_REQUESTS: u32 = 100;
/// How much of one connection is read or written before it is the turn of others.
const READ_AT_ONCE: usize = 16 << 10;
const WRITE_AT_ONCE: usize = 256 << 10;
/// Of what a client sends after the last answer, so much is thrown away: a body that was refused. Who sends more is cut
/// off, since to read what nobody wants would be work without an end.
const MOST_THROWN: usize = 128 << 10;
/// So many bytes of answers are held at once for clients that do not take them, unless it is a single one.
const MOST_HELD: usize = 64 << 20;

/// What all connections of a server share.
pub(super) struct Rules {
    pub(super) token: Secret,
    pub(super) is_loopback: bool,
    pub(super) waker: Waker,
    pub(super) requests: Allowance,
    /// Bytes of the answers that all connections hold.
    pub(super) held: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Goes,
    Ends,
}

pub(super) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    /// So much of it was searched for the end of a head.
    searched: usize,
    /// A head whose body is awaited, and its length.
    head: Option<(Head, usize)>,
    state: State,
    since: Instant,
    deadline: Instant,
    requests: u32,
}

enum State {
    Reading,
    Working {
        ticket: Ticket,
        is_head: bool,
        keeps: bool,
    },
    Writing(Output),
    /// Everything is said; what the client still sends is thrown away, so that it gets to read the answer.
    Lingering {
        thrown: usize,
    },
}

struct Output {
    head: Vec<u8>,
    body: Vec<u8>,
    at: usize,
    keeps: bool,
    until: Instant,
}

impl Connection {
    pub(super) fn new(stream: Stream, now: Instant) -> Connection {
        let (buffer, deadline) = (Vec::new(), now + IDLE_TIME);
        Connection {
            stream,
            buffer,
            searched: 0,
            head: None,
            state: State::Reading,
            since: now,
            deadline,
            requests: 0,
        }
    }

    /// A connection for which there is no room, and which is told so.
    pub(super) fn refused(stream: Stream, now: Instant) -> Connection {
        let mut connection = Connection::new(stream, now);
        connection.reply(&mut busy(), true, false, now);
        connection.deadline = now + LINGER_TIME;
        connection
    }

    pub(super) fn watched(&self) -> Watched {
        let awaited = match &self.state {
            State::Reading | State::Lingering { .. } => Awaited::Read,
            // Who ends his half does so because he is gone, or because he has said all that he has to say. A recording is
            // not made on that chance; what takes no time is.
            State::Working { ticket, .. } if ticket.lasts() => Awaited::End,
            State::Working { .. } => Awaited::Break,
            State::Writing(_) => Awaited::Write,
        };
        Watched::new(self.stream.descriptor(), awaited)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Since when nothing is known of what it wants, if so.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        matches!(self.state, State::Reading).then_some(self.since)
    }

    /// Since when it is as it is.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Bytes of the answer that it holds.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Writing(output) => output.body.len(),
            _ => 0,
        }
    }

    /// Whether it is in nobody's way: an answer is on its way, and nothing more will come.
    pub(super) fn is_last_word(&self) -> bool {
        match &self.state {
            State::Writing(output) => !output.keeps && output.body.len() < 1024,
            State::Lingering { .. } => true,
            _ => false,
        }
    }

    pub(super) fn turn(&mut self, is_ready: bool, now: Instant, rules: &mut Rules) -> Next {
        let mut is_ready = is_ready;
        loop {
            let step = match self.state {
                State::Reading if is_ready => self.listen(now, rules),
                State::Working { .. } if is_ready => Err(ErrorKind::ConnectionAborted.into()),
                State::Working { .. } => Ok(self.look(now, rules)),
                State::Writing(_) => self.write(now),
                State::Lingering { .. } if is_ready => self.throw_away(),
                State::Reading | State::Lingering { .. } => Ok(false),
            };
            match step {
                Err(_) => return Next::Ends,
                Ok(false) => break,
                // Another state, which may have something to do already.
                Ok(true) => is_ready = matches!(self.state, State::Reading) && !self.buffer.is_empty(),
            }
        }
        if now >= self.deadline { self.expire(now) } else { Next::Goes }
    }

    /// Ends it for the other side too.
    pub(super) fn close(self) {
        self.stream.shut(Shutdown::Both);
    }

    fn enter(&mut self, state: State, time: Duration, now: Instant) {
        self.state = state;
        self.since = now;
        self.deadline = now + time;
    }

    /// Whether there is a request to answer. First that which came with the one before: behind it there may be the end.
    fn listen(&mut self, now: Instant, rules: &mut Rules) -> io::Result<bool> {
        Ok(self.understand(now, rules)? || {
            self.read(now)?;
            self.understand(now, rules)?
        })
    }

    fn read(&mut self, now: Instant) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let (before, mut read) = (self.buffer.len(), 0);
        while read < READ_AT_ONCE && self.wants_more() {
            match self.stream.read(&mut bytes) {
                // Enough may have come before the end.
                Ok(0) if self.buffer.len() > before => break,
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    if self.buffer.is_empty() {
                        self.since = now;
                        self.deadline = now + HEAD_TIME;
                    }
                    self.buffer.extend_from_slice(&bytes[..count]);
                    read += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wants_more(&self) -> bool {
        match &self.head {
            Some((head, size)) => self.buffer.len() < size + head.length,
            None => self.buffer.len() < MOST_HEAD,
        }
    }

    /// Reads a request out of what has come; whether there was one, or something else to answer.
    fn understand(&mut self, now: Instant, rules: &mut Rules) -> io::Result<bool> {
        if self.head.is_none() {
            match self.find_head() {
                Ok(None) => return Ok(false),
                Ok(Some(found)) => self.head = Some(found),
                Err((status, reason)) => {
                    return Ok(self.refuse(&mut Answer::error(status, reason), true, now));
                }
            }
            let Some((head, size)) = &self.head else { return Ok(false) };
            let is_missing = self.buffer.len() < size + head.length;
            if let Err(mut answer) = access::check(head, &rules.token, rules.is_loopback) {
                return Ok(self.refuse(&mut answer, head.request.method != Method::Head, now));
            }
            if is_missing {
                if head.expects {
                    self.give_leave()?;
                }
                self.deadline = now + HEAD_TIME;
            }
        }
        if self.head.as_ref().is_some_and(|(head, size)| self.buffer.len() < size + head.length) {
            return Ok(false);
        }
        let Some((mut head, size)) = self.head.take() else { return Ok(false) };
        head.request.body = self.buffer[size..size + head.length].to_vec();
        self.buffer.drain(..size + head.length);
        self.searched = 0;
        self.buffer.shrink_to(MOST_HEAD);
        self.requests += 1;
        self.answer(&head, now, rules);
        Ok(true)
    }

    /// Tells a client that waits for it to send its body.
    fn give_leave(&self) -> io::Result<()> {
        const LEAVE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        match self.stream.write(LEAVE) {
            Ok(count) if count == LEAVE.len() => Ok(()),
            // What comes next would be read as a part of it.
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            // The client sends the body after a while.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn find_head(&mut self) -> Result<Option<(Head, usize)>, Refusal> {
        // A client that speaks something else, such as TLS, need not wait to hear of it.
        match self.buffer.first() {
            None => return Ok(None),
            Some(first) if first.is_ascii_uppercase() || matches!(first, b'\r' | b'\n') => {}
            Some(_) => return Err((400, "the request is not HTTP; it is not encrypted here")),
        }
        match head::end(&self.buffer, std::mem::replace(&mut self.searched, self.buffer.len())) {
            Some(size) => head::parse(&self.buffer[..size]).map(|head| Some((head, size))),
            None if self.buffer.len() >= MOST_HEAD => {
                Err((431, "the head of the request is longer than 16 KiB"))
            }
            None => Ok(None),
        }
    }

    fn answer(&mut self, head: &Head, now: Instant, rules: &mut Rules) {
        COUNTS.requests.fetch_add(1, Ordering::Relaxed);
        let is_head = head.request.method == Method::Head;
        let keeps = head.keeps && self.requests < MOST_REQUESTS;
        if !rules.requests.take(now) {
            let mut answer =
                Answer::error(429, "too many requests: try again later").with("Retry-After", "1");
            self.refuse(&mut answer, !is_head, now);
            return;
        }
        match pull::ask_at_root(&head.request) {
            Reply::Now(mut answer) => self.reply(&mut answer, !is_head, keeps, now),
            Reply::Later(ticket) => self.enter(State::Working { ticket, is_head, keeps }, WORK_TIME, now),
        }
    }

    fn refuse(&mut self, answer: &mut Answer, has_body: bool, now: Instant) -> bool {
        COUNTS.refused.fetch_add(1, Ordering::Relaxed);
        self.reply(answer, has_body, false, now);
        true
    }

    fn reply(&mut self, answer: &mut Answer, has_body: bool, keeps: bool, now: Instant) {
        // Of what is not worked out for the sake of a head, the length is not known.
        let is_known = has_body || !answer.body.is_empty();
        let head = wire::head(answer, is_known.then_some(answer.body.len()), keeps);
        let body = if has_body { std::mem::take(&mut answer.body) } else { Vec::new() };
        let output = Output { head, body, at: 0, keeps, until: now + WRITE_TIME };
        self.enter(State::Writing(output), STALL_TIME, now);
    }

    /// Looks for the answer that is being worked out.
    fn look(&mut self, now: Instant, rules: &mut Rules) -> bool {
        let State::Working { ticket, is_head, keeps } = &self.state else { return false };
        let Poll::Ready(mut answer) = ticket.poll(&rules.waker) else { return false };
        let (has_body, keeps) = (!is_head, *keeps);
        if rules.held > 0 && rules.held + answer.body.len() > MOST_HELD {
            let reason = "other clients do not read what they asked for: try again later";
            answer = Answer::error(503, reason).with("Retry-After", "10");
            COUNTS.refused.fetch_add(1, Ordering::Relaxed);
        }
        rules.held += answer.body.len();
        self.reply(&mut answer, has_body, keeps, now);
        true
    }

    fn write(&mut self, now: Instant) -> io::Result<bool> {
        let State::Writing(output) = &mut self.state else { return Ok(false) };
        let mut written = 0;
        while written < WRITE_AT_ONCE {
            let rest = match output.head.get(output.at..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => output.body.get(output.at - output.head.len()..).unwrap_or_default(),
            };
            if rest.is_empty() {
                return Ok(self.written(now));
            }
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    output.at += count;
                    written += count;
                    self.deadline = (now + STALL_TIME).min(output.until);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn written(&mut self, now: Instant) -> bool {
        let keeps = matches!(&self.state, State::Writing(output) if output.keeps);
        if keeps {
            let time = if self.buffer.is_empty() { IDLE_TIME } else { HEAD_TIME };
            self.enter(State::Reading, time, now);
        } else {
            self.buffer = Vec::new();
            self.stream.shut(Shutdown::Write);
            self.enter(State::Lingering { thrown: 0 }, LINGER_TIME, now);
        }
        true
    }

    fn throw_away(&mut self) -> io::Result<bool> {
        let State::Lingering { thrown } = &mut self.state else { return Ok(false) };
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                *thrown += count;
                if *thrown > MOST_THROWN { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(false) }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its time is over.
    fn expire(&mut self, now: Instant) -> Next {
        if matches!(self.state, State::Reading) && !self.buffer.is_empty() {
            self.refuse(&mut Answer::error(408, "the request did not come in time"), true, now);
            return Next::Goes;
        }
        Next::Ends
    }
}

fn busy() -> Answer {
    Answer::error(503, "too many connections: try again later").with("Retry-After", "1")
}
