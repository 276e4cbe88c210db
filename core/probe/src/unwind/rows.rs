//! The interpreter of call-frame instructions: turns one FDE into rows, each saying from which address on the caller is
//! found how.
//!
//! It follows only the registers that a walk carries (see [`crate::regs`]); the rest are read over. Off the handler.

use super::cfi::{Cie, Fde};
use super::expression::{Place, evaluate};
use super::reader::Reader;
use crate::regs::{DWARF_BASE, DWARF_FP, DWARF_RA, DWARF_SP};

/// Where a caller's register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Where it was: the function has not changed it.
    Same,
    /// Nowhere. For the return address: there is no caller.
    Undefined,
    /// In memory, this far from the canonical frame address.
    Cfa(i64),
    /// In memory, at a place of its own.
    At(Place),
    /// In another register.
    Register(u8),
    /// Told in a way that is not followed.
    Unknown,
}

/// How to find the caller from one stretch of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The canonical frame address: the stack pointer after the return. `None` where it is told in a way that is not
    /// followed.
    pub(super) cfa: Option<Place>,
    pub(super) ra: Saved,
    pub(super) fp: Saved,
    pub(super) base: Saved,
    /// `Same` wherever the stack pointer is the CFA, as everywhere but in `longjmp` and its kind.
    pub(super) sp: Saved,
}

const NOTHING: Row = Row { cfa: None, ra: Saved::Same, fp: Saved::Same, base: Saved::Same, sp: Saved::Same };

impl Row {
    /// All that it says in one word, which is not 0, where it says nothing unusual: the CFA from a register, the return
    /// address and the others at small distances below it. `None` for the few rows that say more.
    pub(super) fn short(&self) -> Option<u64> {
        let Some(Place::Offset { register, offset }) = self.cfa else { return None };
        let (Saved::Cfa(ra), Saved::Same) = (self.ra, self.sp) else { return None };
        let small = |offset: i64| i16::try_from(offset).ok().filter(|offset| *offset != i16::MIN);
        let bits = |offset: i64| small(offset).map(|offset| u64::from(offset as u16));
        let of = |saved: Saved| match saved {
            Saved::Same => Some(u64::from(i16::MIN as u16)),
            Saved::Cfa(offset) => bits(offset),
            _ => None,
        };
        // One bit, so that no row is 0; the return address is in words of eight bytes.
        let ra = i8::try_from(ra / 8).ok().filter(|words| i64::from(*words) * 8 == ra)?;
        let register = 0x80 | Some(register).filter(|register| *register < 0x80)?;
        let low = u64::from(register) | u64::from(ra as u8) << 8 | bits(offset)? << 16;
        Some(low | of(self.fp)? << 32 | of(self.base)? << 48)
    }
}

/// Runs the instructions and hands every row to `emit`, with the address that it starts at, in rising order. Says
/// false where the instructions break off in something unknown; the rows before that are right.
pub(super) fn run(cie: &Cie<'_>, fde: &Fde<'_>, mut emit: impl FnMut(u64, &Row)) -> bool {
    let mut machine = Machine { row: NOTHING, initial: NOTHING, remembered: [NOTHING; DEPTH], depth: 0 };
    let mut location = fde.start;
    let started = machine.execute(cie, cie.instructions, |_, _| false);
    machine.initial = machine.row;
    let finished = started.is_some()
        && machine
            .execute(cie, fde.instructions, |row, distance| {
                if distance > 0 {
                    emit(location, row);
                    location = location.saturating_add(distance);
                }
                location < fde.end
            })
            .is_some();
    if location < fde.end {
        emit(location, if finished { &machine.row } else { &NOTHING });
    }
    finished
}

/// States that can be remembered at once; compilers nest one deep, rarely two.
const DEPTH: usize = 8;

struct Machine {
    row: Row,
    initial: Row,
    remembered: [Row; DEPTH],
    depth: usize,
}

impl Machine {
    /// Calls `advance` with each row that is complete and how many bytes of code it spans; it says whether to go on.
    fn execute(
        &mut self,
        cie: &Cie<'_>,
        code: &[u8],
        mut advance: impl FnMut(&Row, u64) -> bool,
    ) -> Option<()> {
        let mut reader = Reader::new(code);
        while let Some(instruction) = reader.u8() {
            let low = u64::from(instruction & 0x3f);
            let units = match instruction {
                0x40..=0x7f => low,
                0x80..=0xbf => {
                    let offset = factored(cie, i64::try_from(reader.uleb()?).ok()?)?;
                    self.set(low, Saved::Cfa(offset));
                    continue;
                }
                0xc0..=0xff => {
                    self.restore(low);
                    continue;
                }
                ADVANCE_1 => u64::from(reader.u8()?),
                ADVANCE_2 => u64::from(reader.u16()?),
                ADVANCE_4 => u64::from(reader.u32()?),
                _ => {
                    self.change(cie, instruction, &mut reader)?;
                    continue;
                }
            };
            if !advance(&self.row, units.checked_mul(cie.code_alignment)?) {
                return Some(());
            }
        }
        Some(())
    }

    fn change(&mut self, cie: &Cie<'_>, instruction: u8, reader: &mut Reader<'_>) -> Option<()> {
        match instruction {
            NOP | NEGATE_RA_STATE => {}
            OFFSET_EXTENDED => {
                let register = reader.uleb()?;
                self.set(register, Saved::Cfa(factored(cie, i64::try_from(reader.uleb()?).ok()?)?));
            }
            OFFSET_EXTENDED_SF => {
                let register = reader.uleb()?;
                self.set(register, Saved::Cfa(factored(cie, reader.sleb()?)?));
            }
            NEGATIVE_OFFSET_EXTENDED => {
                let register = reader.uleb()?;
                let offset = factored(cie, i64::try_from(reader.uleb()?).ok()?)?;
                self.set(register, Saved::Cfa(offset.checked_neg()?));
            }
            RESTORE_EXTENDED => self.restore(reader.uleb()?),
            UNDEFINED => self.set(reader.uleb()?, Saved::Undefined),
            SAME_VALUE => self.set(reader.uleb()?, Saved::Same),
            REGISTER => {
                let register = reader.uleb()?;
                let holder = reader.uleb()?;
                self.set(register, u8::try_from(holder).map_or(Saved::Unknown, Saved::Register));
            }
            VALUE_OFFSET => {
                let register = reader.uleb()?;
                reader.uleb()?;
                self.set(register, Saved::Unknown);
            }
            VALUE_OFFSET_SF => {
                let register = reader.uleb()?;
                reader.sleb()?;
                self.set(register, Saved::Unknown);
            }
            EXPRESSION => {
                let register = reader.uleb()?;
                let place = evaluate(block(reader)?, PROGRAM_COUNTER);
                self.set(register, place.map_or(Saved::Unknown, Saved::At));
            }
            VALUE_EXPRESSION => {
                let register = reader.uleb()?;
                block(reader)?;
                self.set(register, Saved::Unknown);
            }
            REMEMBER_STATE => {
                *self.remembered.get_mut(self.depth)? = self.row;
                self.depth += 1;
            }
            RESTORE_STATE => {
                self.depth = self.depth.checked_sub(1)?;
                self.row = *self.remembered.get(self.depth)?;
            }
            DEF_CFA => {
                let register = reader.uleb()?;
                self.row.cfa = offset_from(register, i64::try_from(reader.uleb()?).ok()?);
            }
            DEF_CFA_SF => {
                let register = reader.uleb()?;
                self.row.cfa = offset_from(register, factored(cie, reader.sleb()?)?);
            }
            DEF_CFA_REGISTER => {
                let register = reader.uleb()?;
                let Some(Place::Offset { offset, .. }) = self.row.cfa else { return None };
                self.row.cfa = offset_from(register, offset);
            }
            DEF_CFA_OFFSET => self.move_cfa(i64::try_from(reader.uleb()?).ok()?)?,
            DEF_CFA_OFFSET_SF => self.move_cfa(factored(cie, reader.sleb()?)?)?,
            DEF_CFA_EXPRESSION => self.row.cfa = evaluate(block(reader)?, PROGRAM_COUNTER),
            ARGS_SIZE => _ = reader.uleb()?,
            _ => return None,
        }
        Some(())
    }

    fn move_cfa(&mut self, to: i64) -> Option<()> {
        let Some(Place::Offset { offset, .. }) = &mut self.row.cfa else { return None };
        *offset = to;
        Some(())
    }

    fn set(&mut self, register: u64, saved: Saved) {
        if let Some(place) = Self::place(&mut self.row, register) {
            *place = saved;
        }
    }

    fn restore(&mut self, register: u64) {
        if let Some(&mut initial) = Self::place(&mut self.initial, register) {
            self.set(register, initial);
        }
    }

    fn place(row: &mut Row, register: u64) -> Option<&mut Saved> {
        if register == DWARF_RA {
            return Some(&mut row.ra);
        }
        match u8::try_from(register).ok()? {
            DWARF_FP => Some(&mut row.fp),
            DWARF_BASE => Some(&mut row.base),
            DWARF_SP => Some(&mut row.sp),
            _ => None,
        }
    }
}

fn factored(cie: &Cie<'_>, offset: i64) -> Option<i64> {
    offset.checked_mul(cie.data_alignment)
}

fn offset_from(register: u64, offset: i64) -> Option<Place> {
    Some(Place::Offset { register: u8::try_from(register).ok()?, offset })
}

fn block<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = usize::try_from(reader.uleb()?).ok()?;
    reader.take(len)
}

/// The number that expressions call the program counter by.
const PROGRAM_COUNTER: u8 = DWARF_RA as u8;

const NOP: u8 = 0x00;
const ADVANCE_1: u8 = 0x02;
const ADVANCE_2: u8 = 0x03;
const ADVANCE_4: u8 = 0x04;
const OFFSET_EXTENDED: u8 = 0x05;
const RESTORE_EXTENDED: u8 = 0x06;
const UNDEFINED: u8 = 0x07;
const SAME_VALUE: u8 = 0x08;
const REGISTER: u8 = 0x09;
const REMEMBER_STATE: u8 = 0x0a;
const RESTORE_STATE: u8 = 0x0b;
const DEF_CFA: u8 = 0x0c;
const DEF_CFA_REGISTER: u8 = 0x0d;
const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
const EXPRESSION: u8 = 0x10;
const OFFSET_EXTENDED_SF: u8 = 0x11;
const DEF_CFA_SF: u8 = 0x12;
const DEF_CFA_OFFSET_SF: u8 = 0x13;
const VALUE_OFFSET: u8 = 0x14;
const VALUE_OFFSET_SF: u8 = 0x15;
const VALUE_EXPRESSION: u8 = 0x16;
/// On aarch64 the return address is signed from here on, or no longer: addresses lose their signature in any case.
const NEGATE_RA_STATE: u8 = 0x2d;
const ARGS_SIZE: u8 = 0x2e;
const NEGATIVE_OFFSET_EXTENDED: u8 = 0x2f;
