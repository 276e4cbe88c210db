//! The pull side: profiles of the running program on request, in the way of Go's `net/http/pprof`.
//!
//! By itself everprof listens nowhere. The option `serve` opens a small server of its own, and with the feature `http`
//! `handle` answers below the path of a program's own router. Both lead here:
//!
//! | below `/debug/pprof/` | is |
//! |---|---|
//! | nothing | a page with links, the verdict, and what everprof knows of itself |
//! | `profile?seconds=30` | CPU time of the next seconds |
//! | `wall?seconds=30` | the time of all threads on the wall clock; also as `/debug/fgprof` |
//! | `threads`, `goroutine` | the stacks of all threads now; with `seconds=` how they change |
//! | `heap`, `allocs` | what lives now, and what was allocated since the heap is followed; with `seconds=` what changes |
//! | `mutex`, `block`, `lock` | waits since they are followed, by who held the lock, all by who waited, and those for locks by who waited; with `seconds=` those of the next seconds |
//! | `peak?seconds=30` | the live heap at the moment of the next seconds at which it was largest |
//! | `cmdline`, `symbol` | the arguments of the program; the names of addresses |
//! | `threadcreate`, `trace` | 404, with the reason |
//!
//! Where the heap or waits are not among `kinds`, they are known with `seconds=` only, for which the hooks are installed; and
//! where there is nothing that could be hooked, the answer is 404, with the reason.
//!
//! `format=html` is a flame graph, `collapsed`, `folded` and `speedscope` are for other viewers; `debug=1` and `debug=2`
//! are text. `label=key:value` leaves what has that label, as of one span: `label=span_id:b7ad6b7169203331`. `go tool pprof http://127.0.0.1:6060/debug/pprof/profile?seconds=5` works, and so does what polls services
//! for their profiles, such as Grafana Alloy and Parca.
//!
//! Answers are worked out on a thread of everprof's own, one after the other; only so many are at work at once, and a
//! profile lasts for ten minutes at the most. Who goes away gives his recording up.

mod accounts;
mod allowance;
mod answer;
mod form;
mod index;
#[cfg(feature = "http")]
mod mount;
mod only;
mod request;
mod route;
mod source;
mod symbol;
mod text;
mod work;
mod worker;

pub(crate) use allowance::Allowance;
pub(crate) use answer::{Answer, reason};
#[cfg(feature = "http")]
pub use mount::handle;
pub(crate) use request::{Method, Request};
pub(crate) use route::LONGEST;
pub(crate) use source::{About, Recorded, Source, install};
pub(crate) use worker::{Queue, Ticket, after_fork, cpu, hurry, lock};

use route::Decision;

/// The longest body that is read: addresses whose names are asked for. `go tool pprof` sends all of a module at once, some
/// 15 bytes each, and a busy program has ten thousands.
pub(crate) const MOST_BODY: usize = 512 << 10;

/// An answer, or the right to one that takes time.
pub(crate) enum Reply {
    Now(Answer),
    Later(Ticket),
}

/// The same for a server that has nothing but what is here: without a prefix, and with a way to it from the root.
pub(crate) fn ask_at_root(request: &Request) -> Reply {
    match (&*request.path, request.path.rfind(route::PARENT)) {
        ("/", _) => Reply::Now(Answer::elsewhere("/debug/pprof/")),
        (_, Some(0)) => ask(request),
        _ => Reply::Now(route::not_found()),
    }
}

/// Decides upon a request. Takes no time.
pub(crate) fn ask(request: &Request) -> Reply {
    match route::decide(request) {
        Decision::Now(answer) => Reply::Now(answer),
        // Without one there never was a profiler here, and nobody needs a thread.
        Decision::Later(_) if source::source().is_none() => Reply::Now(work::no_profiler()),
        Decision::Later(work) => worker::submit(work).map_or_else(Reply::Now, Reply::Later),
    }
}
