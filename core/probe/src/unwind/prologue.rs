//! The frame pointer of a thread that waits, of which only the program counter and the stack pointer are known.
//!
//! Functions that were built with frame pointers find their frame by a register that they saved on entry and that nobody
//! has told. But the code says where it points: a function's entry pushes registers and makes room, so that from the
//! frame pointer to the stack pointer it is a fixed distance. What comes out is checked against the stack: the return
//! address beside the frame must follow a call, and where the call says whom it calls, that must be the function. Where
//! the entry cannot be read, the stack is searched for the one place that passes the strict form of the check.
//!
//! Off the handler: code is read through the kernel, since its module may go meanwhile. That is most of what a look at a
//! thread would cost, so what was found out is kept ([`Found`]): threads wait in few places.

use super::inflight;
use super::rule::{Kind, Rule, SAME};
use super::snapshot::{self, Snapshot};
use crate::memory::{self, StackMemory};
use crate::regs::{self, CallBefore, ENTRY, Regs, thread_pointer};

/// Frames that are looked through for the first that needs the frame pointer.
const FRAMES: usize = 64;
/// How far before the program counter a function may begin, in pieces of so many bytes.
const PIECE: usize = 4096;
const PIECES: usize = 16;
/// How far from the stack pointer a frame is searched for.
const FRAME_BYTES: u64 = 64 * 1024;
/// Bytes of a function's entry that are read: up to the room for its variables.
const ENTRY_BYTES: usize = 64;

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
                let frame =
                    found.function(snapshot, pc).and_then(|function| function.frame(sp, stack, found));
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
    start: u64,
    /// From its stack pointer up to its frame pointer, while it calls another; `None` where the entry does not tell.
    distance: Option<u64>,
}

impl Function {
    /// The one that holds `pc`: begins where the code sets up a frame, and the rules say so too.
    fn around(snapshot: &Snapshot, pc: u64) -> Option<Self> {
        let mut code = [0; PIECE + ENTRY.len()];
        let mut end = pc.checked_add(1)?;
        for _ in 0..PIECES {
            let from = end.checked_sub(PIECE as u64)?;
            // An entry may lie across the border of two pieces. What cannot be read is zeros, and no entry.
            code.fill(0);
            let page = from.next_multiple_of(PIECE as u64);
            let (low, high) = code.split_at_mut((page - from) as usize);
            memory::copy(from, low);
            memory::copy(page, high);
            let entries = code.windows(ENTRY.len()).enumerate().rev().filter(|(_, bytes)| *bytes == ENTRY);
            let mut starts = entries.map(|(offset, _)| from + offset as u64).filter(|start| *start < end);
            if let Some(start) = starts.find(|start| is_entry(snapshot, *start)) {
                let mut entry = [0; ENTRY_BYTES];
                let len = memory::copy(start, &mut entry);
                let distance = regs::frame_distance(entry.get(..len)?);
                return Some(Self { start, distance });
            }
            end = from;
        }
        None
    }

    /// The frame pointer while its stack pointer is `sp`.
    fn frame(&self, sp: u64, stack: &StackMemory, found: &mut Found) -> Option<u64> {
        let ra = |fp: u64| stack.read(fp.wrapping_add(8)).filter(|ra| *ra > 4096);
        let is_likely = |fp: &u64| ra(*fp).is_some_and(|ra| !matches!(found.caller(self, ra), Caller::Other));
        let told = self.distance.map(|distance| sp.wrapping_add(distance)).filter(is_likely);
        // Anything may lie on the stack: none of it is worth keeping.
        let is_certain =
            |fp: &u64| ra(*fp).is_some_and(|ra| matches!(self.called_before(ra), Caller::Certain));
        told.or_else(|| (sp..sp.saturating_add(FRAME_BYTES)).step_by(8).find(is_certain))
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
        let begins = |address: u64| address == self.start || regs::after_landing(address) == self.start;
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

/// Whether the rules at `start` are those of a function's entry that sets up a frame pointer.
fn is_entry(snapshot: &Snapshot, start: u64) -> bool {
    let is = |at: u64, kind: Kind, cfa: i32| {
        snapshot.rule(at).is_some_and(|rule: &Rule| rule.kind == kind && rule.cfa == cfa)
    };
    let [push, set] = regs::ENTRY_STEPS;
    is(start, Kind::Sp, 8) && is(start + push, Kind::Sp, 16) && is(start + set, Kind::Fp, 16)
}

fn word(address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (memory::copy(address, &mut bytes) == 8).then(|| u64::from_ne_bytes(bytes))
}
