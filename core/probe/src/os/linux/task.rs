//! What the kernel tells of another thread of this process: whether it runs, and if not, what it waits for and where.
//!
//! `/proc/TID/syscall` has the number and arguments of the system call that a thread is blocked in, and its
//! stack pointer and program counter (`fs/proc/base.c`, `proc_pid_syscall`). The thread notices nothing of it. Off the
//! handler: it takes 5 us, most of it to open the file.

use super::{Text, Unread};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It runs or is ready to.
    Running,
    /// It waits.
    Waiting(Wait),
    /// There is no such thread, or the kernel does not tell.
    Unknown,
    /// The kernel tells, but not now: the process has no room for one more open file.
    NotNow,
}

/// Where a thread waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// The number of the system call; `None` where it waits outside of one, as for a page that is read from disk.
    pub call: Option<u32>,
    /// The arguments of the system call.
    pub arguments: [u64; 6],
    /// The thread's stack pointer.
    pub sp: u64,
    /// The next instruction, behind that of the system call.
    pub pc: u64,
}

/// Asks what thread `tid` of this process is doing. Of the calling thread the kernel says that it is in this very call.
pub fn task(tid: u32) -> Task {
    let mut line = [0; 256];
    // The kernel finds any thread in the first folder, and in fewer steps; a sandbox may have the second one alone.
    for folder in [b"/proc/".as_slice(), b"/proc/self/task/"] {
        let mut path = Text::<48>::new();
        path.text(folder).number(tid).text(b"/syscall\0");
        match super::read_file(path.bytes(), &mut line) {
            Ok(line) => return parse(line),
            Err(Unread::Refused) => {}
            Err(Unread::NoRoom) => return Task::NotNow,
        }
    }
    Task::Unknown
}

fn parse(line: &[u8]) -> Task {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line == b"running" {
        return Task::Running;
    }
    waiting(line).map_or(Task::Unknown, Task::Waiting)
}

fn waiting(line: &[u8]) -> Option<Wait> {
    let mut words = line.split(|byte| *byte == b' ');
    let call = match words.next()? {
        b"-1" => None,
        number => Some(decimal(number)?),
    };
    let mut wait = Wait { call, ..Wait::default() };
    if call.is_some() {
        for argument in &mut wait.arguments {
            *argument = hexadecimal(words.next()?)?;
        }
    }
    (wait.sp, wait.pc) = (hexadecimal(words.next()?)?, hexadecimal(words.next()?)?);
    // A thread of the kernel has neither.
    (wait.sp != 0 && words.next().is_none()).then_some(wait)
}

fn decimal(digits: &[u8]) -> Option<u32> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

fn hexadecimal(word: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(word.strip_prefix(b"0x")?).ok()?, 16).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read_and_others_refused() {
        assert_eq!(parse(b"running\n"), Task::Running);
        let poll = parse(b"7 0x1 0x2 0xffffffff 0x0 0x0 0x6 0x7fc422eafea0 0x7fc42364326f\n");
        let expected = Wait {
            call: Some(7),
            arguments: [1, 2, 0xffff_ffff, 0, 0, 6],
            sp: 0x7fc4_22ea_fea0,
            pc: 0x7fc4_2364_326f,
        };
        assert_eq!(poll, Task::Waiting(expected));
        let fault = Wait { sp: 0x10, pc: 0x20, ..Wait::default() };
        assert_eq!(parse(b"-1 0x10 0x20\n"), Task::Waiting(fault));
        for odd in
            ["", "\n", "7", "7 0x1", "-1 0x0 0x0", "x 0x10 0x20", "-1 0x10 0x20 0x30", "-1 10 20", "\u{ff}"]
        {
            assert_eq!(parse(odd.as_bytes()), Task::Unknown, "{odd:?}");
        }
    }

    #[test]
    fn a_thread_that_waits_is_told_from_one_that_runs_and_from_none() {
        let (to_main, tid) = std::sync::mpsc::channel();
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            to_main.send(super::super::gettid()).unwrap();
            let _ = until_done.recv();
        });
        let tid = tid.recv().unwrap();
        if task(tid) == Task::Unknown {
            // An emulator does not have the file.
            std::eprintln!("!!! SKIPPED: there is no /proc/self/task/TID/syscall here");
            return drop(done);
        }
        let waits = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            matches!(task(tid), Task::Waiting(Wait { call: Some(call), .. }) if i64::from(call) == libc::SYS_futex)
        });
        assert!(waits, "{:?}", task(tid));
        drop(done);
        thread.join().unwrap();
        // It has said its last word, and is on its way out of the kernel.
        while task(tid) != Task::Unknown {
            std::thread::yield_now();
        }
    }
}
