//! Python's frames: found inside the handler, without the interpreter's lock and without its help, and named later.
//!
//! [`install`] finds out which interpreter this is and where it keeps what a walk reads (`layout`), what it has to ask it by
//! name (`symbols`), and tries the walk against what the interpreter itself says of the same stack (`check`). Only then is the
//! walk (`walker`) shown to handlers. What a function is called is copied in the handler when it is first met (`codes`,
//! `seen`), and decoded on everprof's thread (`names`, `lines`). An interpreter that is not known, or not as known, is an error
//! with a reason: the profiler then works without Python's frames.
//!
//! The only files of this crate with `unsafe` in them.

mod characters;
mod check;
mod codes;
mod cold;
mod context;
mod dying;
mod layout;
mod library;
mod lines;
mod names;
mod objects;
mod raw;
mod seen;
mod symbols;
mod tls;
mod waiting;
mod waits;
mod walker;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use everprof::symbolize::runtime::{self, RuntimeFrame};
use everprof_probe::unwind;
use pyo3::Python;
use pyo3::sync::MutexExt;
use pyo3::types::{PyAnyMethods, PyModule};

use codes::Codes;
use layout::Layout;
use names::Names;
use symbols::Symbols;
use walker::Walker;

/// CPython's number among the runtimes.
pub(crate) const KIND: u8 = 1;

/// The walker of this process, once there is one: handlers may be reading it from then on.
static INSTALLED: Mutex<Option<&'static Walker>> = Mutex::new(None);
/// The walker and who names what it finds, for walks of the program's own threads outside of handlers.
static HERE: OnceLock<(&'static Walker, Arc<Names>)> = OnceLock::new();
/// Why labels are those of threads and not of tasks, where they are.
static LABELS_OFF: Mutex<Option<String>> = Mutex::new(None);

/// Finds the interpreter's layout, tries it, and lets stacks have Python's frames from now on. Called with the interpreter's lock
/// held; again is harmless.
///
/// # Errors
///
/// Why Python's frames cannot be had: another implementation, an unknown version, a build without the lock or with debugging, or
/// one that is not as its version says.
pub(crate) fn install(py: Python<'_>) -> Result<(), String> {
    // What is tried runs code of Python's, in which another thread may get the interpreter: nobody may wait for this one with it.
    let mut installed = INSTALLED.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
    if installed.is_none() {
        let version = supported_version(py)?;
        let symbols = Symbols::find(py, version)?;
        let layout = Layout::of(version, &symbols)?;
        let codes = Codes::new().ok_or("there is no memory for the names of functions")?;
        let walker: &'static Walker = Box::leak(Box::new(Walker::new(layout, symbols, codes)));
        let names = Arc::new(Names::new(py, walker));
        check::walk(py, walker, &names)?;
        // Without them, samples have frames and the labels of threads.
        match context::Place::find(py, &walker.layout, &walker.symbols) {
            Ok(place) => {
                let _ = walker.labels.set(place);
                *lock(&LABELS_OFF) = None;
            }
            Err(reason) => *lock(&LABELS_OFF) = Some(reason),
        }
        let _ = HERE.set((walker, Arc::clone(&names)));
        runtime::register(KIND, names).map_err(|error| error.to_string())?;
        *installed = Some(walker);
    }
    let Some(walker) = *installed else { return Ok(()) };
    if unwind::set_source(KIND, walker) { Ok(()) } else { Err("other runtimes have taken all places".into()) }
}

/// The calling thread's frames of Python, innermost first: by the walk, or where that is off by what the interpreter says.
pub(crate) fn here(py: Python<'_>) -> Vec<RuntimeFrame> {
    let walked = HERE.get().and_then(|(walker, names)| check::walked(walker, names).ok());
    walked.unwrap_or_else(|| check::said(py).unwrap_or_default())
}

/// Whether handlers find the labels of tasks; or why not.
pub(crate) fn labels_off() -> Option<String> {
    lock(&LABELS_OFF).clone()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes Python's frames out of stacks: before the interpreter ends, since it frees the states of threads that still run.
pub(crate) fn uninstall() {
    unwind::unset_source(KIND);
}

/// Whether the caller's interpreter is the process's first, and not a sub-interpreter.
pub(crate) fn is_main_interpreter(_attached: Python<'_>) -> bool {
    // SAFETY: the calling thread is attached, so it has an interpreter.
    let interpreter = unsafe { pyo3::ffi::PyInterpreterState_Get() };
    // SAFETY: an interpreter lives as long as a thread is attached to it.
    let id = unsafe { pyo3::ffi::PyInterpreterState_GetID(interpreter) };
    id == 0
}

/// What the walks have met: functions that there was no room for, calls that were just beginning, and chains that led nowhere.
pub(crate) fn counts() -> [(&'static str, u64); 3] {
    let [unnamed, beginning, broken] = HERE.get().map_or([0; 3], |(walker, _)| {
        let [windows, broken] = walker.counts.read();
        [walker.codes.overflow(), windows, broken]
    });
    [("frames_unnamed", unnamed), ("frames_beginning", beginning), ("frames_broken", broken)]
}

/// The minor version of CPython 3 where it is one that may be walked.
fn supported_version(py: Python<'_>) -> Result<u8, String> {
    let say = |error: pyo3::PyErr| error.to_string();
    let sys = PyModule::import(py, "sys").map_err(say)?;
    let name: String = sys
        .getattr("implementation")
        .and_then(|implementation| implementation.getattr("name"))
        .and_then(|name| name.extract())
        .map_err(say)?;
    if name != "cpython" {
        return Err(format!("{name} is not CPython"));
    }
    // Of builds with debugging, objects have more words; and these have such a function.
    if sys.hasattr("gettotalrefcount").map_err(say)? || sys.hasattr("getobjects").map_err(say)? {
        return Err("the interpreter is built for debugging".into());
    }
    match (py.version_info().major, py.version_info().minor) {
        (3, minor) => Ok(minor),
        (major, minor) => Err(format!("CPython {major}.{minor} is not known")),
    }
}
