//! Walks between a change of the loader's and the refresh that follows it: up to half a second in which a library may lie
//! where another one lay before, and is walked by the tables of that one. Async-signal-safe, as the rest of a walk.
//!
//! What the program was started with is never unloaded, and its tables stay right. Of other modules nothing is certain
//! once anything was unloaded. A step out of one is marked as a gap in the stack, so that the walk ends as
//! [`End::Doubtful`] at best, and is taken only where it leads into a module again; into one that stays, only to where a
//! call was made. Not to go on at all would lose the way to the root of every stack through a plug-in for half a second
//! whenever another is closed, though nearly all of them are what they were.

use super::frames::Frames;
use super::rule::Rule;
use super::snapshot;
use super::walk::{End, Walker};
use crate::os::loader::Change;
use crate::regs::CallBefore;

impl Walker<'_> {
    /// Whether the code at `pc` may be of another object than its table.
    #[cold]
    #[inline(never)]
    pub(super) fn may_be_replaced(&self, pc: u64) -> bool {
        self.change == Change::Unloaded && self.module(pc).is_some_and(|module| !module.stays())
    }

    /// Goes from the frame at `pc`, in such code, to its caller.
    #[cold]
    #[inline(never)]
    pub(super) fn in_replaced_module(
        &mut self,
        pc: u64,
        rule: Option<&Rule>,
        out: &mut Frames<'_>,
    ) -> Result<(), End> {
        snapshot::want();
        self.doubt(out);
        match rule {
            Some(rule) => self.apply(rule)?,
            None => self.without_rule(pc, out)?,
        }
        let module = self.module(self.regs.pc).ok_or(End::Lost)?;
        if module.stays() && !self.exact && module.call_before(self.regs.pc) == Some(CallBefore::None) {
            return Err(End::Lost);
        }
        Ok(())
    }
}
