//! Scopes of this thread: which guards are open, and what is in force.
//!
//! Each thread has two stacks of open scopes, one of label sets and one of traces. A guard knows its level in its stack
//! and the number that was written there. Ending a scope cuts the stack there; a guard that does not find its number
//! any more was ended by an outer one, and does nothing. So guards may be dropped in any order.

use std::cell::Cell;
use std::marker::PhantomData;

use super::Labels;
use super::slot;
use super::trace::TraceContext;

/// Scopes deeper than this are not entered: what is in force stays.
const DEEPEST: usize = 64;

thread_local! {
    // Without a destructor, so that guards work while other thread-locals are destroyed, and access costs nothing.
    static LABELS: Scopes = const { Scopes::new() };
    static TRACES: Scopes = const { Scopes::new() };
}

/// Keeps labels in force on this thread until it is dropped. Made by [`Labels::enter`].
#[derive(Debug)]
pub struct LabelGuard<'a> {
    scope: Scope,
    outer: u32,
    /// Keeps the set in force alive where nobody else does. Dropped after the scope has ended.
    _kept: Labels,
    _of_this_thread: PhantomData<(&'a Labels, *const ())>,
}

/// Keeps a trace in force on this thread until it is dropped. Made by [`TraceContext::enter`].
#[derive(Debug)]
pub struct TraceGuard {
    scope: Scope,
    outer: TraceContext,
    _of_this_thread: PhantomData<*const ()>,
}

/// Puts a set in force on this thread. Of the id in force, `choose` makes that of the set, and what keeps it alive.
#[inline]
pub(super) fn enter<'a>(choose: impl FnOnce(u32) -> (u32, Labels)) -> LabelGuard<'a> {
    let outer = slot::labels();
    let (id, kept) = choose(outer);
    let scope = LABELS.with(Scopes::open);
    if scope.is_some() {
        slot::set_labels(id);
    }
    LabelGuard { scope, outer, _kept: kept, _of_this_thread: PhantomData }
}

/// Puts a trace in force on this thread.
#[inline]
pub(super) fn enter_trace(trace: TraceContext) -> TraceGuard {
    let (outer, scope) = (slot::trace(), TRACES.with(Scopes::open));
    if scope.is_some() {
        slot::set_trace(trace);
    }
    TraceGuard { scope, outer, _of_this_thread: PhantomData }
}

impl Drop for LabelGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if LABELS.with(|scopes| scopes.close(self.scope)) {
            slot::set_labels(self.outer);
        }
    }
}

impl Drop for TraceGuard {
    #[inline]
    fn drop(&mut self) {
        if TRACES.with(|scopes| scopes.close(self.scope)) {
            slot::set_trace(self.outer);
        }
    }
}

/// A scope that ends by itself, and leaves those that are entered later to their ends: a span's.
#[cfg(feature = "tracing")]
pub(crate) struct Held<T> {
    stack: &'static std::thread::LocalKey<Scopes>,
    /// Where it is cut off when it ends: with what was left to it, if an earlier one has ended.
    first: Scope,
    own: Scope,
    before: T,
}

#[cfg(feature = "tracing")]
impl Held<u32> {
    pub(crate) fn labels() -> Self {
        Held::open(&LABELS, slot::labels())
    }

    /// Whether this thread has any scope, of whatever kind.
    #[inline]
    pub(crate) fn is_any_open() -> bool {
        let is_open = |scopes: &Scopes| scopes.depth.get() > 0;
        LABELS.with(is_open) || TRACES.with(is_open)
    }
}

#[cfg(feature = "tracing")]
impl Held<TraceContext> {
    pub(crate) fn trace() -> Self {
        Held::open(&TRACES, slot::trace())
    }
}

#[cfg(feature = "tracing")]
impl<T: Copy> Held<T> {
    fn open(stack: &'static std::thread::LocalKey<Scopes>, before: T) -> Self {
        let scope = stack.with(Scopes::open);
        Self { stack, first: scope, own: scope, before }
    }

    /// Whether no outer scope has ended it, and it was not too deep.
    pub(crate) fn is_open(&self) -> bool {
        self.stack.with(|scopes| scopes.is_open(self.first))
    }

    /// Ends it where no scope is open in it except `later`, the next one of its kind, by leaving to that what was before.
    /// Otherwise it ends those in it as well: what comes back then is returned. A guard between the two would bring back
    /// what has ended.
    pub(crate) fn close(self, later: Option<&mut Self>) -> Option<T> {
        if let Some(later) = later.filter(|later| self.is_open() && later.first.level == self.own.level + 1) {
            (later.first, later.before) = (self.first, self.before);
            return None;
        }
        self.stack.with(|scopes| scopes.close(self.first)).then_some(self.before)
    }

    pub(crate) fn before(&self) -> T {
        self.before
    }
}

/// Where a guard stands in its stack.
#[derive(Clone, Copy, Debug)]
struct Scope {
    level: u32,
    number: u32,
}

impl Scope {
    /// Of a guard that does nothing.
    const NONE: Scope = Scope { level: u32::MAX, number: 0 };

    #[inline]
    fn is_some(self) -> bool {
        self.level != u32::MAX
    }
}

struct Scopes {
    depth: Cell<u32>,
    /// How often a scope was opened at each level: the number of the one that is open there.
    opened: [Cell<u32>; DEEPEST],
}

impl Scopes {
    const fn new() -> Self {
        Self { depth: Cell::new(0), opened: [const { Cell::new(0) }; DEEPEST] }
    }

    #[inline(always)]
    fn open(&self) -> Scope {
        let level = self.depth.get();
        let Some(opened) = self.opened.get(level as usize) else { return Scope::NONE };
        let number = opened.get().wrapping_add(1);
        opened.set(number);
        self.depth.set(level + 1);
        Scope { level, number }
    }

    /// Cuts the stack at `scope`, if what was opened there is open still.
    #[inline(always)]
    fn close(&self, scope: Scope) -> bool {
        let open = self.is_open(scope);
        if open {
            self.depth.set(scope.level);
        }
        open
    }

    #[inline(always)]
    fn is_open(&self, scope: Scope) -> bool {
        let number = self.opened.get(scope.level as usize).map(Cell::get);
        scope.level < self.depth.get() && number == Some(scope.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_scope_ends_the_inner_ones_and_stale_guards_do_nothing() {
        let scopes = Scopes::new();
        let (first, second) = (scopes.open(), scopes.open());
        assert!(scopes.close(first));
        assert!(!scopes.close(second), "ended with the first");
        let (third, fourth) = (scopes.open(), scopes.open());
        assert!(!scopes.close(second), "its level is another scope's now");
        assert!(scopes.close(fourth) && scopes.close(third));
        assert!(!scopes.close(third), "only once");
    }

    #[test]
    fn too_deep_scopes_are_not_entered() {
        let scopes = Scopes::new();
        let open: Vec<Scope> = (0..DEEPEST).map(|_| scopes.open()).collect();
        let too_deep = scopes.open();
        assert!(!too_deep.is_some() && !scopes.close(too_deep));
        assert!(open.into_iter().rev().all(|scope| scopes.close(scope)));
    }
}
