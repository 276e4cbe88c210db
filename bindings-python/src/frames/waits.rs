//! What a wait for one of the interpreter's semaphores was for.
//!
//! A `threading.Lock` and all that is made of it, the locks of C extensions that ask the interpreter for them, and from 3.13 on
//! what its parking lot lets wait are semaphores of C's. Whether a thread waited for a lock that another one held, or for
//! something to do, the functions of Python next to the wait tell (`library`), and for `SimpleQueue`, which has none, its code.
//! So a program's own lock that is used as a signal counts as a lock.
//!
//! Everprof's own thread, but for what is found at the start.

use core::ops::Range;

use everprof::symbolize::runtime::{RuntimeWait, StackFrame};
use everprof_probe::memory;
use pyo3::Python;
use pyo3::types::{PyAnyMethods, PyModule, PyTypeMethods};

use super::cold;
use super::library::{Library, Wait};
use super::names::Names;
use super::objects::Objects;

/// Where the functions are that tell.
#[derive(Debug, Default)]
pub(super) struct Waits {
    library: Library,
    /// `SimpleQueue.get` of an interpreter that has it built in.
    queue: Range<u64>,
}

impl Waits {
    /// Asks the interpreter.
    pub(super) fn find(py: Python<'_>, objects: &Objects) -> Self {
        let file = file_of_threading(py).unwrap_or_default();
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let queue = built_in_get(py).and_then(|get| function_at(get, objects)).unwrap_or_default();
        Self { library: Library::of(&file, &text), queue }
    }

    /// What the wait was for; `stack` begins with who called the function that waits.
    pub(super) fn of(&self, stack: &[StackFrame], objects: &Objects, names: &Names) -> Option<RuntimeWait> {
        let native = |frame: &StackFrame| match *frame {
            StackFrame::Native(address) => Some(address),
            StackFrame::Runtime(..) => None,
        };
        let callers: Vec<u64> = stack.iter().map_while(native).collect();
        if !objects.is_interpreters(&callers) {
            return None;
        }
        let is_queue =
            |address: &u64| self.queue.contains(address) || objects.is_extension(*address, "_queue.");
        if callers.iter().any(is_queue) {
            return Some(RuntimeWait::Channel);
        }
        let functions = stack.iter().filter_map(|frame| match *frame {
            StackFrame::Runtime(payload, word) => names.function(payload, word),
            StackFrame::Native(_) => None,
        });
        Some(match self.library.wait(functions) {
            Wait::Lock => RuntimeWait::Lock,
            Wait::Once => RuntimeWait::Once,
            Wait::Condition => RuntimeWait::Condition,
            Wait::Channel => RuntimeWait::Channel,
            Wait::Semaphore => RuntimeWait::Semaphore,
            Wait::Barrier => RuntimeWait::Barrier,
            Wait::Join => RuntimeWait::Join,
        })
    }
}

fn file_of_threading(py: Python<'_>) -> Option<String> {
    let threading = PyModule::import(py, "threading").ok()?;
    // As code has it; somebody may have put something else in the class's place.
    let code = threading.getattr("Condition").and_then(|class| class.getattr("wait")?.getattr("__code__"));
    let file = code.and_then(|code| code.getattr("co_filename")).or_else(|_| threading.getattr("__file__"));
    file.ok()?.extract().ok()
}

/// The address of `SimpleQueue.get` where the interpreter has the module `_queue` in itself, as builds in one file do.
fn built_in_get(py: Python<'_>) -> Option<u64> {
    /// `d_method` in a descriptor of a method, and the name and the function in what that leads to.
    const METHOD: u64 = 40;
    let names = PyModule::import(py, "sys").ok()?.getattr("builtin_module_names").ok()?;
    if !names.contains("_queue").ok()? {
        return None;
    }
    let class = PyModule::import(py, "_queue").ok()?.getattr("SimpleQueue").ok()?;
    let get = class.getattr("get").ok()?;
    if get.get_type().name().ok()?.extract::<String>().ok()? != "method_descriptor" {
        return None;
    }
    let [method] = words(get.as_ptr() as u64 + METHOD)?;
    let [name, function] = words(method)?;
    (words::<1>(name)?.map(u64::to_le_bytes).concat().starts_with(b"get\0")).then_some(function)
}

/// The code of the interpreter's function that begins at `address`.
fn function_at(address: u64, objects: &Objects) -> Option<Range<u64>> {
    let starts = cold::starts(objects.base()?)?;
    let next = starts.get(starts.binary_search(&address).ok()? + 1)?;
    Some(address..*next)
}

fn words<const N: usize>(address: u64) -> Option<[u64; N]> {
    let mut bytes = vec![0; N * 8];
    if memory::copy(address, &mut bytes) != N * 8 {
        return None;
    }
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Some(words)
}
