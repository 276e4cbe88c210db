//! A skeleton, to try `frames` until the binding is there.
#![allow(missing_docs)]

mod frames;

use std::sync::{Mutex, PoisonError};

use everprof::Profiler;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::{PyModule, PyModuleMethods, PyResult, Python, pyfunction, pymodule};
use pyo3::{Bound, wrap_pyfunction};

static PROFILER: Mutex<Option<Profiler>> = Mutex::new(None);

#[pyfunction]
fn install(py: Python<'_>) -> PyResult<()> {
    frames::install(py).map_err(PyRuntimeError::new_err)
}

#[pyfunction]
fn uninstall() {
    frames::uninstall();
}

#[pyfunction]
fn counts() -> [u64; 3] {
    frames::counts()
}

/// Signals handled so far, and the ticks that it took.
#[pyfunction]
fn cost() -> (u64, u64) {
    everprof_probe::sigprof::cost()
}

#[pyfunction]
fn start(dir: &str, rate: u32, kinds: &str) -> PyResult<()> {
    let fail = |error: everprof::Error| PyRuntimeError::new_err(error.to_string());
    let profiler = Profiler::builder()
        .dir(dir)
        .rate_hz(rate)
        .set("kinds", kinds)
        .set("period_s", "600")
        .start()
        .map_err(fail)?;
    *PROFILER.lock().unwrap_or_else(PoisonError::into_inner) = Some(profiler);
    Ok(())
}

#[pyfunction]
fn stop(py: Python<'_>) {
    let profiler = PROFILER.lock().unwrap_or_else(PoisonError::into_inner).take();
    py.detach(|| drop(profiler));
}

#[pymodule]
fn _everprof(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(install, module)?)?;
    module.add_function(wrap_pyfunction!(uninstall, module)?)?;
    module.add_function(wrap_pyfunction!(counts, module)?)?;
    module.add_function(wrap_pyfunction!(cost, module)?)?;
    module.add_function(wrap_pyfunction!(start, module)?)?;
    module.add_function(wrap_pyfunction!(stop, module)?)
}
