//! The walk from an instruction to the root of its stack, inside the handler.
//!
//! Frame by frame: a source may claim it; or a rule of the module's table says where the caller is; or, where there is
//! no call-frame information, the frame pointer does, if what it points to looks like a frame. Async-signal-safe: no
//! allocation, lock or system call; reads only what [`StackMemory`] vouches for; at most [`MOST_FRAMES`] steps.

use super::frames::Frames;
use super::inflight;
use super::rule::{BASE_FROM_FP, FP_FROM_FP, INTERRUPTED, Kind, Rule, SAME};
use super::snapshot::{self, Module, Snapshot};
use super::source::{Sources, Step};
use crate::memory::StackMemory;
use crate::regs::{DWARF_BASE, DWARF_FP, DWARF_RA, DWARF_SP, Regs, WORD_STACK_CALL, return_address};

/// Frames that a walk visits before it gives up: a bound on its time, about a third of a millisecond.
pub const MOST_FRAMES: usize = 20_000;

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// At the outermost frame of the thread.
    Root,
    /// After [`MOST_FRAMES`] frames, with more to come.
    Truncated,
    /// At a frame whose caller could not be found.
    Lost,
}

/// Walks the stack of the calling thread from `regs`, and puts its frames into `out`. Where it does not end at the root,
/// the stack is closed with a mark that frames are missing there.
///
/// `stack` must hold the ranges that frames may lie in: the thread's stack, and its alternate signal stack where one is
/// in use.
pub fn walk(regs: &Regs, stack: &StackMemory, out: &mut Frames<'_>) -> End {
    let entered = inflight::enter(regs.sp);
    let mut walker =
        Walker { regs: *regs, exact: true, known: true, stack, snapshot: snapshot::current(&entered) };
    let end = if Sources::any() { walker.with_sources(out) } else { walker.native(out) };
    if end != End::Root {
        out.push_missing(0);
    }
    end
}

struct Walker<'a> {
    regs: Regs,
    /// The program counter is the next instruction, not a return address.
    exact: bool,
    /// Every register is that of the frame, not just those that are carried.
    known: bool,
    stack: &'a StackMemory,
    snapshot: Option<&'a Snapshot>,
}

impl<'a> Walker<'a> {
    /// The walk of a process without sources.
    fn native(&mut self, out: &mut Frames<'_>) -> End {
        let mut left = MOST_FRAMES;
        while left > 0 {
            if let Some(snapshot) = self.snapshot {
                left = self.plain(snapshot, left, |pc| out.push_native(pc));
            }
            let pc = self.pc();
            let rule = self.rule(pc);
            out.push_native(self.place(pc, rule));
            left = left.saturating_sub(1);
            if let Err(end) = self.advance(pc, rule) {
                return end;
            }
        }
        End::Truncated
    }

    /// Goes as far as plain rules lead, which is most of the way, and hands every frame to `record`; what moves from frame
    /// to frame stays in registers. Returns how many frames of `left` may follow.
    #[inline]
    fn plain(&mut self, snapshot: &Snapshot, mut left: usize, mut record: impl FnMut(u64)) -> usize {
        let Regs { mut sp, mut fp, mut base, .. } = self.regs;
        let mut pc = self.pc();
        let start = left;
        while left > 0
            && let Some(rule) = snapshot.plain(pc)
        {
            let cfa = if rule.is_from_fp() { fp } else { sp }.wrapping_add(rule.cfa());
            let at = |below: u64| self.stack.read(cfa.wrapping_sub(below));
            let caller_fp = if rule.fp() == 0 { Some(fp) } else { at(rule.fp()) };
            let caller_base = if rule.base() == 0 { Some(base) } else { at(rule.base()) };
            let (Some(ra), Some(caller_fp), Some(caller_base)) = (at(rule.ra()), caller_fp, caller_base)
            else {
                break;
            };
            let ra = return_address(ra);
            if cfa <= sp || ra == 0 {
                break;
            }
            record(pc);
            (sp, fp, base, pc) = (cfa, caller_fp, caller_base, ra - 1);
            left -= 1;
        }
        if left < start {
            self.exact = false;
            self.known = false;
            (self.regs.sp, self.regs.fp, self.regs.base, self.regs.pc) = (sp, fp, base, pc + 1);
        }
        left
    }

    /// Apart, because what sources remember takes stack, of which a handler may have little.
    #[cold]
    #[inline(never)]
    fn with_sources(&mut self, out: &mut Frames<'_>) -> End {
        match Sources::begin(&self.regs) {
            None => self.native(out),
            Some(mut sources) => self.mixed(&mut sources, out),
        }
    }

    fn mixed(&mut self, sources: &mut Sources, out: &mut Frames<'_>) -> End {
        for _ in 0..MOST_FRAMES {
            let pc = self.pc();
            match sources.step(pc, &mut self.regs, self.stack, out) {
                None | Some(Step::Native) => out.push_native(self.place(pc, self.rule(pc))),
                Some(Step::Hidden) => {}
                Some(Step::End) => return End::Root,
                Some(Step::Moved) => {
                    if let Err(end) = self.return_to(self.regs.pc) {
                        return end;
                    }
                    continue;
                }
            }
            let went = self.snapshot.is_some_and(|snapshot| self.plain(snapshot, 1, |_| ()) == 0);
            if !went && let Err(end) = self.advance(pc, self.rule(pc)) {
                return end;
            }
        }
        End::Truncated
    }

    /// A point inside the frame's current instruction.
    #[inline]
    fn pc(&self) -> u64 {
        if self.exact { self.regs.pc } else { self.regs.pc.wrapping_sub(1) }
    }

    fn rule(&self, pc: u64) -> Option<&'a Rule> {
        self.snapshot.and_then(|snapshot| snapshot.rule(pc))
    }

    /// The address that stands for the frame at `pc`: inside the call that it is in. But where no call was made from,
    /// because the return address was put on the stack by hand, it is that address itself.
    fn place(&self, pc: u64, rule: Option<&Rule>) -> u64 {
        let by_hand = match rule {
            Some(rule) => rule.kind == Kind::Signal,
            None => self.is_hand_made(),
        };
        if by_hand { self.regs.pc } else { pc }
    }

    /// Whether the frame, for which there is no rule, returns to where no call can have come from: to the code that ends
    /// a signal handler, or to the first byte of a function, as in the outermost frame of a `makecontext`.
    #[cold]
    #[inline(never)]
    fn is_hand_made(&self) -> bool {
        let at_sigreturn = |module: &Module| module.returns_from_signal(self.regs.pc);
        !self.exact
            && (self.rule(self.regs.pc).is_some() || self.module(self.regs.pc).is_some_and(at_sigreturn))
    }

    /// Goes from the frame at `pc` to its caller, by a rule that is not plain or by none.
    #[inline]
    fn advance(&mut self, pc: u64, rule: Option<&Rule>) -> Result<(), End> {
        match rule {
            Some(rule) => self.apply(rule),
            None => self.without_rule(pc),
        }
    }

    #[inline]
    fn apply(&mut self, rule: &Rule) -> Result<(), End> {
        let offset = i64::from(rule.cfa);
        let cfa = match rule.kind {
            Kind::Sp => self.regs.sp.wrapping_add_signed(offset),
            Kind::Fp => self.regs.fp.wrapping_add_signed(offset),
            Kind::Base => self.regs.base.wrapping_add_signed(offset),
            Kind::Root => return Err(End::Root),
            Kind::Signal => return self.resume_interrupted(),
            Kind::Other | Kind::Deref | Kind::Plt => self.unusual_cfa(rule)?,
        };
        let in_register = rule.ra == SAME;
        if cfa <= self.regs.sp {
            self.check_shrinking(cfa, in_register)?;
        }
        let ra = if in_register { self.register(rule.ra_register)? } else { self.word(cfa, rule.ra)? };
        let fp = match rule.fp {
            SAME => self.regs.fp,
            fp => self.word(if rule.flags & FP_FROM_FP == 0 { cfa } else { self.regs.fp }, fp)?,
        };
        if rule.base != SAME {
            let from = if rule.flags & BASE_FROM_FP == 0 { cfa } else { self.regs.fp };
            self.regs.base = self.word(from, rule.base)?;
        }
        self.regs.fp = fp;
        self.regs.sp = cfa;
        self.return_to(return_address(ra))?;
        self.exact = rule.flags & INTERRUPTED != 0;
        Ok(())
    }

    /// The frame is left by a return to `pc`; a thread whose outermost frame would return to 0 has no more of them.
    #[inline]
    fn return_to(&mut self, pc: u64) -> Result<(), End> {
        self.regs.pc = pc;
        self.exact = false;
        self.known = false;
        if pc == 0 { Err(End::Root) } else { Ok(()) }
    }

    #[inline]
    fn word(&self, from: u64, offset: i16) -> Result<u64, End> {
        self.stack.read(from.wrapping_add_signed(i64::from(offset))).ok_or(End::Lost)
    }

    #[cold]
    fn register(&self, number: u8) -> Result<u64, End> {
        let carried = matches!(number, DWARF_SP | DWARF_FP | DWARF_BASE);
        if carried || self.known { self.regs.get(number).ok_or(End::Lost) } else { Err(End::Lost) }
    }

    #[cold]
    #[inline(never)]
    fn unusual_cfa(&self, rule: &Rule) -> Result<u64, End> {
        let address = self.register(rule.register)?.wrapping_add_signed(i64::from(rule.cfa));
        match rule.kind {
            Kind::Deref => {
                let word = self.stack.read(address).ok_or(End::Lost)?;
                Ok(word.wrapping_add_signed(i64::from(rule.extra)))
            }
            Kind::Plt if self.regs.pc & 15 >= rule.extra as u64 => Ok(address.wrapping_add(8)),
            _ => Ok(address),
        }
    }

    /// A caller's frame lies above its callee's. Only a leaf that has no frame may leave the stack pointer as it is, and
    /// only a switch to another stack may lead anywhere else.
    #[cold]
    #[inline(never)]
    fn check_shrinking(&self, cfa: u64, in_register: bool) -> Result<(), End> {
        let frameless = in_register && self.known && cfa == self.regs.sp;
        let switched = self.stack.range_of(cfa) != self.stack.range_of(self.regs.sp);
        if frameless || switched { Ok(()) } else { Err(End::Lost) }
    }

    /// The frame is the code that a signal handler returns to: goes on where the signal struck.
    #[cold]
    #[inline(never)]
    fn resume_interrupted(&mut self) -> Result<(), End> {
        let stack = self.stack;
        self.regs.resume(|address| stack.read(address)).ok_or(End::Lost)?;
        self.exact = true;
        self.known = true;
        Ok(())
    }

    /// The frame is one that no rule describes: code compiled at run time, assembly without information, a module whose
    /// table is not built, or a jump to nowhere.
    #[cold]
    #[inline(never)]
    fn without_rule(&mut self, pc: u64) -> Result<(), End> {
        let Some(snapshot) = self.snapshot else {
            snapshot::want();
            return Err(End::Lost);
        };
        let module = snapshot.module(pc);
        match module {
            Some(module) if module.returns_from_signal(self.regs.pc) => return self.resume_interrupted(),
            // Nobody called from before the first byte of a function: here a stack begins that was made by hand.
            Some(_) if self.is_hand_made() => return Err(End::Root),
            // Its frame pointers might lead further, past callers without one, and nothing would show that: no.
            Some(module) if !module.is_tried() => {
                module.want();
                return Err(End::Lost);
            }
            Some(_) => {}
            None if Regs::is_signal_frame(self.regs.sp, |address| self.stack.read(address)) => {
                return self.resume_interrupted();
            }
            None => snapshot::want(),
        }
        // Bare code of a module is a linkage stub or small assembly, which has no frame; at an address that cannot be code
        // there has been nothing but a call.
        let bare = module.is_some();
        let frameless = bare || module.is_none() && !self.may_be_code(pc);
        if self.exact && frameless && self.by_return_address().is_ok() {
            return Ok(());
        }
        self.by_frame_pointer(bare)
    }

    /// By the pair of frame pointer and return address that the frame pointer shows, if it looks like one. `bare` says
    /// that the frame is in code without information of a module that was looked through: only there a frame pointer of
    /// 0 marks the root, as it does where threads start; elsewhere the register may hold anything.
    fn by_frame_pointer(&mut self, bare: bool) -> Result<(), End> {
        let (fp, sp) = (self.regs.fp, self.regs.sp);
        if fp == 0 && bare && !self.exact {
            return Err(End::Root);
        }
        let here = self.stack.range_of(sp);
        let pair = (fp >= sp && fp & 7 == 0 && here.is_some() && self.stack.range_of(fp) == here)
            .then(|| Some((self.stack.read(fp)?, return_address(self.stack.read(fp.wrapping_add(8))?))))
            .flatten();
        match pair {
            Some((0, 0)) => Err(End::Root),
            Some((caller, ra)) if self.may_be_code(ra) => {
                self.regs.fp = caller;
                self.regs.sp = self.stack_pointer_after(fp, caller, ra);
                self.return_to(ra)
            }
            _ if self.exact => self.by_return_address(),
            _ => Err(End::Lost),
        }
    }

    /// The stack pointer in the caller at `ra`, whose frame pointer is `caller`, after a frame with its pair at `fp`.
    ///
    /// Where a call pushes the return address, the pair is the frame's upper end. Elsewhere it is the lower end of a frame
    /// of unknown size; but the caller's own pair is where its frame pointer says, and its rule knows how far from there.
    fn stack_pointer_after(&self, fp: u64, caller: u64, ra: u64) -> u64 {
        let above = fp.wrapping_add(16);
        if WORD_STACK_CALL {
            return above;
        }
        match self.snapshot.and_then(|snapshot| snapshot.rule(ra.wrapping_sub(1))) {
            Some(rule)
                if rule.kind == Kind::Sp
                    && rule.fp != SAME
                    && rule.flags & FP_FROM_FP == 0
                    && rule.ra == rule.fp.wrapping_add(8) =>
            {
                caller.wrapping_add_signed(-i64::from(rule.fp) - i64::from(rule.cfa)).max(above)
            }
            _ => above,
        }
    }

    /// The frame has only just been called: the return address is where the call left it.
    fn by_return_address(&mut self) -> Result<(), End> {
        let (ra, size) = if WORD_STACK_CALL {
            (self.stack.read(self.regs.sp).ok_or(End::Lost)?, 8)
        } else {
            (self.register(DWARF_RA as u8)?, 0)
        };
        let ra = return_address(ra);
        if self.module(ra).is_none() {
            return Err(End::Lost);
        }
        self.regs.sp = self.regs.sp.wrapping_add(size);
        self.return_to(ra)
    }

    fn module(&self, pc: u64) -> Option<&'a Module> {
        self.snapshot.and_then(|snapshot| snapshot.module(pc))
    }

    /// Whether code may lie at `pc`: not in the first pages, not in the kernel's half, not on the stack.
    fn may_be_code(&self, pc: u64) -> bool {
        (0x1_0000..1 << 48).contains(&pc) && self.stack.range_of(pc).is_none()
    }
}
