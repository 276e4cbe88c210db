//! The walk from an instruction to the root of its stack, inside the handler.
//!
//! Frame by frame: a source may claim it; or a rule of the module's table says where the caller is; or, where there is
//! no call-frame information, what can be known without (see `bare`). Where the loader has been at work since the
//! modules were looked at, its tables are not taken for granted (see `changed`). Async-signal-safe: no allocation, lock
//! or system call; reads only what [`StackMemory`] vouches for; at most [`MOST_FRAMES`] steps.

use super::frames::Frames;
use super::inflight;
use super::later::Stop;
use super::rule::{BASE_FROM_FP, FP_FROM_FP, INTERRUPTED, Kind, Rule, SAME};
use super::snapshot::{self, Module, Snapshot};
use super::source::{Sources, Step};
use super::trail::Trail;
use crate::memory::StackMemory;
use crate::os::loader::Change;
use crate::regs::{DWARF_BASE, DWARF_FP, DWARF_SP, Regs, return_address, thread_pointer};

/// Frames that a walk visits before it gives up: a bound on its time, about a third of a millisecond.
pub const MOST_FRAMES: usize = 20_000;

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// At the outermost frame of the thread.
    Root,
    /// There as well, but on the way is code without call-frame information, past which the frame pointer led. It may have
    /// led past callers too, so the stack has a mark there that frames may be missing. Or there is code of a library in
    /// the place of one that was just unloaded, whose tables led on.
    Doubtful,
    /// After [`MOST_FRAMES`] frames, with more to come.
    Truncated,
    /// At a frame whose caller could not be found.
    Lost,
}

/// What came of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// How it ended.
    pub end: End,
    /// Which state of the modules the addresses are of: that of the tables used, as [`super::generation`] counts, or the
    /// next one where the loader has changed something since.
    pub generation: u32,
    /// Where it met code whose table is not there yet: see [`super::later`].
    pub stop: Option<Stop>,
}

/// Walks the stack of the calling thread from `regs`, and puts its frames into `out`. Where it does not end at the root,
/// the stack is closed with a mark that frames are missing there.
///
/// `stack` must hold the ranges that frames may lie in: the thread's stack, and its alternate signal stack where one is
/// in use.
pub fn walk(regs: &Regs, stack: &StackMemory, out: &mut Frames<'_>) -> End {
    walk_along(&mut Trail::default(), regs, stack, out).end
}

/// As [`walk`], and sooner where much of the stack is what it was when the last walk left `trail`.
pub fn walk_along(trail: &mut Trail<'_>, regs: &Regs, stack: &StackMemory, out: &mut Frames<'_>) -> Walked {
    walk_entered(&inflight::enter(thread_pointer()), trail, regs, stack, out)
}

/// As [`walk_along`], for who has said that it begins.
pub(crate) fn walk_entered(
    entered: &inflight::Entered,
    trail: &mut Trail<'_>,
    regs: &Regs,
    stack: &StackMemory,
    out: &mut Frames<'_>,
) -> Walked {
    let mut walker = Walker::new(regs, stack, snapshot::current(entered));
    let mut generation = snapshot::generation();
    if let Some(snapshot) = walker.snapshot {
        snapshot.prefetch_change();
        trail.fetch(snapshot);
        walker.change = snapshot.change();
        generation = snapshot.generation().wrapping_add(u32::from(walker.is_changed()));
    }
    let mut end = if Sources::any() { walker.with_sources(trail, out) } else { walker.whole(trail, out) };
    trail.end();
    if end == End::Root && walker.doubtful {
        end = End::Doubtful;
    }
    // Where the frames are not in order, those before the stop are not what they were; and frames of sources are for the thread
    // itself to tell.
    let is_kept = end != End::Root && out.ordered().is_some() && !Sources::any();
    let stop = walker.stop.filter(|_| is_kept);
    Walked { end, generation, stop }
}

/// Walks on from where a walk has stopped. Also returns whether it has again met code whose table is not there. Off the handler.
pub(super) fn walk_on(stop: &Stop, stack: &StackMemory, out: &mut Frames<'_>) -> (End, bool) {
    let mut regs = Regs::waiting(stop.pc, stop.sp);
    (regs.fp, regs.base) = (stop.fp, stop.base);
    let entered = inflight::enter(thread_pointer());
    let mut walker = Walker::new(&regs, stack, snapshot::current(&entered));
    (walker.exact, walker.known) = (stop.exact, false);
    if let Some(snapshot) = walker.snapshot {
        walker.change = snapshot.change();
    }
    let end = walker.native(&mut Trail::default(), out);
    if end != End::Root {
        out.push_missing(0);
    }
    (end, walker.stop.is_some())
}

/// What sources remember of another thread: see [`walk_waiting`].
pub(crate) struct Remembered(Sources);

/// Asks the sources what thread `tid` is doing. Off the handler; `None` where none of them knows.
pub(crate) fn remember(tid: u32) -> Option<Remembered> {
    Sources::remember(tid).map(Remembered)
}

impl Remembered {
    /// The label set that a source has in force on that thread; `None` where none knows.
    pub(crate) fn labels(&self) -> Option<u32> {
        self.0.labels_remembered()
    }
}

/// Walks the stack of another thread, which waits, off the handler. Of `regs` only the program counter, the stack pointer
/// and the frame pointer hold, so a caller that hangs on another register ends the walk. Sources tell what they `remembered`
/// of the thread: where one that did not owns a frame, its frames are marked as missing. Also returns whether
/// there were such, and the stack pointer of the last frame: up to there the stack was read.
pub(crate) fn walk_waiting(
    regs: &Regs,
    stack: &StackMemory,
    mut remembered: Option<Remembered>,
    out: &mut Frames<'_>,
) -> (End, bool, u64) {
    let entered = inflight::enter(thread_pointer());
    let mut walker = Walker::new(regs, stack, snapshot::current(&entered));
    walker.known = false;
    if let Some(snapshot) = walker.snapshot {
        walker.change = snapshot.change();
    }
    let (mut end, owned) = if Sources::any() {
        walker.past_sources(remembered.as_mut(), out)
    } else {
        (walker.native(&mut Trail::default(), out), false)
    };
    mark(end, out);
    if let Some(Remembered(sources)) = &mut remembered {
        sources.end_remembered(stack, out);
    }
    if end == End::Root && (walker.doubtful || owned) {
        end = End::Doubtful;
    }
    (end, owned, walker.regs.sp)
}

/// Says that frames are missing where a walk has ended before the root.
#[inline]
fn mark(end: End, out: &mut Frames<'_>) {
    if end != End::Root {
        out.push_missing(0);
    }
}

pub(super) struct Walker<'a> {
    pub(super) regs: Regs,
    /// The program counter is the next instruction, not a return address.
    pub(super) exact: bool,
    /// Every register is that of the frame, not just those that are carried.
    pub(super) known: bool,
    /// A step may have left out frames, and was marked.
    pub(super) doubtful: bool,
    /// The first frame whose code may have a table later.
    pub(super) stop: Option<Stop>,
    /// What the loader has done since the snapshot was made.
    pub(super) change: Change,
    pub(super) stack: &'a StackMemory,
    pub(super) snapshot: Option<&'a Snapshot>,
}

impl<'a> Walker<'a> {
    fn new(regs: &Regs, stack: &'a StackMemory, snapshot: Option<&'a Snapshot>) -> Self {
        Self {
            regs: *regs,
            exact: true,
            known: true,
            doubtful: false,
            stop: None,
            change: Change::Nothing,
            stack,
            snapshot,
        }
    }

    /// The walk of a process without sources.
    fn native(&mut self, trail: &mut Trail<'_>, out: &mut Frames<'_>) -> End {
        let mut left = MOST_FRAMES;
        while left > 0 {
            if let Some(snapshot) = self.snapshot
                && !self.is_changed()
            {
                left = self.plain(snapshot, left, |pc, cfa| {
                    out.push_native(pc);
                    trail.note(pc, cfa);
                });
            }
            let pc = self.pc();
            let rule = self.rule(pc);
            out.push_native(self.place(pc, rule));
            left = left.saturating_sub(1);
            if let Err(end) = self.advance(pc, rule, out) {
                return end;
            }
        }
        End::Truncated
    }

    /// Goes as far as plain rules lead, which is most of the way, and hands every frame to `record`; what moves from frame
    /// to frame stays in registers. Returns how many frames of `left` may follow.
    #[inline]
    fn plain(&mut self, snapshot: &Snapshot, mut left: usize, mut record: impl FnMut(u64, u64)) -> usize {
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
            record(pc, cfa);
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

    /// The same, closed with a mark where it does not end at the root.
    #[inline]
    fn whole(&mut self, trail: &mut Trail<'_>, out: &mut Frames<'_>) -> End {
        let end = self.native(trail, out);
        mark(end, out);
        end
    }

    /// Apart, because what sources remember takes stack, of which a handler may have little.
    #[cold]
    #[inline(never)]
    fn with_sources(&mut self, trail: &mut Trail<'_>, out: &mut Frames<'_>) -> End {
        let Some(mut sources) = Sources::begin(&self.regs) else { return self.whole(trail, out) };
        let end = self.mixed(&mut sources, out);
        mark(end, out);
        sources.end(self.stack, out);
        end
    }

    fn mixed(&mut self, sources: &mut Sources, out: &mut Frames<'_>) -> End {
        for _ in 0..MOST_FRAMES {
            let pc = self.pc();
            match sources.step(pc, &mut self.regs, self.stack, out) {
                None | Some(Step::Native) => out.push_native(self.place_of(pc)),
                Some(Step::Hidden) => {}
                Some(Step::End) => return End::Root,
                Some(Step::Moved) => {
                    if let Err(end) = self.return_to(self.regs.pc) {
                        return end;
                    }
                    continue;
                }
            }
            let sure = self.snapshot.filter(|_| !self.is_changed());
            let went = sure.is_some_and(|snapshot| self.plain(snapshot, 1, |_, _| ()) == 0);
            if !went && let Err(end) = self.advance(pc, self.rule(pc), out) {
                return end;
            }
        }
        End::Truncated
    }

    /// The walk of another thread where there are sources.
    fn past_sources(&mut self, mut remembered: Option<&mut Remembered>, out: &mut Frames<'_>) -> (End, bool) {
        let mut owned = false;
        for _ in 0..MOST_FRAMES {
            let pc = self.pc();
            let told = remembered
                .as_mut()
                .and_then(|Remembered(sources)| sources.step_remembered(pc, &self.regs, self.stack, out));
            if told.is_none() && Sources::own(pc) {
                out.push_missing(0);
                owned = true;
            }
            if told != Some(true) {
                out.push_native(self.place_of(pc));
            }
            let sure = self.snapshot.filter(|_| !self.is_changed());
            let went = sure.is_some_and(|snapshot| self.plain(snapshot, 1, |_, _| ()) == 0);
            if !went && let Err(end) = self.advance(pc, self.rule(pc), out) {
                return (end, owned);
            }
        }
        (End::Truncated, owned)
    }

    /// A point inside the frame's current instruction.
    #[inline]
    fn pc(&self) -> u64 {
        if self.exact { self.regs.pc } else { self.regs.pc.wrapping_sub(1) }
    }

    pub(super) fn rule(&self, pc: u64) -> Option<&'a Rule> {
        self.snapshot.and_then(|snapshot| snapshot.rule(pc))
    }

    /// As [`Walker::place`], by the cache where that tells: a plain rule is none of a place that nobody called from, and to look for
    /// the rule itself takes longer than all else of a step.
    #[inline]
    fn place_of(&self, pc: u64) -> u64 {
        let is_plain = self.snapshot.is_some_and(|snapshot| snapshot.plain(pc).is_some());
        if is_plain { pc } else { self.place(pc, self.rule(pc)) }
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

    /// Goes from the frame at `pc` to its caller, by a rule that is not plain or by none.
    #[inline]
    fn advance(&mut self, pc: u64, rule: Option<&Rule>, out: &mut Frames<'_>) -> Result<(), End> {
        match rule {
            _ if self.is_changed() && self.may_be_replaced(pc) => self.in_replaced_module(pc, rule, out),
            Some(rule) => self.apply(rule),
            None => self.without_rule(pc, out),
        }
    }

    #[inline]
    pub(super) fn is_changed(&self) -> bool {
        self.change != Change::Nothing
    }

    #[inline]
    pub(super) fn apply(&mut self, rule: &Rule) -> Result<(), End> {
        let offset = i64::from(rule.cfa);
        let cfa = match rule.kind {
            Kind::Sp => self.regs.sp.wrapping_add_signed(offset),
            Kind::Fp => self.regs.fp.wrapping_add_signed(offset),
            Kind::Base => self.regs.base.wrapping_add_signed(offset),
            Kind::Root => return Err(End::Root),
            Kind::Signal => return self.resume_interrupted(),
            Kind::Other | Kind::Deref | Kind::Indexed | Kind::Plt => self.unusual_cfa(rule)?,
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
    pub(super) fn return_to(&mut self, pc: u64) -> Result<(), End> {
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
    pub(super) fn register(&self, number: u8) -> Result<u64, End> {
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
            Kind::Indexed => {
                let index = self.register(rule.register)?;
                let element = self.regs.sp.wrapping_add_signed(i64::from(rule.cfa)).wrapping_add(index << 3);
                let word = self.stack.read(element).ok_or(End::Lost)?;
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
    pub(super) fn resume_interrupted(&mut self) -> Result<(), End> {
        let stack = self.stack;
        self.regs.resume(|address| stack.read(address)).ok_or(End::Lost)?;
        self.exact = true;
        self.known = true;
        Ok(())
    }

    pub(super) fn module(&self, pc: u64) -> Option<&'a Module> {
        self.snapshot.and_then(|snapshot| snapshot.module(pc))
    }
}
