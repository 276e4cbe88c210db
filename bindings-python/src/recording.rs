//! Profiles of a stretch of time or of a moment, and what they can be turned into.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use everprof::encode::{collapsed, flamegraph, pprof, speedscope};
use everprof::profile::LabelValue;
use everprof::{Error, ErrorKind, store};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::errors::door;
use crate::{kind, memory, pauses};

/// A recording at work. To drop it gives it up.
#[pyclass(frozen, module = "everprof._everprof")]
pub(crate) struct Recording(Mutex<Option<everprof::Recording>>);

/// A profile with names.
#[pyclass(frozen, module = "everprof._everprof")]
pub(crate) struct Profile(Arc<everprof::profile::Profile>);

#[pyfunction]
pub(crate) fn record(py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Recording> {
    use everprof::profile::Kind;
    // What is no Unicode is the name of no kind, which the error says.
    let name = &name.to_string_lossy();
    // Before it begins: only here is the interpreter's lock held.
    if matches!(kind(name), Ok(Kind::Alloc | Kind::Heap | Kind::Peak)) {
        memory::install(py);
    }
    if matches!(kind(name), Ok(Kind::Gc)) {
        pauses::install(py);
    }
    door(py, || Ok(Recording(Mutex::new(Some(everprof::record(kind(name)?)?)))))
}

#[pyfunction]
pub(crate) fn snapshot(py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<Profile> {
    let name = &name.to_string_lossy();
    door(py, || Ok(Profile(Arc::new(everprof::snapshot(kind(name)?)?))))
}

#[pymethods]
impl Recording {
    /// Ends the recording: its profile.
    fn finish(&self, py: Python<'_>) -> PyResult<Profile> {
        door(py, || {
            let recording = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            let finished = || Error::new(ErrorKind::Unavailable, "the recording is finished already");
            Ok(Profile(Arc::new(recording.ok_or_else(finished)?.finish()?)))
        })
    }
}

#[pymethods]
impl Profile {
    /// As gzip-compressed pprof.
    fn pprof<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = door(py, || Ok(pprof::encode(&self.0)))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// As one page with its flame graph.
    fn html(&self, py: Python<'_>, title: String) -> PyResult<String> {
        let options = flamegraph::PageOptions { title, ..flamegraph::PageOptions::default() };
        door(py, || Ok(flamegraph::html(&self.0, &options)))
    }

    /// As lines of `root;caller;leaf value`.
    fn collapsed(&self, py: Python<'_>) -> PyResult<String> {
        door(py, || collapsed::encode(&self.0))
    }

    /// For speedscope.
    fn speedscope(&self, py: Python<'_>) -> PyResult<String> {
        door(py, || Ok(speedscope::encode(&self.0)))
    }

    /// The functions that cost the most, as text.
    fn top(&self, py: Python<'_>, rows: usize) -> PyResult<String> {
        door(py, || Ok(store::top(&self.0)?.render(rows)))
    }

    /// The sum of the value that is shown first, by the value of a label; samples without it are under the empty text.
    fn by_label(&self, py: Python<'_>, key: &str) -> PyResult<BTreeMap<String, i64>> {
        door(py, || {
            let place = self.0.find_sample_type(None)?;
            let mut sums = BTreeMap::new();
            for sample in self.0.samples() {
                let label = self.0.get_labels(sample.labels).iter().find(|label| label.key == key);
                let value = match label.map(|label| &label.value) {
                    Some(LabelValue::Text(text)) => text.clone(),
                    Some(LabelValue::Number(number, _)) => number.to_string(),
                    None => String::new(),
                };
                *sums.entry(value).or_default() += sample.values.get(place).copied().unwrap_or_default();
            }
            Ok(sums)
        })
    }

    /// The sum of each value over all samples, by the value's name.
    fn totals(&self) -> Vec<(String, i64)> {
        let names = self.0.sample_types.iter().map(|known| known.name.clone());
        names.zip(self.0.totals()).collect()
    }
}
