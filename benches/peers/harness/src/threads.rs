//! What a snapshot of all threads takes: of threads that have moved since the one before, and of threads that have not.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crate::{Peer, quantile, say};

const STACK: usize = 64 << 10;
const ROUNDS: usize = 20;

/// Beside so many threads that wait for a condition.
pub(crate) fn measure<P: Peer>(threads: usize) {
    let turn = Arc::new((Mutex::new(0), Condvar::new()));
    for _ in 0..threads {
        let turn = turn.clone();
        let work = move || {
            let mut seen = 0;
            loop {
                let now = turn.0.lock().expect("nobody panicked");
                seen = *turn.1.wait_while(now, |now| *now == seen).expect("nobody panicked");
            }
        };
        Builder::new().stack_size(STACK).spawn(work).expect("a thread can be started");
    }
    thread::sleep(Duration::from_secs(1));
    let mut peer = P::start(99);
    thread::sleep(Duration::from_secs(3));
    for (what, moves) in [("moved", true), ("unmoved", false)] {
        let (mut whole, mut own) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            if moves {
                *turn.0.lock().expect("nobody panicked") += 1;
                turn.1.notify_all();
            }
            thread::sleep(Duration::from_millis(300));
            let begin = Instant::now();
            let Some((count, cpu)) = peer.snapshot() else { return };
            assert!(count >= threads, "{count} of {threads} threads");
            whole.push(begin.elapsed().as_secs_f64() * 1e3);
            own.push(cpu.as_secs_f64() * 1e3);
        }
        for (metric, mut values) in [("taken", own), ("named", whole)] {
            values.sort_by(f64::total_cmp);
            say(&format!("{what}_{metric}"), "ms", quantile(&values, 0.5));
            say(&format!("{what}_{metric}_max"), "ms", quantile(&values, 1.0));
        }
    }
}
