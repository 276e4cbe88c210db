//! Go's tools and Go's own server beside ours.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::client::{Response, ask, serving};
use crate::common::burn;
use crate::go_tool::{go_pprof, is_here};

/// What a header of both must be alike in.
const COMPARED: [&str; 7] = [
    "content-type",
    "content-disposition",
    "content-encoding",
    "x-content-type-options",
    "x-go-pprof",
    "location",
    "allow",
];

/// Requests that are answered as Go answers them.
const ALIKE: [(&str, &str); 43] = [
    ("GET", "/debug/pprof/"),
    ("HEAD", "/debug/pprof/"),
    ("GET", "/debug/pprof/?seconds=x"),
    ("GET", "/debug/pprof"),
    ("GET", "/debug/pprof/cmdline"),
    ("HEAD", "/debug/pprof/cmdline"),
    ("GET", "/debug/pprof/profile?seconds=1"),
    ("GET", "/debug/pprof/profile?seconds=1&debug=1"),
    ("GET", "/debug/pprof/profile?seconds=%31"),
    ("GET", "/debug/pprof/profile/"),
    ("GET", "/debug/pprof/symbol"),
    ("GET", "/debug/pprof/symbol?0x0"),
    ("POST", "/debug/pprof/symbol"),
    ("GET", "/debug/pprof/goroutine"),
    ("HEAD", "/debug/pprof/goroutine"),
    ("GET", "/debug/pprof/goroutine?debug=0"),
    ("GET", "/debug/pprof/goroutine?debug=1"),
    ("GET", "/debug/pprof/goroutine?debug=2"),
    ("GET", "/debug/pprof/goroutine?debug=x"),
    ("GET", "/debug/pprof/goroutine?seconds=1"),
    ("GET", "/debug/pprof/goroutine?seconds=0"),
    ("GET", "/debug/pprof/goroutine?seconds=-1"),
    ("GET", "/debug/pprof/goroutine?seconds=1.5"),
    ("GET", "/debug/pprof/goroutine?seconds=601&debug=1"),
    ("GET", "/debug/pprof/goroutine?seconds=1&debug=1"),
    ("GET", "/debug/pprof/goroutine/"),
    ("GET", "/debug/pprof/heap"),
    ("HEAD", "/debug/pprof/heap"),
    ("GET", "/debug/pprof/heap?gc=1"),
    ("GET", "/debug/pprof/heap?debug=1"),
    ("GET", "/debug/pprof/heap?debug=2"),
    ("GET", "/debug/pprof/heap?seconds=1"),
    ("GET", "/debug/pprof/heap?seconds=0"),
    ("GET", "/debug/pprof/heap?seconds=1&debug=1"),
    ("GET", "/debug/pprof/allocs"),
    ("GET", "/debug/pprof/allocs?debug=1"),
    ("GET", "/debug/pprof/allocs?seconds=1&gc=1"),
    ("GET", "/debug/pprof/mutex"),
    ("GET", "/debug/pprof/mutex?debug=1"),
    ("GET", "/debug/pprof/block?seconds=1"),
    ("GET", "/debug/pprof/block?debug=1"),
    ("GET", "/debug/pprof/nothing"),
    ("GET", "/nothing"),
];

/// Where ours differs, and why: who creates threads is not recorded; nothing but reading is allowed; and paths are as they
/// are spelled.
const DIFFERENT: [(&str, &str, u16, u16); 4] = [
    ("GET", "/debug/pprof/threadcreate", 200, 404),
    ("POST", "/debug/pprof/goroutine", 200, 405),
    ("GET", "/debug/pprof//cmdline", 301, 404),
    ("GET", "/debug/pprof/%63mdline", 200, 404),
];

pub(crate) fn side_by_side() {
    if !is_here("Go's tools against the pull side") {
        return;
    }
    let (_go, theirs) = Go::start();
    let theirs = theirs.as_str();
    let (_profiler, ours) = serving(|builder| builder.set("kinds", "cpu,wall,heap,mutex,block"));
    let mut wrong = Vec::new();
    for (method, path) in ALIKE {
        // In turn, since ours answers so many a second.
        thread::sleep(Duration::from_millis(250));
        let body = if method == "POST" { "0x0+0x1" } else { "" };
        let [theirs, ours] = [theirs, &ours].map(|address| {
            let answer = ask(address, method, path, "", body);
            shape(&answer.unwrap_or_else(|error| panic!("{method} {path} at {address}: {error}")))
        });
        if theirs != ours {
            wrong.push(format!("{method} {path}\n  Go   {theirs:?}\n  ours {ours:?}"));
        }
    }
    for (method, path, go, own) in DIFFERENT {
        let [theirs, ours] =
            [theirs, &ours].map(|address| ask(address, method, path, "", "").unwrap().status);
        if (theirs, ours) != (go, own) {
            wrong.push(format!("{method} {path}: Go {theirs}, ours {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn shape(response: &Response) -> (u16, Vec<(&'static str, String)>, bool) {
    let headers = COMPARED.iter().map(|name| (*name, response.header(name).to_string()));
    (response.status, headers.filter(|(_, value)| !value.is_empty()).collect(), response.body.is_empty())
}

pub(crate) fn tool_reads_every_kind() {
    if !is_here("Go's tools against the pull side") {
        return;
    }
    let (_profiler, address) =
        serving(|builder| builder.set("kinds", "cpu,heap,block").set("interval_bytes", "64KiB"));
    thread::spawn(|| burn(Duration::from_secs(60)));
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(600));
    });
    thread::spawn(allocate);
    for _ in 0..2 {
        thread::spawn(contend);
    }
    thread::sleep(Duration::from_millis(500));
    for (path, in_it, kind) in [
        ("profile?seconds=1", "burn", "Type: cpu"),
        ("wall?seconds=1", "burn", "Type: wall"),
        ("offcpu?seconds=1", "sleep", "Type: off_cpu"),
        ("threads", "sleep", "Type: threads"),
        ("goroutine", "sleep", "Type: goroutine"),
        ("goroutine?debug=1", "sleep", "Showing nodes"),
        ("heap", "allocate", "Type: inuse_space"),
        ("heap?debug=1", "allocate", "Type: inuse_space"),
        ("heap?seconds=1", "allocate", "Type: inuse_space"),
        ("allocs", "allocate", "Type: alloc_space"),
        ("allocs?seconds=1", "allocate", "Type: alloc_space"),
        ("peak?seconds=1", "allocate", "Type: peak_space"),
        ("lock", "contend", "Type: delay"),
        ("lock?seconds=1", "contend", "Type: delay"),
        ("mutex", "contend", "Type: delay"),
        ("mutex?debug=1", "contend", "Type: delay"),
        ("mutex?seconds=1", "contend", "Type: delay"),
        ("block", "contend", "Type: delay"),
        ("block?debug=1", "contend", "Type: delay"),
        ("block?seconds=1", "contend", "Type: delay"),
    ] {
        let url = format!("http://{address}/debug/pprof/{path}");
        let top = go_pprof(&["-top", "-cum", "-nodecount=200", &url]);
        assert!(top.contains(kind) && top.contains(in_it), "{path}: {top}");
    }
    // All four values are there, as in Go's.
    for value in ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"] {
        let url = format!("http://{address}/debug/pprof/heap");
        let top = go_pprof(&["-top", "-cum", "-nodecount=200", &format!("-sample_index={value}"), &url]);
        assert!(top.contains(&format!("Type: {value}")) && top.contains("allocate"), "{value}: {top}");
    }
    // Without a scheme or a path of its own, as people type it.
    let top = go_pprof(&["-top", "-seconds=1", &format!("http://{address}")]);
    assert!(top.contains("Type: cpu") && top.contains("burn"), "{top}");
}

/// A heap that grows by a little and churns by much.
#[inline(never)]
fn allocate() {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1u8; 100_000]));
        std::hint::black_box(vec![1u8; 1_000_000]);
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two threads that want one lock.
#[inline(never)]
fn contend() {
    static LOCK: std::sync::Mutex<u32> = std::sync::Mutex::new(0);
    loop {
        let mut held = LOCK.lock().unwrap();
        *held = std::hint::black_box(*held + 1);
        thread::sleep(Duration::from_millis(2));
        drop(held);
        thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn addresses_are_named() {
    if !is_here("Go's tools against the pull side") {
        return;
    }
    let (_profiler, address) = serving(|builder| builder.set("symbolize", "off"));
    thread::spawn(|| burn(Duration::from_secs(60)));
    let url = format!("http://{address}/debug/pprof/profile?seconds=1");
    let bare = go_pprof(&["-top", "-symbolize=none", &url]);
    assert!(!bare.contains("burn"), "{bare}");
    let named = go_pprof(&["-top", "-symbolize=remote", &url]);
    assert!(named.contains("burn"), "{named}");
}

/// Go's server, which ends with the test.
struct Go(Child);

impl Go {
    /// It, and its address.
    fn start() -> (Go, String) {
        let mut server =
            Go(Command::new(build()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut address = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        (server, address.trim().to_string())
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn build() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/go/main.go");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-server");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
        .env("GOTOOLCHAIN", "local")
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}
