//! What hostile clients of the pull side cost the program's own requests: `cargo bench -p everprof --bench serve`.
//!
//! A server of the program's own answers 500 requests a second over loopback, each with some work; their latency is taken
//! without a pull side, with one that nobody asks, and with one that another process attacks as fast as it can, at the least
//! priority: connections that say nothing or a part, garbage, and requests for pages. And, as what an attack on the machine
//! costs by itself, while the same attack goes to the pull side of a third process. In turn, many rounds: the median of each
//! figure, and of the ratios of each round, with the half of the rounds that lies in the middle. Two cases that are alike
//! tell how much is chance. Appends JSON lines to `target/bench/serve.jsonl`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;

const ROUNDS: usize = 15;
const REQUESTS: u32 = 1500;
const PACE: Duration = Duration::from_millis(2);
const CASES: [&str; 4] = ["no pull side", "nobody asks", "attacked", "another attacked"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, address] = arguments.as_slice()
        && word == "attack"
    {
        return attack(address);
    }
    if arguments.get(1).is_some_and(|word| word == "another") {
        return another();
    }
    let own = serve();
    let mut figures: [Vec<[f64; 3]>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (case, figures) in CASES.iter().zip(&mut figures) {
            let place = if *case == CASES[0] { "off" } else { ":0" };
            let dir = std::env::temp_dir().join("everprof-bench-serve");
            let profiler = Profiler::builder().dir(dir).set("serve", place).start().unwrap();
            let children = match *case {
                "attacked" => vec![start_attack(&profiler.stats().serve_address.unwrap())],
                "another attacked" => {
                    let (another, address) = start_another();
                    vec![start_attack(&address), another]
                }
                _ => Vec::new(),
            };
            thread::sleep(Duration::from_millis(500));
            let (before, begun) = (profiler.stats().threads_cpu, Instant::now());
            let mut latencies = ask(own);
            // Statistics are renewed every two seconds.
            thread::sleep(Duration::from_secs(2));
            let cpu = (profiler.stats().threads_cpu - before).as_secs_f64() / begun.elapsed().as_secs_f64();
            children.into_iter().for_each(|mut child| {
                child.kill().unwrap();
                child.wait().unwrap();
            });
            latencies.sort_unstable();
            let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize] as f64 / 1e3;
            figures.push([at(0.5), at(0.99), 100.0 * cpu]);
        }
    }
    compare(&figures);
    let mut lines = String::new();
    println!("{:<16} {:>10} {:>10} {:>22}", "", "p50 us", "p99 us", "everprof, % of a CPU");
    let medians =
        figures.map(|rounds| [0, 1, 2].map(|figure| median(rounds.iter().map(|round| round[figure]))));
    for (case, [p50, p99, cpu]) in CASES.iter().zip(medians) {
        println!("{case:<16} {p50:>10.1} {p99:>10.1} {cpu:>22.2}");
        for (metric, unit, value, without) in [
            ("p50", "us", p50, medians[0][0]),
            ("p99", "us", p99, medians[0][1]),
            ("own_cpu", "percent", cpu, medians[0][2]),
        ] {
            let ratio = value / without;
            let _ = writeln!(
                lines,
                "{{\"case\":\"{case}\",\"metric\":\"{metric}\",\"unit\":\"{unit}\",\"everprof\":{value:.3},\"peer\":{without:.3},\"peer_name\":\"no pull side\",\"ratio\":{ratio:.3}}}"
            );
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    let mut file =
        std::fs::File::options().create(true).append(true).open(folder.join("serve.jsonl")).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// What the p99 of one case is of another's in the same round: the quartiles of that.
fn compare(figures: &[Vec<[f64; 3]>; 4]) {
    for [case, beside] in [[2, 3], [2, 1], [3, 1], [1, 0]] {
        let [Some(of), Some(to)] = [case, beside].map(|case: usize| figures.get(case)) else { continue };
        let mut ratios: Vec<f64> = of.iter().zip(to).map(|([_, of, _], [_, to, _])| of / to).collect();
        ratios.sort_by(f64::total_cmp);
        let [low, middle, high] = [1, 2, 3].map(|quarter| ratios[(ratios.len() - 1) * quarter / 4]);
        println!("p99, {} / {}: {middle:.2} ({low:.2} to {high:.2})", CASES[case], CASES[beside]);
    }
}

/// The program's own server: eight bytes for eight bytes, after some work.
fn serve() -> std::net::SocketAddr {
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
fn ask(address: std::net::SocketAddr) -> Vec<u64> {
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

fn start_attack(address: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new("nice").args(["-n", "19"]).arg(program).args(["attack", address]).spawn().unwrap()
}

/// A process that does nothing but profile itself and serve, and where it serves.
fn start_another() -> (Child, String) {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program).arg("another").stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (child, address.trim().to_string())
}

fn another() {
    let dir = std::env::temp_dir().join("everprof-bench-serve");
    let profiler = Profiler::builder().dir(dir).set("serve", ":0").start().unwrap();
    println!("{}", profiler.stats().serve_address.unwrap());
    thread::sleep(Duration::from_secs(3600));
}

fn attack(address: &str) {
    let begins: [&[u8]; 5] = [
        b"",
        b"GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /debug/pprof/threads?debug=2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    let mut open = Vec::new();
    for turn in 0usize.. {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        let _ = stream.write_all(begins[turn % begins.len()]);
        open.push(stream);
        if open.len() > 100 {
            open.remove(0);
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
