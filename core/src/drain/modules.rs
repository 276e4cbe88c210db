//! The address space over time: which object was mapped where while a sample was taken.

use std::sync::Arc;

use everprof_probe::sample::{Header, missing};
use everprof_probe::unwind::{self, later};

use super::period::Epoch;
use crate::symbolize::{Module, maps};

/// The modules of the process, by epoch. An epoch ends when a module goes away, because its addresses may be used
/// again; modules that come are added to the epoch at hand.
#[derive(Debug)]
pub(super) struct Modules {
    closed: Vec<Epoch>,
    first: u32,
    /// The unwinder's generation when the epoch at hand began.
    began: u32,
    current: Vec<Module>,
    /// There was a change that [`Modules::take_news`] has not told.
    is_news: bool,
}

impl Modules {
    /// The modules of now.
    pub(super) fn new() -> Self {
        unwind::refresh();
        Self { closed: Vec::new(), first: 0, began: 0, current: read().unwrap_or_default(), is_news: false }
    }

    /// Looks for modules that came or went, at the price of a few nanoseconds where none did.
    /// Says true where there may be some.
    pub(super) fn update(&mut self) -> bool {
        // Code that no loader announced, such as a JIT's, is noticed by a walk that met it.
        let is_changed = unwind::wanted() | unwind::refresh();
        if is_changed {
            self.read_again();
            self.is_news = true;
        }
        is_changed
    }

    /// As [`Modules::update`], for who has to do with what came: says true as well where that was seen since he last asked, by
    /// whoever needed to know the modules of that moment.
    pub(super) fn take_news(&mut self) -> bool {
        self.update();
        std::mem::take(&mut self.is_news)
    }

    /// Looks again whether or not the loader reported anything: code that was not loaded by it, such as a JIT's.
    pub(super) fn read_again(&mut self) {
        // Where the map cannot be read any more, since the process has another root now, what was known goes on.
        let Some(now) = read() else { return };
        let gone = |module: &Module| !now.contains(module);
        if self.current.iter().any(gone) {
            let old = std::mem::replace(&mut self.current, now);
            self.closed.push(old.into());
            self.began = unwind::generation();
        } else {
            self.current = now;
        }
    }

    /// The number of the epoch at hand.
    pub(super) fn epoch(&self) -> u32 {
        self.first + self.closed.len() as u32
    }

    /// The number of the epoch of a sample that was taken under a generation of the unwinder's: those that still lie in
    /// the rings when a module has gone were taken before it went.
    pub(super) fn epoch_of(&self, generation: u32) -> u32 {
        let is_old = generation.wrapping_sub(self.began) as i32 <= -1;
        self.epoch() - u32::from(is_old && !self.closed.is_empty())
    }

    /// The stack whose walk met code without a table, which is there now or is made, in up to `most` words; what was known of it
    /// where a module has gone since, and another one may be in its place.
    pub(super) fn finish(&mut self, header: &Header, words: &[u64], most: usize) -> Vec<u64> {
        // Each time one more module of the stack may be met; most are known, or small.
        const ROUNDS: usize = 16;
        // Where a walk that never ends holds all older tables, no new one can be made: each try reads a map of the process.
        const IN_VAIN: usize = 3;
        // Where the loader has been at work since the last look, little is taken for granted.
        self.update();
        let mut stack = vec![0; most.max(4)];
        let (mut len, mut in_vain) = (None, 0);
        for _ in 0..ROUNDS {
            let generation = unwind::generation();
            let is_of_now = self.epoch_of(header.generation) == self.epoch();
            let finished = later::finish(words, &mut stack).filter(|_| is_of_now);
            len = finished.map(|finished| finished.len);
            if !finished.is_some_and(|finished| finished.lacks_table) || !self.update() {
                break;
            }
            in_vain += usize::from(unwind::generation() == generation);
            if in_vain >= IN_VAIN {
                break;
            }
        }
        match len {
            Some(len) => stack.truncate(len),
            None => stack = later::before(words).iter().copied().chain([missing(0)]).collect(),
        }
        stack
    }

    /// The number of the epoch at hand, and that epoch.
    pub(super) fn now(&self) -> (u32, Vec<Epoch>) {
        (self.epoch(), vec![Arc::from(self.current.as_slice())])
    }

    /// The epochs since [`Modules::take`], with the number of the first; they are still to be taken.
    pub(super) fn known(&self) -> (u32, Vec<Epoch>) {
        let mut epochs = self.closed.clone();
        epochs.push(Arc::from(self.current.as_slice()));
        (self.first, epochs)
    }

    /// Hands out the epochs since the last call, with the number of the first; the one at hand goes on.
    pub(super) fn take(&mut self) -> (u32, Vec<Epoch>) {
        let first = self.first;
        self.first = self.epoch();
        let mut epochs = std::mem::take(&mut self.closed);
        epochs.push(Arc::from(self.current.as_slice()));
        (first, epochs)
    }
}

fn read() -> Option<Vec<Module>> {
    maps::own().ok().filter(|modules| !modules.is_empty())
}

#[cfg(test)]
mod tests {
    use super::Modules;

    #[test]
    fn a_change_is_news_until_it_is_told() {
        let mut modules = Modules::new();
        // As code made at run time does: a walk that met it asks, unless another test has just looked for all.
        let asks = || everprof_probe::unwind::later::finish(&[0x10, 8, 0, 0, 0, 0], &mut [0; 8]);
        assert!((0..100).any(|_| asks().is_some() && modules.update()));
        assert!(modules.take_news());
    }

    #[test]
    fn samples_from_before_a_change_belong_to_the_epoch_before_it() {
        let (closed, current) = (Vec::new(), Vec::new());
        let mut modules = Modules { closed, first: 7, began: 0, current, is_news: false };
        assert_eq!((modules.epoch_of(0), modules.epoch_of(3)), (7, 7));
        modules.closed.push(Vec::new().into());
        modules.began = 4;
        assert_eq!((modules.epoch_of(3), modules.epoch_of(4), modules.epoch_of(5)), (7, 8, 8));
        // What was handed out is not to be had any more.
        let (first, epochs) = modules.take();
        assert_eq!((first, epochs.len()), (7, 2));
        assert_eq!((modules.epoch_of(3), modules.epoch_of(4)), (8, 8));
        // Generations begin anew some day.
        modules.closed.push(Vec::new().into());
        modules.began = 1;
        assert_eq!((modules.epoch_of(u32::MAX), modules.epoch_of(1)), (8, 9));
    }
}
