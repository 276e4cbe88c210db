//! Frames that no rule describes: assembly or a whole module without call-frame information, code compiled at run time,
//! a module whose table is not built yet, a jump to nowhere. Async-signal-safe, as the rest of a walk.
//!
//! Nothing is guessed silently. In bare code of a module a return address counts only where the code before it shows
//! that a call was made there; beyond that there is the frame pointer, which may lead past callers that do not keep one:
//! a step by it is marked as a gap in the stack, and the walk ends as [`End::Doubtful`] at best. Code of no module is
//! taken for a runtime's, which keep frame pointers.

use super::frames::Frames;
use super::later::Stop;
use super::rule::{FP_FROM_FP, Kind, SAME};
use super::snapshot::{self, Module};
use super::walk::{End, Walker};
use crate::regs::{CallBefore, DWARF_RA, Regs, WORD_STACK_CALL, return_address};

/// How far behind its first byte a function without call-frame information may have been interrupted.
const LONGEST_BARE: u64 = 64 << 10;

impl Walker<'_> {
    /// Goes from the frame at `pc`, for which there is no rule, to its caller.
    #[cold]
    #[inline(never)]
    pub(super) fn without_rule(&mut self, pc: u64, out: &mut Frames<'_>) -> Result<(), End> {
        let Some(snapshot) = self.snapshot else {
            snapshot::want();
            return Err(End::Lost);
        };
        match snapshot.module(pc) {
            Some(module) if module.returns_from_signal(self.regs.pc) => self.resume_interrupted(),
            // A stack that was made by hand begins here.
            Some(module) if self.begins_here(module) => Err(End::Root),
            // Its frame pointers might lead further, past callers without one, and nothing would show that: no.
            Some(module) if !module.is_tried() => {
                module.want();
                self.stop_at(out);
                Err(End::Lost)
            }
            Some(_) => self.in_bare_module(pc, out),
            None if Regs::is_signal_frame(self.regs.sp, |address| self.stack.read(address)) => {
                self.resume_interrupted()
            }
            None => {
                snapshot::want();
                if self.is_changed() {
                    self.stop_at(out);
                }
                self.outside_modules(pc, out)
            }
        }
    }

    /// Remembers the frame, which is the last of `out`, as the first whose code may have a table later.
    fn stop_at(&mut self, out: &Frames<'_>) {
        let Regs { pc, sp, fp, base, .. } = self.regs;
        let words = out.ordered().and_then(|words| words.checked_sub(1));
        if let Some(words) = words.filter(|_| self.stop.is_none() && !self.doubtful) {
            self.stop = Some(Stop { words, pc, sp, fp, base, exact: self.exact });
        }
    }

    /// Whether the frame, for which there is no rule, returns to where no call can have come from: to the code that ends
    /// a signal handler, or to the first byte of a function.
    #[cold]
    #[inline(never)]
    pub(super) fn is_hand_made(&self) -> bool {
        !self.exact
            && match self.module(self.regs.pc) {
                Some(module) => module.returns_from_signal(self.regs.pc) || self.begins_here(module),
                None => Regs::is_signal_frame(self.regs.sp, |address| self.stack.read(address)),
            }
    }

    /// Whether the frame, for which there is no rule, returns to the first byte of a function, which the code before it did
    /// not call: so the outermost frame of a `makecontext` does.
    fn begins_here(&self, module: &Module) -> bool {
        let pc = self.regs.pc;
        !self.exact && self.rule(pc).is_some() && module.call_before(pc) == Some(CallBefore::None)
    }

    /// In code of a module that was looked through, and has no information here.
    fn in_bare_module(&mut self, pc: u64, out: &mut Frames<'_>) -> Result<(), End> {
        if self.exact
            && let Some(ra) = self.return_address()
            && self.was_called_from(ra, pc)
        {
            return self.step_to(ra);
        }
        self.doubt(out);
        self.by_frame_pointer(|walker, _, ra| walker.module(ra).is_some())
    }

    /// In code that belongs to no module. At an address that cannot be code there has been nothing but a call.
    fn outside_modules(&mut self, pc: u64, out: &mut Frames<'_>) -> Result<(), End> {
        let code = self.may_be_code(pc);
        if !code && !self.exact {
            return Err(End::Lost);
        }
        if code {
            // Perhaps it is a library that was loaded a moment ago, and leaves anything in that register.
            if self.is_changed() {
                self.doubt(out);
            }
            let before = self.regs;
            match self.by_frame_pointer(Self::may_be_frame) {
                Err(End::Lost) if self.exact => self.regs = before,
                other => return other,
            }
            self.doubt(out);
        }
        let ra = self.return_address().filter(|&ra| self.module(ra).is_some()).ok_or(End::Lost)?;
        self.step_to(ra)
    }

    pub(super) fn doubt(&mut self, out: &mut Frames<'_>) {
        // Once: from the mark on, every step may have left out frames.
        if !self.doubtful {
            out.push_missing(0);
        }
        self.doubtful = true;
    }

    /// By the pair of frame pointer and return address that the frame pointer shows, if it looks like one and `accept`
    /// takes it.
    fn by_frame_pointer(&mut self, accept: impl Fn(&Self, u64, u64) -> bool) -> Result<(), End> {
        let (fp, sp) = (self.regs.fp, self.regs.sp);
        let here = self.stack.range_of(sp);
        if fp < sp || fp & 7 != 0 || here.is_none() || self.stack.range_of(fp) != here {
            return Err(End::Lost);
        }
        let caller = self.stack.read(fp).ok_or(End::Lost)?;
        let ra = return_address(self.stack.read(fp.wrapping_add(8)).ok_or(End::Lost)?);
        if caller == 0 && ra == 0 {
            return Err(End::Root);
        }
        if !accept(self, caller, ra) {
            return Err(End::Lost);
        }
        self.regs.fp = caller;
        self.regs.sp = self.stack_pointer_after(fp, caller, ra);
        self.return_to(ra)
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
        match self.rule(ra.wrapping_sub(1)) {
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

    /// The return address of a frame that has only just been called, where the call left it.
    fn return_address(&self) -> Option<u64> {
        let word = if WORD_STACK_CALL {
            self.stack.read(self.regs.sp)?
        } else {
            self.register(DWARF_RA as u8).ok()?
        };
        Some(return_address(word))
    }

    /// Leaves a frame that has only just been called for its caller at `ra`.
    fn step_to(&mut self, ra: u64) -> Result<(), End> {
        if WORD_STACK_CALL {
            self.regs.sp = self.regs.sp.wrapping_add(8);
        }
        self.return_to(ra)
    }

    /// Whether the code before `ra` called the bare code at `pc`: by its address; or in another way, and then the frame of
    /// that caller, if it is one, must lead on to a call again. An old return address that lies about on the stack, and in
    /// a frame is nowhere but by chance where the convention of calls puts one, passes neither.
    fn was_called_from(&self, ra: u64, pc: u64) -> bool {
        if WORD_STACK_CALL && self.regs.sp & 15 != 8 {
            return false;
        }
        match self.call_before(ra) {
            Some(CallBefore::To(target)) if target <= pc && pc - target < LONGEST_BARE => {
                self.rule(target).is_none()
            }
            // Through a linkage table, or by a function that jumped on.
            Some(CallBefore::To(_) | CallBefore::Indirect) => self.leads_on(ra),
            _ => false,
        }
    }

    fn leads_on(&self, ra: u64) -> bool {
        let Some(rule) = self.rule(ra.wrapping_sub(1)) else { return false };
        let sp = if WORD_STACK_CALL { self.regs.sp.wrapping_add(8) } else { self.regs.sp };
        let cfa = match rule.kind {
            Kind::Root => return true,
            Kind::Sp => sp.wrapping_add_signed(i64::from(rule.cfa)),
            Kind::Fp => self.regs.fp.wrapping_add_signed(i64::from(rule.cfa)),
            _ => return false,
        };
        let next = self.stack.read(cfa.wrapping_add_signed(i64::from(rule.ra))).map(return_address);
        rule.ra != SAME
            && next.is_some_and(|next| {
                matches!(self.call_before(next), Some(CallBefore::To(_) | CallBefore::Indirect))
            })
    }

    /// The call that the code before `ra` makes; `None` where it may not be read.
    fn call_before(&self, ra: u64) -> Option<CallBefore> {
        self.module(ra).and_then(|module: &Module| module.call_before(ra))
    }

    /// Whether a pair of the frame pointer's may be that of code which keeps one: it leads to a module, whose code may use
    /// the register for anything, or else to such a pair again. A library that was loaded a moment ago, and is in no
    /// snapshot yet, is like code made at run time, and leaves anything in the register.
    fn may_be_frame(&self, caller: u64, ra: u64) -> bool {
        let leads_on =
            caller > self.regs.fp && self.stack.range_of(caller) == self.stack.range_of(self.regs.fp);
        self.may_be_code(ra) && (self.module(ra).is_some() || leads_on || caller == 0)
    }

    /// Whether code may lie at `pc`: not in the first pages, not in the kernel's half, not on the stack.
    fn may_be_code(&self, pc: u64) -> bool {
        (0x1_0000..1 << 48).contains(&pc) && self.stack.range_of(pc).is_none()
    }
}
