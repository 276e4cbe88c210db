//! The frame pointer of a thread that waits, of which only the program counter and the stack pointer are known.
//!
//! Functions that were built with frame pointers find their frame by a register that they saved on entry and that nobody
//! has told. But the code says where it points: a function's entry pushes registers and makes room, so that from the
//! frame pointer to the stack pointer it is a fixed distance. What comes out is checked against the stack: the return
//! address beside the frame must follow a call, and where the call says whom it calls, that must be the function. Where
//! the entry cannot be read, since the compiler has mixed it with the function's first work, the room that it makes and each
//! number of registers that it may save are tried, and then the stack is searched for the one place that passes the strict
//! form of the check.
//!
//! Off the handler: code is read through the kernel, since its module may go meanwhile. That is most of what a look at a
//! thread would cost, so what was found out is kept ([`Found`]): threads wait in few places.

use super::inflight;
use super::rule::{Kind, Rule, SAME};
use super::snapshot::{self, Snapshot};
use crate::memory::{self, StackMemory};
use crate::regs::{self, CallBefore, Regs, SET_FRAME, thread_pointer};

/// Frames that are looked through for the first that needs the frame pointer.
const FRAMES: usize = 64;
/// How far before the program counter a function may begin, in pieces of so many bytes.
const PIECE: usize = 4096;
const PIECES: usize = 16;
/// How far from the stack pointer a frame is searched for.
const FRAME_BYTES: u64 = 64 * 1024;
/// Bytes of a function's entry that are read: up to the room for its variables.
const ENTRY_BYTES: usize = 64;
/// So many bytes of other work may lie between two steps of an entry.
const APART: u64 = 64;
/// Registers that an entry may save beside the frame pointer, and a word that aligns the stack.
const MOST_SAVED: u64 = 6;

/// Finds the frame pointer of a thread that waits with the registers `regs`, if its walk will need it. What is `found` out
/// on the way is kept there.
pub(crate) fn find_frame_pointer(regs: &mut Regs, stack: &StackMemory, found: &mut Found) {
    let entered = inflight::enter(thread_pointer());
    let Some(snapshot) = snapshot::current(&entered) else { return };
    found.keep_to(snapshot::generation());
    let (mut pc, mut sp) = (regs.pc, regs.sp);
    for _ in 0..FRAMES {
        let Some(rule) = snapshot.rule(pc) else { return };
        let cfa = match rule.kind {
            // From here on it lies on the stack.
            Kind::Sp if rule.fp != SAME => return,
            Kind::Sp if rule.ra != SAME => sp.wrapping_add_signed(rule.cfa.into()),
            Kind::Fp => {
                let frame = found
                    .function(snapshot, pc)
                    .and_then(|function| function.frame(snapshot, sp, stack, found));
                return regs.fp = frame.unwrap_or_default();
            }
            _ => return,
        };
        let Some(ra) = stack.read(cfa.wrapping_add_signed(rule.ra.into())) else { return };
        (pc, sp) = (ra.wrapping_sub(1), cfa);
    }
}

/// What was found out about functions and calls, as long as the tables are the same.
#[derive(Debug, Default)]
pub(crate) struct Found {
    generation: u32,
    /// Where it was asked, and the function there.
    functions: [(u64, Option<Function>); PLACES],
    /// The function's start, the return address, and what was found of them.
    callers: [(u64, u64, Caller); PLACES],
}

/// How much of each kind is kept: what comes later takes the place of what was there.
const PLACES: usize = 32;

impl Found {
    fn keep_to(&mut self, generation: u32) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
    }

    fn function(&mut self, snapshot: &Snapshot, pc: u64) -> Option<Function> {
        let Some(place) = self.functions.get_mut(place_of(pc)) else { return Function::around(snapshot, pc) };
        if place.0 != pc {
            *place = (pc, Function::around(snapshot, pc));
        }
        place.1
    }

    fn caller(&mut self, function: &Function, ra: u64) -> Caller {
        let Some(place) = self.callers.get_mut(place_of(ra)) else { return function.called_before(ra) };
        if (place.0, place.1) != (function.start, ra) {
            *place = (function.start, ra, function.called_before(ra));
        }
        place.2
    }
}

fn place_of(address: u64) -> usize {
    (address ^ address >> 7) as usize % PLACES
}

/// A function with a frame pointer.
#[derive(Clone, Copy, Debug)]
struct Function {
    /// Where it begins at the earliest, and where it saves its caller's frame pointer.
    start: u64,
    save: u64,
    /// From its stack pointer up to its frame pointer, while it calls another; `None` where the entry does not tell.
    distance: Option<u64>,
    /// The room that it makes for its variables, as far as that can be seen.
    room: u64,
}

impl Function {
    /// The one that holds `pc`: begins where the code sets up a frame, and the rules say so too.
    fn around(snapshot: &Snapshot, pc: u64) -> Option<Self> {
        let mut code = [0; PIECE + SET_FRAME.len()];
        let mut end = pc.checked_add(1)?;
        for _ in 0..PIECES {
            let from = end.checked_sub(PIECE as u64)?;
            // A step may lie across the border of two pieces. What cannot be read is zeros, and no step.
            code.fill(0);
            let page = from.next_multiple_of(PIECE as u64);
            let (low, high) = code.split_at_mut((page - from) as usize);
            memory::copy(from, low);
            memory::copy(page, high);
            let sets =
                code.windows(SET_FRAME.len()).enumerate().rev().filter(|(_, bytes)| *bytes == SET_FRAME);
            let mut sets = sets.map(|(offset, _)| from + offset as u64).filter(|set| *set < end);
            if let Some((start, save, set)) = sets.find_map(|set| entry(snapshot, set)) {
                let mut after = [0; ENTRY_BYTES];
                let len = memory::copy(set + SET_FRAME.len() as u64, &mut after);
                let after = after.get(..len)?;
                let room = regs::frame_room(after);
                // Where other work comes before the frame is set, or before the room is made, it ends too early.
                let distance = regs::frame_distance(after).filter(|told| set == save + 1 && *told >= room);
                return Some(Self { start, save, distance, room });
            }
            end = from;
        }
        None
    }

    /// The frame pointer while its stack pointer is `sp`.
    fn frame(&self, snapshot: &Snapshot, sp: u64, stack: &StackMemory, found: &mut Found) -> Option<u64> {
        let ra = |fp: u64| stack.read(fp.wrapping_add(8)).filter(|ra| *ra > 4096);
        // Anything may lie on the stack. What is no code of a module is no return address, and not worth a system call.
        let code = |fp: u64| ra(fp).filter(|ra| snapshot.rule(ra - 1).is_some());
        let told = self.distance.map(|distance| sp.wrapping_add(distance));
        let told = told.zip(told.and_then(ra)).map(|(fp, ra)| (fp, found.caller(self, ra)));
        if let Some((fp, Caller::Certain)) = told {
            return Some(fp);
        }
        let mut caller = |fp: u64| code(fp).map_or(Caller::Other, |ra| found.caller(self, ra));
        let tried = || (0..=MOST_SAVED).map(|saved| sp.wrapping_add(self.room + 8 * saved));
        if let Some(fp) = tried().find(|fp| matches!(caller(*fp), Caller::Certain)) {
            return Some(fp);
        }
        if let Some((fp, Caller::Likely)) = told {
            return Some(fp);
        }
        let mut all = (sp..sp.saturating_add(FRAME_BYTES)).step_by(8);
        if let Some(fp) = all.find(|fp| matches!(caller(*fp), Caller::Certain)) {
            return Some(fp);
        }
        // What is below the return address are registers that were saved, which hardly ever look like one.
        tried().filter(|_| self.room > 0).find(|fp| matches!(caller(*fp), Caller::Likely))
    }

    /// Whether the return address `ra` is that of a call of this function.
    fn called_before(&self, ra: u64) -> Caller {
        let Some(before) = word(ra - 8) else { return Caller::Other };
        let target = match CallBefore::of(ra, before) {
            CallBefore::None => return Caller::Other,
            CallBefore::To(target) => Some(target),
            CallBefore::Indirect => regs::called_slot(ra, before).and_then(word),
        };
        match target {
            Some(target) if self.is_at(target) => Caller::Certain,
            // Through a register, or a stub, or a function that jumped here at its end.
            _ => Caller::Likely,
        }
    }

    /// Whether `target` is this function or a stub of the linker's that jumps to it.
    fn is_at(&self, target: u64) -> bool {
        let begins = |address: u64| (self.start..=self.save).contains(&address);
        let jumps = || word(target).and_then(|code| regs::jumped_slot(target, code)).and_then(word);
        begins(target) || jumps().is_some_and(begins)
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Caller {
    Certain,
    Likely,
    #[default]
    Other,
}

/// Of the step at `set`, which sets a frame pointer: where its function begins at the earliest, where it saves its caller's,
/// and the step itself, if the rules say that it is one. Between these may lie work that does not touch the stack.
fn entry(snapshot: &Snapshot, set: u64) -> Option<(u64, u64, u64)> {
    let is = |at: u64, kind: Kind, cfa: i32| {
        snapshot.rule(at).is_some_and(|rule: &Rule| rule.kind == kind && rule.cfa == cfa)
    };
    if !(is(set, Kind::Sp, 16) && is(set.wrapping_add(SET_FRAME.len() as u64), Kind::Fp, 16)) {
        return None;
    }
    let back = |from: u64| (1..=APART).map(move |bytes| from.wrapping_sub(bytes));
    let save = back(set).find(|at| !is(*at, Kind::Sp, 16)).filter(|at| is(*at, Kind::Sp, 8))?;
    let start = back(save).take_while(|at| is(*at, Kind::Sp, 8)).last().unwrap_or(save);
    Some((start, save, set))
}

fn word(address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (memory::copy(address, &mut bytes) == 8).then(|| u64::from_ne_bytes(bytes))
}

#[cfg(all(test, target_arch = "x86_64"))]
#[allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing)]
mod tests {
    use super::super::{self as unwind, End};
    use crate::os::gettid;
    use crate::sample::{Frame, frames};
    use crate::waiting::{Look, Looker, Waiting};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    // Reads a byte. As compilers write it that put the steps of an entry where the processor has time for them.
    core::arch::global_asm!(
        ".text",
        ".p2align 4",
        ".globl everprof_test_mixed_entry",
        ".hidden everprof_test_mixed_entry",
        "everprof_test_mixed_entry:",
        ".cfi_startproc",
        "cvttsd2si rax, xmm0",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "pxor xmm2, xmm2",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push r14",
        ".cfi_offset r14, -24",
        "cvtsi2sd xmm2, rax",
        "push rbx",
        ".cfi_offset rbx, -32",
        "xor eax, eax",
        "sub rsp, 0xb0",
        "mov edx, 1",
        "syscall",
        "add rsp, 0xb0",
        "pop rbx",
        "pop r14",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    );
    unsafe extern "C" {
        #[link_name = "everprof_test_mixed_entry"]
        fn mixed_entry(fd: i32, to: *mut u8);
    }

    /// Waits in `run`, which has to be on the stack that is seen from outside.
    fn stack_has(run: fn(i32)) {
        while !unwind::refresh() && unwind::generation() == 0 {
            std::thread::yield_now();
        }
        let (to_main, tid) = channel();
        let (done, until_done) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            to_main.send(gettid()).unwrap();
            run(until_done.as_raw_fd());
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
        drop(done);
        thread.join().unwrap();
        if seen == Look::Untold {
            std::eprintln!("!!! SKIPPED: there is no /proc/self/task/TID/syscall here");
            return assert!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "CI has to be able to run it"
            );
        }
        let Look::Waiting(Waiting { end: End::Root, words: len, .. }) = seen else { panic!("{seen:?}") };
        let start = run as usize as u64;
        let is_here = |frame| matches!(frame, Frame::Native(pc) if (start..start + 100).contains(&pc));
        assert!(frames(&words[..len]).any(is_here), "{start:x} {:x?}", &words[..len]);
    }

    #[inline(never)]
    fn call_by_name(fd: i32) {
        let mut byte = 0;
        // SAFETY: the function writes one byte there at most.
        unsafe { mixed_entry(fd, &raw mut byte) };
        std::hint::black_box(byte);
    }

    #[inline(never)]
    fn call_by_pointer(fd: i32) {
        let mut byte = 0;
        let call = std::hint::black_box(mixed_entry as unsafe extern "C" fn(i32, *mut u8));
        // SAFETY: as above.
        unsafe { call(fd, &raw mut byte) };
        std::hint::black_box(byte);
    }

    #[test]
    fn a_frame_is_found_where_the_entry_is_mixed_with_other_work() {
        stack_has(call_by_name);
    }

    #[test]
    fn also_where_the_call_does_not_say_whom_it_calls() {
        stack_has(call_by_pointer);
    }
}
