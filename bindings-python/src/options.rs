//! The table of options for Python, which makes of it its help, its documentation and its conversions: only one whose default is another is named here.

use everprof::Options;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::door;

/// Options that have another default here. Extension modules wait in calls that a signal would end, and of a thread that waits
/// the interpreter's frames are known without asking it.
pub(crate) const FALLBACKS: [(&str, &str); 1] = [("wall_signal", "never")];

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(options, module)?)?;
    module.add_function(wrap_pyfunction!(canonical, module)?)
}

/// A dictionary for each row of the table.
#[pyfunction]
fn options(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let rows = PyList::empty(py);
    for spec in Options::table() {
        let row = PyDict::new(py);
        row.set_item("name", spec.name)?;
        row.set_item("environment", spec.environment())?;
        row.set_item("unit", spec.unit)?;
        row.set_item("accepts", spec.accepts())?;
        let fallback =
            FALLBACKS.iter().find(|(name, _)| *name == spec.name).map(|(_, value)| (*value).to_owned());
        row.set_item("default", fallback.unwrap_or_else(|| spec.default_text()))?;
        row.set_item("doc", spec.doc())?;
        row.set_item("live", spec.live)?;
        rows.append(row)?;
    }
    Ok(rows)
}

/// The value of an option as the core understands it; an error where it does not.
#[pyfunction]
fn canonical(py: Python<'_>, name: &str, value: &str) -> PyResult<Option<String>> {
    door(py, || {
        let mut options = Options::default();
        options.set(name, value)?;
        Ok(options.get(name))
    })
}
