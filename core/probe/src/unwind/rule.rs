//! A row in sixteen bytes, and the one table in which all rows of all modules share them.
//!
//! Functions differ, their frames hardly: a hundred thousand rows have a few thousand different rules. The handler reads
//! rules by index, and the table only ever grows, so an index stays good however many modules come and go.

use super::expression::Place;
use super::page_vec::PageVec;
use super::rows::{Row, Saved};
use crate::regs::{DWARF_BASE, DWARF_FP, DWARF_SP, SIGNAL_FRAME_PC, WORD_STACK_CALL};

/// How the CFA is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    /// Stack pointer + `cfa`.
    Sp,
    /// Frame pointer + `cfa`.
    Fp,
    /// Base pointer + `cfa`.
    Base,
    /// The register `register` + `cfa`: known in interrupted frames only.
    Other,
    /// The word at `register` + `cfa`, plus `extra`.
    Deref,
    /// The word at stack pointer + `cfa` + eight times the register `register`, plus `extra`.
    Indexed,
    /// Stack pointer + `cfa`, and a word more at `extra` bytes or further into an entry of sixteen.
    Plt,
    /// The frame of a signal: every register is in the context that the kernel left.
    Signal,
    /// The outermost frame of a thread.
    Root,
}

/// How to find the caller. Offsets of saved registers are from the CFA unless a flag says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(16))]
pub(super) struct Rule {
    pub(super) kind: Kind,
    pub(super) register: u8,
    pub(super) flags: u8,
    /// Which register holds the return address, where `ra` is [`SAME`].
    pub(super) ra_register: u8,
    pub(super) cfa: i32,
    pub(super) ra: i16,
    pub(super) fp: i16,
    pub(super) base: i16,
    pub(super) extra: i16,
}

/// Instead of an offset: the register is where it was.
pub(super) const SAME: i16 = i16::MIN;
/// `fp` is an offset from the frame pointer, not from the CFA.
pub(super) const FP_FROM_FP: u8 = 1;
/// `base` is an offset from the frame pointer, not from the CFA.
pub(super) const BASE_FROM_FP: u8 = 2;
/// The caller was interrupted here, and did not call.
pub(super) const INTERRUPTED: u8 = 4;

/// Nothing of the above, the CFA from the stack or frame pointer, and the return address in memory: as nearly all rules
/// are. The walk has a shorter way for these (see [`super::plain`]).
pub(super) const PLAIN: u8 = 8;

impl Rule {
    /// The rule that says what `row` says, or `None` where it is one of the few that are not supported. `signal` is the
    /// CIE's mark.
    pub(super) fn of(row: &Row, signal: bool) -> Option<Self> {
        if row.ra == Saved::Undefined {
            return Some(Self { kind: Kind::Root, ..EMPTY });
        }
        let by_kernel = match SIGNAL_FRAME_PC {
            Some(offset) => row.ra == Saved::At(Place::Offset { register: DWARF_SP, offset }),
            None => true,
        };
        if signal && by_kernel {
            return Some(Self { kind: Kind::Signal, ..EMPTY });
        }
        if row.sp != Saved::Same {
            return None;
        }
        let (kind, register, offset, extra) = match row.cfa? {
            Place::Offset { register, offset } => {
                let kind = match register {
                    DWARF_SP => Kind::Sp,
                    DWARF_FP => Kind::Fp,
                    DWARF_BASE => Kind::Base,
                    _ => Kind::Other,
                };
                (kind, register, offset, 0)
            }
            Place::Deref { register, offset, plus } => {
                (Kind::Deref, register, offset, i16::try_from(plus).ok()?)
            }
            Place::Indexed { register: DWARF_SP, offset, index, plus } => {
                (Kind::Indexed, index, offset, i16::try_from(plus).ok()?)
            }
            Place::Indexed { .. } => return None,
            Place::Plt { register: DWARF_SP, offset, threshold } => {
                (Kind::Plt, DWARF_SP, offset, i16::from(threshold))
            }
            Place::Plt { .. } => return None,
        };
        let (ra, ra_register) = match row.ra {
            Saved::Cfa(offset) => (small(offset)?, 0),
            Saved::Register(register) => (SAME, register),
            Saved::Same if !WORD_STACK_CALL => (SAME, crate::regs::DWARF_RA as u8),
            _ => return None,
        };
        let (fp, fp_flag) = saved(row.fp, FP_FROM_FP)?;
        // A base pointer kept elsewhere is missed by the few frames that need it, not by this one.
        let (base, base_flag) = saved(row.base, BASE_FROM_FP).unwrap_or((SAME, 0));
        let mut flags = fp_flag | base_flag | if signal { INTERRUPTED } else { 0 };
        if flags == 0 && matches!(kind, Kind::Sp | Kind::Fp) && ra != SAME {
            flags = PLAIN;
        }
        Some(Self {
            kind,
            register,
            flags,
            ra_register,
            cfa: i32::try_from(offset).ok()?,
            ra,
            fp,
            base,
            extra,
        })
    }

    /// The rule of code whose stack holds `words` above the stack pointer and nothing else, the return address among them
    /// where a call pushes it.
    pub(super) fn of_stub(words: u8) -> Self {
        let (ra, flags) = if WORD_STACK_CALL { (-8, PLAIN) } else { (SAME, 0) };
        let ra_register = crate::regs::DWARF_RA as u8;
        Self { kind: Kind::Sp, cfa: i32::from(words) * 8, ra, ra_register, flags, ..EMPTY }
    }

    fn hash(&self) -> usize {
        let a = u64::from(self.kind as u8) | u64::from(self.register) << 8 | u64::from(self.flags) << 16;
        let b = u64::from(self.ra_register) << 24 | u64::from(self.cfa as u32) << 32;
        let words = [self.ra, self.fp, self.base, self.extra].map(|word| u64::from(word as u16));
        let c = words.iter().fold(0, |folded, word| folded << 16 | word);
        let mixed = ((a | b).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ c).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 40) as usize
    }
}

const EMPTY: Rule = Rule {
    kind: Kind::Root,
    register: 0,
    flags: 0,
    ra_register: 0,
    cfa: 0,
    ra: SAME,
    fp: SAME,
    base: SAME,
    extra: 0,
};

fn small(offset: i64) -> Option<i16> {
    i16::try_from(offset).ok().filter(|&offset| offset != SAME)
}

fn saved(saved: Saved, from_fp: u8) -> Option<(i16, u8)> {
    match saved {
        Saved::Same | Saved::Undefined => Some((SAME, 0)),
        Saved::Cfa(offset) => Some((small(offset)?, 0)),
        Saved::At(Place::Offset { register: DWARF_FP, offset }) => Some((small(offset)?, from_fp)),
        _ => None,
    }
}

/// An index into [`Rules`]; [`NO_RULE`] says that there is none.
pub(super) type RuleId = u16;

/// Code that no call-frame information describes.
pub(super) const NO_RULE: RuleId = 0;

/// All rules, each once.
#[derive(Debug)]
pub(super) struct Rules {
    rules: PageVec<Rule>,
    // Open addressing: indices into `rules`, 0 where free.
    slots: PageVec<RuleId>,
}

/// Far more rules than the largest programs have, and few enough for a hash table of twice as many slots to be short.
const MOST_RULES: usize = 32_768;
const SLOTS: usize = 65_536;

impl Rules {
    pub(super) fn new() -> Option<Self> {
        let mut rules = PageVec::with_capacity(MOST_RULES)?;
        rules.push(EMPTY);
        // SAFETY: zero is a number.
        Some(Self { rules, slots: unsafe { PageVec::zeroed(SLOTS)? } })
    }

    /// The first rule in memory; it never moves.
    pub(super) fn start(&self) -> *const Rule {
        self.rules.as_slice().as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.rules.as_slice().len()
    }

    /// The index of `rule`, which is added if it is new; [`NO_RULE`] once the table is full.
    pub(super) fn intern(&mut self, rule: Rule) -> RuleId {
        let mut slot = rule.hash();
        loop {
            slot %= SLOTS;
            let Some(id) = self.slots.as_mut_slice().get_mut(slot) else { return NO_RULE };
            if *id == NO_RULE {
                let next = self.rules.as_slice().len();
                if !self.rules.push(rule) {
                    return NO_RULE;
                }
                *id = next as RuleId;
                return *id;
            }
            if self.rules.as_slice().get(usize::from(*id)) == Some(&rule) {
                return *id;
            }
            slot += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::{EMPTY, Kind, Rule, Rules};

    #[test]
    fn equal_rules_share_an_index() {
        let mut rules = Rules::new().unwrap();
        let rule = |cfa| Rule { kind: Kind::Sp, cfa, ra: -8, ..EMPTY };
        let ids: Vec<_> = (0..5000).map(|cfa| rules.intern(rule(cfa))).collect();
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert_eq!(rules.intern(rule(77)), ids[77]);
        assert_eq!(rules.len(), 5001);
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        let mut rules = Rules::new().unwrap();
        let rule = |cfa| Rule { kind: Kind::Fp, cfa, ra: -8, ..EMPTY };
        let last = (0..40_000).map(|cfa| rules.intern(rule(cfa))).last();
        assert_eq!(last, Some(super::NO_RULE));
        assert_eq!(rules.intern(rule(0)), 1);
    }
}
