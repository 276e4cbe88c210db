//! Labels and trace together, carried to other threads and through futures.

use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll};

use super::polls::Ticket;
use super::{LabelGuard, Labels, TraceContext, TraceGuard};

/// The labels and the trace in force at one place, to be put in force at another.
///
/// ```
/// use everprof::{Labels, labels::Context};
/// let _guard = Labels::new([("tenant", "a")]).entered();
/// let context = Context::current();
/// let there = std::thread::spawn(move || context.run(|| Labels::current().iter().count())).join().unwrap();
/// assert_eq!(there, 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Context {
    labels: Labels,
    trace: Option<TraceContext>,
}

/// `work`, to be called on another thread with the labels and the trace that are in force here and now.
///
/// ```
/// use everprof::Labels;
/// let _guard = Labels::new([("tenant", "a")]).entered();
/// let work = || Labels::current().iter().count();
/// assert_eq!(std::thread::spawn(everprof::labels::inherit(work)).join().unwrap(), 1);
/// assert_eq!(std::thread::spawn(work).join().unwrap(), 0);
/// ```
pub fn inherit<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let context = Context::current();
    move || context.run(work)
}

impl Context {
    /// These labels, and this trace where there is one.
    pub fn new(labels: Labels, trace: Option<TraceContext>) -> Self {
        Self { labels, trace: trace.filter(|trace| !trace.is_empty()) }
    }

    /// What is in force on this thread.
    pub fn current() -> Self {
        Self::new(Labels::current(), Some(TraceContext::current()))
    }

    /// Puts it in force on this thread, on top of what is, until the guards are dropped.
    #[inline]
    #[must_use = "labels and trace are in force until the guards are dropped"]
    pub fn enter(&self) -> (LabelGuard<'_>, Option<TraceGuard>) {
        (self.labels.enter(), self.trace.map(TraceContext::enter))
    }

    /// Runs `work` with it in force.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _guards = self.enter();
        work()
    }

    /// A future that has it in force whenever it is polled, on whichever thread.
    pub fn wrap<F: Future>(self, future: F) -> InContext<F> {
        InContext { context: self, future, wait: Ticket::default() }
    }
}

pin_project_lite::pin_project! {
    /// A future with labels and a trace that are in force while it is polled, and only then: between polls the thread
    /// belongs to others. Made by [`Labels::wrap`] and [`Context::wrap`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct InContext<F> {
        context: Context,
        #[pin]
        future: F,
        wait: Ticket,
    }
}

impl<F> InContext<F> {
    /// The same without its waits: labels and trace are in force, but what the future waits for is not told, and it is
    /// always polled with the waker of its executor, whatever is recorded. For a future that compares wakers or accepts
    /// its executor's own only, as the timers of embassy do; the option `async_waits` does the same for all.
    ///
    /// Say it of the outermost wrap: another one around it tells waits for what is inside, by a waker of everprof's.
    ///
    /// ```
    /// # async fn blink() {}
    /// # async fn example() {
    /// let labels = everprof::Labels::new([("task", "blink")]);
    /// labels.wrap(blink()).without_waits().await;
    /// # }
    /// ```
    pub fn without_waits(mut self) -> Self {
        self.wait.silence();
        self
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.wait.end();
        let _guards = this.context.enter();
        this.wait.poll(cx, |cx| this.future.poll(cx))
    }
}
