//! The pull side below a path of the program's own server: a request, whose answer a thread of the server waits for.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use everprof::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::door;
use crate::{memory, pauses};

type Answer = http::Response<Vec<u8>>;
/// Status, headers and body.
type Told<'py> = (u16, Vec<(String, String)>, Bound<'py, PyBytes>);
type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A request that is being answered.
#[pyclass(frozen, module = "everprof._everprof")]
pub(crate) struct Pull {
    asked: Mutex<Option<Asked>>,
    waiter: Mutex<Option<Thread>>,
    is_given_up: AtomicBool,
}

#[pymethods]
impl Pull {
    #[new]
    fn new(py: Python<'_>, method: &str, path: &str, query: &str, body: &[u8]) -> PyResult<Self> {
        // Before anything is recorded: only here is the interpreter's lock held.
        if path.ends_with("/allocs") || path.ends_with("/heap") {
            memory::install(py);
        }
        if path.ends_with("/gc") {
            pauses::install(py);
        }
        let asked = door(py, || {
            let wrong =
                |error: http::Error| Error::new(ErrorKind::InvalidData, format!("not a request: {error}"));
            let target = if query.is_empty() { path.to_string() } else { format!("{path}?{query}") };
            let request = http::Request::builder().method(method).uri(target).body(body).map_err(wrong)?;
            Ok(Box::pin(everprof::pull::handle(request)) as Asked)
        })?;
        Ok(Self {
            asked: Mutex::new(Some(asked)),
            waiter: Mutex::new(None),
            is_given_up: AtomicBool::new(false),
        })
    }

    /// Waits for the answer: status, headers and body; none where the request was given up.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Option<Told<'py>>> {
        let answer = door(py, || Ok(self.block()))?;
        Ok(answer.map(|answer| {
            let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_string();
            let headers =
                answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            (answer.status().as_u16(), headers, PyBytes::new(py, answer.body()))
        }))
    }

    /// Gives the request up, and the recording that was made for it.
    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::SeqCst);
        if let Some(waiter) = &*self.waiter.lock().unwrap_or_else(PoisonError::into_inner) {
            waiter.unpark();
        }
    }
}

impl Pull {
    fn block(&self) -> Option<Answer> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let thread = std::thread::current();
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.clone());
        let waker = Waker::from(Arc::new(Unpark(thread)));
        let mut context = Context::from_waker(&waker);
        while !self.is_given_up.load(Ordering::SeqCst) {
            match asked.as_mut().poll(&mut context) {
                Poll::Ready(answer) => return Some(answer),
                Poll::Pending => std::thread::park(),
            }
        }
        None
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
