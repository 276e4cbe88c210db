//! A connection with one end in time for everything that is done with it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tls::{Stream, Trust};
use super::{Hold, PROXY_WANTS, answer, proxy_credentials, told};
use crate::options::Url;

/// The longest that one of several addresses is waited for.
const ONE_ADDRESS: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 8;

pub(super) enum Wire {
    Plain(Timed),
    Secure(Box<Stream>),
}

/// A socket whose every wait ends by the deadline.
pub(super) struct Timed {
    socket: Socket,
    deadline: Instant,
}

enum Socket {
    Tcp(Arc<TcpStream>),
    Unix(UnixStream),
}

/// How a server is reached.
pub(super) struct Way<'a> {
    pub(super) proxy: Option<&'a Url>,
    pub(super) trust: &'a Trust,
    /// Who may end it.
    pub(super) hold: Option<&'a Hold>,
}

impl Wire {
    /// Connects to the first address of the host that answers. To look the name up may take longer than the deadline: the
    /// C library knows none, and this thread waits for it alone.
    pub(super) fn open(url: &Url, way: &Way<'_>, deadline: Instant) -> Result<Wire, String> {
        let failed = if way.proxy.is_some() { "no connection to the proxy" } else { "no connection" };
        let mut timed =
            connect(way.proxy.unwrap_or(url), way.hold, deadline).map_err(|error| told(failed, &error))?;
        // Of HTTP/2 no proxy hands requests on one by one.
        if let Some(proxy) = way.proxy.filter(|_| url.is_secure || way.trust.alpn.is_some()) {
            tunnel(&mut timed, url, proxy)?;
        }
        if url.is_secure {
            return way.trust.wrap(&url.host, timed).map(|stream| Wire::Secure(Box::new(stream)));
        }
        Ok(Wire::Plain(timed))
    }

    /// From now on it ends then.
    #[cfg(feature = "grpc")]
    pub(super) fn until(&mut self, deadline: Instant) {
        self.timed().deadline = deadline;
    }

    /// No later end than this from now.
    pub(super) fn hurry(&mut self, most: Duration) {
        let timed = self.timed();
        timed.deadline = timed.deadline.min(Instant::now() + most);
    }

    fn timed(&mut self) -> &mut Timed {
        match self {
            Wire::Plain(timed) => timed,
            Wire::Secure(stream) => stream.timed(),
        }
    }
}

/// Asks the proxy for a tunnel to the server, in which TLS begins then.
fn tunnel(timed: &mut Timed, url: &Url, proxy: &Url) -> Result<(), String> {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let place = format!("{host}:{}", url.port);
    let credentials = proxy_credentials(proxy).unwrap_or_default();
    let head = format!("CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n{credentials}\r\n");
    let answered = timed.write_all(head.as_bytes()).and_then(|()| answer::of_tunnel(timed));
    match answered.map_err(|error| told("the proxy gave no answer", &error))? {
        200..300 => Ok(()),
        407 => Err(PROXY_WANTS.to_string()),
        status => Err(format!("the proxy does not let us through to {place}: it answers {status}")),
    }
}

fn connect(url: &Url, hold: Option<&Hold>, deadline: Instant) -> io::Result<Timed> {
    if let Some(path) = &url.socket {
        // Waits where the listener has more to take than it may keep, and knows no end in time; as for names, this thread
        // waits alone.
        let socket = Socket::Unix(UnixStream::connect(path)?);
        return Ok(Timed { socket, deadline });
    }
    let addresses: Vec<SocketAddr> =
        (url.host.as_str(), url.port).to_socket_addrs()?.take(MOST_ADDRESSES).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let left = left(deadline)?.min(ONE_ADDRESS);
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                // The head and the body are two writes, and the second is not to wait for word of the first.
                stream.set_nodelay(true)?;
                let stream = Arc::new(stream);
                if hold.is_some_and(|hold| !hold.keep(&stream)) {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "the profiler was stopped"));
                }
                return Ok(Timed { socket: Socket::Tcp(stream), deadline });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
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
        let left = Some(left(self.deadline)?);
        match &mut self.socket {
            Socket::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.as_ref().read(buffer)),
            Socket::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = Some(left(self.deadline)?);
        match &mut self.socket {
            Socket::Tcp(stream) => stream.set_write_timeout(left).and_then(|()| stream.as_ref().write(bytes)),
            Socket::Unix(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
        }
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
