//! What the table of label sets keeps, and for how long. The table is the process's, so these tests take turns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use everprof::Labels;
use everprof::labels::{reclaim, resolve, set_sampling, stats};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    set_sampling(false);
    assert_eq!(stats().sets, 0, "a test left sets behind");
    guard
}

fn numbered(number: usize) -> Labels {
    Labels::new([("request", format!("{number:08}"))])
}

#[test]
fn a_million_sets_that_come_and_go_leave_nothing() {
    let _turn = turn();
    let overflowed = stats().overflowed;
    for number in 0..1_000_000 {
        drop(numbered(number).entered());
    }
    assert_eq!((stats().sets, stats().bytes), (0, 0));
    assert_eq!(stats().overflowed, overflowed);
}

#[test]
fn a_flood_of_sets_while_sampling_is_bounded_and_given_back() {
    let _turn = turn();
    set_sampling(true);
    for number in 0..200_000 {
        drop(numbered(number).entered());
        if number % 20_000 == 0 {
            reclaim();
        }
        if number % 1_000 == 0 {
            assert!(stats().sets <= 65_536, "{:?}", stats());
        }
    }
    reclaim();
    reclaim();
    assert_eq!((stats().sets, stats().bytes), (0, 0));
    set_sampling(false);
}

#[test]
fn sets_beyond_the_bound_become_one_marked_set() {
    let _turn = turn();
    let before = stats().overflowed;
    let sets: Vec<Labels> = (0..100_000).map(numbered).collect();
    let stats = stats();
    assert!((60_000..=65_536).contains(&stats.sets), "{stats:?}");
    assert_eq!(stats.overflowed - before, 100_000 - stats.sets as u64);
    let over: Vec<&Labels> =
        sets.iter().filter(|set| set.iter().next() == Some(("everprof.labels", "overflow"))).collect();
    assert_eq!(over.len() as u64, stats.overflowed - before);
    assert_eq!(resolve(over[0].id()).unwrap().iter().next(), Some(("everprof.labels", "overflow")));
    let _guard = over[0].enter();
    assert_eq!(Labels::current(), *over[0]);
}

#[test]
fn long_texts_are_bounded_in_bytes() {
    let _turn = turn();
    let long = "v".repeat(250);
    let set = |number: usize| Labels::new((0..32).map(|key| (format!("k{key}"), format!("{number}{long}"))));
    let sets: Vec<Labels> = (0..5_000).map(set).collect();
    assert!(stats().bytes <= 32 << 20, "{:?}", stats());
    assert!(stats().sets < sets.len());
}

#[test]
fn a_set_stays_until_the_rings_were_emptied_once_since() {
    let _turn = turn();
    set_sampling(true);
    let set = numbered(1);
    let id = set.id();
    drop(set);
    assert!(resolve(id).is_some(), "a ring may still name it");
    reclaim();
    assert!(resolve(id).is_some(), "the reader may have passed that ring before");
    reclaim();
    assert!(resolve(id).is_none());
    assert_ne!(numbered(1).id(), id, "an id is not used again");
    set_sampling(false);
}

#[test]
fn a_set_that_comes_again_in_time_keeps_its_id() {
    let _turn = turn();
    set_sampling(true);
    let id = numbered(2).id();
    for _ in 0..10 {
        assert_eq!(numbered(2).id(), id);
        reclaim();
    }
    let alive = numbered(2);
    reclaim();
    reclaim();
    assert!(resolve(id).is_some(), "it is alive");
    drop(alive);
    reclaim();
    assert!(resolve(id).is_some(), "it died after the last pass");
    reclaim();
    assert!(resolve(id).is_none());
    set_sampling(false);
}

#[test]
fn merged_sets_live_as_long_as_their_guards_and_no_longer_than_the_inner_set() {
    let _turn = turn();
    let (outer, inner) = (Labels::new([("a", "1")]), Labels::new([("b", "2")]));
    for _ in 0..4 {
        let _outer = outer.enter();
        let _inner = inner.enter();
        let _same = inner.enter();
        assert_eq!(Labels::current().iter().count(), 2);
    }
    assert_eq!(stats().sets, 3);
    drop(inner);
    assert_eq!(stats().sets, 1);
    drop(outer);
    assert_eq!(stats().sets, 0, "a remembered merge kept itself alive");
}

#[test]
fn many_threads_make_and_drop_the_same_sets_while_the_reader_reclaims() {
    let _turn = turn();
    set_sampling(true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..20_000 {
                    let set = numbered(number % 50);
                    let _guard = set.enter();
                    let expected = format!("{:08}", number % 50);
                    assert_eq!(Labels::current().iter().next(), Some(("request", expected.as_str())));
                    assert!(resolve(set.id()).is_some());
                }
            });
        }
        for _ in 0..1_000 {
            reclaim();
            std::thread::yield_now();
        }
    });
    set_sampling(false);
    assert_eq!((stats().sets, stats().bytes), (0, 0));
}
