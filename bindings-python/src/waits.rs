//! Waits of the program's tasks, as `_waits.py` finds them in its loops.
//!
//! Attached all the time: the core's lock is held for look-ups only, and never by a thread that waits for the interpreter.

use everprof::recorder::{NamedFrame, RecordedWait, Recorder};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::labels::Scope;

/// Name, file, line, first line.
type Frame<'py> = (Bound<'py, PyString>, Bound<'py, PyString>, u32, u32);

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(wants_waits, module)?)?;
    module.add_function(wrap_pyfunction!(record_wait, module)?)
}

/// Whether somebody takes a profile of waits.
#[pyfunction]
fn wants_waits() -> bool {
    Recorder::new().wants_waits()
}

/// Adds a wait, with its stack from the root on.
#[pyfunction]
fn record_wait(scope: &Bound<'_, Scope>, frames: Vec<Frame<'_>>, wait: &str, nanos: u64) -> bool {
    let named = |(name, file, line, start_line): &Frame<'_>| NamedFrame {
        name: name.to_string_lossy().into_owned(),
        file: file.to_string_lossy().into_owned(),
        line: *line,
        start_line: *start_line,
    };
    let stack: Vec<NamedFrame> = frames.iter().rev().map(named).collect();
    let labels = scope.get().labels();
    Recorder::new().record_wait(&RecordedWait { stack: &stack, labels, wait, nanos })
}
