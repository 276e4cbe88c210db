//! The server behind the option `serve`: HTTP/1.1 for what [`crate::pull`] answers, and nothing else.
//!
//! One thread, `everprof-serve`, does all that concerns connections, without ever waiting for one of them: sockets do not
//! block, and it sleeps in `poll`. So no client costs a thread, a slow one only its place among a few, and a flood of
//! them no more than a part of one processor (`reactor.rs`). It exists only where the option asks for it.
//!
//! Its sockets are behind one lock that is free while it sleeps. A fork takes the lock, so that the child finds the sockets
//! and closes its copies: the port stays with the parent, and a child listens nowhere.

mod access;
mod connection;
mod head;
mod listener;
mod reactor;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use everprof_probe::os;
use everprof_probe::own::Own;

use crate::error::{Error, ErrorKind, Result};
use crate::options::{Secret, Serve};
use crate::pull;
use crate::report;
use crate::stats::Stats;
use listener::Listener;
use reactor::Reactor;

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

static COUNTS: Counts =
    Counts { requests: AtomicU64::new(0), refused: AtomicU64::new(0), cpu: AtomicU64::new(0) };

/// What runs.
pub(crate) struct Server {
    reactor: Reactor,
    /// Hangs up when the thread has ended.
    ended: Option<Receiver<()>>,
}

/// What it counts.
struct Counts {
    requests: AtomicU64,
    refused: AtomicU64,
    cpu: AtomicU64,
}

/// Listens where `place` says, and returns the address, with the port that the system chose where it was asked to.
///
/// # Errors
/// [`ErrorKind::Unavailable`] where the address cannot be had. That is for the caller to tell: a port that is taken must
/// not keep a service from starting.
pub(crate) fn start(place: &Serve, token: &Secret) -> Result<String> {
    let listener = Listener::open(place).map_err(|error| {
        Error::io(ErrorKind::Unavailable, format!("serve={} cannot be had", told(place)), error)
    })?;
    let address = listener.address();
    if listener.is_public() && !token.is_set() {
        report::warn(&format!(
            "profiles and arguments of this program are open to all who reach {address}: set serve_token, or serve on loopback"
        ));
    }
    let io = |error| Error::io(ErrorKind::Unavailable, "the pull side could not be started", error);
    let (end, ended) = mpsc::channel::<()>();
    let reactor = Reactor::new(listener, token.clone()).map_err(io)?;
    let mut server = lock();
    if server.is_some() {
        reactor.close();
        return Err(Error::new(ErrorKind::Unavailable, "the pull side is still ending: start again later"));
    }
    COUNTS.clear();
    *server = Some(Server { reactor, ended: Some(ended) });
    let work = move || {
        run();
        drop(end);
    };
    if let Err(error) = std::thread::Builder::new().name("everprof-serve".to_string()).spawn(work) {
        if let Some(server) = server.take() {
            server.reactor.close();
        }
        return Err(io(error));
    }
    Ok(address)
}

/// Closes every socket and ends the thread; waits for that no longer than `budget`.
pub(crate) fn stop(budget: Duration) {
    let ended = lock().as_mut().and_then(|server| {
        server.reactor.end();
        server.ended.take()
    });
    if let Some(ended) = ended {
        let _ = ended.recv_timeout(budget);
    }
}

/// Adds to `stats` what is known of the pull side.
pub(crate) fn tell(stats: &mut Stats) {
    stats.serve_address = lock().as_ref().map(|server| server.reactor.address().to_string());
    stats.serve_requests = COUNTS.requests.load(Ordering::Relaxed);
    stats.serve_refused = COUNTS.refused.load(Ordering::Relaxed);
    stats.threads_cpu += Duration::from_nanos(COUNTS.cpu.load(Ordering::Relaxed) + pull::cpu());
}

/// The lock that a fork must hold.
pub(crate) fn lock() -> MutexGuard<'static, Option<Server>> {
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the child's copies of the sockets. In a fork's child, on its only thread.
pub(crate) fn after_fork(mut server: MutexGuard<'static, Option<Server>>) {
    if let Some(server) = server.take() {
        server.reactor.forget();
    }
    COUNTS.clear();
}

impl Counts {
    fn clear(&self) {
        [&self.requests, &self.refused, &self.cpu].iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

/// Wakes the thread: an answer is there.
fn ring() {
    if let Some(server) = lock().as_ref() {
        server.reactor.ring();
    }
}

fn told(place: &Serve) -> String {
    place.port().map_or_else(
        || place.socket().map_or("off".to_string(), |path| format!("unix:{}", path.display())),
        |address| address.to_string(),
    )
}

fn run() {
    os::block_signals();
    os::step_back();
    // What it allocates and waits for is nothing of the program's.
    Own::of_this_thread().leave_out();
    let turns = || {
        loop {
            let asleep = lock().as_ref().and_then(|server| server.reactor.sleep());
            let Some((mut watched, millis)) = asleep else { return };
            os::poll(&mut watched, millis);
            if let Some(server) = lock().as_mut() {
                server.reactor.turn(&watched);
            }
            let cpu = os::Clock::Thread(os::gettid()).now().unwrap_or_default();
            COUNTS.cpu.store(cpu, Ordering::Relaxed);
        }
    };
    if std::panic::catch_unwind(turns).is_err() {
        report::warn("the pull side ended: its thread panicked");
    }
    if let Some(server) = lock().take() {
        server.reactor.close();
    }
}

/// What the server makes of bytes, for the fuzzer: never more than an answer.
#[cfg(fuzzing)]
pub fn fuzz_head(bytes: &[u8]) {
    let Some(end) = head::end(bytes, 0) else { return };
    let Ok(head) = head::parse(&bytes[..end]) else { return };
    for is_loopback in [false, true] {
        let _ = access::check(&head, &Secret::default(), is_loopback);
    }
    let mut request = head.request;
    request.body = bytes[end..].iter().copied().take(head.length).collect();
    // No profiler runs: what would take time is refused.
    if let pull::Reply::Now(answer) = pull::ask(&request) {
        let _ = wire::head(&answer, Some(answer.body.len()), head.keeps);
    }
}
