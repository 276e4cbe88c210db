//! Who said the last word on a connection: where this process did, somebody owes it an answer.
//!
//! The kernel tells how long ago data was sent and received, in ticks of 1 to 10 ms. A client that sends its next request
//! as soon as it has an answer does both within one, and then acknowledgements tell more; what is left open is not called
//! an answer.

/// The fields of the kernel's `tcp_info` that are read, by their place in words of four bytes. Fields are only ever added to
/// its end.
mod field {
    pub(super) const UNACKNOWLEDGED: usize = 6;
    pub(super) const SENT: usize = 11;
    pub(super) const RECEIVED: usize = 13;
    pub(super) const ACKNOWLEDGED: usize = 14;
    pub(super) const SEGMENTS_RECEIVED: usize = 38;
    pub(super) const SEGMENTS_SENT: usize = 39;
    /// So many words are there since Linux 4.6; before that, the time of the last receipt was that of the start of the
    /// machine where nothing had come.
    pub(super) const COUNT: usize = 40;
}

/// States of a connection on which an answer can come: this side may have said that it will send no more.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;

/// A request is acknowledged within so many milliseconds. What comes later acknowledges a probe whether anybody is there.
const ACKNOWLEDGED_WITHIN: u32 = 1000;

type Info = [u32; field::COUNT];

/// Whether an answer is awaited on this socket.
pub(super) fn is_awaited(descriptor: u64) -> bool {
    // Of a connection over many paths the kernel tells the first of them only.
    super::calls::number_of(descriptor, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
        && info(descriptor).is_some_and(|info| is_owed(&info))
}

/// The kernel locks the socket to tell it: who waits for data has let go of that, and who sends holds it for moments.
fn info(descriptor: u64) -> Option<Info> {
    let mut info = [0; field::COUNT];
    let mut len = size_of::<Info>() as libc::socklen_t;
    let (level, option, into) = (libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast());
    // SAFETY: the words and their length are ours to write; the kernel checks the number.
    let failed = unsafe { libc::getsockopt(descriptor as i32, level, option, into, &mut len) };
    (failed == 0 && len as usize == size_of::<Info>()).then_some(info)
}

fn is_owed(info: &Info) -> bool {
    let [state, ..] = info[0].to_ne_bytes();
    let (sent, received, acknowledged) =
        (info[field::SENT], info[field::RECEIVED], info[field::ACKNOWLEDGED]);
    if ![ESTABLISHED, FIN_WAIT1, FIN_WAIT2].contains(&state) || info[field::SEGMENTS_SENT] == 0 {
        return false;
    }
    if info[field::SEGMENTS_RECEIVED] == 0 || info[field::UNACKNOWLEDGED] > 0 {
        // Nothing ever came, or nothing since: it would have acknowledged what was sent.
        return true;
    }
    // Milliseconds ago. Where the ticks are the same, an acknowledgement without data that came after the last data is that
    // of what was sent since.
    sent < received
        || sent == received && acknowledged < received && received - acknowledged < ACKNOWLEDGED_WITHIN
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    /// Longer than a tick.
    fn pause() {
        std::thread::sleep(Duration::from_millis(25));
    }

    #[test]
    fn the_last_word_is_an_askers_until_the_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let descriptor = ours.as_raw_fd() as u64;
        assert!(!is_awaited(descriptor), "a greeting may come, and nobody owes it");
        let mut byte = [0];
        for _ in 0..3 {
            ours.write_all(b"?").unwrap();
            theirs.read_exact(&mut byte).unwrap();
            assert!(is_awaited(descriptor) || info(descriptor).unwrap()[field::SEGMENTS_RECEIVED] > 0);
            pause();
            theirs.write_all(b"!").unwrap();
            ours.read_exact(&mut byte).unwrap();
            pause();
            assert!(!is_awaited(descriptor), "answered");
            ours.write_all(b"?").unwrap();
            theirs.read_exact(&mut byte).unwrap();
            pause();
            assert!(is_awaited(descriptor), "asked");
            theirs.write_all(b"!").unwrap();
            ours.read_exact(&mut byte).unwrap();
            pause();
        }
        // What comes unasked is no answer, and whether it is the last one nobody knows.
        theirs.write_all(b"!").unwrap();
        ours.read_exact(&mut byte).unwrap();
        assert!(!is_awaited(descriptor));
        ours.write_all(b"?").unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        pause();
        assert!(is_awaited(descriptor), "it has said that this was all");
        drop(theirs);
        pause();
        assert!(!is_awaited(descriptor), "nobody is there");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"?", socket.local_addr().unwrap()).unwrap();
        assert_eq!([socket.as_raw_fd() as u64, u64::MAX].map(is_awaited), [false; 2]);
        assert!(!is_awaited(listener.as_raw_fd() as u64));
    }

    #[test]
    fn within_a_tick_only_an_acknowledgement_tells_who_was_last() {
        let of = |sent, received, acknowledged| {
            let mut info = [0; field::COUNT];
            info[0] = u32::from_ne_bytes([ESTABLISHED, 0, 0, 0]);
            (info[field::SEGMENTS_SENT], info[field::SEGMENTS_RECEIVED]) = (3, 3);
            (info[field::SENT], info[field::RECEIVED], info[field::ACKNOWLEDGED]) =
                (sent, received, acknowledged);
            info
        };
        assert!(is_owed(&of(100, 104, 100)), "sent last");
        assert!(!is_owed(&of(104, 100, 100)), "received last");
        assert!(!is_owed(&of(104, 100, 20)), "received last, and somebody asked whether it is still there");
        assert!(!is_owed(&of(100, 100, 100)), "nobody knows");
        assert!(is_owed(&of(100, 100, 60)), "what was sent was acknowledged, and not by what was received");
        assert!(!is_owed(&of(70_000, 70_000, 10_000)), "a probe whether anybody is there");
        let mut unacknowledged = of(100, 100, 100);
        unacknowledged[field::UNACKNOWLEDGED] = 1;
        assert!(is_owed(&unacknowledged));
        let mut greeted = of(50, 50, 50);
        greeted[field::SEGMENTS_SENT] = 0;
        assert!(!is_owed(&greeted), "nothing was ever asked");
    }
}
