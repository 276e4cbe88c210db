//! What it costs to set a label on the calling thread and to take it back.

use crate::clock::thread_cpu;
use crate::{Peer, say};

/// The same number of times for all would keep the slowest busy for minutes.
const STEPS: [u32; 5] = [10, 100, 10_000, 1_000_000, 10_000_000];

pub(crate) fn measure<P: Peer>() {
    let peer = P::start(99);
    peer.ready();
    for times in STEPS {
        let before = thread_cpu();
        if !peer.label(times) {
            return;
        }
        let used = thread_cpu() - before;
        if used.as_millis() >= 15 {
            return say("label_set_and_restored", "ns", used.as_nanos() as f64 / f64::from(times));
        }
    }
}
