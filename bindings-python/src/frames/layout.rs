//! Where CPython keeps what a walk reads: one row a minor version, and from 3.13 on what the interpreter says itself.
//!
//! A row is of builds without debugging and with the GIL, on machines of 64 bits; those of one minor version are alike. That a
//! build is as its row says is found out by `check`, before any handler looks.

use super::lines::Form;
use super::raw;
use super::symbols::Symbols;

/// Offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// In the thread's state: the innermost frame, where that is kept there.
    pub(super) frame: Option<u64>,
    /// The other place for it: a record on the C stack for each call of the interpreter.
    pub(super) cframe: Option<CFrame>,
    /// In the thread's state: the newest chunk of the stack that frames lie in, followed by the end of what is used of it.
    /// `None` where frames are objects.
    pub(super) chunk: Option<u64>,
    pub(super) state_size: u64,
    /// In the thread's state: the kernel's number of the thread, or, where there is none, the C library's pointer to it.
    pub(super) thread: Thread,
    /// In the thread's state: a reference to its outermost frame, which is of no call.
    pub(super) outermost: Option<u64>,
    pub(super) code: u64,
    pub(super) previous: u64,
    pub(super) instruction: Instruction,
    pub(super) marker: Marker,
    /// In a frame: who owns it. 0 where frames are objects.
    pub(super) owner: u64,
    /// Bytes of a frame, without its variables.
    pub(super) frame_size: u64,
    /// In a generator, a coroutine: its frame.
    pub(super) frame_in_generator: u64,
    pub(super) code_object: CodeObject,
    pub(super) text: Text,
}

/// How a thread's state says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thread {
    Number(u64),
    Pointer(u64),
}

/// In the thread's state: the next one of the interpreter, and the interpreter.
pub(super) const NEXT: u64 = 8;
pub(super) const INTERPRETER: u64 = 16;

/// The record on the C stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CFrame {
    /// In the thread's state.
    pub(super) newest: u64,
    pub(super) frame: u64,
    pub(super) previous: u64,
}

/// How a frame says where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// A number of 32 bits at this offset, times so many bytes.
    Number(u64, u32),
    /// A pointer into the code at this offset.
    Pointer(u64),
}

/// How the frames of one call of the interpreter's C function are told from those of its caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// It has one.
    EveryFrame,
    /// The outermost has this byte set.
    Entry(u64),
    /// Outside of them is one on the C stack that nobody sees.
    Owner,
}

/// A frame of this owner or above stands for a call from C and has no code.
pub(super) const OWNED_BY_C: u8 = 3;
pub(super) const OWNED_BY_GENERATOR: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeObject {
    pub(super) filename: u64,
    /// With its class and function where there is such a name.
    pub(super) name: u64,
    pub(super) lines: u64,
    pub(super) first_line: u64,
    /// Where instructions are a part of the object, the first of them.
    pub(super) instructions: Option<u64>,
    /// Bytes of the object that are looked at.
    pub(super) len: u64,
    pub(super) form: Form,
}

/// A string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// In the word of state: bytes of a character in three bits, then whether it is compact, then whether it is ASCII.
    pub(super) kind_shift: u32,
    pub(super) ascii: u64,
    pub(super) compact: u64,
}

pub(super) const TYPE: u64 = 8;
pub(super) const SIZE: u64 = 16;
pub(super) const TEXT_HASH: u64 = 24;
pub(super) const TEXT_STATE: u64 = 32;
pub(super) const BYTES: u64 = 32;
/// Of a chunk: the one before it, its size, and where its words begin.
pub(super) const CHUNK_PREVIOUS: u64 = 0;
pub(super) const CHUNK_SIZE: u64 = 8;
pub(super) const CHUNK_WORDS: u64 = 24;

const OLD_TEXT: Text = Text { kind_shift: 2, ascii: 48, compact: 72 };
const TEXT: Text = Text { kind_shift: 2, ascii: 40, compact: 56 };

impl Layout {
    /// That of CPython 3.`minor`.
    pub(super) fn of(minor: u8, symbols: &Symbols) -> Result<Self, String> {
        let layout = match minor {
            9 => objects(9),
            10 => objects(10),
            11 => records(11),
            12 => records(12),
            13 => told(&TOLD_13, symbols)?,
            14 => told(&TOLD_14, symbols)?,
            15 => told(&TOLD_15, symbols)?,
            _ => return Err(format!("CPython 3.{minor} is not known: 3.9 to 3.15 are")),
        };
        Ok(layout)
    }
}

impl Thread {
    fn at(self) -> u64 {
        let (Self::Number(at) | Self::Pointer(at)) = self;
        at
    }
}

impl Layout {
    /// The same where words are where words can be, and nothing is far away.
    fn plausible(self) -> Result<Self, String> {
        const FAR: u64 = 64 * 1024;
        let code = &self.code_object;
        let words = [
            self.frame.unwrap_or(0),
            self.chunk.unwrap_or(0),
            self.outermost.unwrap_or(0),
            self.thread.at(),
            self.state_size,
            self.code,
            self.previous,
            self.frame_size,
            self.frame_in_generator,
            code.filename,
            code.name,
            code.lines,
        ];
        let inside =
            self.code < self.frame_size && self.previous < self.frame_size && self.owner < self.frame_size;
        if inside && words.iter().all(|word| word % 8 == 0 && *word < FAR) {
            Ok(self)
        } else {
            Err("what the interpreter says of itself cannot be (_Py_DebugOffsets)".into())
        }
    }
}

/// 3.9 and 3.10, where frames are objects.
fn objects(minor: u8) -> Layout {
    let (unit, form) = if minor == 9 { (1, Form::Lnotab) } else { (2, Form::Ranges) };
    let instruction = Instruction::Number(if minor == 9 { 104 } else { 96 }, unit);
    Layout {
        frame: Some(24),
        cframe: None,
        chunk: None,
        thread: Thread::Pointer(176),
        outermost: None,
        state_size: if minor == 9 { 264 } else { 280 },
        code: 32,
        previous: 24,
        instruction,
        marker: Marker::EveryFrame,
        owner: 0,
        frame_size: 112,
        frame_in_generator: 0,
        code_object: CodeObject {
            filename: 104,
            name: 112,
            lines: 120,
            first_line: 40,
            instructions: None,
            len: 128,
            form,
        },
        text: OLD_TEXT,
    }
}

/// 3.11 and 3.12, where a record on the C stack tells the innermost frame.
fn records(minor: u8) -> Layout {
    let (eleven, new) = (minor == 11, |old, new| if minor == 11 { old } else { new });
    let record = if eleven {
        CFrame { newest: 56, frame: 8, previous: 16 }
    } else {
        CFrame { newest: 56, frame: 0, previous: 8 }
    };
    Layout {
        frame: None,
        cframe: Some(record),
        chunk: Some(new(296, 232)),
        thread: Thread::Number(new(160, 144)),
        outermost: None,
        state_size: new(360, 288),
        code: new(32, 0),
        previous: new(48, 8),
        instruction: Instruction::Pointer(56),
        marker: if eleven { Marker::Entry(68) } else { Marker::Owner },
        owner: new(69, 70),
        frame_size: 72,
        frame_in_generator: new(80, 72),
        code_object: CodeObject {
            filename: 112,
            name: 128,
            lines: 136,
            first_line: new(72, 68),
            instructions: Some(new(184, 192)),
            len: new(184, 192),
            form: Form::Locations,
        },
        text: if eleven { OLD_TEXT } else { TEXT },
    }
}

/// What the interpreter says of itself, `_Py_DebugOffsets`: which of its words are needed. They have moved with each version.
struct Told {
    minor: u8,
    state_size: u64,
    frame: u64,
    chunk: u64,
    frame_size: u64,
    previous: u64,
    code: u64,
    instruction: u64,
    owner: u64,
    code_size: u64,
    filename: u64,
    qualname: u64,
    lines: u64,
    first_line: u64,
    instructions: u64,
    text_state: u64,
    text_size: u64,
    /// A word, or, before there was one, the offset itself.
    frame_in_generator: Result<u64, u64>,
    /// Of the reference to the outermost frame, from 3.15 on.
    outermost: Option<u64>,
}

const TOLD_13: Told = Told {
    minor: 13,
    state_size: 19,
    frame: 23,
    chunk: 26,
    frame_size: 28,
    previous: 29,
    code: 30,
    instruction: 31,
    owner: 33,
    code_size: 34,
    filename: 35,
    qualname: 37,
    lines: 38,
    first_line: 39,
    instructions: 43,
    text_state: 68,
    text_size: 70,
    frame_in_generator: Err(72),
    outermost: None,
};

const TOLD_14: Told = Told {
    minor: 14,
    state_size: 22,
    frame: 26,
    chunk: 29,
    frame_size: 31,
    previous: 32,
    code: 33,
    instruction: 34,
    owner: 36,
    code_size: 39,
    filename: 40,
    qualname: 42,
    lines: 43,
    first_line: 44,
    instructions: 48,
    text_state: 78,
    text_size: 80,
    frame_in_generator: Ok(85),
    outermost: None,
};

const TOLD_15: Told = Told {
    minor: 15,
    state_size: 22,
    frame: 26,
    chunk: 32,
    frame_size: 39,
    previous: 40,
    code: 41,
    instruction: 42,
    owner: 44,
    code_size: 47,
    filename: 48,
    qualname: 50,
    lines: 51,
    first_line: 52,
    instructions: 56,
    text_state: 90,
    text_size: 92,
    frame_in_generator: Ok(101),
    outermost: Some(27),
};

/// From 3.13 on.
fn told(told: &Told, symbols: &Symbols) -> Result<Layout, String> {
    /// What the words begin with: `xdebugpy`.
    const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");
    const WORDS: u64 = 104;
    let start = symbols.runtime.filter(|start| start % 8 == 0).ok_or("the interpreter has no _PyRuntime")?;
    // SAFETY: the interpreter's state is an object of many pages that stays.
    let words = unsafe { raw::Piece::new(start, WORDS * 8) };
    let [cookie, version, free_threaded] = [0, 8, 16].map(|at| words.word(at));
    if cookie != COOKIE || version >> 16 != 0x300 | u64::from(told.minor) {
        return Err("the interpreter does not say where things are in it (_Py_DebugOffsets)".into());
    }
    if free_threaded != 0 {
        return Err("the interpreter is built without its lock (free-threaded)".into());
    }
    let word = |index: u64| words.word(index * 8);
    let layout = Layout {
        frame: Some(word(told.frame)),
        cframe: None,
        chunk: Some(word(told.chunk)),
        state_size: word(told.state_size) & !7,
        thread: Thread::Number(word(told.chunk - 1)),
        outermost: told.outermost.map(word),
        code: word(told.code),
        previous: word(told.previous),
        instruction: Instruction::Pointer(word(told.instruction)),
        marker: Marker::Owner,
        owner: word(told.owner),
        // Variables begin behind it, of which there may be none.
        frame_size: word(told.frame_size).saturating_sub(1) & !7,
        frame_in_generator: told.frame_in_generator.map_or_else(|offset| offset, word),
        code_object: CodeObject {
            filename: word(told.filename),
            name: word(told.qualname),
            lines: word(told.lines),
            first_line: word(told.first_line),
            instructions: Some(word(told.instructions)),
            len: word(told.code_size) & !7,
            form: Form::Locations,
        },
        text: TEXT,
    };
    if word(told.text_state) != TEXT_STATE || word(told.text_size) != TEXT.ascii {
        return Err("the interpreter's strings are not as they were".into());
    }
    layout.plausible()
}
