//! Names of threads as a runtime told them, for as long as samples of theirs may come.

use std::collections::HashMap;
use std::sync::Arc;

use crate::thread_names::{self, Names};

/// What threads are called that a runtime told of.
#[derive(Debug, Default)]
pub(super) struct Told {
    names: Names,
    /// Of threads that have ended, and whether the rings were emptied since.
    ended: HashMap<u32, (Arc<str>, bool)>,
}

impl Told {
    /// The name of thread `tid`, where one was told.
    pub(super) fn name(&self, tid: u32) -> Option<Arc<str>> {
        let ended = || self.ended.get(&tid).map(|(name, _)| name);
        self.names.get(&tid).or_else(ended).cloned()
    }

    /// Takes what was told since the last call, and returns it.
    pub(super) fn take(&mut self) -> Names {
        let mut new = thread_names::take();
        new.retain(|tid, name| {
            self.ended.remove(tid);
            if name.is_empty() {
                self.names.remove(tid);
            } else {
                self.names.insert(*tid, name.clone());
            }
            !name.is_empty()
        });
        new
    }

    /// Another thread has that id by now. What was told of it may be told of the new one.
    pub(super) fn reused(&mut self, tid: u32, before: &Arc<str>) {
        if self.names.get(&tid).is_some_and(|name| Arc::ptr_eq(name, before)) {
            self.names.remove(&tid);
        }
        self.ended.remove(&tid);
    }

    /// Looks who lives.
    pub(super) fn look(&mut self, lives: impl Fn(u32) -> bool) {
        let ended = self.names.extract_if(|tid, _| !lives(*tid));
        self.ended.extend(ended.map(|(tid, name)| (tid, (name, false))));
    }

    /// The rings were emptied: of threads that had ended by the time before, no sample will come any more.
    pub(super) fn drained(&mut self) {
        self.ended.retain(|_, (_, drained)| !std::mem::replace(drained, true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outlive_their_threads_until_their_samples_are_read() {
        let mut told = Told::default();
        told.names.insert(7, "seven".into());
        told.names.insert(8, "eight".into());
        for _ in 0..3 {
            told.look(|tid| tid == 8);
        }
        told.drained();
        assert_eq!(told.name(7).as_deref(), Some("seven"));
        told.drained();
        assert_eq!((told.name(7), told.name(8).as_deref()), (None, Some("eight")));
    }

    #[test]
    fn a_name_is_not_the_next_threads_of_that_id() {
        let mut told = Told::default();
        let name: Arc<str> = "seven".into();
        told.names.insert(7, name.clone());
        told.reused(7, &"seven".into());
        assert!(told.name(7).is_some(), "told of the new one");
        told.reused(7, &name);
        assert!(told.name(7).is_none());
    }
}
