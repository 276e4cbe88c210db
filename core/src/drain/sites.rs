//! Where something happened that outlives a period, or that has sums of its own: stacks with thread and labels, each kept
//! once for as long as somebody needs it.
//!
//! The sums of CPU time begin anew with each period, and so do their stacks. A live block's stack is needed as long as the
//! block lives, in profiles of periods when the library that it is of may be gone; so with the stacks the address spaces
//! are kept that they are of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use everprof_probe::sample::Trace;

use super::period::{Epoch, Period};
use crate::aggregate::{Aggregate, Key};
use crate::labels::LabelSet;

/// A stack, and the epoch of the address space that it is of.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Stack {
    epoch: u32,
    words: Box<[u64]>,
}

/// What happenings are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Site {
    stack: Arc<Stack>,
    thread: Arc<str>,
    tid: Option<u32>,
    labels: Option<LabelSet>,
    trace: Trace,
    /// The same without a trace, where this one has one.
    untraced: Option<Arc<Site>>,
}

/// A site as a key: each is there once, so that to be equal is to be the same one, which costs no look at its stack. Those of
/// two [`Sites`] never are.
#[derive(Clone, Debug)]
pub(super) struct Same(Arc<Site>);

impl From<Arc<Site>> for Same {
    fn from(site: Arc<Site>) -> Self {
        Self(site)
    }
}

impl std::ops::Deref for Same {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.0
    }
}

impl Same {
    /// The same site without its trace; none where it has none.
    pub(super) fn untraced(&self) -> Option<Same> {
        self.0.untraced.clone().map(Same)
    }
}

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// The sites that are in use.
#[derive(Debug, Default)]
pub(super) struct Sites {
    stacks: HashSet<Arc<Stack>>,
    sites: HashSet<Arc<Site>>,
    epochs: HashMap<u32, Epoch>,
    /// With more sites than this, those are looked for that nobody holds.
    room: usize,
}

/// So many sites at least before that is done.
const ROOM: usize = 16 << 10;

impl Sites {
    /// The site of a stack in an epoch, of a thread by its name and, where it is wanted, its id.
    pub(super) fn site(
        &mut self,
        epoch: u32,
        words: &[u64],
        (thread, tid): (Arc<str>, Option<u32>),
        labels: Option<LabelSet>,
        trace: Trace,
    ) -> Arc<Site> {
        let stack = shared(&mut self.stacks, Stack { epoch, words: words.into() });
        let untraced = Site { stack, thread, tid, labels, trace: Trace::default(), untraced: None };
        if trace.span_id == 0 {
            return shared(&mut self.sites, untraced);
        }
        let twin = shared(&mut self.sites, untraced.clone());
        shared(&mut self.sites, Site { trace, untraced: Some(twin), ..untraced })
    }

    /// Remembers the address spaces of the epochs from `first` on, for as long as stacks are of them.
    pub(super) fn keep_epochs(&mut self, first: u32, epochs: &[Epoch]) {
        // What was known of the last one may have grown.
        self.epochs.extend((first..).zip(epochs.iter().cloned()));
        let used: HashSet<u32> = self.stacks.iter().map(|stack| stack.epoch).collect();
        let last = first + (epochs.len() as u32).saturating_sub(1);
        self.epochs.retain(|epoch, _| *epoch == last || used.contains(epoch));
    }

    /// About how many bytes they hold.
    pub(super) fn memory(&self) -> usize {
        const SITE: usize = 128;
        const STACK: usize = 64;
        let words: usize = self.stacks.iter().map(|stack| size_of_val(&*stack.words) + STACK).sum();
        words + self.sites.len() * SITE
    }

    /// Forgets sites that nobody holds.
    pub(super) fn forget_unused(&mut self) {
        // Those with a trace hold their twins without.
        self.sites.retain(|site| site.untraced.is_none() || Arc::strong_count(site) > 1);
        self.sites.retain(|site| Arc::strong_count(site) > 1);
        self.stacks.retain(|stack| Arc::strong_count(stack) > 1);
    }

    /// Forgets them also within a long period, once there are twice as many as were held the last time.
    pub(super) fn keep_small(&mut self) {
        if self.sites.len() > self.room.max(ROOM) {
            self.forget_unused();
            self.room = 2 * self.sites.len();
        }
    }

    /// Begins to number what is to be named, with so many spans at most.
    pub(super) fn numbering(&self, most_traces: usize) -> Numbering {
        let sorted: BTreeMap<u32, &Epoch> =
            self.epochs.iter().map(|(epoch, space)| (*epoch, space)).collect();
        let epochs = sorted.keys().copied().zip(0..).collect();
        let sums = Aggregate::telling(most_traces);
        let names = Period { epochs: sorted.into_values().cloned().collect(), sums, ..Period::default() };
        Numbering { epochs, threads: HashMap::new(), names }
    }
}

/// Numbers what sites have in common, for the publisher.
#[derive(Debug)]
pub(super) struct Numbering {
    /// Numbers of epochs in what is made here, by those in the sites.
    epochs: HashMap<u32, u32>,
    threads: HashMap<(Arc<str>, Option<u32>), u32>,
    /// What was numbered; its sums hold the stacks and the labels alone.
    pub(super) names: Period,
}

impl Numbering {
    /// The numbers of a site.
    pub(super) fn key(&mut self, site: &Site) -> Key {
        let sums = &mut self.names.sums;
        let (epoch, words) =
            (self.epochs.get(&site.stack.epoch).copied().unwrap_or_default(), &*site.stack.words);
        let who = (site.thread.clone(), site.tid);
        let next = self.threads.len() as u32;
        let thread = *self.threads.entry(who.clone()).or_insert(next);
        if thread == next {
            self.names.threads.push(who);
        }
        // Of more stacks than can be kept, the leaf has to do.
        let stack = sums.intern_stack(epoch, words).or_else(|| sums.intern_stack(epoch, words.get(..1)?));
        let labels = site.labels.clone().map_or(0, |set| sums.intern_labels(set));
        let trace = sums.intern_trace(site.trace);
        Key { stack: stack.unwrap_or_default(), thread, labels, trace, ..Key::default() }
    }
}

/// The one that equals `new`, which is it where there is none yet.
fn shared<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, new: T) -> Arc<T> {
    if let Some(known) = known.get(&new) {
        return known.clone();
    }
    let new = Arc::new(new);
    known.insert(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_that_nobody_holds_are_few_however_long_a_period_is() {
        let mut sites = Sites::default();
        let mut site = |number: u64| {
            let site = sites.site(0, &[number], ("t".into(), None), None, Trace::default());
            sites.keep_small();
            (site, sites.sites.len(), sites.stacks.len())
        };
        let held: Vec<Arc<Site>> = (0..1_000).map(|number| site(number).0).collect();
        for number in 0..8 * ROOM as u64 {
            let (_, all, stacks) = site(number);
            assert!(all <= ROOM + 1 && stacks <= ROOM + 1, "{all} sites, {stacks} stacks");
        }
        assert!(held.iter().zip(0..).all(|(held, number)| Arc::ptr_eq(held, &site(number).0)));
    }
}
