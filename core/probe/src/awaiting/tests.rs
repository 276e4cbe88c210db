use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::vec::Vec;

use super::*;
use crate::sample::{Frame, frames};
use crate::thread_block::{self, Facts};

/// The cells are the whole process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(prepare());
    forget_all();
    let here = Facts::here().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(thread_block::learn(&here, &Facts::here().unwrap())));
    });
    while !crate::unwind::refresh() && crate::unwind::generation() == 0 {
        std::thread::yield_now();
    }
    guard
}

#[derive(Default)]
struct Counted {
    woken: AtomicUsize,
}

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits for ever, and keeps its waker where a test finds it.
struct Leaf<'a>(&'a Mutex<Vec<Waker>>);

impl Future for Leaf<'_> {
    type Output = ();

    #[inline(never)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        keep_here(self.0, context.waker());
        Poll::Pending
    }
}

#[inline(never)]
fn keep_here(kept: &Mutex<Vec<Waker>>, waker: &Waker) {
    let waker = waker.clone();
    kept.lock().unwrap().push(waker);
}

fn watch_leaf(future: impl Future<Output = ()>, waker: &Waker) -> Option<Watched> {
    let mut future = pin!(future);
    watch(&mut Context::from_waker(waker), |context| future.as_mut().poll(context)).1
}

fn first_stack(begun: &Begun<'_>) -> Vec<Frame> {
    begun.stacks().next().into_iter().flat_map(|(own, _)| frames(own).collect::<Vec<_>>()).collect()
}

fn all() -> Vec<(Wait, u32, Option<u64>, Vec<Frame>)> {
    let mut all = Vec::new();
    each(|begun| {
        all.push((begun.wait, begun.weight, begun.end, first_stack(begun)));
        true
    });
    all
}

#[test]
fn a_wait_is_told_with_its_stack_from_its_poll_to_its_end() {
    let _alone = alone();
    let real = Arc::new(Counted::default());
    let kept = Mutex::new(Vec::new());
    let watched = watch_leaf(Leaf(&kept), &Waker::from(real.clone())).unwrap();
    assert!(all().is_empty(), "not begun");
    let wait = watched.begin(7, 0, Trace { trace_id: 1, span_id: 2, local_root: 3 });
    let found = all();
    assert_eq!((found[0].0, found[0].1, found[0].2), (wait, 7, None));
    let near = |frame: &Frame, function: usize| matches!(frame, Frame::Native(pc) if (function as u64..function as u64 + 400).contains(pc));
    let stack = &found[0].3;
    let place = stack.iter().position(|frame| near(frame, keep_here as *const () as usize)).unwrap();
    assert!(place <= 1, "the leaf is who keeps the waker: {stack:x?}");
    wait.end();
    wait.end();
    let found = all();
    assert!(found[0].2.is_some() && found.len() == 1);
    assert!(all().is_empty() && taken() == 0, "read once");
    // The clone outlives the poll, the spy and the future, and wakes the real one.
    let kept: Vec<Waker> = kept.into_inner().unwrap();
    std::thread::spawn(move || kept.into_iter().for_each(Waker::wake)).join().unwrap();
    assert_eq!(real.woken.load(Ordering::SeqCst), 1);
    assert_eq!(Arc::strong_count(&real), 1, "every clone is dropped");
}

#[test]
fn what_is_ready_panics_or_is_not_begun_leaves_nothing() {
    let _alone = alone();
    let waker = Waker::from(Arc::new(Counted::default()));
    assert!(watch_leaf(std::future::ready(()), &waker).is_none());
    drop(watch_leaf(std::future::pending(), &waker).unwrap());
    let mut context = Context::from_waker(&waker);
    let panics = || watch(&mut context, |_| -> Poll<()> { std::panic::resume_unwind(Box::new(())) });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert_eq!(taken(), 0);
}

#[test]
fn how_a_future_said_that_it_waits_is_told() {
    let _alone = alone();
    let waker = Waker::from(Arc::new(Counted::default()));
    let kept = Mutex::new(Vec::new());
    let woken = std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::Pending
    });
    let ways: [(Registered, Pin<&mut dyn Future<Output = ()>>); 3] = [
        (Registered::Cloned, pin!(Leaf(&kept))),
        (Registered::Woken, pin!(woken)),
        (Registered::Nowhere, pin!(std::future::pending())),
    ];
    for (way, future) in ways {
        let wait = watch_leaf(future, &waker).unwrap().begin(1, 0, Trace::default());
        each(|begun| {
            assert_eq!((begun.registered, first_stack(begun).len() > 3), (way, true));
            false
        });
        // It was forgotten, and its cell may be another's.
        let other = watch_leaf(std::future::pending(), &waker).unwrap().begin(1, 0, Trace::default());
        assert_ne!(wait, other);
        wait.end();
        assert_eq!(all().iter().map(|wait| wait.2).collect::<Vec<_>>(), [None], "not ended by the late one");
        forget_all();
    }
}

#[test]
fn of_many_places_the_first_ones_and_the_last_are_kept() {
    let _alone = alone();
    let waker = Waker::from(Arc::new(Counted::default()));
    let kept = Mutex::new(Vec::new());
    for places in 1..=9 {
        let future = std::future::poll_fn(|context| {
            keep_here(&kept, context.waker());
            for depth in 1..places {
                keep_deeper(depth, &kept, context.waker());
            }
            Poll::Pending
        });
        let wait = watch_leaf(future, &waker).unwrap().begin(1, 0, Trace::default());
        each(|begun| {
            let stacks: Vec<Vec<u64>> = begun.stacks().map(|(own, shared)| [own, shared].concat()).collect();
            assert_eq!(stacks.len(), places.min(STACKS));
            let first = stacks[0].len();
            let deepest = stacks.last().unwrap().len();
            assert!(deepest + 2 >= first + places - 1, "{places}: {first} and {deepest} frames");
            assert!(stacks.iter().all(|stack| stack.last() == stacks[0].last()), "all have one root");
            true
        });
        wait.end();
        forget_all();
    }
}

#[inline(never)]
fn keep_deeper(depth: usize, kept: &Mutex<Vec<Waker>>, waker: &Waker) {
    if depth == 0 {
        keep_here(kept, waker)
    } else {
        keep_deeper(depth - 1, kept, waker)
    }
    std::hint::black_box(());
}

#[test]
fn there_is_room_for_so_many_waits_and_a_fork_empties_it() {
    let _alone = alone();
    let waker = Waker::from(Arc::new(Counted::default()));
    let begin = || Some(watch_leaf(std::future::pending(), &waker)?.begin(1, 0, Trace::default()));
    let waits: Vec<Wait> = std::iter::from_fn(begin).collect();
    assert_eq!((waits.len(), taken()), (CELLS, CELLS));
    let in_the_middle_of_a_fork = {
        waits[0].end();
        all();
        watch_leaf(std::future::pending(), &waker).unwrap()
    };
    after_fork();
    assert_eq!(taken(), 0);
    waits.iter().for_each(|wait| wait.end());
    in_the_middle_of_a_fork.begin(1, 0, Trace::default()).end();
    assert!(all().is_empty());
}

#[test]
fn threads_begin_and_end_while_ours_reads() {
    let _alone = alone();
    const ROUNDS: u32 = 20_000;
    let read = std::thread::scope(|scope| {
        let work = |weight: u32| {
            let waker = Waker::from(Arc::new(Counted::default()));
            let kept = Mutex::new(Vec::new());
            let mut begun = 0_u64;
            for _ in 0..ROUNDS {
                // Now and then there is no room: our thread has lost its processor.
                if let Some(watched) = watch_leaf(Leaf(&kept), &waker) {
                    watched.begin(weight, weight, Trace::default()).end();
                    begun += 1;
                }
                kept.lock().unwrap().clear();
            }
            begun
        };
        let threads: Vec<_> = (1..=3).map(|weight| scope.spawn(move || work(weight))).collect();
        let mut read = 0;
        loop {
            let last = threads.iter().all(|thread| thread.is_finished());
            each(|begun| {
                assert_eq!(begun.weight, begun.labels, "of two waits");
                assert!(begun.end.is_none_or(|end| end >= begun.begin) && first_stack(begun).len() > 3);
                read += u64::from(begun.end.is_some());
                true
            });
            if last {
                break read == threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            }
        }
    });
    assert!(read && taken() == 0);
}
