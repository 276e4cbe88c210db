//! HTTP/2 without a runtime: the one thread that there is polls the connection and the call in turns.
//!
//! Both want to write before they wait, so a poll never waits: it says `Pending`. Only when neither has anything to say is
//! the connection polled with leave to wait for the other side, once, and with an end in time. Writes wait as they are
//! made. A server that does not read what we send because we do not read what it sends meets that end.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use h2::client::{Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Broken, Chunk, Wire};

/// What is read of a connection in all: twice the longest message.
const MOST: usize = 8 << 20;

/// What is said between the socket and who polls it.
#[derive(Default)]
pub(super) struct Turn {
    /// The next read may wait, and no other.
    may_wait: Cell<bool>,
    /// The other side answered in HTTP/1.
    pub(super) is_http1: Cell<bool>,
}

/// A socket that waits when it is its turn.
pub(super) struct Io {
    wire: Wire,
    turn: Rc<Turn>,
    read: usize,
}

impl Io {
    pub(super) fn new(wire: Wire, turn: Rc<Turn>) -> Self {
        Self { wire, turn, read: 0 }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.turn.may_wait.replace(false) {
            return Poll::Pending;
        }
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
        if self.read == 0 {
            let begin = buffer.initialize_unfilled().get(..count).unwrap_or_default();
            self.turn.is_http1.set(begin.starts_with(b"HTTP/1"));
        }
        self.read += count;
        if self.read > MOST {
            let endless = io::Error::new(io::ErrorKind::InvalidData, "an answer without end");
            return Poll::Ready(Err(endless));
        }
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.wire.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
                }
                written => return Poll::Ready(written),
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

/// Shakes hands and makes the call to its end, or to that of the connection.
pub(super) fn drive<T, C: Future<Output = Result<T, Broken>>>(
    handshake: impl Future<Output = Result<(SendRequest<Chunk>, Connection<Io, Chunk>), h2::Error>>,
    turn: &Turn,
    deadline: Instant,
    call: impl FnOnce(SendRequest<Chunk>) -> C,
) -> Result<T, Broken> {
    let mut cx = Context::from_waker(Waker::noop());
    // It writes, and waits for nothing.
    let Poll::Ready(hands) = pin!(handshake).poll(&mut cx) else {
        return Err(Broken::Wire(io::Error::from(io::ErrorKind::TimedOut)));
    };
    let (send, mut connection) = hands?;
    let mut call = pin!(call(send));
    let mut end: Option<Broken> = None;
    loop {
        if let Poll::Ready(made) = call.as_mut().poll(&mut cx) {
            // A last word of ours, such as that we do not want the rest.
            let _ = Pin::new(&mut connection).poll(&mut cx);
            return made;
        }
        if let Some(broken) = end {
            return Err(broken);
        }
        // First what is to be said, then, where that was not what the call waits for, one look at the other side.
        for may in [false, true] {
            if may && let Poll::Ready(made) = call.as_mut().poll(&mut cx) {
                let _ = Pin::new(&mut connection).poll(&mut cx);
                return made;
            }
            turn.may_wait.set(may);
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(&mut cx) {
                let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
                end = Some(ended.err().map_or_else(|| Broken::Wire(closed()), Broken::Http2));
                break;
            }
        }
        if Instant::now() >= deadline {
            return Err(Broken::Wire(io::Error::from(io::ErrorKind::TimedOut)));
        }
    }
}
