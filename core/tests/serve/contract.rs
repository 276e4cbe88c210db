//! What tools that poll services for profiles accept.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use everprof::encode::pprof;
use everprof::profile::Kind;

use crate::client::{Response, ask, get, serving};
use crate::common::{burn, time_in};

/// The paths and parameters that Alloy and Parca poll with.
const POLLED: [&str; 10] = [
    "/debug/pprof/profile?seconds=1",
    "/debug/pprof/wall?seconds=1",
    "/debug/fgprof?seconds=1",
    "/debug/pprof/goroutine",
    "/debug/pprof/threads",
    "/debug/pprof/allocs",
    "/debug/pprof/allocs?seconds=1",
    "/debug/pprof/heap",
    "/debug/pprof/mutex",
    "/debug/pprof/block",
];
/// What is there only where it is followed.
const FOLLOWED: [&str; 5] = ["heap", "allocs", "mutex", "block", "lock"];

pub(crate) fn what_pollers_accept() {
    let (profiler, address) = serving(|builder| builder.set("interval_bytes", "64KiB"));
    // As long as the test may take, which waits for its allowance of requests.
    thread::spawn(|| burn(Duration::from_secs(600)));
    thread::spawn(|| {
        loop {
            std::hint::black_box(vec![1u8; 200_000]);
            thread::sleep(Duration::from_millis(5));
        }
    });
    for _ in 0..2 {
        thread::spawn(|| {
            static LOCK: Mutex<()> = Mutex::new(());
            loop {
                let held = LOCK.lock().unwrap();
                thread::sleep(Duration::from_millis(2));
                drop(held);
            }
        });
    }
    for name in FOLLOWED {
        let response = get(&address, &format!("/debug/pprof/{name}"));
        assert_eq!((response.status, response.header("x-go-pprof")), (404, "1"), "{name}");
        assert!(response.text().contains("kinds=cpu,"), "it says what to do: {}", response.text());
        // For a stretch of time it is followed.
        let response = get(&address, &format!("/debug/pprof/{name}?seconds=1"));
        accepted(name, &response);
        assert_eq!(response.header("content-disposition"), format!("attachment; filename=\"{name}-delta\""));
    }
    everprof::set("kinds", "cpu,wall,heap,mutex,block").unwrap();
    thread::sleep(Duration::from_millis(500));
    for path in POLLED {
        accepted(path, &get(&address, path));
        // It answers so many a second.
        thread::sleep(Duration::from_millis(600));
    }
    let heap = pprof::decode(&get(&address, "/debug/pprof/heap").body).unwrap();
    let allocs = pprof::decode(&get(&address, "/debug/pprof/allocs").body).unwrap();
    assert_eq!(heap.sample_types, Kind::Heap.sample_types());
    assert_eq!(heap.sample_types, allocs.sample_types);
    assert_eq!((&*heap.default_sample_type, &*allocs.default_sample_type), ("inuse_space", "alloc_space"));
    assert!(allocs.totals()[1] >= heap.totals()[1], "what was allocated only grows");
    thread::sleep(Duration::from_secs(1));
    let delta = pprof::decode(&get(&address, "/debug/pprof/heap?seconds=2").body).unwrap();
    // 40 MB a second are allocated and nothing is kept.
    let [_, allocated, _, live] = delta.totals()[..] else { unreachable!() };
    assert!(allocated > 1_000_000 && live.abs() < allocated / 2, "{:?}", delta.totals());
    assert!((2_000_000_000..30_000_000_000).contains(&delta.duration_nanos), "{}", delta.duration_nanos);
    for (form, in_it) in [("html", "<!DOCTYPE html>"), ("collapsed", ";"), ("speedscope", "speedscope")] {
        let response = get(&address, &format!("/debug/pprof/heap?format={form}"));
        assert!(response.status == 200 && response.text().contains(in_it), "{form}: {response:?}");
        thread::sleep(Duration::from_millis(700));
    }
    let page = get(&address, "/debug/pprof/").text();
    for in_it in ["heap?format=html", "mutex?debug=1", "samples:</span>"] {
        assert!(page.contains(in_it), "{in_it}: {page}");
    }
    // What is served is what was sampled meanwhile: the busy thread, as often as it came to run.
    let cpu = pprof::decode(&get(&address, "/debug/pprof/profile?seconds=2").body).unwrap();
    assert!(cpu.duration_nanos >= 2_000_000_000 && time_in(&cpu, "burn") > 0, "{:?}", cpu.totals());
    // A page has no room for what is less than nothing: levels are compared, and what flows is shown.
    for (name, view) in [("heap", "diff"), ("allocs", "profile"), ("mutex", "profile")] {
        let response = get(&address, &format!("/debug/pprof/{name}?seconds=1&format=html"));
        assert_eq!(response.status, 200, "{name}");
        assert!(response.text().contains(&format!("\"view\":\"{view}\"")), "{name}");
    }
    drop(profiler);
}

/// What `internal/component/pyroscope/scrape` of Grafana Alloy and `pkg/scrape` and `pkg/normalizer` of Parca ask of an
/// answer: 200, a media type, a body that is no text, and a profile whose period type is told.
fn accepted(path: &str, response: &Response) {
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    assert!(response.header("content-type").starts_with("application/octet-stream"), "{path}: {response:?}");
    assert!(response.body.starts_with(&[0x1f, 0x8b]), "{path}: gzip");
    assert_eq!(response.header("content-encoding"), "", "{path}: the body is the file");
    let profile = pprof::decode(&response.body).unwrap();
    assert!(profile.samples().len() > 0, "{path} is empty");
    assert!(!profile.period_type.name.is_empty() && !profile.period_type.unit.is_empty(), "{path}");
    for value_type in &profile.sample_types {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        assert!(value_type.name.chars().all(is_name), "{path}: {}", value_type.name);
    }
}

/// As `go tool pprof` asks for the names of a busy program's addresses: all of a module in one request.
pub(crate) fn many_addresses() {
    let (_profiler, address) = serving(|builder| builder);
    let near = burn as fn(Duration) as usize;
    let list: Vec<String> = (0..20_000).map(|at| format!("{:#x}", near + at)).collect();
    let response = ask(&address, "POST", "/debug/pprof/symbol", "", &list.join("+")).unwrap();
    let named = response.text().lines().filter(|line| line.starts_with("0x")).count();
    assert!(response.status == 200 && named > 10_000, "{named} of them have names: {response:?}");
}

pub(crate) fn token() {
    const TOKEN: &str = "open-sesame-7";
    let (profiler, address) = serving(|builder| builder.set("serve_token", TOKEN));
    let status = |headers: &str, path: &str| ask(&address, "GET", path, headers, "").unwrap().status;
    for path in ["/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap", "/", "/nothing"] {
        assert_eq!(status("", path), 401, "{path}");
        assert_eq!(status("Authorization: Bearer open-sesame-8\r\n", path), 401, "{path}");
    }
    assert_eq!(status(&format!("Authorization: Bearer {TOKEN}\r\n"), "/debug/pprof/"), 200);
    // user:open-sesame-7, as the URL http://user:open-sesame-7@… is sent.
    assert_eq!(status("Authorization: Basic dXNlcjpvcGVuLXNlc2FtZS03\r\n", "/debug/pprof/cmdline"), 200);
    let refused = ask(&address, "GET", "/debug/pprof/", "", "").unwrap();
    assert!(refused.header("www-authenticate").contains("Bearer") && !refused.text().contains(TOKEN));
    let page =
        ask(&address, "GET", "/debug/pprof/", &format!("Authorization: Bearer {TOKEN}\r\n"), "").unwrap();
    assert!(!page.text().contains(TOKEN) && !format!("{:?}", profiler.stats()).contains(TOKEN));
    assert!(profiler.stats().serve_refused >= 10, "{:?}", profiler.stats());
}
