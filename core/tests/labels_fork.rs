//! Labels in the child of a fork that came while other threads were busy in the table: they may be lost, never waited
//! for. A process of its own, since it forks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use everprof::labels::{reclaim, set_sampling};
use everprof::{Labels, with_labels};

const FORKS: usize = 100;

#[test]
fn a_child_never_waits_for_threads_that_it_does_not_have() {
    let stop = AtomicBool::new(false);
    set_sampling(true);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let stop = &stop;
            scope.spawn(move || {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    drop(Labels::new([("busy", format!("{thread}-{}", number % 5_000))]).entered());
                    if number.is_multiple_of(1_000) {
                        reclaim();
                    }
                }
            });
        }
        let outer = Labels::new([("outer", "fork")]);
        let _outer = outer.enter();
        let mut failed = Vec::new();
        for fork in 0..FORKS {
            // SAFETY: the child allocates, which the C library allows after a fork, and leaves by _exit.
            let child = unsafe { libc::fork() };
            assert!(child >= 0, "fork failed");
            if child == 0 {
                let good = in_child();
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(if good { 0 } else { 1 }) };
            }
            let status = waited(child);
            if status != Some(0) {
                failed.push((fork, status));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            failed.is_empty(),
            "fork and what its child came to, nothing for a child that hung: {failed:?}"
        );
    });
    set_sampling(false);
}

/// Touches every part of the table. What is in force must be right, or the mark of an overflow.
fn in_child() -> bool {
    let right = |key: &str, value: &str| {
        let now = Labels::current();
        let found = now.iter().any(|label| label == (key, value));
        found || now.is_empty() || now.iter().any(|(key, _)| key == "everprof.labels")
    };
    (0..200).all(|number| {
        let value = number.to_string();
        with_labels([("child", &value)], || right("child", &value))
    }) && right("outer", "fork")
}

/// The child's exit code; none where it did not end by itself within half a minute.
fn waited(child: libc::pid_t) -> Option<i32> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let mut status = 0;
        // SAFETY: waits for a child of ours and writes one int that lives here.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if ended == child {
            return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        }
        if Instant::now() > until {
            // SAFETY: ends a child of ours that was not waited for yet, so the number is still its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
