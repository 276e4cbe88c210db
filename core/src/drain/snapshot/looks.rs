//! Looks at threads for a snapshot, and what they have found before: a thread whose CPU clock stands still is where it was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use everprof_probe::os::Clock;
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::waiting::Looker;

use super::super::wall::{self, Place, Why};

/// Places of threads by their id, each with what the thread had used of the processors there.
#[derive(Debug)]
pub(super) struct Looks {
    looker: Looker,
    words: Vec<u64>,
    kept: HashMap<u32, (u64, Arc<Place>)>,
}

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
        Some(Self { looker: Looker::new()?, words: vec![0; MAX_STACK_WORDS], kept: HashMap::new() })
    }

    /// Looks at a thread, of which the looks of the wall clock may have `known` the place where it had used so much.
    pub(super) fn see(&mut self, tid: u32, known: impl FnOnce(u64) -> Option<Place>) -> Seen {
        let Some(used) = Clock::Thread(tid).now() else { return Seen::Gone };
        let kept = self.kept.get(&tid).filter(|(at, place)| *at == used && place.is_final());
        if let Some(place) = kept.map(|(_, place)| place.clone()).or_else(|| known(used).map(Arc::new)) {
            return Seen::Waiting(place);
        }
        match Place::seen(&mut self.looker, tid, used, &mut self.words) {
            wall::Seen::Ended => Seen::Gone,
            wall::Seen::Running | wall::Seen::Moved(_) => match Clock::Thread(tid).now() {
                Some(now) => Seen::Running { on_cpu: now != used },
                None => Seen::Gone,
            },
            wall::Seen::Partly(place, Why::Untold | Why::NoRoom) => Seen::Waiting(Arc::new(place)),
            wall::Seen::Waiting(place) | wall::Seen::Partly(place, _) => {
                let place = Arc::new(place);
                // If it has run since that was read, its clock will never show it again.
                self.kept.insert(tid, (used, place.clone()));
                Seen::Waiting(place)
            }
        }
    }

    /// Forgets all other threads.
    pub(super) fn keep_only(&mut self, tids: &HashSet<u32>) {
        self.kept.retain(|tid, _| tids.contains(tid));
    }
}
