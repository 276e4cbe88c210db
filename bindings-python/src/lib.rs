//! The module `everprof._everprof`: what the package `everprof` calls, in the terms of Python.
//!
//! Called on the program's threads, with the interpreter attached; whatever may block runs detached, behind one door
//! (`errors::door`) that turns errors and panics into exceptions. Nothing here runs on a thread of everprof's own, and nothing
//! of everprof's own threads asks for the interpreter: so no shutdown, fork or lock of Python's can wait for them, or they for it.
//!
//! What is said in Python better than in Rust is said there, in `python/everprof/`.
#![deny(unsafe_code)]

mod errors;
#[allow(unsafe_code)]
mod frames;
mod labels;
mod logger;
#[allow(unsafe_code)]
mod memory;
mod options;
mod pauses;
mod pull;
mod recording;
mod waits;

use std::mem::{self, ManuallyDrop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use everprof::stats::{StatValue, Stats};
use everprof::{ErrorKind, Profiler};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use errors::door;

/// Why stacks have no frames of Python, where they have none.
static FRAMES_OFF: Mutex<Option<String>> = Mutex::new(None);
static HAS_FRAMES: AtomicBool = AtomicBool::new(false);

#[pymodule]
fn _everprof(module: &Bound<'_, PyModule>) -> PyResult<()> {
    logger::install();
    errors::add(module)?;
    options::add(module)?;
    labels::add(module)?;
    waits::add(module)?;
    module.add_class::<recording::Recording>()?;
    module.add_class::<recording::Profile>()?;
    module.add_class::<pull::Pull>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(start, module)?)?;
    module.add_function(wrap_pyfunction!(stop, module)?)?;
    module.add_function(wrap_pyfunction!(flush, module)?)?;
    module.add_function(wrap_pyfunction!(set, module)?)?;
    module.add_function(wrap_pyfunction!(in_force, module)?)?;
    module.add_function(wrap_pyfunction!(name_thread, module)?)?;
    module.add_function(wrap_pyfunction!(stats, module)?)?;
    module.add_function(wrap_pyfunction!(is_running, module)?)?;
    module.add_function(wrap_pyfunction!(is_main_interpreter, module)?)?;
    module.add_function(wrap_pyfunction!(messages, module)?)?;
    module.add_function(wrap_pyfunction!(recording::record, module)?)?;
    module.add_function(wrap_pyfunction!(recording::snapshot, module)?)
}

/// Starts the profiler with these options on top of the environment's; `program` names it where nobody else does.
#[pyfunction]
fn start(py: Python<'_>, options: Vec<(String, String)>, program: Option<String>) -> PyResult<()> {
    if is_running(py)? {
        // Said by the core, with what is wrong about the options before.
        return door(py, || begin(options, program));
    }
    // Before the first sample, and attached, since the interpreter is looked at.
    if !HAS_FRAMES.swap(true, Ordering::SeqCst) {
        *frames_off() = frames::install(py).err();
        labels::handlers_read(py, frames_off().is_none() && frames::labels_off().is_none())?;
    }
    let started = door(py, || begin(options, program));
    if !is_running(py)? {
        remove_frames();
    }
    follow(py);
    started
}

/// Python's own allocations are counted where any are, and its pauses where they are asked for.
fn follow(py: Python<'_>) {
    if everprof_probe::heap::interval() != 0 {
        memory::install(py);
    }
    let _ = follow_pauses(py);
}

fn follow_pauses(py: Python<'_>) -> PyResult<()> {
    let kinds = door(py, || Ok(running().map_or_else(Vec::new, |profiler| profiler.kinds())))?;
    pauses::follow(py, &kinds);
    Ok(())
}

fn begin(options: Vec<(String, String)>, program: Option<String>) -> everprof::Result<()> {
    let builder =
        options.into_iter().fold(Profiler::builder(), |builder, (name, value)| builder.set(name, value));
    let builder =
        options::FALLBACKS.iter().fold(builder, |builder, (name, value)| builder.fallback(*name, *value));
    let builder = program.into_iter().fold(builder, everprof::profiler::Builder::program);
    // Nobody here could keep a guard: it is found by `of_process`.
    builder.start().map(mem::forget)
}

/// Stops the profiler, and waits up to two seconds for the last profile; nothing where none runs.
#[pyfunction]
fn stop(py: Python<'_>) -> PyResult<()> {
    let stopped = door(py, || Profiler::of_process().map_or(Ok(()), Profiler::stop));
    // Not before: the last profile names its frames.
    remove_frames();
    memory::uninstall(py);
    pauses::uninstall(py);
    stopped
}

fn remove_frames() {
    if HAS_FRAMES.swap(false, Ordering::SeqCst) {
        frames::uninstall();
    }
}

#[pyfunction]
fn flush(py: Python<'_>) -> PyResult<()> {
    follow_pauses(py)?;
    door(py, || running().map_or(Ok(()), |profiler| profiler.flush()))
}

#[pyfunction]
fn set(py: Python<'_>, name: &str, value: &str) -> PyResult<()> {
    door(py, || everprof::set(name, value))?;
    follow(py);
    Ok(())
}

/// The value of an option of the profiler that runs.
#[pyfunction]
fn in_force(py: Python<'_>, name: &str) -> PyResult<Option<String>> {
    door(py, || Ok(running().and_then(|profiler| profiler.option(name))))
}

/// What a thread is called, by its number; 0 is the caller's. Attached: it takes as long as a look-up.
#[pyfunction]
fn name_thread(tid: u32, name: &str) {
    let tid = if tid == 0 { everprof_probe::os::gettid() } else { tid };
    everprof::thread_names::tell(tid, name);
}

/// Whether the caller's is the interpreter that the process ends with.
#[pyfunction]
fn is_main_interpreter(py: Python<'_>) -> bool {
    frames::is_main_interpreter(py)
}

#[pyfunction]
fn is_running(py: Python<'_>) -> PyResult<bool> {
    door(py, || Ok(running().is_some()))
}

/// Every field of the core's table, and what only the binding knows.
#[pyfunction]
fn stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let stats = door(py, || Ok(running().map_or_else(Stats::default, |profiler| profiler.stats())))?;
    let dict = PyDict::new(py);
    for spec in Stats::table() {
        match spec.value(&stats) {
            StatValue::Flag(flag) => dict.set_item(spec.name, flag)?,
            StatValue::Count(count) => dict.set_item(spec.name, count)?,
            StatValue::Number(number) => dict.set_item(spec.name, number)?,
            StatValue::Text(text) => dict.set_item(spec.name, text)?,
            StatValue::Words(words) => dict.set_item(spec.name, words)?,
            _ => dict.set_item(spec.name, py.None())?,
        }
    }
    if memory::is_followed() && !stats.alloc_sources.is_empty() {
        dict.set_item("alloc_sources", format!("{}, python", stats.alloc_sources))?;
    }
    follow_pauses(py)?;
    dict.set_item("gc_callback_cpu", pauses::cost())?;
    // In a fork's child it is there some moments before it has its first picture.
    dict.set_item("running", is_running(py)?)?;
    dict.set_item("frames_off", frames_off().clone())?;
    dict.set_item("labels_off", frames_off().clone().or_else(frames::labels_off))?;
    for (name, count) in frames::counts() {
        dict.set_item(name, count)?;
    }
    Ok(dict)
}

/// The messages of everprof's since the last call: `logging`'s level and the text of each.
#[pyfunction]
fn messages() -> Vec<(u32, String)> {
    logger::take()
}

/// The profiler that runs, by a guard that stops nothing.
fn running() -> Option<ManuallyDrop<Profiler>> {
    Profiler::of_process().map(ManuallyDrop::new)
}

fn frames_off() -> std::sync::MutexGuard<'static, Option<String>> {
    FRAMES_OFF.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kind of profile of that name.
fn kind(name: &str) -> everprof::Result<everprof::profile::Kind> {
    use everprof::profile::Kind;
    Kind::from_name(name).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::name).join(", ");
        everprof::Error::new(
            ErrorKind::InvalidOption,
            format!("there is no kind {name:?}: give one of {known}"),
        )
    })
}
