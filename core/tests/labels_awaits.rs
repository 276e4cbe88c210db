//! Wrapped futures that are told while everything goes wrong: polls that panic, thread-locals that are destroyed, forks in
//! the middle of a poll, wakers that are kept for ever.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use everprof::{Labels, Profiler};

#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A wrapped future without end that keeps its waker in `kept`, and ends where it is told to.
type Endless = Pin<Box<dyn Future<Output = ()>>>;

fn endless(kept: &Arc<Mutex<Vec<Waker>>>) -> Endless {
    let kept = kept.clone();
    let future = poll_fn(move |context| {
        kept.lock().unwrap().push(context.waker().clone());
        Poll::Pending
    });
    Box::pin(Labels::new([("awaits", "endless")]).wrap(future))
}

/// The thread's last words: thread-locals of others may be gone by then.
struct PollsAtTheEnd(Endless);

impl Drop for PollsAtTheEnd {
    fn drop(&mut self) {
        assert!(self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

thread_local! {
    static LAST: RefCell<Option<PollsAtTheEnd>> = const { RefCell::new(None) };
}

/// One test, since there is one profiler and one process to fork.
#[test]
fn a_wait_that_is_told_does_no_harm() {
    let dir = std::env::temp_dir().join(format!("everprof-test-{}-labels-awaits", std::process::id()));
    let profiler = Profiler::builder()
        .dir(&dir)
        .set("kinds", "cpu,wall")
        .set("cpu_budget_percent", "10")
        .start()
        .unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));

    // A poll that panics, and one that begins again after it.
    let mut panics = true;
    let mut future = Box::pin(Labels::new([("awaits", "panic")]).wrap(poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::take(&mut panics) { resume_unwind(Box::new("planned")) } else { Poll::<()>::Pending }
    })));
    let mut poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(catch_unwind(AssertUnwindSafe(&mut poll)).is_err());
    assert!(poll().is_pending() && Labels::current().is_empty());

    // While the thread's own variables are destroyed.
    let of_thread = kept.clone();
    thread::spawn(move || LAST.with_borrow_mut(|last| *last = Some(PollsAtTheEnd(endless(&of_thread)))))
        .join()
        .unwrap();

    // Wakers that outlive the future, its thread and the profiler wake the one who was given.
    let counted = Arc::new(Counted::default());
    let waker = Waker::from(counted.clone());
    let mut future = endless(&kept);
    for _ in 0..1_000 {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(future);

    // A fork in the middle of a poll: the child ends the poll, and polls on.
    let mut future = Box::pin(Labels::new([("awaits", "fork")]).wrap(poll_fn(|context| {
        let _kept = context.waker().clone();
        // SAFETY: the child runs its own code until it ends.
        let child = unsafe { libc::fork() };
        let _kept = context.waker().clone();
        if child == 0 { Poll::Ready(0) } else { Poll::Ready(child) }
    })));
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    let Poll::Ready(child) = polled else { panic!("{polled:?}") };
    if child == 0 {
        let mut future = endless(&kept);
        let all = (0..10_000).all(|_| future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(future);
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { libc::_exit(if all { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: a child of ours, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 7, "status {status:x}");

    let mut left = endless(&kept);
    assert!(left.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // On a crowded machine the export goes on in the background.
    let _ = profiler.stop();
    drop(left);
    let wakers = std::mem::take(&mut *kept.lock().unwrap());
    let ours = wakers.len();
    thread::spawn(move || wakers.into_iter().for_each(Waker::wake)).join().unwrap();
    assert!(counted.0.load(Ordering::SeqCst) >= 1_001 && ours >= 1_001);
    drop(waker);
    assert_eq!(Arc::strong_count(&counted), 1, "every clone is dropped");
    let _ = std::fs::remove_dir_all(&dir);
}
