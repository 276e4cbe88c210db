//! A connection with one end in time for everything that is done with it.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use everprof_probe::os::{Awaited, Place, Watched, poll, would_block};

use super::names::Names;
use super::sockets::Line;
use super::tls::{Stream, Trust};
use super::{Hold, PROXY_WANTS, STOPPED, answer, proxy_credentials, told};
use crate::options::Url;

/// The longest that one of several addresses is waited for.
const ONE_ADDRESS: Duration = Duration::from_secs(3);
/// How soon a socket whose listener has more to take than it may keep is tried again: it tells nobody when it has less.
const FULL: Duration = Duration::from_millis(20);

pub(super) enum Wire {
    Plain(Timed),
    Secure(Box<Stream>),
}

/// A socket whose every wait ends by the deadline.
pub(super) struct Timed {
    line: Line,
    deadline: Instant,
    hold: Option<Hold>,
}

/// How a server is reached.
pub(super) struct Way<'a> {
    pub(super) proxy: Option<&'a Url>,
    pub(super) trust: &'a Trust,
    pub(super) names: &'a Names,
    /// Who may end it.
    pub(super) hold: Option<&'a Hold>,
}

impl Wire {
    /// Connects to the first address of the host that answers.
    pub(super) fn open(url: &Url, way: &Way<'_>, deadline: Instant) -> Result<Wire, String> {
        let failed = if way.proxy.is_some() { "no connection to the proxy" } else { "no connection" };
        let timed = connect(way.proxy.unwrap_or(url), way, deadline).map_err(|error| told(failed, &error))?;
        let mut wire = Wire::Plain(timed);
        if let Some(proxy) = way.proxy.filter(|proxy| proxy.is_secure) {
            // Our certificate is for the server, and what is agreed on as well.
            let trust = Trust { certificate: None, key: None, alpn: None, ..way.trust.clone() };
            wire = wire.secured(&trust, &proxy.host).map_err(|problem| format!("the proxy: {problem}"))?;
        }
        // Of HTTP/2 no proxy hands requests on one by one.
        if let Some(proxy) = way.proxy.filter(|_| url.is_secure || way.trust.alpn.is_some()) {
            tunnel(&mut wire, url, proxy)?;
        }
        if url.is_secure { wire.secured(way.trust, &url.host) } else { Ok(wire) }
    }

    fn secured(self, trust: &Trust, host: &str) -> Result<Wire, String> {
        trust.wrap(host, self).map(|stream| Wire::Secure(Box::new(stream)))
    }

    /// From now on it ends then.
    pub(super) fn until(&mut self, deadline: Instant) {
        self.timed().deadline = deadline;
    }

    /// Whether the other side has closed it, or said something that nobody asked for. Who closes it behind an answer, and does
    /// not say so, does that with the answer: so it is listened to for a moment.
    pub(super) fn is_done(&mut self, moment: Duration) -> bool {
        self.until(Instant::now() + moment);
        let nothing = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
        !matches!(self.read(&mut [0]), Err(error) if nothing.contains(&error.kind()))
    }

    /// Whether the other side has not got all that was written: then nobody there can have read it.
    pub(super) fn is_incomplete(&mut self) -> bool {
        // The end of what we say, where the connection was shut, counts as one byte.
        self.timed().line.socket().not_there().is_some_and(|count| count > 1)
    }

    #[cfg(feature = "grpc")]
    pub(super) fn descriptor(&mut self) -> i32 {
        self.timed().descriptor()
    }

    /// No later end than this from now.
    pub(super) fn hurry(&mut self, most: Duration) {
        let timed = self.timed();
        timed.deadline = timed.deadline.min(Instant::now() + most);
    }

    pub(super) fn timed(&mut self) -> &mut Timed {
        match self {
            Wire::Plain(timed) => timed,
            Wire::Secure(stream) => stream.timed(),
        }
    }
}

/// Asks the proxy for a tunnel to the server, in which TLS begins then.
fn tunnel(wire: &mut Wire, url: &Url, proxy: &Url) -> Result<(), String> {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let place = format!("{host}:{}", url.port);
    let credentials = proxy_credentials(proxy).unwrap_or_default();
    let head = format!("CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n{credentials}\r\n");
    let asked = wire.write_all(head.as_bytes()).and_then(|()| wire.flush());
    let answered = asked.and_then(|()| answer::of_tunnel(wire));
    match answered.map_err(|error| told("the proxy gave no answer", &error))? {
        200..300 => Ok(()),
        407 => Err(PROXY_WANTS.to_string()),
        status => Err(format!("the proxy does not let us through to {place}: it answers {status}")),
    }
}

fn connect(url: &Url, way: &Way<'_>, deadline: Instant) -> io::Result<Timed> {
    if let Some(path) = &url.socket {
        return Timed::connect(&Place::Unix(path.as_bytes()), way.hold, deadline);
    }
    let addresses = way.names.look_up(&url.host, url.port, way.hold, deadline)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let end = deadline.min(Instant::now() + ONE_ADDRESS);
        match Timed::connect(&Place::Inet(address), way.hold, end) {
            Ok(timed) => return Ok(Timed { deadline, ..timed }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Err(error),
            Err(error) => last = error,
        }
        left(deadline)?;
    }
    Err(last)
}

impl Timed {
    fn connect(place: &Place<'_>, hold: Option<&Hold>, deadline: Instant) -> io::Result<Self> {
        let timed = Self { line: Line::new(place)?, deadline, hold: hold.cloned() };
        if hold.is_some_and(|hold| !hold.keep(&timed.line)) {
            return Err(stopped());
        }
        loop {
            match timed.line.socket().connect(place) {
                Ok(true) => return Ok(timed),
                Ok(false) => break,
                Err(error) if would_block(error) => timed.pause()?,
                Err(error) => return Err(io::Error::from_raw_os_error(error)),
            }
        }
        while !timed.wait(Awaited::Write)? {}
        timed.line.socket().outcome().map_err(io::Error::from_raw_os_error)?;
        Ok(timed)
    }

    /// Waits until there may be something to do, and says whether there is; an error at the deadline.
    fn wait(&self, awaited: Awaited) -> io::Result<bool> {
        // Not in circles where less than a millisecond is left.
        let millis = u32::try_from(left(self.deadline)?.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
        let mut watched = [Watched::new(self.descriptor(), awaited)];
        poll(&mut watched, millis);
        match self.hold.as_ref().is_some_and(Hold::is_over) {
            true => Err(stopped()),
            false => Ok(watched.iter().all(Watched::is_ready)),
        }
    }

    fn descriptor(&self) -> i32 {
        self.line.socket().descriptor()
    }

    /// Waits where nobody tells when there is something to do.
    fn pause(&self) -> io::Result<()> {
        let pause = left(self.deadline)?.min(FULL);
        match &self.hold {
            Some(hold) if !hold.pause(pause) => return Err(stopped()),
            Some(_) => {}
            None => std::thread::sleep(pause),
        }
        Ok(())
    }

    /// Does it, when it can be done.
    fn when(&self, awaited: Awaited, mut work: impl FnMut() -> Result<usize, i32>) -> io::Result<usize> {
        left(self.deadline)?;
        loop {
            match work() {
                Err(error) if would_block(error) => _ = self.wait(awaited)?,
                done => return done.map_err(io::Error::from_raw_os_error),
            }
        }
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, STOPPED)
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(timed) => timed.read(buffer),
            Wire::Secure(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(timed) => timed.write(bytes),
            Wire::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(timed) => timed.flush(),
            Wire::Secure(stream) => stream.flush(),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when(Awaited::Read, || self.line.socket().read(buffer))
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.when(Awaited::Write, || self.line.socket().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The time that is left; an error where there is none, since 0 would mean for ever.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
}
