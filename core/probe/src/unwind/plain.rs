//! Rules in 27 bits, as the cache of program counters holds them beside the address.
//!
//! Nearly every rule is plain: the CFA a small way from the stack or frame pointer, and the return address and saved
//! registers in the first words below it. A step by such a rule needs one cache line of the unwinder's, and the chain of
//! dependent loads from frame to frame, which is what a warm walk consists of, is one load shorter.

use super::rule::{Kind, PLAIN, Rule, SAME};
use crate::regs::WORD_STACK_CALL;

/// A plain rule: from the lowest bit, where the return address, the base pointer and the frame pointer are, in words
/// below the CFA (five bits each, 0: where they were), how many words the CFA is from the pointer (eleven bits), and
/// whether that is the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain(u32);

/// How many bits a plain rule takes.
pub(super) const PLAIN_BITS: u32 = 27;

const SLOT_BITS: u32 = 5;
const CFA_BITS: u32 = 11;
const CFA_SHIFT: u32 = 3 * SLOT_BITS;

impl Plain {
    /// The short form of `rule`, if it has one.
    pub(super) fn of(rule: &Rule) -> Option<Self> {
        let words = u32::try_from(rule.cfa).ok().filter(|cfa| cfa % 8 == 0).map(|cfa| cfa / 8)?;
        let ra = slot(rule.ra)?;
        if rule.flags != PLAIN || words >= 1 << CFA_BITS || ra == 0 || WORD_STACK_CALL && ra != 1 {
            return None;
        }
        let from_fp = u32::from(rule.kind == Kind::Fp);
        let slots = slot(rule.fp)? << (2 * SLOT_BITS) | slot(rule.base)? << SLOT_BITS | ra;
        Some(Self(from_fp << (CFA_SHIFT + CFA_BITS) | words << CFA_SHIFT | slots))
    }

    /// Back from [`Plain::bits`].
    #[inline]
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Whether the CFA is told from the frame pointer.
    #[inline]
    pub(super) fn is_from_fp(self) -> bool {
        self.0 >> (CFA_SHIFT + CFA_BITS) != 0
    }

    /// How far the CFA is from that pointer, in bytes.
    #[inline]
    pub(super) fn cfa(self) -> u64 {
        u64::from(self.0 >> CFA_SHIFT & ((1 << CFA_BITS) - 1)) * 8
    }

    /// How far below the CFA the return address is, in bytes.
    #[inline]
    pub(super) fn ra(self) -> u64 {
        if WORD_STACK_CALL { 8 } else { self.slot(0) }
    }

    /// How far below the CFA the caller's frame pointer is, in bytes; 0 where it is unchanged.
    #[inline]
    pub(super) fn fp(self) -> u64 {
        self.slot(2)
    }

    /// How far below the CFA the caller's base pointer is, in bytes; 0 where it is unchanged.
    #[inline]
    pub(super) fn base(self) -> u64 {
        self.slot(1)
    }

    #[inline]
    fn slot(self, index: u32) -> u64 {
        u64::from(self.0 >> (index * SLOT_BITS) & ((1 << SLOT_BITS) - 1)) * 8
    }
}

fn slot(offset: i16) -> Option<u32> {
    if offset == SAME {
        return Some(0);
    }
    let below = u32::try_from(-i32::from(offset)).ok()?;
    (below % 8 == 0 && below > 0 && below / 8 < 1 << SLOT_BITS).then_some(below / 8)
}

#[cfg(test)]
mod tests {
    use super::{PLAIN_BITS, Plain};
    use crate::unwind::rule::{Kind, PLAIN, Rule, SAME};

    const RULE: Rule = Rule {
        kind: Kind::Sp,
        register: 0,
        flags: PLAIN,
        ra_register: 0,
        cfa: 16_376,
        ra: -8,
        fp: -16,
        base: -248,
        extra: 0,
    };

    #[test]
    fn the_short_form_says_the_same() {
        for (kind, fp, base) in [(Kind::Sp, -16, -248), (Kind::Fp, SAME, -24), (Kind::Sp, -248, SAME)] {
            let rule = Rule { kind, fp, base, ..RULE };
            let plain = Plain::of(&rule).map(|plain| Plain::from_bits(plain.bits())).into_iter();
            assert_eq!(plain.clone().count(), 1);
            for plain in plain {
                assert_eq!(plain.bits() >> PLAIN_BITS, 0);
                assert_eq!((plain.is_from_fp(), plain.cfa(), plain.ra()), (kind == Kind::Fp, 16_376, 8));
                let offset = |offset: i16| if offset == SAME { 0 } else { u64::from(offset.unsigned_abs()) };
                assert_eq!((plain.fp(), plain.base()), (offset(fp), offset(base)));
            }
        }
    }

    #[test]
    fn what_does_not_fit_has_no_short_form() {
        let others = [
            Rule { flags: 0, ..RULE },
            Rule { cfa: 16_384, ..RULE },
            Rule { cfa: 12, ..RULE },
            Rule { cfa: -8, ..RULE },
            Rule { fp: -256, ..RULE },
            Rule { base: 8, ..RULE },
            Rule { base: -12, ..RULE },
            Rule { ra: SAME, ..RULE },
        ];
        for rule in others {
            assert_eq!(Plain::of(&rule), None, "{rule:?}");
        }
    }
}
