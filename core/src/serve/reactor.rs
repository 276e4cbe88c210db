//! All connections of the server, and who may come in. Everything here is bounded: connections, how fast they may come,
//! what each of them holds in memory, and how many requests a second are answered.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use everprof_probe::os::{Awaited, Watched};

use super::COUNTS;
use super::connection::{Connection, Next, Rules};
use super::listener::Listener;
use crate::descriptor::Kept;
use crate::options::Secret;
use crate::pull::Allowance;

/// Connections that are served at once; and those that have had their last word, such as that there is no room, beside them.
const MOST: usize = 16;
const MOST_LAST_WORDS: usize = 16;
/// A connection that has not said for so long what it wants gives way to a new one, where there is no room.
const PATIENCE: Duration = Duration::from_millis(250);
/// New connections: so many at once, so many a second. What comes faster waits in the kernel, which costs the program
/// nothing; an own client is through its queue within a second or two.
const ACCEPTS: Allowance = Allowance::new(64, 100);
/// Answers: enough for any tool, and never a processor's worth.
const REQUESTS: Allowance = Allowance::new(200, 100);
/// How long to leave the listener alone where too many come, or where there is no descriptor for them.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest sleep: a program that closes our sockets closes what would end it.
const SLEEP: Duration = Duration::from_secs(5);

pub(super) struct Reactor {
    listener: Listener,
    address: String,
    /// The end to read from, and the one to write to.
    bell: [Kept<UnixStream>; 2],
    connections: Vec<Connection>,
    rules: Rules,
    accepts: Allowance,
    paused: Option<Instant>,
    ends: bool,
}

/// Wakes the server's thread: an answer is there.
struct Ring;

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        super::ring();
    }
}

impl Reactor {
    pub(super) fn new(listener: Listener, token: Secret) -> io::Result<Reactor> {
        let bell = bell().inspect_err(|_| listener.remove())?;
        let rules = Rules {
            token,
            is_loopback: listener.is_loopback(),
            waker: Waker::from(Arc::new(Ring)),
            requests: REQUESTS,
            held: 0,
        };
        Ok(Reactor {
            address: listener.address(),
            listener,
            bell,
            connections: Vec::new(),
            rules,
            accepts: ACCEPTS,
            paused: None,
            ends: false,
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Wakes the thread.
    pub(super) fn ring(&self) {
        // Where it does not fit, the thread is awake for what came before.
        let _ = self.bell[1].get().map(|mut far| far.write(&[1]));
    }

    /// Asks the thread to end.
    pub(super) fn end(&mut self) {
        self.ends = true;
        self.ring();
    }

    /// What to wait for, and for how many milliseconds at most; none where this is the end.
    pub(super) fn sleep(&self) -> Option<(Vec<Watched>, u32)> {
        if self.ends {
            return None;
        }
        // A negative number is not looked at.
        let listener = if self.paused.is_some() { -1 } else { self.listener.descriptor() };
        let mut watched = vec![
            Watched::new(self.bell[0].descriptor(), Awaited::Read),
            Watched::new(listener, Awaited::Read),
        ];
        watched.extend(self.connections.iter().map(Connection::watched));
        let deadlines = self.connections.iter().map(Connection::deadline).chain(self.paused);
        let wait =
            deadlines.min().map_or(SLEEP, |deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up: a deadline is over when we wake.
        Some((watched, wait.min(SLEEP).as_millis() as u32 + 1))
    }

    /// Does what there is to do after the sleep.
    pub(super) fn turn(&mut self, watched: &[Watched]) {
        let now = Instant::now();
        let (mut bell, mut ready) = (false, watched.iter().map(Watched::is_ready));
        bell |= ready.next().unwrap_or_default();
        let calls = ready.next().unwrap_or_default();
        if bell {
            let mut bytes = [0; 64];
            while self.bell[0]
                .get()
                .is_some_and(|mut near| near.read(&mut bytes).is_ok_and(|count| count == bytes.len()))
            {
            }
        }
        let rules = &mut self.rules;
        rules.held = self.connections.iter().map(Connection::held).sum();
        let ended = self.connections.extract_if(.., |connection| {
            connection.turn(ready.next().unwrap_or_default(), now, rules) == Next::Ends
        });
        ended.for_each(Connection::close);
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
        }
        self.replace_lost();
        if calls {
            self.accept(now);
        }
    }

    /// Opens anew what the program has closed; where that fails, it is tried again at the next turn.
    fn replace_lost(&mut self) {
        if self.bell.iter().any(Kept::is_lost)
            && let Ok(bell) = bell()
        {
            self.bell = bell;
        }
        if self.listener.is_lost()
            && let Ok(listener) = self.listener.again()
        {
            self.listener = listener;
        }
    }

    fn accept(&mut self, now: Instant) {
        loop {
            if !self.accepts.take(now) {
                self.paused = Some(now + PAUSE);
                return;
            }
            let stream = match self.listener.accept() {
                Ok(stream) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) =>
                {
                    continue;
                }
                // No descriptors, no memory: the host needs them more.
                Err(_) => {
                    self.paused = Some(now + PAUSE * 4);
                    return;
                }
            };
            let mut connection = if self.has_room(now) {
                Connection::new(stream, now)
            } else {
                COUNTS.refused.fetch_add(1, Ordering::Relaxed);
                Connection::refused(stream, now)
            };
            self.hurry_last_words();
            // Most requests are there with the connection.
            match connection.turn(true, now, &mut self.rules) {
                Next::Goes => self.connections.push(connection),
                Next::Ends => connection.close(),
            }
        }
    }

    /// Whether one more can be served, if need be in the place of one that does not say what it wants.
    fn has_room(&mut self, now: Instant) -> bool {
        let served = |connection: &&Connection| !connection.is_last_word();
        if self.connections.iter().filter(served).count() < MOST {
            return true;
        }
        let idle = self.connections.iter().enumerate();
        let oldest = idle.filter_map(|(at, connection)| Some((connection.idle_since()?, at))).min();
        match oldest {
            Some((since, at)) if now.saturating_duration_since(since) >= PATIENCE => {
                COUNTS.refused.fetch_add(1, Ordering::Relaxed);
                self.connections.swap_remove(at).close();
                true
            }
            _ => false,
        }
    }

    /// Ends the oldest of those that have had their last word, where there are too many: descriptors are the program's.
    fn hurry_last_words(&mut self) {
        loop {
            let all = self.connections.iter().enumerate();
            let last = all.filter(|(_, connection)| connection.is_last_word());
            let Some((at, _)) = last.clone().min_by_key(|(_, connection)| connection.since()) else { return };
            if last.count() < MOST_LAST_WORDS {
                return;
            }
            self.connections.swap_remove(at).close();
        }
    }

    /// Ends every connection, and the listener.
    pub(super) fn close(self) {
        self.connections.into_iter().for_each(Connection::close);
        self.listener.close();
    }

    /// Closes the copies of a fork's child, and nothing for the parent.
    pub(super) fn forget(self) {
        drop(self);
    }
}

/// Two ends that do not block.
fn bell() -> io::Result<[Kept<UnixStream>; 2]> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    Ok([Kept::new(near), Kept::new(far)])
}
