//! What is done to samples off the handler: naming addresses, and encoding a large profile. One tool in one process:
//! `tools TOOL CASE`, each tool of a case with the same input, which for naming is this binary's own code.

#[path = "../../../../core/tests/formats/profiles.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod profiles;
#[path = "../../../../core/tests/formats/proto.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod proto;

mod encode;
mod symbolize;

use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [tool, "symbolize", how] => symbolize::measure(tool, how),
        [tool, "encode"] => encode::measure(tool),
        ["code"] => code(),
        other => panic!("no measure named {other:?}"),
    }
}

/// A great deal of code for this binary to have, which nobody runs.
fn code() {
    use pyroscope::backend::{BackendConfig, PprofConfig, pprof_backend};
    let backend = pprof_backend(PprofConfig::default(), BackendConfig::default());
    let agent = pyroscope::pyroscope::PyroscopeAgentBuilder::new("http://localhost", "", 1, "", "", backend);
    agent.build().and_then(|agent| agent.start()).expect("it starts").stop().expect("it stops").shutdown();
}

/// Does `work`, and prints what it took: time, and memory at its peak, with the result, and when that is gone.
fn tell<T>(work: impl FnOnce() -> T, drop_result: impl FnOnce(T)) {
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").expect("proc is writable");
    let before = resident("VmRSS:");
    let (began, cpu) = (Instant::now(), cpu());
    let result = std::hint::black_box(work());
    let (wall, cpu) = (began.elapsed(), self::cpu() - cpu);
    let (peak, with) = (resident("VmHWM:"), resident("VmRSS:"));
    drop_result(result);
    println!("cpu\tms\t{}", cpu.as_secs_f64() * 1e3);
    println!("wall\tms\t{}", wall.as_secs_f64() * 1e3);
    println!("rss_peak\tKiB\t{}", peak - before);
    println!("rss_with_result\tKiB\t{}", with - before);
    println!("rss_after\tKiB\t{}", resident("VmRSS:") - before);
}

fn resident(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel says so");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
