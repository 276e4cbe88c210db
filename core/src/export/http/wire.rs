//! A connection with one end in time for everything that is done with it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::tls::{Stream, Trust};
use super::told;
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
    stream: TcpStream,
    deadline: Instant,
}

impl Wire {
    /// Connects to the first address of the host that answers. To look the name up may take longer than the deadline: the
    /// C library knows none, and this thread waits for it alone.
    pub(super) fn open(url: &Url, trust: &Trust, deadline: Instant) -> Result<Wire, String> {
        let timed = connect(url, deadline).map_err(|error| told("no connection", &error))?;
        if url.is_secure {
            return trust.wrap(&url.host, timed).map(|stream| Wire::Secure(Box::new(stream)));
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

fn connect(url: &Url, deadline: Instant) -> io::Result<Timed> {
    let addresses: Vec<SocketAddr> =
        (url.host.as_str(), url.port).to_socket_addrs()?.take(MOST_ADDRESSES).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let left = left(deadline)?.min(ONE_ADDRESS);
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                // The head and the body are two writes, and the second is not to wait for word of the first.
                stream.set_nodelay(true)?;
                return Ok(Timed { stream, deadline });
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
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The time that is left; an error where there is none, since 0 would mean for ever.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
}
