//! Names and lines for the numbers that the handler recorded, on everprof's own thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use everprof::symbolize::runtime::{FrameNames, RuntimeFrame, RuntimeLabel, RuntimeWait, StackFrame};
use pyo3::Python;

use super::characters::text;
use super::codes::Copied;
use super::lines::{self, Form};
use super::objects::Objects;
use super::waits::Waits;
use super::walker::{LOCK, UNNAMED, Walker};

/// The label that says how a thread stood to the interpreter's lock.
const GIL: &str = "gil";

/// Names are asked for at the end of a period, all at once: what comes so much later is of the next one.
const PAUSE: Duration = Duration::from_secs(1);
/// A name that nobody has asked for in so many rounds is forgotten. Blocks that live for long are asked for in each.
const ROUNDS: u32 = 10;

/// The names of CPython's frames.
pub(super) struct Names {
    walker: &'static Walker,
    objects: Objects,
    waits: Waits,
    known: AtomicPtr<Mutex<Known>>,
    /// The process that this is of: in the child of a fork, the lock may be held by a thread that is not there.
    process: AtomicU32,
}

/// What was copied, kept beyond the handler's tables.
struct Known {
    codes: HashMap<u64, (Arc<Code>, u32)>,
    round: u32,
    asked: Instant,
}

/// A function.
struct Code {
    name: String,
    file: String,
    first_line: u32,
    lines: Vec<u8>,
}

impl Names {
    pub(super) fn new(py: Python<'_>, walker: &'static Walker) -> Self {
        let objects = Objects::find(walker.symbols.eval.first().map_or(0, |main| main.start));
        let waits = Waits::find(py, &objects);
        let known = AtomicPtr::new(Known::none());
        Self { walker, objects, waits, known, process: AtomicU32::new(std::process::id()) }
    }

    /// Name, file and line of a frame.
    pub(super) fn function(&self, payload: u64, word: u64) -> Option<(String, String, u32)> {
        let frame = self.name(payload, word).filter(|_| payload != LOCK)?;
        Some((frame.name, frame.file, frame.line))
    }

    fn code(&self, number: u64) -> Option<Arc<Code>> {
        let process = std::process::id();
        if self.process.swap(process, Ordering::Relaxed) != process {
            self.known.store(Known::none(), Ordering::Release);
        }
        // SAFETY: what it points to is never freed.
        let known = unsafe { &*self.known.load(Ordering::Acquire) };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.begin_round(self.walker);
        let round = known.round;
        if let Some((code, asked)) = known.codes.get_mut(&number) {
            *asked = round;
            return Some(Arc::clone(code));
        }
        let code = Arc::new(Code::of(self.walker.codes.copied(number)?));
        known.codes.insert(number, (Arc::clone(&code), round));
        Some(code)
    }
}

impl Known {
    /// Nothing yet, for as long as the process lives.
    fn none() -> &'static mut Mutex<Self> {
        let known = Self { codes: HashMap::new(), round: 0, asked: Instant::now() };
        Box::leak(Box::new(Mutex::new(known)))
    }

    fn begin_round(&mut self, walker: &Walker) {
        if self.asked.elapsed() > PAUSE {
            self.round += 1;
            let oldest = self.round.saturating_sub(ROUNDS);
            self.codes.retain(|_, (_, asked)| *asked >= oldest);
            walker.codes.tend();
        }
        self.asked = Instant::now();
    }
}

impl Code {
    fn of(copied: Copied) -> Self {
        Self {
            name: text(&copied.name, copied.name_width),
            file: text(&copied.file, copied.file_width),
            first_line: copied.first_line,
            lines: copied.lines,
        }
    }

    fn at(&self, form: Form, offset: u32) -> RuntimeFrame {
        RuntimeFrame {
            name: if self.name.is_empty() { "<unnamed>".to_string() } else { self.name.clone() },
            file: self.file.clone(),
            line: lines::line(form, &self.lines, self.first_line, offset).unwrap_or(0),
            start_line: self.first_line,
        }
    }
}

impl FrameNames for Names {
    fn name(&self, payload: u64, word: u64) -> Option<RuntimeFrame> {
        let code = (payload != UNNAMED).then(|| self.code(payload)).flatten();
        let Some(code) = code else {
            return Some(RuntimeFrame { name: "<unnamed>".to_string(), ..RuntimeFrame::default() });
        };
        let offset = u32::try_from(word).unwrap_or(u32::MAX);
        Some(code.at(self.walker.layout.code_object.form, offset))
    }

    fn label(&self, payload: u64, word: u64) -> Option<RuntimeLabel> {
        (payload == LOCK).then_some((GIL, if word == 0 { "released" } else { "held" }))
    }

    fn label_of_wait(&self, callers: &[u64]) -> Option<RuntimeLabel> {
        // The interpreter has no other condition that threads wait for: its locks are semaphores.
        self.objects.is_interpreters(callers).then_some((GIL, "waiting"))
    }

    /// Who gives the lock up because others have asked for it waits by one of its conditions as well, until one of them has it:
    /// that is a wait that the lock costs, whether the thread wants it back at once or not.
    fn label_of_turn(&self, address: u64) -> Option<RuntimeLabel> {
        self.walker.symbols.runtime_words.contains(&address).then_some((GIL, "waiting"))
    }

    fn wait(&self, stack: &[StackFrame]) -> Option<RuntimeWait> {
        self.waits.of(stack, &self.objects, self)
    }
}
