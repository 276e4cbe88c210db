//! What a profiler of locks costs them: free ones, and those that are waited for.

use std::time::Duration;

use crate::clock::{process_cpu, thread_cpu};
use crate::load::at_depth;
use crate::{quantile, say};

/// How often each is measured; the lower quartile is told, since whatever disturbs makes it longer.
const ROUNDS: usize = 15;
const FREE: u32 = 1_000_000;
/// Frames of the stack that waits.
const DEPTH: usize = 33;
/// How long a thread keeps the lock that others wait for.
const HELD: Duration = Duration::from_micros(60);
/// How often it is taken in a round, by all threads together.
const TAKEN: usize = 1_600;

/// What is locked: takes the lock, does the work and gives it back.
pub type Locked<'l> = &'l (dyn Fn(&dyn Fn()) + Sync);

/// Prints the figures of one lock, as it is with so many threads. With one thread nobody waits for it.
pub fn measure_lock(lock: Locked<'_>, uncontended: &dyn Fn(u32), threads: usize) {
    if threads == 1 {
        let round = || {
            let before = thread_cpu();
            uncontended(FREE);
            (thread_cpu() - before).as_nanos() as f64 / f64::from(FREE)
        };
        return say("lock_unlock", "ns", lower(round));
    }
    say("cpu_per_wait", "us", lower(|| contended(lock, threads)));
}

/// Prints what a wait costs that is over before it begins, `times` in a row, at the depth of a stack in a service.
pub fn measure_wait(wait: &(dyn Fn() + Sync), times: u32) {
    at_depth(DEPTH, || {
        let round = || {
            // What was sampled is taken away meanwhile, so that there is room for what will be.
            std::thread::sleep(Duration::from_millis(100));
            (0..times).for_each(|_| wait());
            let before = thread_cpu();
            (0..times).for_each(|_| wait());
            (thread_cpu() - before).as_nanos() as f64 / f64::from(times)
        };
        say("wait_of_no_time", "ns", lower(round));
    });
}

/// CPU time of the whole process for each time that the lock is taken, in microseconds. Who holds it sleeps, so that the
/// others have to wait.
fn contended(lock: Locked<'_>, threads: usize) -> f64 {
    let before = process_cpu();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..TAKEN / threads).for_each(|_| lock(&|| std::thread::sleep(HELD))));
        }
    });
    (process_cpu() - before).as_secs_f64() * 1e6 / TAKEN as f64
}

fn lower(mut round: impl FnMut() -> f64) -> f64 {
    round();
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    quantile(&rounds, 0.25)
}
