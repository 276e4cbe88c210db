//! The stack of a thread that waits, taken from outside: without a signal, and without the thread noticing.
//!
//! A thread that waits does not change its stack. So our thread reads its CPU clock, asks the kernel where it waits,
//! copies its stack through the kernel, and reads the clock again: while that stands still, the copy is of one moment.
//! The copy is then walked like a stack in the handler. What the kernel does not tell is the other registers; they are
//! known again from where a caller's function has saved them, and a caller whose frame hangs on one that nobody saved ends
//! the walk. Off the handler: a look at a thread takes some 10 us of our thread's time, and nothing of its own.

mod together;

use crate::memory::{self, StackMemory};
use crate::os::{self, Clock, Pages, Task, Wait, task};
use crate::regs::{self, Interrupted, Regs};
use crate::sample::{CALL_WORDS, Trace};
use crate::thread;
use crate::unwind::{self, End, Frames};

pub use together::TOGETHER;

/// Of a stack, so much is copied where nothing is known of it: most are shorter.
const MOSTLY: usize = 16 * 1024;
/// And so much where that was not enough.
const AT_MOST: usize = 512 * 1024;

/// What a look at a thread found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The thread runs, is ready to, or ran while we looked.
    Running,
    /// It waits, and its stack was written to the caller's words.
    Waiting(Waiting),
    /// There is no such thread.
    Gone,
    /// The kernel does not tell what it does.
    Untold,
    /// The kernel tells, but not now: the process has no room for one more open file.
    NotNow,
}

/// A thread that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In which system call.
    pub wait: Wait,
    /// Whether its stack could be read.
    pub readable: bool,
    /// It went on while its stack was read: its leaf and its call are of one moment, and no callers are known.
    pub moved: bool,
    /// What it had used of the processor by then, in nanoseconds: until that changes, it waits.
    pub used: u64,
    /// How many of the caller's words are its stack, leaf first.
    pub words: usize,
    /// How the walk of its stack ended.
    pub end: End,
    /// Frames of a runtime are missing in it, which only the thread itself can tell.
    pub lacks_runtime: bool,
    /// The label set in force on it.
    pub labels: u32,
    /// The trace and the span in force on it; zeros where there are none.
    pub trace: Trace,
}

/// Looks at threads, and has the memory for copies of their stacks.
#[derive(Debug)]
pub struct Looker {
    copy: Pages,
    /// The thread that looks.
    own: u32,
    found: unwind::Found,
    /// Where threads waited, and how much of the stack it took there to come to the root: the fewer pages are copied, the
    /// less the kernel has to do, and that is a fourth of a look.
    enough: [(u64, usize); PLACES],
}

/// So many places are remembered.
const PLACES: usize = 64;

impl Looker {
    /// `None` where there is no memory. It costs address space only until a deep stack is met. The calling thread is the one
    /// that looks.
    pub fn new() -> Option<Self> {
        let enough = [(0, 0); PLACES];
        let copy = Pages::new(AT_MOST)?;
        Some(Self { copy, own: os::gettid(), found: unwind::Found::default(), enough })
    }

    /// Looks at thread `tid` of this process, which is not the calling one, and writes its stack to `words` if it waits.
    /// One that waits for moments only may go on while it is looked at: then it is looked at again.
    pub fn look(&mut self, tid: u32, words: &mut [u64]) -> Look {
        let Some(used) = Clock::Thread(tid).now() else { return Look::Gone };
        self.look_since(tid, used, words)
    }

    /// The same, where the caller has read just now that the thread has `used` so many nanoseconds of the processors.
    pub fn look_since(&mut self, tid: u32, used: u64, words: &mut [u64]) -> Look {
        match self.look_once(tid, used, words) {
            first @ Look::Waiting(Waiting { moved: true, .. }) => {
                let Some(used) = Clock::Thread(tid).now() else { return Look::Gone };
                match self.look_once(tid, used, words) {
                    Look::Running => Self::leaf_alone(first, words),
                    second => second,
                }
            }
            look => look,
        }
    }

    /// A look at a thread that has gone on, with its leaf in place of what was written to `words` since.
    fn leaf_alone(look: Look, words: &mut [u64]) -> Look {
        let Look::Waiting(mut waiting) = look else { return look };
        let mut frames = Frames::new(words);
        frames.push_native(waiting.wait.pc);
        frames.push_missing(0);
        (waiting.words, waiting.end, waiting.moved) = (frames.finish().len(), End::Truncated, true);
        Look::Waiting(waiting)
    }

    fn look_once(&mut self, tid: u32, used: u64, words: &mut [u64]) -> Look {
        let wait = match task(tid) {
            Task::Waiting(wait) => Wait { call: call_of(&wait), ..wait },
            Task::Running => return Look::Running,
            Task::Unknown if Clock::Thread(tid).now().is_none() => return Look::Gone,
            Task::Unknown => return Look::Untold,
            Task::NotNow => return Look::NotNow,
        };
        let (labels, trace) = in_force(tid, used);
        let mut seen = Waiting {
            wait,
            readable: false,
            moved: false,
            used,
            words: 0,
            end: End::Lost,
            lacks_runtime: false,
            labels,
            trace,
        };
        for len in [self.enough(wait.pc), MOSTLY, AT_MOST] {
            if len == 0 {
                continue;
            }
            let copied = self.copy_stack(wait.sp, len);
            if Clock::Thread(tid).now() != Some(used) {
                return Self::leaf_alone(Look::Waiting(seen), words);
            }
            seen.readable = copied > 0;
            let Some(walked) = self.walk((tid, used), &wait, 0, copied, words) else {
                return Self::leaf_alone(Look::Waiting(seen), words);
            };
            let top = walked.top;
            (seen.words, seen.end, seen.lacks_runtime) = (walked.words, walked.end, walked.lacks_runtime);
            seen.labels = walked.labels.unwrap_or(labels);
            // With less than usual, only a whole stack is believed.
            if seen.end == End::Root {
                self.learn(wait.pc, top.saturating_sub(wait.sp));
                break;
            }
            if len >= MOSTLY && (copied < len || !matches!(seen.end, End::Lost)) {
                break;
            }
        }
        Look::Waiting(seen)
    }

    /// How much of the stack was enough for a thread that waited there; 0 where that is not known.
    fn enough(&self, pc: u64) -> usize {
        let place = self.enough.get(place_of(pc));
        place.filter(|(known, _)| *known == pc).map_or(0, |(_, enough)| *enough)
    }

    /// Remembers that so much was enough.
    fn learn(&mut self, pc: u64, needed: u64) {
        let needed = usize::try_from(needed).unwrap_or(MOSTLY);
        let Some(place) = self.enough.get_mut(place_of(pc)).filter(|_| needed > 0 && needed < MOSTLY) else {
            return;
        };
        let (known, before) = *place;
        // The most, since a second copy costs more than a page; but not for ever.
        let least = if known == pc { before - before / 32 } else { 0 };
        *place = (pc, needed.max(least));
    }

    fn copy_stack(&mut self, sp: u64, len: usize) -> usize {
        // SAFETY: the mapping has `AT_MOST` bytes, is ours alone, and `&mut self` says that nobody else looks at it.
        let room = unsafe { core::slice::from_raw_parts_mut(self.copy.as_ptr(), len.min(AT_MOST)) };
        memory::copy_as(self.own, sp, room)
    }

    /// Walks the copy that begins at this byte of the room. `None` where a runtime had to be asked about the thread, and that has
    /// gone on meanwhile.
    fn walk(
        &mut self,
        (tid, used): (u32, u64),
        wait: &Wait,
        at: usize,
        copied: usize,
        words: &mut [u64],
    ) -> Option<Walked> {
        let mut stack = StackMemory::new();
        let range = wait.sp..wait.sp.saturating_add(copied as u64);
        // SAFETY: so many bytes of the mapping were written there, and `&mut self` keeps it as it is.
        unsafe { stack.add_copy(range, self.copy.as_ptr() as u64 + at as u64) };
        let mut frames = Frames::new(words);
        let mut regs = Regs::waiting(wait.pc, wait.sp);
        unwind::find_frame_pointer(&mut regs, &stack, &mut self.found);
        let (end, lacks_runtime, top) = unwind::walk_waiting(&regs, &stack, None, &mut frames);
        let remembered = if lacks_runtime { unwind::remember(tid) } else { None };
        let Some(remembered) = remembered else {
            return Some(Walked { words: frames.finish().len(), end, lacks_runtime, top, labels: None });
        };
        if Clock::Thread(tid).now() != Some(used) {
            return None;
        }
        let labels = remembered.labels();
        let mut frames = Frames::new(words);
        let (end, lacks_runtime, top) = unwind::walk_waiting(&regs, &stack, Some(remembered), &mut frames);
        Some(Walked { words: frames.finish().len(), end, lacks_runtime, top, labels })
    }
}

/// What came of a walk along a copy of a stack.
struct Walked {
    words: usize,
    end: End,
    lacks_runtime: bool,
    /// How far up it has come.
    top: u64,
    /// The label set that a runtime has in force on the thread; `None` where none knows.
    labels: Option<u32>,
}

fn place_of(pc: u64) -> usize {
    (pc ^ pc >> 6) as usize % PLACES
}

/// In which call a thread waits, also where the kernel has begun it again.
fn call_of(wait: &Wait) -> Option<u32> {
    os::restarted(wait.call, &wait.arguments, || {
        let mut before = [0; 8];
        memory::copy(wait.pc.checked_sub(8)?, &mut before);
        regs::call_number(before)
    })
}

/// The label set in force on thread `tid`, and its trace and span; zeros where there are none. A trace is several numbers, and a
/// thread that runs may be about to change them: where it has used more of the processors by now than `used`, which was read
/// before, what was read of it may be of two traces, and none is told.
pub fn in_force(tid: u32, used: u64) -> (u32, Trace) {
    let (labels, trace) = unchecked(tid);
    let is_whole = trace.span_id == 0 || Clock::Thread(tid).now() == Some(used);
    (labels, if is_whole { trace } else { Trace::default() })
}

/// The same for who looks at the thread's clock himself afterwards.
fn unchecked(tid: u32) -> (u32, Trace) {
    thread::find(tid).map(|slot| (slot.labels(), slot.trace())).unwrap_or_default()
}

/// What a thread waited for that has answered [`crate::sigprof::ask`] with these words before its stack, whose leaf is
/// `pc`; `None` where it was in no system call, and so ran or waited for a page. Off the handler.
pub fn interrupted(call: [u64; CALL_WORDS], pc: u64) -> Option<Wait> {
    let (mut before, mut after) = ([0; 8], [0; 8]);
    memory::copy(pc.checked_sub(8)?, &mut before);
    memory::copy(pc, &mut after);
    let Interrupted { call, first, second } = regs::call_at(call, before, after)?;
    Some(Wait { call, arguments: [first, second, 0, 0, 0, 0], sp: 0, pc })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod registers {
    use super::*;

    /// Where the return address of a function that calls nobody is in a register that nobody told, its caller is not known:
    /// it is not the thread's first function. The C library's `syscall` is such a one on aarch64.
    #[test]
    fn a_caller_that_a_register_alone_knows_is_missing() {
        while !unwind::refresh() && unwind::generation() == 0 {
            std::thread::yield_now();
        }
        let mut words = [0; 8];
        let mut frames = Frames::new(&mut words);
        let regs = Regs::waiting(libc::syscall as *const () as u64 + 4, 0x7000_0000);
        let (end, ..) = unwind::walk_waiting(&regs, &StackMemory::new(), None, &mut frames);
        assert_eq!(end, End::Lost);
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;
    use crate::os::gettid;
    use crate::sample::{Frame, frames};
    use std::vec::Vec;

    /// A trace of one thread, read by another while it changes.
    #[test]
    fn no_trace_is_of_two_halves() {
        let (to_main, tid) = std::sync::mpsc::channel();
        let ended = std::sync::atomic::AtomicBool::new(false);
        let of = |number: u64| Trace {
            trace_id: u128::from(number) << 64 | u128::from(number),
            span_id: number,
            local_root: number,
        };
        let mut found = [0u32; 2];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let slot = thread::current().unwrap();
                to_main.send(gettid()).unwrap();
                let mut number = 0;
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    number = number % 1_000_000 + 1;
                    slot.set_trace(of(number), 1);
                }
                slot.set_trace(Trace::default(), 0);
            });
            let tid = tid.recv().unwrap();
            let begin = std::time::Instant::now();
            while begin.elapsed() < std::time::Duration::from_secs(2) {
                let used = Clock::Thread(tid).now().unwrap();
                let (_, trace) = in_force(tid, used);
                found[0] += u32::from(trace == Trace::default());
                found[1] += u32::from(trace != of(trace.span_id));
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        std::println!("{} of none, {} of two", found[0], found[1]);
        assert_eq!(found[1], 0);
    }

    #[inline(never)]
    fn wait_here(until: &std::sync::mpsc::Receiver<()>) -> u32 {
        let _ = until.recv();
        std::hint::black_box(1)
    }

    #[test]
    fn a_thread_that_waits_shows_its_whole_stack() {
        while !unwind::refresh() && unwind::generation() == 0 {
            std::thread::yield_now();
        }
        let (to_main, tid) = std::sync::mpsc::channel();
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            to_main.send(gettid()).unwrap();
            wait_here(&until_done) + 1
        });
        let tid = tid.recv().unwrap();
        let mut looker = Looker::new().unwrap();
        let mut words = std::vec![0; 300];
        let mut seen = Look::Running;
        for _ in 0..1000 {
            std::thread::sleep(std::time::Duration::from_millis(1));
            unwind::refresh();
            seen = looker.look(tid, &mut words);
            if matches!(seen, Look::Waiting(Waiting { end: End::Root, .. }) | Look::Untold) {
                break;
            }
        }
        let Look::Waiting(waiting) = seen else {
            std::eprintln!("!!! SKIPPED: there is no /proc/self/task/TID/syscall here: {seen:?}");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has to be able to run it");
            return drop(done);
        };
        let stack: Vec<Frame> = frames(&words[..waiting.words]).collect();
        assert_eq!(waiting.end, End::Root, "{stack:x?}");
        let start = wait_here as *const () as u64;
        let here = |frame: &Frame| matches!(frame, Frame::Native(pc) if (start..start + 200).contains(pc));
        assert!(stack.len() > 5 && stack.iter().any(here), "{stack:x?}");
        drop(done);
        thread.join().unwrap();
        // It has said its last word, and is on its way out of the kernel.
        while looker.look(tid, &mut words) != Look::Gone {
            std::thread::yield_now();
        }
    }
}
