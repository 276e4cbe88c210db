//! Parca asks our pull side, as it is set up for programs in Go; what it then has is what it was served, and nothing else.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use everprof::encode::pprof;
use everprof::profile::Profile;

use crate::graph::{Back, drawn_alike};
use crate::http::get;
use crate::parca;
use crate::program::Program;

/// What Parca asks Go's programs for by itself, and by which name.
const ASKED: [(&str, &str); 5] = [
    ("process_cpu", "/debug/pprof/profile?seconds=1"),
    ("memory", "/debug/pprof/allocs"),
    ("mutex", "/debug/pprof/mutex"),
    ("block", "/debug/pprof/block"),
    ("goroutine", "/debug/pprof/goroutine"),
];

#[test]
fn what_parca_scrapes_is_what_was_served() {
    if crate::program("parca").is_none() {
        return;
    }
    let (relay, port) = Relay::new();
    let program = Program::start("dir", 600);
    let to = program.port();
    // The first names take longest, and Parca is not to give up meanwhile.
    for (_, path) in ASKED {
        assert_eq!(get(to, path).unwrap().0, 200, "{path}");
    }
    // The intervals are shorter than they are in life.
    let scrape = format!(
        "scrape_configs:
  - job_name: shop
    scrape_interval: 1s
    scrape_timeout: 20s
    static_configs:
      - targets: ['127.0.0.1:{port}']
        labels: {{tier: front}}
"
    );
    let Some((_running, server)) = parca::parca(&scrape) else { return };
    let served = relay.run(to);
    for (name, path) in ASKED {
        let answers = &served[path];
        let mut sum = answers[0].clone();
        answers[1..].iter().for_each(|answer| sum.merge(answer).unwrap());
        // Those of the last ones may be on their way.
        let types = parca::types(server);
        let prefix = format!("{name}:");
        let known: Vec<&String> = types.iter().filter(|id| id.starts_with(&prefix)).collect();
        assert_eq!(known.len(), sum.sample_types.len(), "{types:?}");
        let mut nodes = 0;
        for (column, of) in sum.sample_types.iter().enumerate() {
            let wanted = format!("{name}:{}:{}:", of.name, of.unit);
            let id = known.iter().find(|id| id.starts_with(&wanted)).unwrap_or_else(|| panic!("{types:?}"));
            let is_time = of.unit == "count" && sum.period_type.unit == "nanoseconds";
            let scale = if is_time && id.ends_with(":delta") { sum.period } else { 1 };
            let selector = format!(r#"{id}{{job="shop",tier="front",instance="127.0.0.1:{port}"}}"#);
            let whole = sum.totals()[column] * scale;
            let mut back = parca::find(server, &selector);
            for _ in 0..50 {
                if whole == 0 || back.as_ref().is_some_and(|back| back.totals()[0] == whole) {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
                back = parca::find(server, &selector);
            }
            if whole != 0 {
                let back = Back { profile: back.unwrap(), column: 0, scale, marks: true };
                nodes += drawn_alike(id, &sum, column, &back);
            }
        }
        // Nobody need have waited for a channel.
        assert!(nodes > 0 || name == "block", "{name}");
        println!("{name}: {} answers of {path}, and Parca draws {nodes} nodes of their sum", answers.len());
    }
}

/// Stands between Parca and the program, and keeps the profiles that go by.
struct Relay {
    listener: TcpListener,
    answers: Arc<Mutex<BTreeMap<String, Vec<Profile>>>>,
}

impl Relay {
    fn new() -> (Relay, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (Relay { listener, answers: Arc::default() }, port)
    }

    /// Carries requests to that port until everything was asked for twice; then what is under way is the last.
    fn run(self, to: u16) -> BTreeMap<String, Vec<Profile>> {
        let end = Instant::now() + Duration::from_secs(60);
        let mut carriers = Vec::new();
        let is_enough = || {
            let answers = self.answers.lock().unwrap();
            ASKED.iter().all(|(_, path)| answers.get(*path).is_some_and(|answers| answers.len() >= 2))
        };
        while !is_enough() {
            assert!(Instant::now() < end, "{:?}", self.answers.lock().unwrap().keys());
            let (from, _) = self.listener.accept().unwrap();
            let answers = self.answers.clone();
            carriers.push(thread::spawn(move || carry(from, to, &answers)));
        }
        drop(self.listener);
        carriers.into_iter().for_each(|carrier| carrier.join().unwrap());
        Arc::into_inner(self.answers).unwrap().into_inner().unwrap()
    }
}

/// One request and its answer, after which the connection ends, whatever the two would like.
fn carry(mut from: TcpStream, to: u16, answers: &Mutex<BTreeMap<String, Vec<Profile>>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && from.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    // A connection that was opened to have one.
    let Some(path) = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) else { return };
    let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
    server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).unwrap();
    let is_right = answer.starts_with(b"HTTP/1.1 200 ");
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(is_right, "{path}: {}", String::from_utf8_lossy(&answer));
    let profile = pprof::decode(&answer[body..]).unwrap();
    if from.write_all(&answer).is_ok() {
        answers.lock().unwrap().entry(path.to_string()).or_default().push(profile);
    }
}
