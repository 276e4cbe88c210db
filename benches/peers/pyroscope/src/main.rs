//! pyroscope-rs with its in-process backend, sending to a server that says yes to everything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::{Peer, Stack};
use pyroscope::PyroscopeAgent;
use pyroscope::backend::{BackendConfig, PprofConfig, Report, pprof_backend};
use pyroscope::pyroscope::{PyroscopeAgentBuilder, PyroscopeAgentRunning};

/// What was sent so far, and how many requests it came in.
static SENT: Mutex<(Vec<Stack>, usize)> = Mutex::new((Vec::new(), 0));

struct Pyroscope {
    agent: Option<PyroscopeAgent<PyroscopeAgentRunning>>,
    rate_hz: u32,
    /// To the harness, which waits for what comes itself.
    pushes: bool,
}

impl Pyroscope {
    fn to(url: &str, rate_hz: u32, pushes: bool) -> Self {
        let backend = pprof_backend(PprofConfig { sample_rate: rate_hz }, BackendConfig::default());
        let agent =
            PyroscopeAgentBuilder::new(url, "bench", rate_hz, "pyroscope-rs", "2.1", backend).func(keep);
        let agent = agent.build().and_then(|agent| agent.start()).expect("it starts");
        Self { agent: Some(agent), rate_hz, pushes }
    }
}

impl Peer for Pyroscope {
    fn start(rate_hz: u32) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", server.local_addr().expect("an address"));
        std::thread::spawn(move || {
            server.incoming().flatten().for_each(|stream| serve(stream).unwrap_or_default())
        });
        Self::to(&url, rate_hz, false)
    }

    fn start_pushing(url: &str, rate_hz: u32) -> Option<Self> {
        Some(Self::to(url, rate_hz, true))
    }

    fn label(&self, times: u32) -> bool {
        let (add, remove) = self.agent.as_ref().expect("running").tag_wrapper();
        for _ in 0..times {
            add("tenant".into(), "acme".into()).expect("a tag");
            remove("tenant".into(), "acme".into()).expect("a tag");
        }
        true
    }

    type Report = ();

    /// Its last upload.
    fn report(&mut self) {
        let before = SENT.lock().expect("nobody panicked").1;
        let stopped = self.agent.take().expect("running").stop().expect("it stops");
        let end = Instant::now() + Duration::from_secs(20);
        while !self.pushes && SENT.lock().expect("nobody panicked").1 == before && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Its shutdown waits for the next of its uploads, ten seconds apart.
        std::mem::forget(stopped);
    }

    fn stacks(mut self) -> Vec<Stack> {
        self.report();
        let mut stacks = std::mem::take(&mut SENT.lock().expect("nobody panicked").0);
        stacks.iter_mut().for_each(|stack| stack.nanos *= 1_000_000_000 / u64::from(self.rate_hz));
        stacks
    }
}

/// Keeps what is about to be sent: counts in place of nanoseconds.
fn keep(report: Report) -> Report {
    if !harness::wants_stacks() {
        return report;
    }
    let stacks = report.data.iter().map(|(trace, count)| Stack {
        names: trace.frames.iter().filter_map(|frame| frame.name.clone()).collect(),
        nanos: *count as u64,
        thread: trace.thread_name.clone().unwrap_or_default(),
        ..Stack::default()
    });
    SENT.lock().expect("nobody panicked").0.extend(stacks);
    report
}

/// Reads one request after the other and answers each with an empty success.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut received = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..read]);
        let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        if received.len() >= head + 4 + length {
            received.drain(..head + 4 + length);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            SENT.lock().expect("nobody panicked").1 += 1;
        }
    }
}

fn main() {
    harness::run::<Pyroscope>();
}
