//! Looks at threads for a snapshot, and what they have found before: a thread whose CPU clock stands still is where it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use everprof_probe::os::Clock;
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::unwind;
use everprof_probe::waiting::{Looker, TOGETHER};

use super::super::wall::{self, Place, Why};

/// Places of threads by their id, each with what the thread had used of the processors there.
#[derive(Debug)]
pub(super) struct Looks {
    looker: Looker,
    words: Vec<u64>,
    kept: Kept,
}

type Kept = BTreeMap<u32, (u64, Arc<Place>)>;

/// What one look at one thread has found.
pub(super) enum Seen {
    /// It runs, or is ready to.
    Running { on_cpu: bool },
    /// It waits, as far as the kernel tells.
    Waiting(Arc<Place>),
    /// It has ended.
    Gone,
}

impl Looks {
    /// `None` where there is no memory.
    pub(super) fn new() -> Option<Self> {
        Some(Self { looker: Looker::new()?, words: vec![0; MAX_STACK_WORDS], kept: BTreeMap::new() })
    }

    /// Looks at up to [`TOGETHER`] threads, of which the looks of the wall clock may have `known` the place where they had used
    /// so much, and `tell`s what each of them does.
    pub(super) fn see(
        &mut self,
        tids: &[u32],
        known: impl Fn(u32, u64) -> Option<Place>,
        mut tell: impl FnMut(u32, Seen),
    ) {
        let mut whom = [(0, 0); TOGETHER];
        let mut count = 0;
        for tid in tids {
            let Some(used) = Clock::Thread(*tid).now() else {
                tell(*tid, Seen::Gone);
                continue;
            };
            let kept = self.kept.get(tid).filter(|(at, place)| *at == used && place.is_final());
            if let Some(place) =
                kept.map(|(_, place)| place.clone()).or_else(|| known(*tid, used).map(Arc::new))
            {
                tell(*tid, Seen::Waiting(place));
            } else if let Some(place) = whom.get_mut(count) {
                *place = (*tid, used);
                count += 1;
            }
        }
        let whom = whom.get(..count).unwrap_or_default();
        let Self { looker, words, kept } = self;
        let tables = unwind::generation();
        looker.look_at(whom, words, |place, look, stack| {
            if let Some((tid, used)) = whom.get(place) {
                tell(*tid, Self::found(kept, *tid, *used, Place::of(look, *tid, stack, tables)));
            }
        });
    }

    fn found(kept: &mut Kept, tid: u32, used: u64, seen: wall::Seen) -> Seen {
        match seen {
            wall::Seen::Ended => Seen::Gone,
            wall::Seen::Running | wall::Seen::Moved(_) => match Clock::Thread(tid).now() {
                Some(now) => Seen::Running { on_cpu: now != used },
                None => Seen::Gone,
            },
            wall::Seen::Partly(place, Why::Untold | Why::NoRoom) => Seen::Waiting(Arc::new(place)),
            wall::Seen::Waiting(place) | wall::Seen::Partly(place, _) => {
                let place = Arc::new(place);
                // If it has run since that was read, its clock will never show it again.
                kept.insert(tid, (used, place.clone()));
                Seen::Waiting(place)
            }
        }
    }

    /// Forgets all other threads.
    pub(super) fn keep_only(&mut self, lives: impl Fn(u32) -> bool) {
        self.kept.retain(|tid, _| lives(*tid));
    }
}
