//! The kernel's account of a thread: how long it was ready to run and had no processor (`/proc/self/task/TID/schedstat`,
//! 4 us), whether it runs and when it was born (`/proc/self/task/TID/stat`, 9 us), and which signals it holds back
//! (`/proc/self/task/TID/status`, 20 us). Off the handler.

use super::Text;

/// Nanoseconds for which thread `tid` of this process has waited for a processor since its birth; `None` where it is gone
/// or the kernel does not count it.
pub fn ready_time(tid: u32) -> Option<u64> {
    let mut path = Text::<48>::new();
    path.text(b"/proc/self/task/").number(tid).text(b"/schedstat\0");
    let mut line = [0; 96];
    let line = super::read_file(path.bytes(), &mut line).ok()?;
    // Time on the processor, time waiting for one, number of turns (`Documentation/scheduler/sched-stats`).
    let word = line.split(|byte| *byte == b' ').nth(1)?;
    core::str::from_utf8(word).ok()?.parse().ok()
}

/// What the kernel says of a thread as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it does.
    pub state: State,
    /// For how many nanoseconds it has lived, within half a hundredth of a second.
    pub age: u64,
}

/// What a thread does, by the letter that the kernel has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs or is ready to.
    Running,
    /// It waits.
    Waiting,
    /// It waits for something that is sure to come, such as a disk, and that no signal ends.
    Fixed,
    /// It is stopped, by a signal or by a debugger.
    Stopped,
    /// It has ended, and is there only because others of the process go on.
    Ended,
}

impl State {
    fn of(letter: &[u8]) -> Self {
        match letter {
            b"R" => Self::Running,
            b"D" => Self::Fixed,
            b"T" | b"t" => Self::Stopped,
            b"Z" | b"X" | b"x" => Self::Ended,
            _ => Self::Waiting,
        }
    }
}

/// What the kernel says of thread `tid` of this process; `None` where it is gone or the kernel does not tell.
pub fn standing(tid: u32) -> Option<Standing> {
    let mut path = Text::<48>::new();
    path.text(b"/proc/self/task/").number(tid).text(b"/stat\0");
    let mut line = [0; 512];
    let line = super::read_file(path.bytes(), &mut line).ok()?;
    // The name may hold anything, and ends with the last bracket. Then the state, and 18 numbers before the birth.
    let name_ends = line.iter().rposition(|byte| *byte == b')')?;
    let mut words = line.get(name_ends + 2..)?.split(|byte| *byte == b' ');
    let state = State::of(words.next()?);
    let born: u64 = core::str::from_utf8(words.nth(18)?).ok()?.parse().ok()?;
    let born = born * BIRTH_UNIT + BIRTH_UNIT / 2;
    let age = super::timer::since_boot().saturating_sub(born);
    Some(Standing { state, age })
}

/// The kernel tells births in hundredths of a second, on every processor that there is a port to (`USER_HZ`).
const BIRTH_UNIT: u64 = 10_000_000;

/// Whether thread `tid` of this process holds `signal` back, or has not come to take it: it is blocked there, or pending.
/// `None` where the thread is gone or the kernel does not tell.
pub fn holds_back(tid: u32, signal: i32) -> Option<bool> {
    let mut path = Text::<48>::new();
    path.text(b"/proc/self/task/").number(tid).text(b"/status\0");
    let mut text = [0; 4096];
    let text = super::read_file(path.bytes(), &mut text).ok()?;
    let bit = 1_u64.checked_shl(signal.checked_sub(1)?.try_into().ok()?)?;
    let has = |set: &[u8]| {
        let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(set))?;
        let digits = core::str::from_utf8(line).ok()?.trim();
        Some(u64::from_str_radix(digits, 16).ok()? & bit != 0)
    };
    Some(has(b"SigBlk:")? || has(b"SigPnd:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_held_back_is_told() {
        let held = || holds_back(super::super::gettid(), libc::SIGURG);
        // Where nothing is told, as under an emulator that shows itself, there is nothing to be tested.
        let Some(before) = held() else { return };
        let (free, blocked) = std::thread::spawn(move || {
            let free = held();
            super::super::block_signals();
            (free, held())
        })
        .join()
        .unwrap_or_default();
        if blocked != Some(false) {
            assert_eq!((before, free, blocked), (false, Some(false), Some(true)));
        }
        assert_eq!(
            (holds_back(u32::MAX, libc::SIGURG), holds_back(1, 0), holds_back(1, 65)),
            (None, None, None)
        );
    }

    #[test]
    fn a_living_thread_has_a_time_and_no_thread_has_none() {
        assert_eq!(ready_time(u32::MAX), None);
        if !std::path::Path::new("/proc/self/task").exists() {
            return;
        }
        let birth = std::time::Instant::now();
        let standing = std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(30));
            standing(super::super::gettid())
        });
        let standing = standing.join().ok().flatten();
        // An emulator shows its own threads.
        if let Some(Standing { state, age }) = standing.filter(|standing| standing.age > 0) {
            let most = birth.elapsed().as_nanos() as u64 + BIRTH_UNIT;
            assert!(state == State::Running && (20_000_000..most).contains(&age), "{state:?} {age}");
        }
        let before = ready_time(super::super::gettid());
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(ready_time(super::super::gettid()) >= before);
    }
}
