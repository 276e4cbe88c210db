//! One class of exception for each kind of error, and the one door through which calls go.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use everprof::{Error, ErrorKind, Result};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

/// `Error`, of no kind, and its subclasses: the same ones for each sub-interpreter, so that what is raised is what it can catch.
static CLASSES: PyOnceLock<Vec<(Option<ErrorKind>, Py<PyType>)>> = PyOnceLock::new();

/// Adds `Error` and its subclasses to the module, and all of them as `ERRORS`.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = CLASSES.get_or_try_init(py, || create(py))?;
    for (_, class) in classes {
        module.add(class.bind(py).name()?, class)?;
    }
    module.add("ERRORS", PyTuple::new(py, classes.iter().map(|(_, class)| class))?)
}

fn create(py: Python<'_>) -> PyResult<Vec<(Option<ErrorKind>, Py<PyType>)>> {
    let doc = "Something that everprof was asked for, and could not do.\n\n`kind` says in one word what the caller can do.";
    let base = class(py, "Error", doc, &py.get_type::<PyException>(), "")?;
    let mut classes = vec![(None, base.clone_ref(py))];
    for kind in ErrorKind::ALL {
        classes.push((Some(kind), class(py, &name(kind), kind.advice(), base.bind(py), kind.name())?));
    }
    Ok(classes)
}

/// Calls the core without the interpreter, so that other threads of Python run meanwhile. A panic is an exception like
/// others: pyo3's own is none that `except Exception` would catch.
pub(crate) fn door<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(done) => done.map_err(|error| exception(py, &error)),
        Err(_) => {
            let message = "everprof went wrong where it never should (a panic): please report it";
            Err(exception(py, &Error::new(ErrorKind::Internal, message)))
        }
    }
}

fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let classes = CLASSES.get(py);
    let class = classes.and_then(|all| all.iter().find(|(kind, _)| *kind == Some(error.kind())));
    match class {
        Some((_, class)) => PyErr::from_type(class.bind(py).clone(), error.to_string()),
        None => PyException::new_err(error.to_string()),
    }
}

fn class(
    py: Python<'_>,
    name: &str,
    doc: &str,
    base: &Bound<'_, PyType>,
    kind: &str,
) -> PyResult<Py<PyType>> {
    let (full, doc) = (CString::new(format!("everprof.{name}"))?, CString::new(doc)?);
    // No dictionary is passed: pyo3 0.30 gives it up before it is read.
    let class = PyErr::new_type(py, &full, Some(&doc), Some(base), None)?;
    class.bind(py).setattr("kind", kind)?;
    Ok(class)
}

/// `invalid_option` as `InvalidOptionError`.
fn name(kind: ErrorKind) -> String {
    let words = kind.name().split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_ascii_uppercase() + rest
    });
    words.collect::<String>() + "Error"
}
