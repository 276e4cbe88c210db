//! What tools that poll services for profiles accept.

use std::thread;
use std::time::Duration;

use everprof::encode::pprof;

use crate::client::{Response, ask, get, serving};
use crate::common::{burn, time_in};

/// The paths and parameters that Alloy and Parca poll with, and whether there is such a profile yet.
const POLLED: [(&str, bool); 8] = [
    ("/debug/pprof/profile?seconds=1", true),
    ("/debug/pprof/wall?seconds=1", true),
    ("/debug/fgprof?seconds=1", true),
    ("/debug/pprof/goroutine", true),
    ("/debug/pprof/threads", true),
    ("/debug/pprof/allocs", false),
    ("/debug/pprof/mutex", false),
    ("/debug/pprof/block", false),
];

pub(crate) fn what_pollers_accept() {
    let (profiler, address) = serving(|builder| builder);
    thread::spawn(|| burn(Duration::from_secs(20)));
    for (path, is_there) in POLLED {
        let response = get(&address, path);
        if is_there {
            accepted(path, &response);
        } else {
            assert_eq!((response.status, response.header("x-go-pprof")), (404, "1"), "{path}");
            assert!(response.text().starts_with("Unknown profile: "), "{path}: {}", response.text());
        }
    }
    // What is served is what was sampled meanwhile: the busy thread, as often as it came to run.
    let cpu = pprof::decode(&get(&address, "/debug/pprof/profile?seconds=2").body).unwrap();
    assert!(cpu.duration_nanos >= 2_000_000_000 && time_in(&cpu, "burn") > 0, "{:?}", cpu.totals());
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
