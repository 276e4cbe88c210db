//! Labels as the application sees them: nested, across threads and panics, through tokio's tasks, and guards dropped in
//! whatever order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use everprof::labels::{Context, inherit, resolve};
use everprof::{Labels, TraceContext, with_labels};

fn now() -> String {
    let labels = Labels::current();
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn inner_scopes_add_and_win_and_end() {
    with_labels([("tenant", "a"), ("stage", "read")], || {
        assert_eq!(now(), "stage=read tenant=a");
        with_labels([("stage", "parse"), ("shard", "7")], || {
            assert_eq!(now(), "shard=7 stage=parse tenant=a")
        });
        assert_eq!(now(), "stage=read tenant=a");
    });
    assert_eq!(now(), "");
}

#[test]
fn an_empty_set_changes_nothing() {
    let none = Labels::new::<&str, &str>([]);
    assert!(none.is_empty() && none.id() == 0);
    let tenant = Labels::new([("tenant", "empty")]);
    let _outer = tenant.enter();
    let _inner = none.enter();
    let _owned = none.clone().entered();
    assert_eq!(now(), "tenant=empty");
}

#[test]
fn equal_sets_are_one_set() {
    let (a, b) = (Labels::new([("x", "1"), ("y", "2")]), Labels::new([("y", "2"), ("x", "1")]));
    assert_eq!(a, b);
    assert_ne!(a, Labels::new([("x", "1"), ("y", "3")]));
    assert_eq!(format!("{a:?}"), r#"{"x": "1", "y": "2"}"#);
}

#[test]
fn a_set_nested_often_is_remembered_and_right_under_every_outer_one() {
    let inner = Labels::new([("stage", "often")]);
    let outers: Vec<Labels> =
        (0..40).map(|number| Labels::new([("tenant", format!("often-{number}"))])).collect();
    for round in 0..5 {
        for (number, outer) in outers.iter().enumerate() {
            let _outer = outer.enter();
            for _ in 0..3 {
                let _inner = inner.enter();
                assert_eq!(now(), format!("stage=often tenant=often-{number}"), "round {round}");
                // Its own outer set again.
                let _again = outer.enter();
                assert_eq!(now(), format!("stage=often tenant=often-{number}"), "round {round}");
            }
        }
    }
}

#[test]
fn guards_may_be_dropped_in_any_order() {
    let sets: Vec<Labels> = ["a", "b", "c"].map(|key| Labels::new([(key, "order")])).to_vec();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut guards: Vec<_> = sets.iter().map(|set| Some(set.enter())).collect();
        assert_eq!(now(), "a=order b=order c=order");
        let mut open = 3;
        for index in order {
            guards[index] = None;
            open = open.min(index);
            let expected: Vec<_> = ["a", "b", "c"][..open].iter().map(|key| format!("{key}=order")).collect();
            assert_eq!(now(), expected.join(" "), "{order:?} at {index}");
        }
        assert_eq!(now(), "", "{order:?}");
    }
}

#[test]
fn a_guard_that_was_ended_by_its_outer_one_does_not_end_another_scope() {
    let (a, b) = (Labels::new([("a", "stale")]), Labels::new([("b", "stale")]));
    let outer = a.enter();
    let stale = b.enter();
    drop(outer);
    let other = b.enter();
    let inner = a.enter();
    drop(stale);
    assert_eq!(now(), "a=stale b=stale");
    drop(inner);
    drop(other);
    assert_eq!(now(), "");
}

#[test]
fn a_forgotten_guard_leaves_its_labels_until_an_outer_scope_ends() {
    let outer = Labels::new([("outer", "forget")]);
    {
        let _outer = outer.enter();
        std::mem::forget(Labels::new([("inner", "forget")]).entered());
        assert_eq!(now(), "inner=forget outer=forget");
    }
    assert_eq!(now(), "");
}

#[test]
fn a_forgotten_guard_of_a_set_that_is_gone_leaves_nothing() {
    let set = Labels::new([("gone", "forget")]);
    let id = set.id();
    std::mem::forget(set.enter());
    drop(set);
    assert!(resolve(id).is_none());
    assert_eq!(now(), "");
    with_labels([("next", "forget")], || assert_eq!(now(), "next=forget"));
}

#[test]
fn a_panic_ends_the_scopes_it_leaves() {
    with_labels([("outer", "panic")], || {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _inner = Labels::new([("inner", "panic")]).entered();
            with_labels([("deep", "panic")], || std::panic::resume_unwind(Box::new("left")))
        }));
        assert!(unwound.is_err());
        assert_eq!(now(), "outer=panic");
    });
    assert_eq!(now(), "");
}

#[test]
fn recursion_deeper_than_the_scopes_that_are_kept_does_no_harm() {
    fn descend(depth: u32) {
        if depth > 0 {
            with_labels([("depth", depth.to_string())], || descend(depth - 1));
        }
    }
    with_labels([("outer", "deep")], || {
        descend(1_000);
        assert_eq!(now(), "outer=deep");
    });
    assert_eq!(now(), "");
}

#[test]
fn threads_have_labels_of_their_own_unless_they_inherit() {
    let shared = Arc::new(Labels::new([("tenant", "threads")]));
    let trace = TraceContext::new(7, 8);
    let _labels = shared.enter();
    let _trace = trace.enter();
    assert_eq!(thread::spawn(now).join().unwrap(), "");
    assert_eq!(thread::spawn(inherit(now)).join().unwrap(), "tenant=threads");
    assert_eq!(thread::spawn(inherit(TraceContext::current)).join().unwrap(), trace);
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let shared = shared.clone();
            thread::spawn(move || {
                for _ in 0..1_000 {
                    let _tenant = shared.enter();
                    let own = Labels::new([("thread", number.to_string())]);
                    let _own = own.enter();
                    assert_eq!(now(), format!("tenant=threads thread={number}"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(now(), "tenant=threads");
}

#[test]
fn tasks_keep_their_labels_on_whichever_thread_they_run() {
    const TASKS: u64 = 64;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let moved = runtime.block_on(async {
        let stage = Labels::new([("stage", "await")]);
        let tasks: Vec<_> = (0..TASKS)
            .map(|number| {
                let (labels, stage) = (Labels::new([("task", number.to_string())]), stage.clone());
                let task = async move {
                    let trace = TraceContext::new(u128::from(number) + 1, 1);
                    let first = thread::current().id();
                    let mut moved = false;
                    for round in 0..30 {
                        assert_eq!(now(), format!("task={number}"), "round {round}");
                        let inner = Context::new(stage.clone(), Some(trace)).wrap(async move {
                            assert_eq!(now(), format!("stage=await task={number}"));
                            tokio::task::yield_now().await;
                            assert_eq!(now(), format!("stage=await task={number}"));
                            assert_eq!(TraceContext::current(), trace);
                        });
                        inner.await;
                        assert!(TraceContext::current().is_empty());
                        tokio::time::sleep(std::time::Duration::from_micros(200)).await;
                        moved |= thread::current().id() != first;
                    }
                    moved
                };
                tokio::spawn(labels.wrap(task))
            })
            .collect();
        // Unlabelled tasks between them find no labels left behind.
        let plain: Vec<_> = (0..TASKS)
            .map(|_| {
                tokio::spawn(async {
                    for _ in 0..30 {
                        assert_eq!(now(), "");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let mut moved = 0;
        for task in tasks {
            moved += u64::from(task.await.unwrap());
        }
        for task in plain {
            task.await.unwrap();
        }
        moved
    });
    assert!(moved > 0, "no task was polled by two threads, so this test showed nothing");
}
