//! The spans that are entered on this thread, and what they have put in force.
//!
//! An entered span is a scope as a guard's is ([`Held`]), and ends by its number, in whatever order spans and guards end. Of
//! scopes within each other those beyond the 64th are not opened: such a span is in the list, so that its end is found, and
//! nothing of it is in force. Beyond [`DEEPEST`] spans only their numbers are kept.

use std::cell::RefCell;

use super::request::Root;
use crate::labels::in_force::{self, Held};
use crate::labels::{Labels, TraceContext};

/// Spans that are entered in each other on one thread and kept with what they have.
const DEEPEST: usize = 1024;

thread_local! {
    static ENTERED: RefCell<List> = const { RefCell::new(List { spans: Vec::new(), beyond: Vec::new() }) };
}

/// The number of a span, and the registry that it is of: 0 where that is not known, which may be any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) registry: u32,
    pub(super) span: u64,
}

impl Number {
    fn is(self, other: Number) -> bool {
        let is_same = self.registry == other.registry || self.registry == 0 || other.registry == 0;
        self.span == other.span && is_same
    }
}

struct List {
    spans: Vec<Entered>,
    /// Those that were entered within them, while there were too many.
    beyond: Vec<Number>,
}

/// A span that is entered on this thread, and what was in force before.
struct Entered {
    number: Number,
    root: Root,
    labels: Held<u32>,
    /// Keeps the set alive that is in force because of it.
    kept: Labels,
    /// None where it is not known whether it has IDs.
    trace: Option<Held<TraceContext>>,
}

/// The root of a span, where that is entered on this thread.
pub(super) fn root(number: Number) -> Option<Root> {
    let found = ENTERED.try_with(|entered| {
        let entered = entered.try_borrow().ok()?;
        entered
            .spans
            .iter()
            .rev()
            .find(|entered| entered.number.is(number))
            .map(|entered| entered.root.clone())
    });
    found.ok().flatten()
}

/// Puts a span in force: its labels where those of its root are not yet, and its IDs where it is known whether it has some.
pub(super) fn enter(number: Number, root: Root, ids: Option<Option<TraceContext>>) {
    // Not while the thread's variables are destroyed.
    let _ = ENTERED.try_with(|entered| {
        let Ok(mut entered) = entered.try_borrow_mut() else { return };
        if !Held::is_any_open() {
            // What was entered before has ended with a scope around it, or was never left.
            entered.spans.clear();
            entered.beyond.clear();
        }
        // One that was entered later is not to be found before one that was entered earlier.
        if entered.spans.len() >= DEEPEST || !entered.beyond.is_empty() {
            return entered.beyond.push(number);
        }
        let is_of_root = |outer: &Entered| outer.root.name.labels == root.name.labels;
        let is_in_force =
            entered.spans.last().is_some_and(|outer| is_of_root(outer) && outer.labels.is_open());
        let labels = Held::labels();
        let kept = if is_in_force || !labels.is_open() {
            Labels::default()
        } else {
            in_force::set_labels(&root.name.labels, labels.before())
        };
        let trace = ids.map(|ids| {
            let trace = Held::trace();
            if trace.is_open() {
                in_force::set_trace(ids.unwrap_or_default());
            }
            trace
        });
        entered.spans.push(Entered { number, root, labels, kept, trace });
    });
}

/// Puts in force what was before the span was entered, or where another one that was entered later is entered still, leaves
/// that to its end. Where a guard that is outside of it has ended, that has been done. Says whether it was entered.
pub(super) fn exit(number: Number) -> bool {
    let found = ENTERED.try_with(|entered| {
        let Ok(mut entered) = entered.try_borrow_mut() else { return false };
        if let Some(place) = entered.beyond.iter().rposition(|beyond| beyond.is(number)) {
            entered.beyond.remove(place);
            return true;
        }
        let entered = &mut entered.spans;
        let Some(place) = entered.iter().rposition(|entered| entered.number.is(number)) else { return false };
        let ended = entered.remove(place);
        let mut later = entered.iter_mut().skip(place).find(|later| later.labels.is_open());
        if let Some(later) = later.as_mut().filter(|later| later.kept.is_empty()) {
            later.kept = ended.kept;
        }
        if let Some(labels) = ended.labels.close(later.map(|later| &mut later.labels)) {
            in_force::restore_labels(labels);
        }
        let mut later = entered.iter_mut().skip(place).filter_map(|later| later.trace.as_mut());
        let later = later.find(|later| later.is_open());
        if let Some(trace) = ended.trace.and_then(|trace| trace.close(later)) {
            in_force::set_trace(trace);
        }
        true
    });
    found.unwrap_or_default()
}

/// Ends what was entered on this thread and never left, since the span is gone and its number may be another one's soon.
pub(super) fn forget(number: Number) {
    while exit(number) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tracing::request::Name;

    fn root(name: &'static str) -> Root {
        Root { name: Name::of(name, ""), trace: None }
    }

    fn enter(span: u64, root: Root, ids: Option<Option<TraceContext>>) {
        super::enter(Number { registry: 1, span }, root, ids);
    }

    fn exit(span: u64) {
        super::exit(Number { registry: 1, span });
    }

    fn now() -> (Vec<String>, u64) {
        let labels = Labels::current();
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        (labels.collect(), TraceContext::current().span_id)
    }

    #[test]
    fn what_was_in_force_comes_back_in_whatever_order_spans_end() {
        let told = |labels: &[&str], span| (labels.iter().map(|label| (*label).to_string()).collect(), span);
        let (a, b) = (root("a"), root("b"));
        let ids = |span| Some(Some(TraceContext::new(1, span)));
        let _outer = Labels::new([("tenant", "t")]).entered();
        enter(1, a.clone(), ids(11));
        assert_eq!(now(), told(&["span_name=a", "tenant=t"], 11));
        enter(2, a.clone(), ids(12));
        enter(3, b.clone(), ids(13));
        assert_eq!(now(), told(&["span_name=b", "tenant=t"], 13));
        exit(2);
        assert_eq!(now(), told(&["span_name=b", "tenant=t"], 13), "another one is entered still");
        enter(3, b.clone(), Some(None));
        assert_eq!(now().1, 0, "entered once more, not sampled");
        exit(3);
        exit(3);
        assert_eq!(now(), told(&["span_name=a", "tenant=t"], 11));
        exit(9);
        exit(1);
        assert_eq!(now(), told(&["tenant=t"], 0));
    }

    #[test]
    fn spans_and_guards_that_end_in_another_order_leave_nothing_in_force() {
        let ids = |span| Some(Some(TraceContext::new(1, span)));
        let nothing = (Vec::new(), 0);
        let tenant = || (Labels::new([("tenant", "t")]).entered(), TraceContext::new(9, 9).enter());
        // The guard is the outer one, and ends first.
        let guards = tenant();
        enter(1, root("a"), ids(11));
        drop(guards);
        assert_eq!(now(), nothing, "with it ends what is in it");
        enter(2, root("a"), ids(12));
        assert_eq!(now(), (vec!["span_name=a".to_string()], 12), "though another one of its root is entered");
        exit(1);
        assert_eq!(now().1, 12);
        exit(2);
        assert_eq!(now(), nothing);
        // The span is the outer one, and ends first.
        enter(1, root("a"), ids(11));
        let guards = tenant();
        exit(1);
        assert_eq!(now(), nothing);
        drop(guards);
        assert_eq!(now(), nothing);
        // A guard stands between two spans.
        enter(1, root("a"), ids(11));
        let guards = tenant();
        enter(2, root("b"), ids(12));
        exit(1);
        drop(guards);
        exit(2);
        assert_eq!(now(), nothing);
        // Within what was left to the second span, a guard is one of its own.
        enter(1, root("a"), ids(11));
        enter(2, root("b"), ids(12));
        exit(1);
        let guards = tenant();
        assert_eq!(now().1, 9);
        drop(guards);
        assert_eq!(now(), (vec!["span_name=b".to_string()], 12));
        exit(2);
        assert_eq!(now(), nothing);
    }

    /// Names that live as long as those in a program's code.
    fn names(count: u64) -> Vec<&'static str> {
        (0..count).map(|number| &*Box::leak(format!("n{number}").into_boxed_str())).collect()
    }

    #[test]
    fn of_scopes_within_each_other_64_are_told_and_the_end_of_others_changes_nothing() {
        let names = names(70);
        let told = |depth: usize| {
            let (labels, ids) = now();
            let told = depth.min(64);
            let name = told.checked_sub(1).map(|at| format!("span_name={}", names[at]));
            assert_eq!((labels, ids), (name.into_iter().collect(), told as u64), "{depth}");
        };
        for (at, name) in names.iter().enumerate() {
            told(at);
            enter(at as u64 + 1, root(name), Some(Some(TraceContext::new(1, at as u64 + 1))));
        }
        // Neither do guards, which have no room either.
        drop((Labels::new([("tenant", "t")]).entered(), TraceContext::new(9, 9).enter()));
        for depth in (1..=names.len()).rev() {
            told(depth);
            exit(depth as u64);
        }
        told(0);
    }

    /// Spans that are entered and left at random: what is in force is of one that is entered, and at the end nothing is.
    #[test]
    fn in_no_order_of_ends_is_something_in_force_that_has_ended() {
        let names = names(200);
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut entered: Vec<u64> = Vec::new();
        for turn in 0..20_000 {
            // Up to some 100, and down again.
            let grows = random(100) < if turn / 1_000 % 2 == 0 { 55 } else { 45 };
            if grows || entered.is_empty() {
                let span = random(names.len()) as u64;
                let ids = (random(10) > 0).then(|| TraceContext::new(1, span + 1));
                enter(span, root(names[span as usize]), Some(ids));
                entered.push(span);
            } else {
                // Mostly the last one.
                let back = if random(4) == 0 { random(entered.len()) } else { 0 };
                let span = entered[entered.len() - 1 - back];
                let last = entered.iter().rposition(|known| *known == span).unwrap();
                entered.remove(last);
                exit(span);
            }
            let (labels, ids) = now();
            assert!(labels.len() <= 1);
            let is_entered = |label: &String| {
                entered.iter().any(|span| *label == format!("span_name={}", names[*span as usize]))
            };
            assert!(labels.iter().all(is_entered), "{labels:?} of {entered:?}");
            assert!(ids == 0 || entered.contains(&(ids - 1)), "{ids} of {entered:?}");
        }
        entered.iter().rev().for_each(|span| exit(*span));
        assert_eq!(now(), (Vec::new(), 0));
    }

    #[test]
    fn beyond_a_thousand_spans_each_end_finds_its_own() {
        let (a, b) = (root("a"), root("b"));
        enter(1, a.clone(), None);
        (0..2 * DEEPEST as u64).for_each(|number| enter(10 + number, b.clone(), None));
        // The same once more, too deep: it is this one that ends first.
        enter(1, a, None);
        exit(1);
        (0..2 * DEEPEST as u64).rev().for_each(|number| exit(10 + number));
        assert_eq!(now().0, ["span_name=a"]);
        exit(1);
        assert_eq!(now().0, [""; 0]);
    }

    #[test]
    fn a_span_that_is_gone_or_of_another_registry_is_not_taken_for_one_of_its_number() {
        let number = |registry, span| Number { registry, span };
        enter(1, root("a"), None);
        assert!(super::root(number(1, 1)).is_some() && super::root(number(0, 1)).is_some());
        assert!(super::root(number(2, 1)).is_none() && !super::exit(number(2, 1)));
        assert_eq!(now().0, ["span_name=a"]);
        // It was never left, and closed.
        forget(number(1, 1));
        assert!(super::root(number(1, 1)).is_none());
        assert_eq!(now().0, [""; 0]);
        // It was never left, and a scope around it has ended.
        let guard = Labels::new([("tenant", "t")]).entered();
        enter(1, root("a"), None);
        drop(guard);
        enter(2, root("b"), None);
        assert!(super::root(number(1, 1)).is_none());
        exit(2);
        assert_eq!(now().0, [""; 0]);
    }
}
