//! Waits and who ended them: samples of two threads with one number, of which either may come first.
//!
//! Who ends a wait tells it once the other one can go on, who may tell his part before. So a wait that was seen to end is held
//! until the other part is here; where that does not come within a drain or two, since it was lost, the wait is told alone.

use std::collections::HashMap;

/// So many of those who ended waits are kept twice, however long a period is.
const MOST_RELEASES: usize = 4 << 10;

/// What has come without its other half: of now, and of before.
#[derive(Debug)]
pub(super) struct Releases<R, W> {
    releases: [HashMap<u64, R>; 2],
    waits: [HashMap<u64, W>; 2],
}

impl<R, W> Default for Releases<R, W> {
    fn default() -> Self {
        Self { releases: Default::default(), waits: Default::default() }
    }
}

impl<R, W> Releases<R, W> {
    /// Who ended the wait of this number has told; the wait, if that is here.
    pub(super) fn release(&mut self, number: u64, release: R) -> Option<(W, R)> {
        if let Some(wait) = take(&mut self.waits, number) {
            return Some((wait, release));
        }
        let [now, _] = &mut self.releases;
        if now.len() >= MOST_RELEASES {
            self.forget_old();
        }
        let [now, _] = &mut self.releases;
        now.insert(number, release);
        None
    }

    /// Who ended the wait of this number, if that is here.
    pub(super) fn known(&mut self, number: u64) -> Option<R> {
        take(&mut self.releases, number)
    }

    /// A wait that was seen to end has told; it and who ended it, if that is here. Of two with one number, which are of one tick
    /// of the clock, the first is told alone.
    pub(super) fn wait(&mut self, number: u64, wait: W) -> Option<(W, Option<R>)> {
        if let Some(release) = self.known(number) {
            return Some((wait, Some(release)));
        }
        let [now, _] = &mut self.waits;
        now.insert(number, wait).map(|first| (first, None))
    }

    /// A drain is over: the waits that were held for as long as a whole one, and are held no more.
    pub(super) fn end_drain(&mut self) -> impl Iterator<Item = W> + use<R, W> {
        let [now, before] = &mut self.waits;
        std::mem::replace(before, std::mem::take(now)).into_values()
    }

    /// All waits that are held, and are no more.
    pub(super) fn end_waits(&mut self) -> impl Iterator<Item = W> + use<R, W> {
        let [now, before] = std::mem::take(&mut self.waits);
        before.into_values().chain(now.into_values())
    }

    /// Forgets those whose waits have not come for long.
    pub(super) fn forget_old(&mut self) {
        let [now, before] = &mut self.releases;
        *before = std::mem::take(now);
    }
}

fn take<T>(of: &mut [HashMap<u64, T>; 2], number: u64) -> Option<T> {
    of.iter_mut().find_map(|part| part.remove(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_meet_whichever_is_first() {
        let mut releases = Releases::default();
        assert_eq!(releases.release(1, 'a'), None);
        assert_eq!(releases.wait(1, "first"), Some(("first", Some('a'))));
        assert_eq!(releases.wait(2, "second"), None);
        assert_eq!(releases.end_drain().count(), 0);
        assert_eq!(releases.release(2, 'b'), Some(("second", 'b')));
        assert_eq!([releases.wait(2, "one"), releases.wait(2, "other")], [None, Some(("one", None))]);
        assert_eq!(releases.release(2, 'b'), Some(("other", 'b')));
        assert_eq!(releases.end_drain().count(), 0);
        // The other half never comes.
        assert_eq!([releases.wait(3, "third"), releases.wait(4, "fourth")], [None, None]);
        assert_eq!(releases.end_drain().count(), 0);
        assert_eq!(releases.end_drain().count(), 2);
        assert_eq!(releases.wait(5, "fifth"), None);
        assert_eq!(releases.end_waits().collect::<Vec<_>>(), ["fifth"]);
        assert_eq!(releases.release(5, 'c'), None);
        assert_eq!([releases.known(5), releases.known(5)], [Some('c'), None]);
    }

    #[test]
    fn releases_that_nobody_asks_for_are_bounded() {
        let mut releases = Releases::<u64, ()>::default();
        for number in 0..10 * MOST_RELEASES as u64 {
            assert_eq!(releases.release(number, number), None);
        }
        assert!(releases.releases.iter().map(HashMap::len).sum::<usize>() <= 2 * MOST_RELEASES);
        assert_eq!(
            releases.wait(10 * MOST_RELEASES as u64 - 1, ()),
            Some(((), Some(10 * MOST_RELEASES as u64 - 1)))
        );
    }
}
