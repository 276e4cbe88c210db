//! Waits that are not to be told: by the option for all, by the future for one. Its executor's own waker is what it gets.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use everprof::profile::{Kind, LabelValue};
use everprof::{Labels, Profiler};

use super::{Told, directory, finish, labels, start};

/// Polls once, and says whether the future got another waker than that of its executor.
fn gets_another(wrap: impl Fn(std::future::PollFn<fn(&mut Context<'_>) -> Poll<bool>>) -> Wrapped) -> bool {
    fn look(context: &mut Context<'_>) -> Poll<bool> {
        Poll::Ready(!context.waker().will_wake(Waker::noop()))
    }
    let mut wrapped = wrap(std::future::poll_fn(look));
    match wrapped.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(other) => other,
        Poll::Pending => panic!("it is ready at once"),
    }
}

type Wrapped = std::pin::Pin<Box<dyn Future<Output = bool>>>;

fn is_watched(labels: &Labels) -> bool {
    gets_another(|future| Box::pin(labels.wrap(future)))
}

fn is_watched_without_waits(labels: &Labels) -> bool {
    gets_another(|future| Box::pin(labels.wrap(future).without_waits()))
}

fn wait(labels: &Labels, without: bool) {
    let kept = std::cell::RefCell::new(Vec::new());
    let waits = std::future::poll_fn(|context| -> Poll<()> {
        kept.borrow_mut().push(context.waker().clone());
        Poll::Pending
    });
    let wrapped = labels.wrap(waits);
    let mut wrapped = pin!(if without { wrapped.without_waits() } else { wrapped });
    assert!(wrapped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    std::thread::sleep(Duration::from_millis(200));
}

pub(super) fn by_option() {
    let dir = directory("off");
    let builder = Profiler::builder().dir(&dir).set("kinds", "cpu,wall").set("async_waits", "off");
    let profiler = builder.set("symbolize", "names").start().unwrap();
    let labels = labels("/off");
    assert!(!is_watched(&labels));
    // Nor while somebody records.
    let recording = everprof::record(Kind::Wall).unwrap();
    wait(&labels, false);
    assert!(!is_watched(&labels));
    let recorded = recording.finish().unwrap();
    let mut labels_of_all = recorded.samples().flat_map(|sample| recorded.get_labels(sample.labels));
    assert!(!labels_of_all.any(|label| label.value == LabelValue::Text("awaiting".into())));
    wait(&labels, false);
    assert!(finish(profiler, &dir).awaits.is_empty());
}

pub(super) fn by_future() {
    let (profiler, dir) = start("without-waits");
    let (told, silent) = (labels("/told"), labels("/silent"));
    assert!(is_watched(&told) && !is_watched_without_waits(&silent));
    wait(&told, false);
    wait(&silent, true);
    // What has no waits of its own is part of those of the wrap around it.
    let outer = Labels::new([("outer", "yes")]);
    let inside = std::future::poll_fn(|_| Poll::<()>::Pending);
    let mut both = pin!(outer.wrap(async { silent.wrap(inside).without_waits().await }));
    assert!(both.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    std::thread::sleep(Duration::from_millis(200));
    let all: Told = finish(profiler, &dir);
    assert!(all.seconds(&[("endpoint", "/told")], "off::wait") >= 0.2);
    assert_eq!(all.seconds(&[("endpoint", "/silent")], ""), 0.0);
    assert!(all.seconds(&[("outer", "yes")], "") >= 0.2);
}
