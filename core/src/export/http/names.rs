//! Addresses of a name, by the C library, on a thread that is waited for as long as one likes.
//!
//! `getaddrinfo` knows no end in time: where its servers do not answer, it may take half a minute, and a plug-in of it
//! longer. Nothing can end it from outside, so the thread is left to itself; there is one at the most for each place that
//! profiles go to, which is waited for again where it still looks at the next attempt. An address needs none.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use everprof_probe::os;
use everprof_probe::own::Own;

use super::Hold;

/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 8;
/// How soon the end of the process is noticed.
const LOOK: Duration = Duration::from_millis(50);

type Found = io::Result<Vec<SocketAddr>>;

/// The look-up at hand: host, port, and where the answer comes.
#[derive(Debug, Default)]
pub(super) struct Names(RefCell<Option<(String, u16, Receiver<Found>)>>);

impl Names {
    /// The addresses of a host, of which there is one at least.
    pub(super) fn look_up(&self, host: &str, port: u16, hold: Option<&Hold>, deadline: Instant) -> Found {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let before = self.0.take().filter(|(known, of, _)| (known.as_str(), *of) == (host, port));
        let answer = match before {
            Some((_, _, answer)) => answer,
            None => match begin(host.to_string(), port) {
                Ok(answer) => answer,
                // Then without an end in time: this thread waits alone.
                Err(_) => return addresses(host, port),
            },
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match answer.recv_timeout(left.min(LOOK)) {
                Ok(found) => return found,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread that looks for the name has ended"));
                }
                Err(RecvTimeoutError::Timeout) if hold.is_some_and(Hold::is_over) => {
                    self.0.replace(Some((host.to_string(), port, answer)));
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, super::STOPPED));
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    self.0.replace(Some((host.to_string(), port, answer)));
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the name is not found in time"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn begin(host: String, port: u16) -> io::Result<Receiver<Found>> {
    let (tell, answer) = mpsc::channel();
    let work = move || {
        os::block_signals();
        // What it allocates and waits for is nothing of the program's.
        Own::of_this_thread().leave_out();
        let _ = tell.send(addresses(&host, port));
    };
    std::thread::Builder::new().name("everprof-name".to_string()).spawn(work)?;
    Ok(answer)
}

fn addresses(host: &str, port: u16) -> Found {
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.take(MOST_ADDRESSES).collect();
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_look_up_and_names_have_one() {
        let (names, far) = (Names::default(), Instant::now() + Duration::from_secs(20));
        assert_eq!(names.look_up("::1", 7, None, Instant::now()).unwrap(), ["[::1]:7".parse().unwrap()]);
        assert!(names.look_up("localhost", 7, None, far).unwrap().iter().all(|found| found.port() == 7));
        let hold = Hold::default();
        hold.end();
        // Whoever is quicker.
        let stopped = names.look_up("localhost", 7, Some(&hold), far);
        assert!(stopped.is_ok() || names.0.borrow().is_some(), "{stopped:?}");
    }

    #[test]
    fn what_is_still_looked_for_is_waited_for_again() {
        let names = Names::default();
        let (tell, answer) = mpsc::channel();
        names.0.replace(Some(("slow.invalid".to_string(), 7, answer)));
        let soon = || Instant::now() + Duration::from_millis(20);
        let late = names.look_up("slow.invalid", 7, None, soon()).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        tell.send(Ok(vec!["10.0.0.1:7".parse().unwrap()])).unwrap();
        let found = names.look_up("slow.invalid", 7, None, soon()).unwrap();
        assert_eq!(found, ["10.0.0.1:7".parse().unwrap()]);
        assert!(names.0.borrow().is_none());
    }
}
