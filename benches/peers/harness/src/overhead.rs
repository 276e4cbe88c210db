//! What a profiler costs a busy thread: the same work before and after its start, in CPU time of the whole process.

use std::time::Duration;

use crate::clock::process_cpu;
use crate::load::{burn, compute};
use crate::{Peer, say};

/// About half a second of work.
const ROUNDS: u64 = 250_000_000;
const PAIRS: usize = 4;
/// Profilers renew what they say of themselves every two seconds.
const RENEWED: Duration = Duration::from_millis(2300);

/// One busy thread at that rate.
pub(crate) fn measure<P: Peer>(rate_hz: u32) {
    let without = median();
    let before = process_cpu();
    let mut peer = P::start(rate_hz);
    say("start_cpu", "ms", (process_cpu() - before).as_secs_f64() * 1e3);
    // What is made lazily is made now, and who looks more often at the beginning has settled.
    burn(3 * RENEWED);
    let own_before = peer.own_cpu();
    let with = median();
    say("cpu_added", "%", (with.as_secs_f64() / without.as_secs_f64() - 1.0) * 100.0);
    if let Some((own_before, all_before)) = own_before {
        burn(2 * RENEWED);
        let (own, all) = peer.own_cpu().expect("as before");
        say("own_cpu_first_seconds", "ms", own_before.as_secs_f64() * 1e3);
        say(
            "own_cpu_share",
            "%",
            (own - own_before).as_secs_f64() / (all - all_before).as_secs_f64() * 100.0,
        );
    }
    let before = process_cpu();
    drop(peer.report());
    say("report_cpu", "ms", (process_cpu() - before).as_secs_f64() * 1e3);
}

/// The median of a few times.
fn median() -> Duration {
    let mut times = [Duration::ZERO; PAIRS];
    for time in &mut times {
        let before = process_cpu();
        compute(ROUNDS);
        *time = process_cpu() - before;
    }
    times.sort_unstable();
    (times[PAIRS / 2] + times[(PAIRS - 1) / 2]) / 2
}
