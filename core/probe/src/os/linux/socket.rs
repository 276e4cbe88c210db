//! Sockets that nobody waits for longer than he likes: none of their calls blocks. Off the handler.
//!
//! The standard library connects a Unix socket without an end in time, and shows a TCP socket when it is connected only: a
//! fork in between gives its child a copy that nobody knows of. So the descriptor is made here, and can be closed in a child.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use super::{Identity, errno};

/// Where to connect to.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Host and port.
    Inet(SocketAddr),
    /// The path of a Unix socket, of at most 107 bytes and without a zero.
    Unix(&'a [u8]),
}

/// A socket that is closed with its value. Errors are those of `errno`: `EBADF` where the program has closed it.
#[derive(Debug)]
pub struct Socket {
    number: AtomicI32,
    identity: Identity,
}

/// No descriptor.
const CLOSED: i32 = -1;

impl Socket {
    /// One that fits the place, not connected yet.
    pub fn new(place: &Place<'_>) -> Result<Self, i32> {
        let family = match place {
            Place::Inet(SocketAddr::V4(_)) => libc::AF_INET,
            Place::Inet(SocketAddr::V6(_)) => libc::AF_INET6,
            Place::Unix(_) => libc::AF_UNIX,
        };
        let sort = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is touched.
        let descriptor = unsafe { libc::socket(family, sort, 0) };
        if descriptor < 0 {
            return Err(errno());
        }
        let Some(identity) = Identity::of(descriptor) else { return Err(libc::EBADF) };
        let socket = Self { number: AtomicI32::new(descriptor), identity };
        if family != libc::AF_UNIX {
            socket.without_delay();
        }
        Ok(socket)
    }

    /// The head and the body of a request are two writes, and the second is not to wait for word of the first.
    fn without_delay(&self) {
        let on: i32 = 1;
        // SAFETY: the option is an `int`, which lives through the call. Where it is refused, all works but slower.
        unsafe {
            libc::setsockopt(
                self.descriptor(),
                libc::IPPROTO_TCP,
                libc::TCP_NODELAY,
                (&raw const on).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
    }

    /// Begins to connect; true where that is done at once. `EINPROGRESS` is no error: when there is room to write, see
    /// [`Socket::outcome`]. `EAGAIN` says that the other side's queue is full, and that there is nothing to wait for.
    pub fn connect(&self, place: &Place<'_>) -> Result<bool, i32> {
        let connected = match place {
            Place::Inet(SocketAddr::V4(place)) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: place.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(place.ip().octets()) },
                    sin_zero: [0; 8],
                };
                self.connect_to(&address, size_of::<libc::sockaddr_in>())
            }
            Place::Inet(SocketAddr::V6(place)) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: place.port().to_be(),
                    sin6_flowinfo: place.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: place.ip().octets() },
                    sin6_scope_id: place.scope_id(),
                };
                self.connect_to(&address, size_of::<libc::sockaddr_in6>())
            }
            Place::Unix(path) => {
                let mut address =
                    libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
                if path.len() >= address.sun_path.len() {
                    return Err(libc::ENAMETOOLONG);
                }
                address.sun_path.iter_mut().zip(*path).for_each(|(to, from)| *to = *from as libc::c_char);
                self.connect_to(&address, size_of::<libc::sockaddr_un>())
            }
        };
        match connected {
            0 => Ok(true),
            _ if errno() == libc::EINPROGRESS => Ok(false),
            _ => Err(errno()),
        }
    }

    fn connect_to<A>(&self, address: &A, len: usize) -> i32 {
        // SAFETY: the address is a socket address of that many bytes, which lives through the call.
        unsafe { libc::connect(self.descriptor(), (&raw const *address).cast(), len as libc::socklen_t) }
    }

    /// What became of a connection that was begun.
    pub fn outcome(&self) -> Result<(), i32> {
        let mut error = MaybeUninit::<i32>::zeroed();
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: both are live values of the sizes that the option has; the kernel writes no more than that.
        let got = unsafe {
            libc::getsockopt(
                self.descriptor(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                error.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if got != 0 {
            return Err(errno());
        }
        // SAFETY: it was initialised with zeros, and any bytes are a number.
        match unsafe { error.assume_init() } {
            0 => Ok(()),
            error => Err(error),
        }
    }

    /// What is there to be read, up to the buffer's length; 0 at the end, `EAGAIN` where nothing is there yet.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, i32> {
        // SAFETY: `into` is ours to write for its whole length.
        let count =
            unsafe { libc::recv(self.descriptor(), into.as_mut_ptr().cast::<c_void>(), into.len(), 0) };
        usize::try_from(count).map_err(|_| errno())
    }

    /// Writes what there is room for; `EAGAIN` where there is none. Never a signal.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, i32> {
        // SAFETY: `bytes` is readable for its whole length.
        let count = unsafe {
            libc::send(self.descriptor(), bytes.as_ptr().cast::<c_void>(), bytes.len(), libc::MSG_NOSIGNAL)
        };
        usize::try_from(count).map_err(|_| errno())
    }

    /// How many bytes of what was written the other side does not have: its kernel has not said so, or of a Unix socket,
    /// nobody has read them. Also after the connection broke. None where nobody tells.
    pub fn not_there(&self) -> Option<usize> {
        let mut count: i32 = 0;
        // SAFETY: the request writes one `int`, which lives through the call.
        let got = unsafe { libc::ioctl(self.descriptor(), libc::TIOCOUTQ, &raw mut count) };
        if got == 0 { usize::try_from(count).ok() } else { None }
    }

    /// Ends both ways, whoever waits for them. The descriptor stays. Not at the same time as [`Socket::close`].
    pub fn shut(&self) {
        // SAFETY: no memory is touched; a descriptor that is none is an error that says nothing new.
        unsafe { libc::shutdown(self.descriptor(), libc::SHUT_RDWR) };
    }

    /// The descriptor; -1 where it is closed, also by the program, which may have a file of its own under that number.
    pub fn descriptor(&self) -> i32 {
        self.ours(self.number.load(Relaxed))
    }

    fn ours(&self, number: i32) -> i32 {
        if number != CLOSED && self.identity.is_of(number) { number } else { CLOSED }
    }

    /// Closes the descriptor, once. In a fork's child that is its copy, which no other thread can have in use there.
    pub fn close(&self) {
        let descriptor = self.ours(self.number.swap(CLOSED, Relaxed));
        if descriptor != CLOSED {
            // SAFETY: it was this value's own, and nobody gets it from here any more.
            unsafe { libc::close(descriptor) };
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether nothing is wrong, and only nothing to be done yet.
pub fn would_block(error: i32) -> bool {
    error == libc::EAGAIN || error == libc::EWOULDBLOCK
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Awaited, Watched, poll};
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    fn await_on(socket: &Socket, awaited: Awaited) {
        poll(&mut [Watched::new(socket.descriptor(), awaited)], 10_000);
    }

    fn connected(place: &Place<'_>) -> Socket {
        let socket = Socket::new(place).unwrap();
        if !socket.connect(place).unwrap() {
            await_on(&socket, Awaited::Write);
            socket.outcome().unwrap();
        }
        socket
    }

    fn talk(socket: &Socket, other: &mut (impl Read + Write)) {
        let mut bytes = [0; 8];
        assert!(would_block(socket.read(&mut bytes).unwrap_err()));
        assert_eq!(socket.write(b"yes?").unwrap(), 4);
        other.read_exact(&mut bytes[..4]).unwrap();
        other.write_all(b"no").unwrap();
        await_on(socket, Awaited::Read);
        assert_eq!((socket.read(&mut bytes).unwrap(), &bytes[..4]), (2, &b"nos?"[..]));
    }

    #[test]
    fn each_sort_of_place_is_reached() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let socket = connected(&Place::Inet(listener.local_addr().unwrap()));
            talk(&socket, &mut listener.accept().unwrap().0);
        }
        let path = std::env::temp_dir().join(format!("everprof-socket-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let socket = connected(&Place::Unix(path.as_os_str().as_encoded_bytes()));
        talk(&socket, &mut listener.accept().unwrap().0);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_queue_that_is_full_is_told_at_once() {
        let path = std::env::temp_dir().join(format!("everprof-full-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let place = Place::Unix(path.as_os_str().as_encoded_bytes());
        let mut sockets = Vec::new();
        let error = loop {
            let socket = Socket::new(&place).unwrap();
            match socket.connect(&place) {
                Ok(is_done) => assert!(is_done && sockets.len() < 10_000),
                Err(error) => break error,
            }
            sockets.push(socket);
        };
        assert!(would_block(error), "{error}");
        drop(listener);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_the_other_side_does_not_have_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = connected(&Place::Inet(listener.local_addr().unwrap()));
        let (other, _) = listener.accept().unwrap();
        assert_eq!(socket.not_there(), Some(0));
        // Until neither the one nor the other kernel has room.
        let bytes = vec![0; 1 << 20];
        let mut written = 0;
        while let Ok(count) = socket.write(&bytes) {
            written += count;
        }
        let left = socket.not_there().unwrap();
        assert!(left > 0 && left < written, "{left} of {written}");
        drop(other);
        await_on(&socket, Awaited::Read);
        assert!(socket.not_there().unwrap() > 0, "also when it is broken");
    }

    /// As a daemon does: it closes what it finds, and gets the same number for a file of its own.
    #[test]
    fn what_the_program_has_closed_is_not_touched() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::Inet(listener.local_addr().unwrap());
        let socket = connected(&place);
        let others = std::fs::File::open("/dev/null").unwrap();
        let number = socket.descriptor();
        // SAFETY: the socket's own number, which stands for the other file from now on; it is closed below.
        assert_eq!(unsafe { libc::dup2(others.as_raw_fd(), number) }, number);
        assert_eq!(socket.descriptor(), CLOSED);
        assert_eq!((socket.read(&mut [0]), socket.write(b"no")), (Err(libc::EBADF), Err(libc::EBADF)));
        socket.shut();
        drop(socket);
        assert!(Identity::of(number).is_some_and(|found| found.is_of(others.as_raw_fd())));
        // SAFETY: nobody else has it.
        unsafe { libc::close(number) };
        assert_eq!(Identity::of(number), None);
    }

    #[test]
    fn what_is_shut_ends_and_what_is_closed_is_closed_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = connected(&Place::Inet(listener.local_addr().unwrap()));
        socket.shut();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        socket.close();
        assert_eq!((socket.descriptor(), socket.read(&mut [0])), (CLOSED, Err(libc::EBADF)));
        socket.close();
        socket.shut();
        let long = [b'x'; 108];
        let socket = Socket::new(&Place::Unix(&long)).unwrap();
        assert_eq!(socket.connect(&Place::Unix(&long)), Err(libc::ENAMETOOLONG));
    }
}
