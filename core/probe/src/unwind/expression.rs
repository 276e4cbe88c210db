//! The few DWARF expressions that compilers and assemblers write into call-frame information.
//!
//! A general evaluator in the handler would be a loop over bytes of another module; instead the expression is evaluated
//! once, symbolically, when the table is built, and must come out as one of the forms of [`Place`]. What does not is
//! refused, and counted as an unsupported row.

use super::reader::Reader;

/// What an expression computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A register plus an offset.
    Offset { register: u8, offset: i64 },
    /// The word at a register plus an offset, plus a constant: a frame that was realigned.
    Deref { register: u8, offset: i64, plus: i64 },
    /// The word at a register plus an offset plus eight times another register, plus a constant: assembly that keeps the
    /// caller's stack pointer behind a scratch area of variable length.
    Indexed { register: u8, offset: i64, index: u8, plus: i64 },
    /// An entry of a procedure linkage table: a register plus an offset, and a word more once the program counter is at
    /// `threshold` or further in its sixteen bytes.
    Plt { register: u8, offset: i64, threshold: u8 },
}

/// Evaluates `expression`, which starts with an empty stack.
pub(super) fn evaluate(expression: &[u8], program_counter: u8) -> Option<Place> {
    let mut reader = Reader::new(expression);
    let mut stack = Stack { values: [Value::Constant(0); 4], len: 0 };
    while let Some(operation) = reader.u8() {
        let value = match operation {
            OP_DEREF => match stack.pop()? {
                Value::Place(Place::Offset { register, offset }) => {
                    Value::Place(Place::Deref { register, offset, plus: 0 })
                }
                Value::Element { register, offset, index } => {
                    Value::Place(Place::Indexed { register, offset, index, plus: 0 })
                }
                _ => return None,
            },
            OP_CONST1U => Value::Constant(i64::from(reader.u8()?)),
            OP_CONST1S => Value::Constant(i64::from(reader.u8()? as i8)),
            OP_CONST2U => Value::Constant(i64::from(reader.u16()?)),
            OP_CONST2S => Value::Constant(i64::from(reader.u16()? as i16)),
            OP_CONSTU => Value::Constant(i64::try_from(reader.uleb()?).ok()?),
            OP_CONSTS => Value::Constant(reader.sleb()?),
            OP_PLUS_UCONST => add(stack.pop()?, i64::try_from(reader.uleb()?).ok()?)?,
            OP_LIT0..=OP_LIT31 => Value::Constant(i64::from(operation - OP_LIT0)),
            OP_BREG0..=OP_BREG31 => register(operation - OP_BREG0, reader.sleb()?, program_counter),
            OP_BREGX => register(u8::try_from(reader.uleb()?).ok()?, reader.sleb()?, program_counter),
            OP_AND | OP_PLUS | OP_MINUS | OP_MUL | OP_GE | OP_SHL => {
                let right = stack.pop()?;
                binary(operation, stack.pop()?, right)?
            }
            OP_NOP => continue,
            _ => return None,
        };
        stack.push(value)?;
    }
    match stack.pop()? {
        Value::Place(place) => Some(place),
        _ => None,
    }
}

const OP_DEREF: u8 = 0x06;
const OP_CONST1U: u8 = 0x08;
const OP_CONST1S: u8 = 0x09;
const OP_CONST2U: u8 = 0x0a;
const OP_CONST2S: u8 = 0x0b;
const OP_CONSTU: u8 = 0x10;
const OP_CONSTS: u8 = 0x11;
const OP_AND: u8 = 0x1a;
const OP_MINUS: u8 = 0x1c;
const OP_MUL: u8 = 0x1e;
const OP_PLUS: u8 = 0x22;
const OP_PLUS_UCONST: u8 = 0x23;
const OP_SHL: u8 = 0x24;
const OP_GE: u8 = 0x2a;
const OP_LIT0: u8 = 0x30;
const OP_LIT31: u8 = 0x4f;
const OP_BREG0: u8 = 0x70;
const OP_BREG31: u8 = 0x8f;
const OP_BREGX: u8 = 0x92;
const OP_NOP: u8 = 0x96;

/// The linkage table's entries are sixteen bytes long, and what they push is one word.
const PLT_MASK: i64 = 15;
const PLT_SHIFT: i64 = 3;

#[derive(Clone, Copy)]
enum Value {
    Constant(i64),
    Place(Place),
    /// Eight times a register, and the address of such an element.
    Scaled(u8),
    Element {
        register: u8,
        offset: i64,
        index: u8,
    },
    /// The program counter, and the steps of the linkage table's computation on it.
    ProgramCounter,
    PltOffset,
    PltReached(u8),
    PltPushed(u8),
}

struct Stack {
    values: [Value; 4],
    len: usize,
}

impl Stack {
    fn push(&mut self, value: Value) -> Option<()> {
        *self.values.get_mut(self.len)? = value;
        self.len += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<Value> {
        self.len = self.len.checked_sub(1)?;
        self.values.get(self.len).copied()
    }
}

fn register(register: u8, offset: i64, program_counter: u8) -> Value {
    if register == program_counter && offset == 0 {
        Value::ProgramCounter
    } else {
        Value::Place(Place::Offset { register, offset })
    }
}

fn binary(operation: u8, left: Value, right: Value) -> Option<Value> {
    match (operation, left, right) {
        (OP_PLUS, place, Value::Constant(constant)) | (OP_PLUS, Value::Constant(constant), place) => {
            add(place, constant)
        }
        (OP_MUL, Value::Place(Place::Offset { register, offset: 0 }), Value::Constant(8)) => {
            Some(Value::Scaled(register))
        }
        (OP_PLUS, Value::Place(Place::Offset { register, offset }), Value::Scaled(index)) => {
            Some(Value::Element { register, offset, index })
        }
        (OP_MINUS, place, Value::Constant(constant)) => add(place, constant.checked_neg()?),
        (OP_AND, Value::ProgramCounter, Value::Constant(PLT_MASK)) => Some(Value::PltOffset),
        (OP_GE, Value::PltOffset, Value::Constant(threshold @ 0..=PLT_MASK)) => {
            Some(Value::PltReached(threshold as u8))
        }
        (OP_SHL, Value::PltReached(threshold), Value::Constant(PLT_SHIFT)) => {
            Some(Value::PltPushed(threshold))
        }
        (OP_PLUS, Value::Place(Place::Offset { register, offset }), Value::PltPushed(threshold)) => {
            Some(Value::Place(Place::Plt { register, offset, threshold }))
        }
        _ => None,
    }
}

fn add(value: Value, constant: i64) -> Option<Value> {
    Some(match value {
        Value::Constant(value) => Value::Constant(value.checked_add(constant)?),
        Value::Place(Place::Offset { register, offset }) => {
            Value::Place(Place::Offset { register, offset: offset.checked_add(constant)? })
        }
        Value::Place(Place::Deref { register, offset, plus }) => {
            Value::Place(Place::Deref { register, offset, plus: plus.checked_add(constant)? })
        }
        Value::Place(Place::Indexed { register, offset, index, plus }) => {
            Value::Place(Place::Indexed { register, offset, index, plus: plus.checked_add(constant)? })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Place, evaluate};

    #[test]
    fn the_forms_that_occur() {
        // The linkage table of the linker: breg7 8; breg16 0; lit15; and; lit11; ge; lit3; shl; plus.
        let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        assert_eq!(evaluate(&plt, 16), Some(Place::Plt { register: 7, offset: 8, threshold: 11 }));
        // A realigned frame: breg6 -8; deref.
        assert_eq!(evaluate(&[0x76, 0x78, 6], 16), Some(Place::Deref { register: 6, offset: -8, plus: 0 }));
        // Hand-written assembly: breg7 40; deref; plus_uconst 8.
        assert_eq!(
            evaluate(&[0x77, 40, 6, 0x23, 8], 16),
            Some(Place::Deref { register: 7, offset: 40, plus: 8 })
        );
        // A multiplication by Montgomery: breg7 8; breg9 0; lit8; mul; plus; deref; plus_uconst 8.
        assert_eq!(
            evaluate(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 6, 0x23, 8], 16),
            Some(Place::Indexed { register: 7, offset: 8, index: 9, plus: 8 })
        );
        assert_eq!(evaluate(&[0x76, 0x70], 16), Some(Place::Offset { register: 6, offset: -16 }));
        assert_eq!(evaluate(&[0x77, 8, 0x38, 0x1c], 16), Some(Place::Offset { register: 7, offset: 0 }));
    }

    #[test]
    fn everything_else_is_refused() {
        for refused in [&[][..], &[0x31], &[0x06], &[0x22], &[0x77], &[0x77, 8, 6, 6], &[0x31; 9], &[0xff]] {
            assert_eq!(evaluate(refused, 16), None, "{refused:x?}");
        }
    }
}
