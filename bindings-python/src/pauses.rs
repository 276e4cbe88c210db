//! Pauses of the garbage collector, by the stack of Python at which they began: the kind `gc`.
//!
//! The interpreter calls what is in `gc.callbacks` before a collection and after it, on the thread whose allocation began it, with its lock
//! held. Ours looks at a clock, and where the pause is to be told, at the stack. Collections of the youngest are many and
//! short, so what is below a threshold is told in proportion to its length, and stands for the others: what is told costs a
//! hundredth of the pauses. It is called only where the kind is asked for: the interpreter makes a dictionary for each call.
//!
//! A program may empty the list. Then ours goes back with the next call of everprof's.

use std::sync::atomic::{AtomicU64, Ordering};

use everprof::Labels;
use everprof::profile::Kind;
use everprof::recorder::{NamedFrame, RecordedSample, Recorder};
use everprof_probe::os;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyModule};

use crate::{frames, labels};

/// Nanoseconds from which on each pause is told.
const THRESHOLD: u64 = 1_000_000;

/// When the collection at hand began; 0: there is none, or nobody asked when it did.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds that the callback took.
static COST: AtomicU64 = AtomicU64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// The interpreter's list, whatever a program puts in its place later, and what is in it of ours.
struct Callbacks {
    list: Py<PyList>,
    ours: Py<PyAny>,
}

static CALLBACKS: PyOnceLock<Option<Callbacks>> = PyOnceLock::new();

impl Callbacks {
    fn get(py: Python<'_>) -> Option<&'static Self> {
        CALLBACKS.get_or_init(py, || Self::find(py).ok()).as_ref()
    }

    fn find(py: Python<'_>) -> PyResult<Self> {
        let list = PyModule::import(py, "gc")?.getattr("callbacks")?.cast_into::<PyList>()?.unbind();
        let module = PyModule::import(py, "everprof._everprof")?;
        let ours = wrap_pyfunction!(collecting, &module)?.into_any().unbind();
        Ok(Self { list, ours })
    }

    fn place(&self, py: Python<'_>) -> Option<usize> {
        self.list.bind(py).iter().position(|callback| callback.is(&self.ours))
    }
}

/// Puts the callback in its place, where the kind is among these and it is not there, and takes it out where it is not.
pub(crate) fn follow(py: Python<'_>, kinds: &[Kind]) {
    if kinds.contains(&Kind::Gc) || Recorder::of_pauses().is_wanted() { install(py) } else { uninstall(py) }
}

/// Puts the callback in its place.
pub(crate) fn install(py: Python<'_>) {
    // A sub-interpreter has a list and objects of its own, and does not live as long as the process.
    let callbacks = if frames::is_main_interpreter(py) { Callbacks::get(py) } else { None };
    let Some(callbacks) = callbacks else { return };
    if callbacks.place(py).is_none() && callbacks.list.bind(py).append(&callbacks.ours).is_err() {
        return;
    }
    Recorder::of_pauses().set_telling(true);
}

/// Takes it out.
pub(crate) fn uninstall(py: Python<'_>) {
    Recorder::of_pauses().set_telling(false);
    // Where it never was, nobody asks for the module.
    let callbacks = if frames::is_main_interpreter(py) { CALLBACKS.get(py) } else { None };
    let Some(Some(callbacks)) = callbacks else { return };
    if let Some(place) = callbacks.place(py) {
        let _ = callbacks.list.bind(py).del_item(place);
    }
    BEGAN.store(0, Ordering::Relaxed);
}

/// What the callback took so far, in seconds.
pub(crate) fn cost() -> f64 {
    COST.load(Ordering::Relaxed) as f64 / 1e9
}

/// Called by the interpreter, which tells nobody but `sys.unraisablehook` of an error.
#[pyfunction]
fn collecting(py: Python<'_>, phase: &Bound<'_, PyAny>, info: &Bound<'_, PyDict>) {
    let recorder = Recorder::of_pauses();
    if !recorder.is_wanted() {
        BEGAN.store(0, Ordering::Relaxed);
        return;
    }
    let now = os::monotonic();
    if phase.extract::<std::borrow::Cow<'_, str>>().is_ok_and(|phase| phase == "start") {
        let end = os::monotonic();
        COST.fetch_add(end - now, Ordering::Relaxed);
        BEGAN.store(end, Ordering::Relaxed);
        return;
    }
    let began = BEGAN.swap(0, Ordering::Relaxed);
    if began != 0 {
        tell(py, &recorder, now.saturating_sub(began), info);
    }
    COST.fetch_add(os::monotonic().saturating_sub(now), Ordering::Relaxed);
}

/// Records a pause, or not, by chance.
fn tell(py: Python<'_>, recorder: &Recorder, nanos: u64, info: &Bound<'_, PyDict>) {
    if nanos < 1 + random() % THRESHOLD {
        return;
    }
    let weight = (THRESHOLD as f64 / nanos.max(1) as f64).max(1.0);
    // A whole number, and the right one on the average.
    let count = weight as u64 + u64::from((random() % 1_000) as f64 / 1_000.0 < weight.fract());
    let generation = info.get_item("generation").ok().flatten();
    let generation = generation.and_then(|generation| generation.extract::<u32>().ok());
    let generation = Labels::new(generation.map(|number| ("generation", number.to_string())));
    let frame = |frame: everprof::symbolize::runtime::RuntimeFrame| NamedFrame {
        name: frame.name,
        file: frame.file,
        line: frame.line,
        start_line: frame.start_line,
    };
    let stack: Vec<NamedFrame> = frames::here(py).into_iter().map(frame).collect();
    recorder.record(&RecordedSample {
        stack: &stack,
        thread: &thread_name(),
        labels: labels::in_force(py).and(&generation),
        count,
        nanos: (nanos as f64 * weight) as u64,
    });
}

/// The interpreter's lock is held, so nobody else is here; and if somebody were, it would be as random.
fn random() -> u64 {
    let mut state = RANDOM.load(Ordering::Relaxed);
    if state == 0 {
        state = os::monotonic() | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    RANDOM.store(state, Ordering::Relaxed);
    state
}

/// The calling thread's name as the kernel has it, and as samples of time have it.
fn thread_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm")
        .map(|name| name.trim_end().to_string())
        .unwrap_or_default()
}
