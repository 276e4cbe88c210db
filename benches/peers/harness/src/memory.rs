//! Resident memory that a profiler adds: when it has started, with many stacks, and after its report.

use std::time::Duration;

use crate::handler::send;
use crate::load::{burn, by_path};
use crate::{Peer, say};

/// With so many different stacks.
pub(crate) fn measure<P: Peer>(stacks: usize) {
    // What the allocator and the first thread take is not the profiler's.
    std::thread::spawn(|| burn(Duration::from_millis(20))).join().expect("the work ends");
    let before = resident("VmRSS:");
    let mut peer = P::start(99);
    let info = peer.ready();
    burn(Duration::from_millis(500));
    say("rss_started", "KiB", resident("VmRSS:") - before);
    for path in 0..stacks {
        by_path(path, &mut || send(info.as_ref()));
        if path % 200 == 199 {
            // The profiler empties its buffers in the meantime.
            std::thread::sleep(Duration::from_millis(120));
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    say("rss_with_stacks", "KiB", resident("VmRSS:") - before);
    let report = peer.report();
    say("rss_with_report", "KiB", resident("VmRSS:") - before);
    drop(report);
    say("rss_reported", "KiB", resident("VmRSS:") - before);
    say("rss_peak", "KiB", resident("VmHWM:") - before);
}

pub(crate) fn resident(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel says so");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}
