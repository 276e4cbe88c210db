//! Labels for Python: sets of the core's, and the scopes that a ContextVar holds.
//!
//! **The ContextVar is what counts.** A program of Python has many tasks on a thread, and only the interpreter knows which of
//! them runs: what is in force is the [`Scope`] that the variable of `_labels.py` has in the current context. A scope keeps its set
//! alive, and so does every context that was copied from it, such as a task that outlives the `with` it was made in.
//!
//! **The handler reads it** (`frames/context`): it finds the variable's value in the current context's map by the variable's
//! address, and the set's id so many bytes behind the address of the value, whatever the version of the interpreter. The id is 0
//! for no labels. Where it cannot, or before the profiler was ever started, code that runs without an event loop puts the set into the
//! thread's slot instead, and inside of tasks samples have no labels rather than those of another task.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use everprof::Labels;
use pyo3::prelude::*;

/// Scopes deeper than this are not entered, as in the core: what is in force stays.
const DEEPEST: u32 = 64;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LabelSet>()?;
    module.add_class::<Scope>()
}

/// A set of labels, which may be entered many times.
#[pyclass(frozen, module = "everprof._everprof")]
pub(crate) struct LabelSet(Labels);

#[pymethods]
impl LabelSet {
    #[new]
    fn new(labels: Vec<(String, String)>) -> Self {
        Self(Labels::new(labels))
    }
}

/// What is in force: the labels of all scopes that are open, and the way back.
#[pyclass(frozen, module = "everprof._everprof")]
pub(crate) struct Scope {
    /// For the handler, which reads nothing else.
    id: u32,
    depth: u32,
    /// It was put into a thread's slot.
    was_put: AtomicBool,
    labels: Labels,
    own: Option<Py<LabelSet>>,
    outer: Option<Py<Scope>>,
}

#[pymethods]
impl Scope {
    /// No labels.
    #[new]
    fn new() -> Self {
        Self {
            id: 0,
            depth: 0,
            was_put: AtomicBool::new(false),
            labels: Labels::default(),
            own: None,
            outer: None,
        }
    }

    /// The scope of `own` inside of this one.
    fn enter(scope: &Bound<'_, Self>, own: Bound<'_, LabelSet>) -> PyResult<Py<Scope>> {
        let outer = scope.get();
        if outer.depth >= DEEPEST {
            return Ok(scope.clone().unbind());
        }
        let labels = outer.labels.and(&own.get().0);
        let inner = Scope {
            id: labels.id(),
            depth: outer.depth + 1,
            was_put: AtomicBool::new(false),
            labels,
            own: Some(own.unbind()),
            outer: Some(scope.clone().unbind()),
        };
        Py::new(scope.py(), inner)
    }

    /// What is in force in a context of a task's own: these labels, with those of `own` on top. No way leads back, so that tasks that
    /// make tasks for ever have no chain of scopes behind them.
    fn begin(scope: &Bound<'_, Self>, own: &Bound<'_, Self>) -> PyResult<Py<Scope>> {
        Self::root(scope.py(), scope.get().labels.and(&own.get().labels))
    }

    /// The same without the label of that key.
    fn without(scope: &Bound<'_, Self>, key: &str) -> PyResult<Py<Scope>> {
        let labels = scope.get().labels.iter().filter(|(known, _)| *known != key);
        Self::root(scope.py(), Labels::new(labels))
    }

    /// What was in force before the innermost scope of `own`, which ends with all scopes in it; this one where there is none.
    fn leave(scope: &Bound<'_, Self>, own: Bound<'_, LabelSet>) -> Py<Scope> {
        let py = scope.py();
        let mut open = scope.clone().unbind();
        let mut was_put = false;
        loop {
            let (is_it, outer) = {
                let here = open.get();
                was_put |= here.was_put.load(Ordering::Relaxed);
                (
                    here.own.as_ref().is_some_and(|set| set.is(&own)),
                    here.outer.as_ref().map(|outer| outer.clone_ref(py)),
                )
            };
            match outer {
                Some(outer) if is_it => {
                    if was_put {
                        outer.get().put();
                    }
                    return outer;
                }
                Some(outer) => open = outer,
                None => return scope.clone().unbind(),
            }
        }
    }

    /// Puts the labels in force on this thread, whatever its tasks are.
    fn put(&self) {
        self.was_put.store(true, Ordering::Relaxed);
        self.labels.put();
    }

    /// The labels that are in force.
    fn items(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }
}

impl Scope {
    /// The labels that are in force.
    pub(crate) fn labels(&self) -> Labels {
        self.labels.clone()
    }

    fn root(py: Python<'_>, labels: Labels) -> PyResult<Py<Scope>> {
        Py::new(py, Scope { id: labels.id(), labels, ..Scope::new() })
    }
}

/// The labels in force where the calling thread is in the program; none where they cannot be had.
pub(crate) fn in_force(py: Python<'_>) -> Labels {
    let scope = || -> PyResult<Labels> {
        let scope = PyModule::import(py, "everprof._labels")?.getattr("_IN_FORCE")?.call_method0("get")?;
        Ok(scope.cast_into::<Scope>()?.get().labels.clone())
    };
    scope().unwrap_or_default()
}

/// Tells `_labels.py` whether handlers find the variable's value themselves.
pub(crate) fn handlers_read(py: Python<'_>, they_do: bool) -> PyResult<()> {
    PyModule::import(py, "everprof._labels")?.setattr("_in_handler", they_do)
}

/// A scope with that id and no labels, and where the id is in it, in bytes from its address.
pub(crate) fn with_id(py: Python<'_>, id: u32) -> PyResult<(Py<Scope>, u64)> {
    let scope = Py::new(py, Scope { id, ..Scope::new() })?;
    let at: *const u32 = &scope.get().id;
    let offset = (at as usize).wrapping_sub(scope.as_ptr() as usize);
    Ok((scope, offset as u64))
}
