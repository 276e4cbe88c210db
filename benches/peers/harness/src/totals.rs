//! Whether the CPU time in a profile is the CPU time that was used.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::clock::{process_cpu, thread_cpu};
use crate::load::burn;
use crate::{Peer, Stack, say};

/// `steady` or `bursts` on so many threads, or `short`: 400 threads of 5 ms each.
pub(crate) fn measure<P: Peer>(load: &str, threads: usize, rate_hz: u32) {
    let peer = P::start(rate_hz);
    let before = process_cpu();
    let each = Duration::from_millis(8000) / threads.max(8) as u32;
    let by_thread = match load {
        "steady" => on_threads(threads, move || burn(each)),
        "bursts" => on_threads(threads, bursts),
        "short" => (0..400).flat_map(|_| on_threads(1, || burn(Duration::from_millis(5)))).collect(),
        other => panic!("no load named {other:?}"),
    };
    let used = process_cpu() - before;
    let stacks = peer.stacks();
    let of_load = |stack: &&Stack| stack.thread == "work" || has(stack, "burn");
    let total: u64 = stacks.iter().map(|stack| stack.nanos).sum();
    let in_load: u64 = stacks.iter().filter(of_load).map(|stack| stack.nanos).sum();
    let spent: Duration = by_thread.iter().map(|(_, time)| *time).sum();
    say("profile_of_used", "%", total as f64 / used.as_nanos() as f64 * 100.0);
    say("in_the_threads", "%", in_load as f64 / spent.as_nanos() as f64 * 100.0);
    if load != "short" && stacks.iter().any(|stack| stack.tid.is_some()) {
        say("rms_error_by_thread", "%", rms(&by_thread, &stacks) * 100.0);
    }
}

fn has(stack: &Stack, function: &str) -> bool {
    stack.names.iter().any(|name| name.ends_with(function) || name.contains(&format!("{function}::")))
}

/// The threads' ids and CPU times.
fn on_threads(count: usize, work: impl Fn() + Copy + Send + 'static) -> Vec<(u32, Duration)> {
    let spawn = |_| {
        let thread = std::thread::Builder::new().name("work".into());
        thread
            .spawn(move || {
                work();
                // SAFETY: a system call without arguments.
                (unsafe { libc::gettid() } as u32, thread_cpu())
            })
            .expect("a thread")
    };
    let threads: Vec<_> = (0..count).map(spawn).collect();
    threads.into_iter().map(|thread| thread.join().expect("the work ends")).collect()
}

fn bursts() {
    let end = Instant::now() + Duration::from_millis(2000);
    while Instant::now() < end {
        burn(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn rms(threads: &[(u32, Duration)], stacks: &[Stack]) -> f64 {
    let mut sums: HashMap<u32, u64> = HashMap::new();
    for stack in stacks {
        *sums.entry(stack.tid.unwrap_or_default()).or_default() += stack.nanos;
    }
    let error = |(tid, time): &(u32, Duration)| {
        let sum = sums.get(tid).copied().unwrap_or_default() as f64;
        (sum / time.as_nanos() as f64 - 1.0).powi(2)
    };
    (threads.iter().map(error).sum::<f64>() / threads.len().max(1) as f64).sqrt()
}
