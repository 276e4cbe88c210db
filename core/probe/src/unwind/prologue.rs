//! The frame pointer of a thread that waits, of which only the program counter and the stack pointer are known.
//!
//! Functions that were built with frame pointers find their frame by a register that they saved on entry and that nobody
//! has told. But the code says where it points: a function's entry pushes registers and makes room, so that from the
//! frame pointer to the stack pointer it is a fixed distance. What comes out is checked against the stack: the return
//! address beside the frame must follow a call, and where the call says whom it calls, that must be the function. Where
//! the entry cannot be read, the stack is searched for the one place that passes the strict form of the check.
//!
//! Off the handler: code is read through the kernel, since its module may go meanwhile.

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

/// Finds the frame pointer of a thread that waits with the registers `regs`, if its walk will need it.
pub(crate) fn find_frame_pointer(regs: &mut Regs, stack: &StackMemory) {
    let entered = inflight::enter(thread_pointer());
    let Some(snapshot) = snapshot::current(&entered) else { return };
    let (mut pc, mut sp) = (regs.pc, regs.sp);
    for _ in 0..FRAMES {
        let Some(rule) = snapshot.rule(pc) else { return };
        let cfa = match rule.kind {
            // From here on it lies on the stack.
            Kind::Sp if rule.fp != SAME => return,
            Kind::Sp if rule.ra != SAME => sp.wrapping_add_signed(rule.cfa.into()),
            Kind::Fp => {
                let frame = Function::around(snapshot, pc).and_then(|function| function.frame(sp, stack));
                return regs.fp = frame.unwrap_or_default();
            }
            _ => return,
        };
        let Some(ra) = stack.read(cfa.wrapping_add_signed(rule.ra.into())) else { return };
        (pc, sp) = (ra.wrapping_sub(1), cfa);
    }
}

/// A function with a frame pointer.
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
    fn frame(&self, sp: u64, stack: &StackMemory) -> Option<u64> {
        let is_likely = |fp: &u64| !matches!(self.caller(*fp, stack), Caller::Other);
        let told = self.distance.map(|distance| sp.wrapping_add(distance)).filter(is_likely);
        let is_certain = |fp: &u64| matches!(self.caller(*fp, stack), Caller::Certain);
        told.or_else(|| (sp..sp.saturating_add(FRAME_BYTES)).step_by(8).find(is_certain))
    }

    /// Whether the return address beside the frame at `fp` is that of a call of this function.
    fn caller(&self, fp: u64, stack: &StackMemory) -> Caller {
        let Some(ra) = stack.read(fp.wrapping_add(8)).filter(|ra| *ra > 4096) else { return Caller::Other };
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

#[derive(Clone, Copy)]
enum Caller {
    Certain,
    Likely,
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
