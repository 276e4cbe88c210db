//! HTTP/2 without a runtime: the one thread that there is polls the connection and the call in turns.
//!
//! Both want to write before they wait, so a poll never waits: it says `Pending`. Only when neither has woken the other is
//! the connection polled with leave to wait for the other side, once, and with an end in time: it reads before it writes. Writes wait as they are
//! made. A server that does not read what we send because we do not read what it sends meets that end.

use std::io::{self, Read, Write};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use everprof_probe::os::{self, Awaited, Watched};
use h2::client::{Builder, Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Broken, Chunk, Wire};

/// The longest head, and trailer.
const MOST_HEAD: u32 = 16 << 10;
/// What a server may send ahead of our reading it.
const WINDOW: u32 = 64 << 10;
/// What is read in one call: twice the longest message.
const MOST: usize = 8 << 20;
/// How long the rest of a record is waited for of which the beginning is here.
const MOMENT: Duration = Duration::from_millis(20);

/// Rings when the call or the connection has something to do for the other one.
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// What is said between the socket and who polls it.
struct Turn {
    /// The next read may wait, and no other.
    may_wait: AtomicBool,
    /// The other side answered in HTTP/1: with that status, or one that was not told in its first bytes. 0: it did not.
    http1: AtomicU16,
    /// Of the call at hand: its end, and what was read in it.
    end: Mutex<Instant>,
    read: AtomicUsize,
    written: AtomicUsize,
}

/// How long a call may take.
pub(super) struct Limits {
    /// As long as nothing goes over.
    pub(super) pause: Duration,
    /// All in all.
    pub(super) end: Instant,
}

impl Turn {
    fn end(&self) -> MutexGuard<'_, Instant> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A status that is none.
const NO_STATUS: u16 = u16::MAX;

/// The status of an answer in HTTP/1 that begins so, such as `HTTP/1.1 503 `; 0 where it is something else.
fn http1(begin: &[u8]) -> u16 {
    if !begin.starts_with(b"HTTP/1") {
        return 0;
    }
    let status = begin.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    status.filter(|status| *status != 0).unwrap_or(NO_STATUS)
}

/// A socket that waits when it is its turn.
struct Io {
    wire: Wire,
    turn: Arc<Turn>,
    has_read: bool,
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.turn.may_wait.swap(false, Relaxed) {
            return Poll::Pending;
        }
        let end = *self.turn.end();
        self.wire.until(end);
        let count = loop {
            match self.wire.read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => break count,
            }
        };
        if !self.has_read {
            let begin = buffer.initialize_unfilled().get(..count).unwrap_or_default();
            self.turn.http1.store(http1(begin), Relaxed);
            self.has_read = true;
        }
        if self.turn.read.fetch_add(count, Relaxed) + count > MOST {
            let endless = io::Error::new(io::ErrorKind::InvalidData, "an answer without end");
            return Poll::Ready(Err(endless));
        }
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let end = *self.turn.end();
        self.wire.until(end);
        loop {
            match self.wire.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
                }
                written => {
                    self.turn.written.fetch_add(written.as_ref().copied().unwrap_or_default(), Relaxed);
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.wire.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// A connection on which calls are made, one after the other.
pub(in super::super) struct Open {
    send: SendRequest<Chunk>,
    connection: Connection<Io, Chunk>,
    turn: Arc<Turn>,
    descriptor: i32,
}

impl Open {
    /// Shakes hands.
    pub(super) fn new(mut wire: Wire, end: Instant) -> Result<Self, Broken> {
        let descriptor = wire.descriptor();
        let turn = Arc::new(Turn {
            may_wait: AtomicBool::new(false),
            http1: AtomicU16::new(0),
            end: Mutex::new(end),
            read: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
        });
        let io = Io { wire, turn: turn.clone(), has_read: false };
        let mut builder = Builder::new();
        builder.enable_push(false).max_header_list_size(MOST_HEAD);
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        // It writes, and waits for nothing.
        match pin!(builder.handshake(io)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(hands) => hands
                .map(|(send, connection)| Self { send, connection, turn, descriptor })
                .map_err(Broken::Http2),
            Poll::Pending => Err(Broken::Wire(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    /// Waits for the first word of the other side, which in HTTP/2 has one before it is asked: who takes connections for a server
    /// that is away has none, and would take the call as well.
    pub(super) fn greet(&mut self) -> Result<(), Broken> {
        while self.turn.read.load(Relaxed) == 0 {
            if let Poll::Ready(broken) = self.poll(&mut Context::from_waker(Waker::noop()), true) {
                return Err(broken);
            }
        }
        Ok(())
    }

    /// Whether the other side has not gone, as far as it has said so.
    pub(super) fn is_open(&mut self) -> bool {
        /// What it may have said in between: settings, a ping, a farewell.
        const MOST_READS: usize = 8;
        for _ in 0..MOST_READS {
            let mut watched = [Watched::new(self.descriptor, Awaited::Read)];
            os::poll(&mut watched, 0);
            if !watched.iter().all(Watched::is_ready) {
                return true;
            }
            *self.turn.end() = Instant::now() + MOMENT;
            if self.poll(&mut Context::from_waker(Waker::noop()), true).is_ready() {
                return false;
            }
        }
        false
    }

    /// The status where the other side turned out to be none of HTTP/2; [`NO_STATUS`] where that is not known.
    pub(super) fn http1(&self) -> Option<u16> {
        Some(self.turn.http1.load(Relaxed)).filter(|status| *status != 0)
    }

    /// Makes a call to its end, or to that of the connection.
    pub(super) fn call<T, C: Future<Output = Result<T, Broken>>>(
        &mut self,
        limits: Limits,
        call: impl FnOnce(SendRequest<Chunk>) -> C,
    ) -> Result<T, Broken> {
        let mut deadline = limits.end.min(Instant::now() + limits.pause);
        *self.turn.end() = deadline;
        self.turn.read.store(0, Relaxed);
        self.turn.written.store(0, Relaxed);
        let bell = Arc::new(Bell(AtomicBool::new(false)));
        let waker = Waker::from(bell.clone());
        let mut cx = Context::from_waker(&waker);
        let mut call = pin!(call(self.send.clone()));
        loop {
            bell.0.store(false, Relaxed);
            if let Poll::Ready(made) = call.as_mut().poll(&mut cx) {
                return made;
            }
            let mut ended = self.poll(&mut cx, false);
            if ended.is_pending() && !bell.0.load(Relaxed) {
                // Neither has anything to say.
                ended = self.poll(&mut cx, true);
            }
            if let Poll::Ready(broken) = ended {
                // The call may know better what became of it.
                return match call.as_mut().poll(&mut cx) {
                    Poll::Ready(made) => made,
                    Poll::Pending => Err(broken),
                };
            }
            if self.turn.written.swap(0, Relaxed) > 0 {
                deadline = limits.end.min(Instant::now() + limits.pause);
                *self.turn.end() = deadline;
            }
            if Instant::now() >= deadline {
                return Err(Broken::Wire(io::Error::from(io::ErrorKind::TimedOut)));
            }
        }
    }

    /// Ready at the end of the connection.
    fn poll(&mut self, cx: &mut Context<'_>, may_wait: bool) -> Poll<Broken> {
        self.turn.may_wait.store(may_wait, Relaxed);
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
        let ended = Pin::new(&mut self.connection).poll(cx);
        ended.map(|ended| ended.err().map_or_else(|| Broken::Wire(closed()), Broken::Http2))
    }

    /// Says goodbye, without waiting for an answer.
    pub(super) fn close(self) {
        let Self { send, mut connection, turn, .. } = self;
        drop(send);
        turn.may_wait.store(false, Relaxed);
        let _ = Pin::new(&mut connection).poll(&mut Context::from_waker(Waker::noop()));
    }
}
