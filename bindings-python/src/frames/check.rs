//! The walk against what the interpreter says of the same stack, before any handler relies on it.
//!
//! A small piece of Python with all that changes how frames are chained (a generator, a comprehension, a class, a call by way
//! of C, names beyond ASCII) calls back, and what is walked then has to be what `sys._getframe` says, name by name and line by
//! line, down to the outermost frame of the caller's.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use everprof::symbolize::runtime::{FrameNames, RuntimeFrame};
use everprof_probe::memory::StackMemory;
use everprof_probe::os;
use everprof_probe::regs::Regs;
use everprof_probe::sample::{Frame, frames};
use everprof_probe::unwind::Frames;
use pyo3::types::{PyAnyMethods, PyCFunction, PyDict, PyModule, PyStringMethods};
use pyo3::{Bound, PyAny, PyErr, PyResult, Python};

use super::KIND;
use super::names::Names;
use super::walker::Walker;

/// Names beyond ASCII are given afterwards: for one in the source, the compiler would load a module of a megabyte.
const PIECE: &core::ffi::CStr = c"
def named(function, name):
    code = function.__code__
    names = {name_of: name for name_of in ('co_name', 'co_qualname') if hasattr(code, name_of)}
    function.__code__ = code.replace(**names)

def latin(probe):
    def inner():
        yield probe(
            )
    return [found for found in inner()]

class Type:
    def wide(self, probe):
        return max([1], key=lambda _:
            latin(probe) and 0)

named(latin, '\\xfcn\\xef')
named(Type.wide, '\\u0416.\\u540d')
Type().wide(probe)
";

/// Frames that are compared.
const MOST: usize = 400;

/// Walks the calling thread's stack in various ways.
pub(super) fn walk(py: Python<'_>, walker: &'static Walker, names: &Arc<Names>) -> Result<(), String> {
    compare(py, walker, names)?;
    let names = Arc::clone(names);
    let failed = |error: PyErr| format!("the check of the walk failed: {error}");
    let globals = PyDict::new(py);
    let (sender, receiver) = std::sync::mpsc::channel();
    let probe = PyCFunction::new_closure(py, None, None, move |args, _| -> PyResult<bool> {
        let py = args.py();
        let _ = sender.send(compare(py, walker, &names));
        Ok(true)
    })
    .map_err(failed)?;
    globals.set_item("probe", probe).map_err(failed)?;
    py.run(PIECE, Some(&globals), None).map_err(failed)?;
    receiver.try_recv().unwrap_or_else(|_| Err("the check of the walk never ran".into()))
}

fn compare(py: Python<'_>, walker: &Walker, names: &Names) -> Result<(), String> {
    let found = walked(walker, names)?;
    let said = said(py).map_err(|error| format!("the interpreter does not tell its frames: {error}"))?;
    if said.len() < MOST && found.len() != said.len() {
        return Err(mismatch(&format!("{} frames", found.len()), &format!("{}", said.len())));
    }
    match found.iter().zip(&said).find(|(found, said)| found != said) {
        None => Ok(()),
        Some((found, said)) => Err(mismatch(&format!("{found:?}"), &format!("{said:?}"))),
    }
}

fn mismatch(found: &str, said: &str) -> String {
    format!("the interpreter is not as its version says: the walk found {found}, and there is {said}")
}

/// What the walk finds.
pub(super) fn walked(walker: &Walker, names: &Names) -> Result<Vec<RuntimeFrame>, String> {
    let regs = Regs::here();
    let whole = own_stack().ok_or("the bounds of the stack are not known")?;
    if !whole.contains(&regs.sp) {
        return Err("the thread runs on a stack that is not its own".into());
    }
    let mut stack = StackMemory::new();
    // SAFETY: the thread runs on this stack now, so it is mapped from the stack pointer to its end.
    unsafe { stack.add(regs.sp..whole.end) };
    let mut words = [0; 2 * MOST];
    let mut out = Frames::new(&mut words);
    walker.walk_here(&regs, &stack, &mut out);
    let mut found = Vec::new();
    for frame in frames(out.finish()).take(MOST) {
        match frame {
            Frame::Runtime(KIND, payload, word) => found.extend(names.name(payload, word)),
            Frame::Missing(0) => return Err(mismatch("a broken chain of frames", "none")),
            // Of more frames than there is room for, the innermost are enough.
            _ => break,
        }
    }
    Ok(found)
}

/// The calling thread's stack, asked for once: of the first thread, the C library reads the process's mappings for it.
fn own_stack() -> Option<Range<u64>> {
    thread_local! {
        static STACK: OnceCell<Option<Range<u64>>> = const { OnceCell::new() };
    }
    STACK.try_with(|stack| stack.get_or_init(os::stack).clone()).unwrap_or_else(|_| os::stack())
}

/// What the interpreter says.
pub(super) fn said(py: Python<'_>) -> PyResult<Vec<RuntimeFrame>> {
    let mut said = Vec::new();
    let mut frame: Bound<'_, PyAny> = PyModule::import(py, "sys")?.getattr("_getframe")?.call0()?;
    while !frame.is_none() && said.len() < MOST {
        let code = frame.getattr("f_code")?;
        let name = match code.getattr("co_qualname") {
            Ok(name) => name,
            Err(_) => code.getattr("co_name")?,
        };
        said.push(RuntimeFrame {
            name: name.str()?.to_string_lossy().into_owned(),
            file: code.getattr("co_filename")?.str()?.to_string_lossy().into_owned(),
            line: frame.getattr("f_lineno")?.extract::<Option<u32>>()?.unwrap_or(0),
            start_line: code.getattr("co_firstlineno")?.extract()?,
        });
        frame = frame.getattr("f_back")?;
    }
    Ok(said)
}
