//! What pushing costs: `cargo bench -p everprof --bench push`.
//!
//! A server of the program's own answers 500 requests a second over loopback, each with some work, and a profile is pushed each
//! second. Their latency is taken where profiles go nowhere, where the server takes them, where it takes requests and never
//! answers, where nobody is there, and the same with a spool. In turn, several rounds, the median of each figure. And the
//! CPU time of one push of 10,000 stacks of 30 frames, encoded and compressed before. Writes JSON lines to
//! `target/bench/push.jsonl`.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, missing_docs, dead_code, unreachable_pub)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use everprof::encode::{Dialect, Set};
use everprof::export::{self, Outcome};
use everprof::profile::Kind;
use everprof::{Options, Profiler};

#[path = "../tests/formats/profiles.rs"]
mod profiles;

const ROUNDS: usize = 5;
const REQUESTS: u32 = 2000;
const PACE: Duration = Duration::from_millis(2);
const CASES: [&str; 5] = ["nowhere", "healthy", "stalled", "away", "away, on disk"];

fn main() {
    let mut lines = String::new();
    pushes(&mut lines);
    latencies(&mut lines);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("push.jsonl"), lines).unwrap();
}

/// CPU time of this thread for a profile on its way to each kind of server.
fn pushes(lines: &mut String) {
    let profile = profiles::large(10_000, 30);
    let made = [(Kind::Cpu, profile)];
    println!("{:<24} {:>12} {:>12}", "10,000 stacks of 30", "CPU ms", "bytes");
    let mut line = |case: &str, bytes: usize, mut work: Box<dyn FnMut() + '_>| {
        let nanos = (0..9).map(|_| {
            let before = cpu_nanos();
            work();
            cpu_nanos() - before
        });
        let cpu = nanos.min().unwrap() as f64 / 1e6;
        println!("{case:<24} {cpu:>12.2} {bytes:>12}");
        for (metric, unit, value) in [("cpu", "ms", cpu), ("size", "bytes", bytes as f64)] {
            tell(lines, case, metric, unit, value, None);
        }
    };
    for (protocol, dialect) in [
        ("post", Dialect::Pprof),
        ("pyroscope", Dialect::Pyroscope),
        ("parca", Dialect::Parca),
        ("otlp", Dialect::Otlp),
        ("datadog", Dialect::Datadog),
    ] {
        let encoded = dialect.encode(&made);
        let bytes = encoded.iter().map(|profile| profile.bytes.len()).sum();
        line(&format!("encode {protocol}"), bytes, Box::new(|| _ = black_box(dialect.encode(&made))));
        let mut options = Options::default();
        options.set("push", &format!("{protocol}+http://{}", sink(true))).unwrap();
        let mut exporter = export::of_options(&options).unwrap().remove(0);
        let set = Set { profiles: encoded, ..Set::default() };
        let push = move || assert!(matches!(exporter.attempt(&set), Outcome::Sent));
        line(&format!("push {protocol}"), bytes, Box::new(push));
    }
}

/// Latency of the program's requests, by what becomes of its profiles.
fn latencies(lines: &mut String) {
    let own = serve();
    let (healthy, stalled) = (sink(true), sink(false));
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spool = std::env::temp_dir().join(format!("everprof-bench-push-{}", std::process::id()));
    let mut figures: [Vec<[f64; 3]>; CASES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (case, figures) in CASES.iter().zip(&mut figures) {
            let push = match *case {
                "nowhere" => "off".to_string(),
                "healthy" => format!("pyroscope+http://{healthy}"),
                "stalled" => format!("pyroscope+http://{stalled}"),
                _ => format!("pyroscope+http://{away}"),
            };
            let place = if *case == "away, on disk" { spool.display().to_string() } else { String::new() };
            let builder = Profiler::builder().set("period_s", "1").set("push", push);
            let profiler = builder.set("push_spool", place).start().unwrap();
            thread::sleep(Duration::from_millis(1_500));
            let (before, begun) = (profiler.stats().threads_cpu, Instant::now());
            let mut latencies = ask(own);
            // Statistics are renewed every two seconds.
            thread::sleep(Duration::from_secs(2));
            let stats = profiler.stats();
            let cpu = (stats.threads_cpu - before).as_secs_f64() / begun.elapsed().as_secs_f64();
            assert_eq!(stats.exported > 0, *case == "healthy", "{case}: {stats:?}");
            assert_eq!(stats.spool_sets > 0, *case == "away, on disk", "{case}: {stats:?}");
            // The one that is stalled goes on for its ten seconds by itself.
            let _ = profiler.stop();
            latencies.sort_unstable();
            let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize] as f64 / 1e3;
            figures.push([at(0.5), at(0.99), 100.0 * cpu]);
        }
    }
    let _ = std::fs::remove_dir_all(spool);
    println!("\n{:<24} {:>10} {:>10} {:>22}", "profiles go", "p50 us", "p99 us", "everprof, % of a CPU");
    let medians =
        figures.map(|rounds| [0, 1, 2].map(|figure| median(rounds.iter().map(|round| round[figure]))));
    let healthy = medians[1];
    for (case, found) in CASES.iter().zip(medians) {
        println!("{case:<24} {:>10.1} {:>10.1} {:>22.2}", found[0], found[1], found[2]);
        for (at, (metric, unit)) in [("p50", "us"), ("p99", "us"), ("own_cpu", "percent")].iter().enumerate()
        {
            tell(lines, case, metric, unit, found[at], Some(("healthy", healthy[at])));
        }
    }
}

fn tell(lines: &mut String, case: &str, metric: &str, unit: &str, value: f64, peer: Option<(&str, f64)>) {
    let (theirs, name, ratio) = match peer {
        Some((name, theirs)) => {
            (format!("{theirs:.3}"), format!("\"{name}\""), format!("{:.3}", value / theirs))
        }
        None => ("null".into(), "null".into(), "null".into()),
    };
    let _ = writeln!(
        lines,
        "{{\"case\":\"{case}\",\"metric\":\"{metric}\",\"unit\":\"{unit}\",\"everprof\":{value:.3},\"peer\":{theirs},\"peer_name\":{name},\"ratio\":{ratio}}}"
    );
}

/// A server of profiles, which says yes to everything, or nothing at all.
fn sink(answers: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || take(stream, answers));
        }
    });
    address
}

/// Takes one request whole.
fn take(mut stream: TcpStream, answers: bool) {
    let (mut received, mut chunk) = (Vec::new(), [0; 64 << 10]);
    let end = loop {
        if let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            break head + 4 + length.unwrap_or(0);
        }
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => received.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    };
    let mut left = vec![0; end.saturating_sub(received.len())];
    if stream.read_exact(&mut left).is_err() {
        return;
    }
    if !answers {
        thread::sleep(Duration::from_secs(60));
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
}

/// The program's own server: eight bytes for eight bytes, after some work.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = [0; 8];
    while stream.read_exact(&mut bytes).is_ok() {
        let mut number = u64::from_le_bytes(bytes);
        for step in 0..100_000u64 {
            number = black_box(number ^ step.wrapping_mul(31));
        }
        if stream.write_all(&number.to_le_bytes()).is_err() {
            return;
        }
    }
}

/// Nanoseconds of each request.
fn ask(address: SocketAddr) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let begun = Instant::now();
    let mut latencies = Vec::new();
    for turn in 0..REQUESTS {
        thread::sleep((begun + PACE * turn).saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        stream.write_all(&[1; 8]).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        latencies.push(asked.elapsed().as_nanos() as u64);
    }
    latencies
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU time of this thread.
fn cpu_nanos() -> u64 {
    // The file is brought up to date when the thread gives the processor away.
    thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
