//! The system calls that threads wait in: their names, and what one waits for in them.
//!
//! Numbers are those of the C library's headers for the processor; a call that is not here is told by its number.

use libc::c_long;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum WaitFor {
    /// Anything else.
    Other,
    /// Data to or from a socket, or a connection.
    Network,
    /// A file: its data, its directory, a page of it.
    Disk,
    /// Another thread: a lock, a condition, a message. Which of them, only the stack tells.
    Thread,
    /// A lock on a file.
    Lock,
    /// Time to pass.
    Timer,
    /// A pipe or a terminal.
    Pipe,
    /// Any of many things: an event loop.
    Events,
    /// Another process, or a signal.
    Process,
    /// The next bytes of who has connected to this process: mostly his next request.
    Client,
    /// What somebody owes this process to whom it has connected: it said the last word.
    Answer,
}

/// How to find out what a call waits for.
#[derive(Clone, Copy)]
enum By {
    /// The call alone says it.
    Call(WaitFor),
    /// What its first argument, a file descriptor, is.
    Descriptor,
    /// The same, and bytes are to come from there.
    Source,
    /// The first of the descriptors that its first argument points to; a timer where there are none.
    Polled,
    /// A timer where its first argument, a number of descriptors, is 0.
    Selected,
    /// Whether its second argument, a command, waits for a lock.
    Locked,
}

use By::{Call, Descriptor, Locked, Polled, Selected, Source};
use WaitFor::{Answer, Client, Disk, Events, Lock, Network, Process, Thread, Timer};

type Row = (c_long, &'static str, By);

const CALLS: &[Row] = &[
    (libc::SYS_accept, "accept", Call(Network)),
    (libc::SYS_accept4, "accept4", Call(Network)),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Call(Timer)),
    (libc::SYS_clone, "clone", Call(Process)),
    (libc::SYS_clone3, "clone3", Call(Process)),
    (libc::SYS_close, "close", Descriptor),
    (libc::SYS_connect, "connect", Call(Network)),
    (libc::SYS_copy_file_range, "copy_file_range", Call(Disk)),
    (libc::SYS_epoll_pwait, "epoll_pwait", Call(Events)),
    (libc::SYS_epoll_pwait2, "epoll_pwait2", Call(Events)),
    (libc::SYS_fallocate, "fallocate", Call(Disk)),
    (libc::SYS_fcntl, "fcntl", Locked),
    (libc::SYS_fdatasync, "fdatasync", Call(Disk)),
    (libc::SYS_flock, "flock", Call(Lock)),
    (libc::SYS_fsync, "fsync", Call(Disk)),
    (libc::SYS_ftruncate, "ftruncate", Call(Disk)),
    (libc::SYS_futex, "futex", Call(Thread)),
    (libc::SYS_futex_waitv, "futex_waitv", Call(Thread)),
    (libc::SYS_getdents64, "getdents64", Call(Disk)),
    (libc::SYS_io_getevents, "io_getevents", Call(Disk)),
    (libc::SYS_io_uring_enter, "io_uring_enter", Call(Events)),
    (libc::SYS_linkat, "linkat", Call(Disk)),
    (libc::SYS_madvise, "madvise", Call(Disk)),
    (libc::SYS_mkdirat, "mkdirat", Call(Disk)),
    (libc::SYS_mq_timedreceive, "mq_timedreceive", Call(Process)),
    (libc::SYS_mq_timedsend, "mq_timedsend", Call(Process)),
    (libc::SYS_msgrcv, "msgrcv", Call(Process)),
    (libc::SYS_msgsnd, "msgsnd", Call(Process)),
    (libc::SYS_msync, "msync", Call(Disk)),
    (libc::SYS_nanosleep, "nanosleep", Call(Timer)),
    (libc::SYS_newfstatat, "newfstatat", Call(Disk)),
    (libc::SYS_openat, "openat", Call(Disk)),
    (libc::SYS_openat2, "openat2", Call(Disk)),
    (libc::SYS_ppoll, "ppoll", Polled),
    (libc::SYS_pread64, "pread64", Descriptor),
    (libc::SYS_preadv, "preadv", Descriptor),
    (libc::SYS_preadv2, "preadv2", Descriptor),
    (libc::SYS_pselect6, "pselect6", Selected),
    (libc::SYS_pwrite64, "pwrite64", Descriptor),
    (libc::SYS_pwritev, "pwritev", Descriptor),
    (libc::SYS_pwritev2, "pwritev2", Descriptor),
    (libc::SYS_read, "read", Source),
    (libc::SYS_readahead, "readahead", Call(Disk)),
    (libc::SYS_readv, "readv", Source),
    (libc::SYS_recvfrom, "recvfrom", Source),
    (libc::SYS_recvmmsg, "recvmmsg", Source),
    (libc::SYS_recvmsg, "recvmsg", Source),
    (libc::SYS_renameat2, "renameat2", Call(Disk)),
    // One that the kernel goes on with after a stop, where nothing says which it was: most of them are sleeps.
    (libc::SYS_restart_syscall, "restart_syscall", Call(Timer)),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend", Call(Process)),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", Call(Process)),
    (libc::SYS_semop, "semop", Call(Process)),
    (libc::SYS_semtimedop, "semtimedop", Call(Process)),
    (libc::SYS_sendfile, "sendfile", Descriptor),
    (libc::SYS_sendmmsg, "sendmmsg", Call(Network)),
    (libc::SYS_sendmsg, "sendmsg", Call(Network)),
    (libc::SYS_sendto, "sendto", Call(Network)),
    (libc::SYS_splice, "splice", Descriptor),
    (libc::SYS_statx, "statx", Call(Disk)),
    (libc::SYS_sync, "sync", Call(Disk)),
    (libc::SYS_sync_file_range, "sync_file_range", Call(Disk)),
    (libc::SYS_syncfs, "syncfs", Call(Disk)),
    (libc::SYS_truncate, "truncate", Call(Disk)),
    (libc::SYS_unlinkat, "unlinkat", Call(Disk)),
    (libc::SYS_wait4, "wait4", Call(Process)),
    (libc::SYS_waitid, "waitid", Call(Process)),
    (libc::SYS_write, "write", Descriptor),
    (libc::SYS_writev, "writev", Descriptor),
];

/// Those that newer processors do without.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Row] = &[
    (libc::SYS_epoll_wait, "epoll_wait", Call(Events)),
    (libc::SYS_mkdir, "mkdir", Call(Disk)),
    (libc::SYS_open, "open", Call(Disk)),
    (libc::SYS_pause, "pause", Call(Process)),
    (libc::SYS_poll, "poll", Polled),
    (libc::SYS_rename, "rename", Call(Disk)),
    (libc::SYS_select, "select", Selected),
    (libc::SYS_stat, "stat", Call(Disk)),
    (libc::SYS_unlink, "unlink", Call(Disk)),
    (libc::SYS_vfork, "vfork", Call(Process)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Row] = &[];

fn row(call: u32) -> Option<&'static Row> {
    CALLS.iter().chain(OLD_CALLS).find(|(number, ..)| *number == c_long::from(call))
}

/// The name of a system call, if threads are known to wait in it.
pub fn call_name(call: u32) -> Option<&'static str> {
    row(call).map(|(_, name, _)| *name)
}

/// The call that a thread waits in which waits in `call`: after a stop (SIGSTOP, a debugger, a machine that was suspended)
/// the kernel goes on with sleeps, polls and waits for other threads as `restart_syscall`, with the arguments of the call
/// that it was. The code before it mostly names that call; `named` reads it.
pub(crate) fn restarted(
    call: Option<u32>,
    arguments: &[u64; 6],
    named: impl FnOnce() -> Option<u32>,
) -> Option<u32> {
    if call.map(c_long::from) != Some(libc::SYS_restart_syscall) {
        return call;
    }
    let [first, second, ..] = *arguments;
    let operation = second as i32 & libc::FUTEX_CMD_MASK;
    let is_futex = first > 4096
        && first.is_multiple_of(4)
        && second <= 0x1ff
        && [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].contains(&operation)
        && second as i32 & libc::FUTEX_PRIVATE_FLAG != 0;
    let futex = is_futex.then_some(libc::SYS_futex as u32);
    named().filter(|call| row(*call).is_some()).or(futex).or(call)
}

/// What a thread waits for in `call` with these arguments. Off the handler: it may ask what a descriptor is. A thread that
/// waits outside of a call waits for a page.
pub fn waits_for(call: Option<u32>, arguments: &[u64; 6]) -> WaitFor {
    let Some(call) = call else { return Disk };
    let [first, second, ..] = *arguments;
    match row(call).map(|(.., by)| by) {
        None => WaitFor::Other,
        Some(Call(wait)) => *wait,
        Some(Descriptor) => of_descriptor(first),
        Some(Source) => of_source(first),
        Some(Selected) if first == 0 => Timer,
        Some(Selected) => Events,
        Some(Polled) if second == 0 => Timer,
        Some(Polled) if second > 1 => Events,
        Some(Polled) => {
            // The descriptor, and which events are waited for.
            let mut polled = [0; 6];
            if super::memory::copy(first, &mut polled) != polled.len() {
                return Events;
            }
            let [descriptor @ .., low, high] = polled;
            let descriptor = u64::from(u32::from_ne_bytes(descriptor));
            let reads = i16::from_ne_bytes([low, high]) & libc::POLLIN != 0;
            if reads { of_source(descriptor) } else { of_descriptor(descriptor) }
        }
        Some(Locked) if [libc::F_SETLKW, libc::F_OFD_SETLKW].contains(&(second as i32)) => Lock,
        Some(Locked) => WaitFor::Other,
    }
}

fn of_source(descriptor: u64) -> WaitFor {
    match of_descriptor(descriptor) {
        Network if number_of(descriptor, libc::SO_ACCEPTCONN) == Some(1) => Events,
        Network if is_accepted(descriptor) => Client,
        Network if super::answer::is_awaited(descriptor) => Answer,
        wait => wait,
    }
}

/// Whether a socket is that of a connection which others have made to this process. The kernel does not say so, but such a
/// socket has from the one that listens what sockets that connect to others have no use for: the option by which a server
/// takes its port again after a restart (all libraries set it), or a name in the file system.
fn is_accepted(descriptor: u64) -> bool {
    if number_of(descriptor, libc::SO_TYPE) != Some(libc::SOCK_STREAM) {
        return false;
    }
    match number_of(descriptor, libc::SO_DOMAIN) {
        Some(libc::AF_INET | libc::AF_INET6) => number_of(descriptor, libc::SO_REUSEADDR) == Some(1),
        Some(libc::AF_UNIX) => has_name(descriptor),
        _ => false,
    }
}

/// What an option of a socket says, whose value is a number.
pub(super) fn number_of(descriptor: u64, option: i32) -> Option<i32> {
    let mut value = 0;
    let mut len = size_of::<i32>() as libc::socklen_t;
    let into = (&raw mut value).cast();
    // SAFETY: the value and its length are ours to write; the kernel checks the number.
    let failed = unsafe { libc::getsockopt(descriptor as i32, libc::SOL_SOCKET, option, into, &mut len) };
    (failed == 0).then_some(value)
}

/// Whether a socket of this machine has a name.
fn has_name(descriptor: u64) -> bool {
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    let into = (&raw mut address).cast();
    // SAFETY: the address and its length are ours to write; the kernel checks the number.
    let failed = unsafe { libc::getsockname(descriptor as i32, into, &mut len) };
    failed == 0 && len as usize > size_of::<libc::sa_family_t>()
}

fn of_descriptor(descriptor: u64) -> WaitFor {
    // SAFETY: all zero is a valid status, whether or not the call writes it.
    let mut status: libc::statx = unsafe { core::mem::zeroed() };
    // Without asking a server of files: the thread may wait for one that is gone, and ours is not to join it.
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let (call, path) = (libc::SYS_statx, c"".as_ptr());
    // SAFETY: the path is a C string and the status ours to write; the kernel checks the number.
    if unsafe { libc::syscall(call, descriptor as i32, path, flags, libc::STATX_TYPE, &raw mut status) } != 0
    {
        return WaitFor::Other;
    }
    match u32::from(status.stx_mode) & libc::S_IFMT {
        libc::S_IFSOCK => Network,
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => Disk,
        libc::S_IFIFO | libc::S_IFCHR => WaitFor::Pipe,
        // An event or a timer as a descriptor.
        _ => Events,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn calls_have_names_and_descriptors_say_what_is_waited_for() {
        assert_eq!(call_name(libc::SYS_futex as u32), Some("futex"));
        assert_eq!(call_name(u32::MAX), None);
        let of = |call: c_long, arguments: [u64; 6]| waits_for(Some(call as u32), &arguments);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        let read = |descriptor: i32| of(libc::SYS_read, [descriptor as u64, 0, 0, 0, 0, 0]);
        assert_eq!(read(file.as_raw_fd()), Disk);
        assert_eq!(read(socket.as_raw_fd()), Network);
        assert_eq!(read(pipe.as_raw_fd()), WaitFor::Pipe);
        assert_eq!(read(-1), WaitFor::Other);
        let polled = [socket.as_raw_fd(), i32::from(libc::POLLIN)];
        let poll = |count| of(libc::SYS_ppoll, [polled.as_ptr() as u64, count, 0, 0, 0, 0]);
        assert_eq!([poll(0), poll(1), poll(2)], [Timer, Network, Events]);
        assert_eq!(waits_for(None, &[0; 6]), Disk);
        assert_eq!(of(100_000, [0; 6]), WaitFor::Other);
    }

    #[test]
    fn connections_that_others_made_are_told_from_our_own() {
        let directory = std::env::temp_dir().join(std::format!("everprof-calls-{}", std::process::id()));
        let _ = std::fs::remove_file(&directory);
        let read =
            |descriptor: i32| waits_for(Some(libc::SYS_recvfrom as u32), &[descriptor as u64, 0, 0, 0, 0, 0]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!([ours.as_raw_fd(), accepted.as_raw_fd()].map(read), [Network, Client]);
        let polled = [listener.as_raw_fd(), i32::from(libc::POLLIN)];
        let poll = [polled.as_ptr() as u64, 1, 0, 0, 0, 0];
        assert_eq!(waits_for(Some(libc::SYS_ppoll as u32), &poll), Events, "for anybody");
        let written = [accepted.as_raw_fd() as u64, 0, 0, 0, 0, 0];
        assert_eq!(waits_for(Some(libc::SYS_write as u32), &written), Network);
        let listener = std::os::unix::net::UnixListener::bind(&directory).unwrap();
        let ours = std::os::unix::net::UnixStream::connect(&directory).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let _ = std::fs::remove_file(&directory);
        assert_eq!(
            [&ours, &accepted, &pair].map(|socket| read(socket.as_raw_fd())),
            [Network, Client, Network]
        );
    }

    #[test]
    fn a_call_that_was_begun_again_is_the_one_that_it_was() {
        let [again, futex, sleep] =
            [libc::SYS_restart_syscall, libc::SYS_futex, libc::SYS_clock_nanosleep].map(|call| call as u32);
        let wait = [0x7fff_0000, (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u64, 0, 0, 0, 0];
        let of = |call, arguments, named| restarted(Some(call), arguments, || named);
        assert_eq!(of(again, &[0; 6], Some(sleep)), Some(sleep), "as the code says");
        assert_eq!(of(again, &wait, None), Some(futex), "as the arguments say");
        assert_eq!(of(again, &wait, Some(u32::MAX)), Some(futex), "nonsense is not believed");
        assert_eq!((of(again, &[0; 6], None), waits_for(Some(again), &[0; 6])), (Some(again), Timer));
        assert_eq!((of(sleep, &wait, Some(futex)), restarted(None, &wait, || None)), (Some(sleep), None));
    }
}
