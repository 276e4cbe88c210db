//! What following spans allocates: one block for a span, whether it is a root or not, and none to enter and leave it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use everprof::TraceContext;
use tracing_subscriber::layer::SubscriberExt as _;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: it is the system's allocator, with a number of this thread's beside it that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller has it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller has it.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations a turn of that takes, once it was done often.
fn each(work: impl Fn()) -> u64 {
    const TURNS: u64 = 1_000;
    (0..100).for_each(|_| work());
    let before = COUNT.get();
    (0..TURNS).for_each(|_| work());
    let count = COUNT.get() - before;
    // The registry's own tables grow now and then.
    assert!(count % TURNS < TURNS / 50, "not the same each time: {count}");
    count / TURNS
}

fn root() {
    drop(
        tracing::info_span!(parent: None, "request", http.request.method = "GET", http.route = "/cart/{id}"),
    );
}

#[test]
fn a_span_is_one_block() {
    let alone = tracing::subscriber::with_default(tracing_subscriber::registry(), || each(root));
    let ids = || Some(TraceContext::new(7, 8));
    for layer in [everprof::tracing::layer(), everprof::tracing::layer().ids(ids)] {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert_eq!(each(root) - alone, 1, "{layer:?}");
            let request = tracing::info_span!("request");
            let _request = request.enter();
            assert_eq!(each(|| drop(tracing::info_span!("child"))) - alone, 1, "{layer:?}");
            let child = tracing::info_span!("child");
            assert_eq!(each(|| drop(child.enter())), 0, "{layer:?}");
            assert_eq!(each(|| child.in_scope(|| request.in_scope(|| ()))), 0, "{layer:?}");
        });
    }
}
