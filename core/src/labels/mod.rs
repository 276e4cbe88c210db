//! Labels: whose work a sample was. Set for a scope, read by the handler as one number.
//!
//! A [`Labels`] is an interned set of `key=value`; its id lies in the thread's slot in `everprof_probe` while a guard is
//! alive. The application calls this on its own threads; the drain calls [`resolve`] and [`reclaim`] on ours. The
//! handler calls nothing here: it copies the id.
//!
//! **Scopes nest.** Inside a scope another one adds its labels, and wins where the keys are the same. A guard ends its
//! scope *and every scope entered inside of it*, whatever the order in which guards are dropped; a guard whose scope was
//! ended that way does nothing. A forgotten guard leaves its labels on until an outer scope of the thread ends, or
//! nothing at all once the set itself is gone; labels never turn into other labels. Of scopes within each other on one
//! thread 64 are entered: those beyond change nothing, neither at their beginning nor at their end.
//!
//! **Ids are not reused**, so a sample that still waits in a ring cannot name another set than the one it was taken
//! under. How sets are given back is told in `table.rs`.
//!
//! **Bounds.** Keys and values are made to fit (128 and 256 bytes, no control characters), a set holds 32 labels at
//! most, and the process 65,536 sets; beyond that new sets become the one set `everprof.labels=overflow`, counted.
//!
//! **Fork.** The table's locks are held for well under a microsecond and never in a handler. A child that was forked
//! while another thread held one finds it locked for ever; it notices, and labels that would go there overflow.

mod context;
mod endpoints;
pub(crate) mod fixed;
#[cfg(feature = "tracing")]
pub(crate) mod in_force;
mod polls;
mod scope;
mod set;
mod slot;
mod table;
mod trace;

pub use context::{Context, InContext, inherit};
pub use endpoints::count_endpoint;
pub(crate) use endpoints::{
    New, add_counts, after_fork as forget_counts, lock as lock_counts, set_counting, take as take_counts,
};
pub(crate) use polls::{lost, stop_ticking, tick};
pub use scope::{LabelGuard, TraceGuard};
pub use set::LabelSet;
pub use table::{LabelStats, reclaim, resolve, set_sampling, stats};
pub use trace::TraceContext;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use table::Shared;

/// An interned set of labels. Cheap to clone and to enter; make it once where the values repeat.
///
/// ```
/// use everprof::Labels;
/// let tenant = Labels::new([("tenant", "a")]);
/// let stage = Labels::new([("stage", "parse")]);
/// {
///     let _tenant = tenant.enter();
///     let _stage = stage.enter();
///     let now: Vec<_> = Labels::current().iter().map(|(k, v)| format!("{k}={v}")).collect();
///     assert_eq!(now, ["stage=parse", "tenant=a"]);
/// }
/// assert!(Labels::current().is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Labels(Option<Arc<Shared>>);

impl Labels {
    /// The set of these labels. The order does not matter; of one key given twice the last value counts.
    ///
    /// Never fails: a key or value that profiles cannot carry is made to fit, see the module's bounds.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(labels: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::of_text(&set::text(labels))
    }

    /// The set in force on this thread, from all scopes that are open; empty outside of every scope.
    pub fn current() -> Self {
        table::handle(slot::labels())
    }

    /// Puts the labels in force on this thread until the guard is dropped. Takes some nanoseconds.
    #[inline]
    #[must_use = "the labels are in force until the guard is dropped"]
    pub fn enter(&self) -> LabelGuard<'_> {
        scope::enter(|outer| self.inside(outer))
    }

    /// As [`Labels::enter`], with a guard that keeps the set alive: for sets that are made in place.
    ///
    /// ```
    /// let _guard = everprof::Labels::new([("tenant", "a")]).entered();
    /// ```
    #[must_use = "the labels are in force until the guard is dropped"]
    pub fn entered(self) -> LabelGuard<'static> {
        scope::enter(|outer| {
            let merged = if outer == 0 { self } else { table::handle(outer).and(&self) };
            (merged.id(), merged)
        })
    }

    /// Puts these labels and no others in force on this thread, until others are: for a language whose scopes are not
    /// those of the stack, and whose binding keeps them itself. Whoever calls it keeps the set for as long as it is in force;
    /// one that is gone is no labels.
    ///
    /// ```
    /// use everprof::Labels;
    /// let tenant = Labels::new([("tenant", "a")]);
    /// tenant.put();
    /// assert_eq!(Labels::current(), tenant);
    /// Labels::default().put();
    /// assert!(Labels::current().is_empty());
    /// ```
    pub fn put(&self) {
        slot::set_labels(self.id());
    }

    /// Runs `work` with the labels in force.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _guard = self.enter();
        work()
    }

    /// A future that has the labels in force whenever it is polled, on whichever thread.
    ///
    /// With `kinds=cpu,wall` it also tells what it waits for: the time from a poll that returned `Pending` to the next one,
    /// or to its end, is in the wall profile under the labels `state=awaiting` and `wait`, with the stack of the place where
    /// it left its waker. Of wraps within wraps the innermost tells it. Some polls stand for all, about 200 a second of each
    /// thread and 1,000 of the process; those get a waker of everprof's, whose clones are the executor's own. A poll costs
    /// some nanoseconds more for the wrap.
    ///
    /// A future that accepts its own executor's waker only, and panics at any other, as the timers of embassy do, must not
    /// get one of ours: [`InContext::without_waits`], or the option `async_waits=off` for all.
    ///
    /// ```
    /// # async fn answer() -> u32 { 42 }
    /// # async fn example() {
    /// let labels = everprof::Labels::new([("endpoint", "/answer")]);
    /// assert_eq!(labels.wrap(answer()).await, 42);
    /// # }
    /// ```
    pub fn wrap<F: Future>(&self, future: F) -> InContext<F> {
        Context::new(self.clone(), None).wrap(future)
    }

    /// These labels with those of `inner` on top.
    pub fn and(&self, inner: &Labels) -> Labels {
        match (&self.0, &inner.0) {
            (None, _) => inner.clone(),
            (_, None) => self.clone(),
            (Some(outer), Some(inside)) => {
                let merged = set::merged(outer.set(), inside.set());
                if merged == inside.set().as_str() { inner.clone() } else { Self::of_text(&merged) }
            }
        }
    }

    /// The labels, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|shared| shared.set().iter())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The number that samples carry; 0 for the empty set.
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, |shared| shared.id())
    }

    /// Whether it stands for sets that found no room.
    #[cfg(feature = "tracing")]
    pub(crate) fn is_overflow(&self) -> bool {
        self.id() == table::OVERFLOW
    }

    fn of_text(text: &str) -> Self {
        if text.is_empty() { Self(None) } else { table::intern(text) }
    }

    /// The id of this set inside of `outer`, and what keeps it alive while it is in force, beside this set.
    #[inline]
    fn inside(&self, outer: u32) -> (u32, Labels) {
        match &self.0 {
            Some(shared) if outer == 0 => (shared.id(), Labels(None)),
            Some(shared) => match shared.remembered(outer) {
                Some(id) => (id, Labels(None)),
                None => self.merged(shared, outer),
            },
            None => (outer, Labels(None)),
        }
    }

    /// The id of this set on top of `outer`, and what keeps it alive while it is in force.
    #[cold]
    fn merged(&self, shared: &Shared, outer: u32) -> (u32, Labels) {
        let merged = table::handle(outer).and(self);
        let id = merged.id();
        (id, if shared.remember(outer, &merged) { Labels(None) } else { merged })
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Labels {}

/// Runs `work` with these labels in force; for values that do not repeat, or where speed does not matter.
///
/// ```
/// let sum = everprof::with_labels([("tenant", "a")], || (1..10).sum::<u32>());
/// assert_eq!(sum, 45);
/// ```
pub fn with_labels<K: AsRef<str>, V: AsRef<str>, T>(
    labels: impl IntoIterator<Item = (K, V)>,
    work: impl FnOnce() -> T,
) -> T {
    let _guard = Labels::new(labels).entered();
    work()
}
