//! Looks at several threads together: the kernel is asked where each of them waits, and then for all their stacks at once,
//! since a third of what a copy costs is the call. Whoever cannot be looked at so is looked at alone.

use super::{AT_MOST, Look, Looker, MOSTLY, Waiting, Walked, call_of, unchecked};
use crate::memory;
use crate::os::{Clock, PIECES, Task, Wait, task};
use crate::unwind::End;

/// So many are looked at together. More would save little, and the first ones would have more time to go on.
pub const TOGETHER: usize = PIECES;

/// A thread on the way to its look.
#[derive(Clone, Copy)]
struct Foreseen {
    wait: Wait,
    /// How much of its stack was enough where it waits.
    enough: usize,
}

impl Looker {
    /// Looks at up to [`TOGETHER`] threads, of which the caller has read just now that they have used so many nanoseconds of
    /// the processors. Tells of each by its place in `whom`, not in order, with its stack.
    pub fn look_at(
        &mut self,
        whom: &[(u32, u64)],
        words: &mut [u64],
        mut tell: impl FnMut(usize, Look, &[u64]),
    ) {
        let mut foreseen = [None; TOGETHER];
        for ((tid, _), foreseen) in whom.iter().zip(&mut foreseen) {
            *foreseen = self.foresee(*tid);
        }
        let mut copied = self.copy_stacks(&foreseen);
        let mut is_told = [false; TOGETHER];
        for (place, ((thread, foreseen), is_told)) in whom.iter().zip(&foreseen).zip(&mut is_told).enumerate()
        {
            let Some(foreseen) = foreseen else { continue };
            let is_copied = copied >= foreseen.enough;
            copied = copied.saturating_sub(foreseen.enough);
            if is_copied && let Some(waiting) = self.finish(*thread, foreseen, place, words) {
                *is_told = true;
                tell(place, Look::Waiting(waiting), words.get(..waiting.words).unwrap_or_default());
            }
        }
        // They use the memory of the copies.
        for (place, (tid, used)) in whom.iter().enumerate() {
            if !is_told.get(place).is_some_and(|told| *told) {
                let look = self.look_since(*tid, *used, words);
                let stack = if let Look::Waiting(waiting) = look { waiting.words } else { 0 };
                tell(place, look, words.get(..stack).unwrap_or_default());
            }
        }
    }

    /// Where a thread waits, if it is known how much of the stack is enough there.
    fn foresee(&self, tid: u32) -> Option<Foreseen> {
        let Task::Waiting(wait) = task(tid) else { return None };
        let enough = self.enough(wait.pc);
        (enough > 0).then(|| Foreseen { wait: Wait { call: call_of(&wait), ..wait }, enough })
    }

    /// Copies the stacks of all of them, each into a part of the room of its own, until one cannot be read whole. Says how many
    /// bytes were read of all.
    fn copy_stacks(&mut self, foreseen: &[Option<Foreseen>; TOGETHER]) -> usize {
        const { assert!(TOGETHER * MOSTLY <= AT_MOST, "each has its part of the room") };
        // SAFETY: the mapping has `AT_MOST` bytes, is ours alone, and `&mut self` says that nobody else looks at it.
        let room = unsafe { core::slice::from_raw_parts_mut(self.copy.as_ptr(), AT_MOST) };
        let parts = room.chunks_mut(MOSTLY).zip(foreseen);
        let pieces = parts.filter_map(|(part, foreseen)| {
            let Foreseen { wait, enough } = (*foreseen)?;
            Some((wait.sp, part.get_mut(..enough)?))
        });
        memory::copy_all(self.own, pieces)
    }

    /// Walks the copy of a stack; `None` where the thread has gone on, or its stack is longer than foreseen.
    fn finish(
        &mut self,
        (tid, used): (u32, u64),
        foreseen: &Foreseen,
        place: usize,
        words: &mut [u64],
    ) -> Option<Waiting> {
        let Foreseen { wait, enough } = *foreseen;
        let (labels, trace) = unchecked(tid);
        if Clock::Thread(tid).now() != Some(used) {
            return None;
        }
        let walked = self.walk((tid, used), &wait, place * MOSTLY, enough, words)?;
        let Walked { words, end, lacks_runtime, top, .. } = walked;
        if end != End::Root {
            return None;
        }
        self.learn(wait.pc, top.saturating_sub(wait.sp));
        let labels = walked.labels.unwrap_or(labels);
        Some(Waiting { wait, readable: true, moved: false, used, words, end, lacks_runtime, labels, trace })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::os::gettid;
    use crate::unwind;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::vec::Vec;

    /// A thread whose stack is `depth` frames deeper than another's.
    #[inline(never)]
    fn wait(depth: u32, to_main: &Sender<(usize, u32)>, place: usize, until: &Receiver<()>) -> u32 {
        if depth > 0 {
            return wait(depth - 1, to_main, place, until) + std::hint::black_box(1);
        }
        let _ = to_main.send((place, gettid()));
        let _ = until.recv();
        0
    }

    /// Each of them is told once, with the stack that a look at it alone finds: also where there are fewer than may be, some
    /// with longer stacks, one that runs, and one that is gone.
    #[test]
    fn together_they_are_seen_as_each_alone() {
        while !unwind::refresh() && unwind::generation() == 0 {
            std::thread::yield_now();
        }
        let (to_main, ids) = channel();
        let depths = [0, 0, 40, 0, 3, 0];
        let (done, threads): (Vec<_>, Vec<_>) = depths
            .into_iter()
            .enumerate()
            .map(|(place, depth)| {
                let (done, until) = channel::<()>();
                let to_main = to_main.clone();
                (done, std::thread::spawn(move || wait(depth, &to_main, place, &until)))
            })
            .unzip();
        let mut tids = std::vec![0; depths.len()];
        for _ in 0..depths.len() {
            let (place, tid) = ids.recv().unwrap();
            tids[place] = tid;
        }
        let mut looker = Looker::new().unwrap();
        let mut words = std::vec![0; 600];
        let mut alone = Vec::new();
        for tid in &tids {
            let mut look = looker.look(*tid, &mut words);
            while matches!(look, Look::Running | Look::Waiting(Waiting { moved: true, .. })) {
                std::thread::sleep(std::time::Duration::from_millis(1));
                unwind::refresh();
                look = looker.look(*tid, &mut words);
            }
            let Look::Waiting(waiting) = look else {
                std::eprintln!("!!! SKIPPED: there is no /proc/self/task/TID/syscall here: {look:?}");
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has to be able to run it");
                return;
            };
            alone.push((waiting, words[..waiting.words].to_vec()));
        }
        if alone[0].0.end != End::Root {
            // Where a leaf keeps its return address in a register, no stack is whole, and each is looked at alone.
            std::eprintln!("no stack is whole here: {:?}", alone[0].0.end);
        }
        let gone = std::thread::spawn(gettid).join().unwrap();
        while Clock::Thread(gone).now().is_some() {
            std::thread::yield_now();
        }
        let used = |tid: u32| (tid, Clock::Thread(tid).now().unwrap_or_default());
        for round in 0..3 {
            let mut whom: Vec<_> = tids.iter().map(|tid| used(*tid)).collect();
            whom.push((gone, 7));
            // It has used more since than it says: it ran.
            whom.push((tids[0], 1));
            let mut told = std::vec![0; whom.len()];
            looker.look_at(&whom, &mut words, |place, look, stack| {
                told[place] += 1;
                match alone.get(place) {
                    Some((waiting, alone)) => {
                        assert_eq!(
                            (look, stack),
                            (Look::Waiting(*waiting), alone.as_slice()),
                            "{round} {place}"
                        );
                    }
                    None if place == depths.len() => assert_eq!(look, Look::Gone),
                    None => assert!(!matches!(look, Look::Waiting(Waiting { moved: false, used: 1, .. }))),
                }
            });
            assert!(told.iter().all(|times| *times == 1), "{told:?}");
        }
        drop(done);
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}
