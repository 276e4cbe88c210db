//! Ports and Unix sockets, as one.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::descriptor::Kept;
use crate::options::Serve;

/// Where connections come in; never blocks.
#[derive(Debug)]
pub(super) enum Listener {
    Port(Kept<TcpListener>, SocketAddr),
    /// The path, and the file that it named when it was bound.
    Socket(Kept<UnixListener>, PathBuf, (u64, u64)),
}

/// A connection; never blocks.
#[derive(Debug)]
pub(super) enum Stream {
    Port(Kept<TcpStream>),
    Socket(Kept<UnixStream>),
}

impl Listener {
    pub(super) fn open(place: &Serve) -> io::Result<Listener> {
        match (place.port(), place.socket()) {
            (Some(address), _) => Listener::on_port(address),
            (None, Some(path)) => Listener::on_socket(path),
            (None, None) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn on_port(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Listener::Port(Kept::new(listener), address))
    }

    fn on_socket(path: &Path) -> io::Result<Listener> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        let listener = Listener::Socket(Kept::new(listener), path.to_path_buf(), identity(path)?);
        listener.make_private().inspect_err(|_| listener.remove())?;
        Ok(listener)
    }

    /// Whether the program has closed it.
    pub(super) fn is_lost(&self) -> bool {
        self.descriptor() < 0
    }

    /// One at the same place, for one that the program has closed.
    pub(super) fn again(&self) -> io::Result<Listener> {
        match self {
            Listener::Port(_, address) => Listener::on_port(*address),
            Listener::Socket(_, path, _) => Listener::on_socket(path),
        }
    }

    /// Leaves a socket to the user that runs the program, as his profiles are.
    fn make_private(&self) -> io::Result<()> {
        let Listener::Socket(listener, path, _) = self else { return Ok(()) };
        let listener = listener.get().ok_or_else(lost)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        // Who came before that may be anybody.
        while listener.accept().is_ok() {}
        Ok(())
    }

    /// As it is written in the option, with the port in use.
    pub(super) fn address(&self) -> String {
        match self {
            Listener::Port(_, address) => address.to_string(),
            Listener::Socket(_, path, _) => format!("unix:{}", path.display()),
        }
    }

    /// Whether others than this machine can reach it.
    pub(super) fn is_public(&self) -> bool {
        matches!(self, Listener::Port(..)) && !self.is_loopback()
    }

    /// Whether it is a port of this machine for itself, which a browser on it can be led to.
    pub(super) fn is_loopback(&self) -> bool {
        matches!(self, Listener::Port(_, address) if address.ip().to_canonical().is_loopback())
    }

    pub(super) fn descriptor(&self) -> i32 {
        match self {
            Listener::Port(listener, _) => listener.descriptor(),
            Listener::Socket(listener, ..) => listener.descriptor(),
        }
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        let stream = match self {
            Listener::Port(listener, _) => {
                let (stream, _) = listener.get().ok_or_else(lost)?.accept()?;
                stream.set_nonblocking(true)?;
                // Answers go out whole: there is nothing to wait for.
                stream.set_nodelay(true)?;
                Stream::Port(Kept::new(stream))
            }
            Listener::Socket(listener, ..) => {
                let (stream, _) = listener.get().ok_or_else(lost)?.accept()?;
                stream.set_nonblocking(true)?;
                Stream::Socket(Kept::new(stream))
            }
        };
        Ok(stream)
    }

    /// Ends it for everybody.
    pub(super) fn close(self) {
        self.remove();
    }

    /// Removes what it left in the file system, unless somebody else has put something there.
    pub(super) fn remove(&self) {
        if let Listener::Socket(_, path, own) = self
            && identity(path).is_ok_and(|found| found == *own)
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl Stream {
    pub(super) fn descriptor(&self) -> i32 {
        match self {
            Stream::Port(stream) => stream.descriptor(),
            Stream::Socket(stream) => stream.descriptor(),
        }
    }

    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Port(stream) => stream.get().ok_or_else(lost)?.read(bytes),
            Stream::Socket(stream) => stream.get().ok_or_else(lost)?.read(bytes),
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Port(stream) => stream.get().ok_or_else(lost)?.write(bytes),
            Stream::Socket(stream) => stream.get().ok_or_else(lost)?.write(bytes),
        }
    }

    /// Ends the connection for the other side, whoever else has a copy of the socket: a fork's child, that is.
    pub(super) fn shut(&self, how: Shutdown) {
        let _ = match self {
            Stream::Port(stream) => stream.get().map(|stream| stream.shutdown(how)),
            Stream::Socket(stream) => stream.get().map(|stream| stream.shutdown(how)),
        };
    }
}

/// The program has closed it: the other side is told so in its own time.
fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Whether the path is a socket on which nobody listens any more.
///
/// A socket of another type is refused in another way by one that lives. A connection to that one could wait for ever, where
/// its process was stopped and its queue is full.
fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    is_socket && asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
