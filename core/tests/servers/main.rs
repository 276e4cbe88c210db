//! Profiles pushed to the real servers, and read back from them: `make test-servers`, which builds them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod datadog;
mod drawn;
mod grafana;
mod graph;
mod http;
mod otelcol;
#[path = "../formats/otlp_proto.rs"]
mod otlp_proto;
mod otlp_read;
mod parca;
mod places;
mod program;
mod pyroscope;
mod scraped;
#[path = "../push/sets.rs"]
mod sets;
mod shop;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use everprof::profile::Profile;

/// What a program that profiles itself allocates is to be seen.
#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

/// A server that runs until this is dropped, with a directory of its own.
pub(crate) struct Running {
    child: Child,
    pub(crate) dir: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Some have processes of their own, which do not end with them.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The program of that name, where `make test-servers` has built it. By itself this test has nothing to talk to.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("EVERPROF_TEST_SERVERS") else {
        println!("not run: make test-servers builds {name}, and runs this");
        return None;
    };
    let path = PathBuf::from(dir).join(name);
    if path.is_file() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{} is not there", path.display());
    eprintln!("!!! SKIPPED: {name} was not built, for which go is needed");
    None
}

/// Starts it in a directory of its own, whose path `arguments` gets.
pub(crate) fn start(program: &PathBuf, name: &str, arguments: impl Fn(&PathBuf) -> Vec<String>) -> Running {
    start_as(name, |dir| {
        let mut command = Command::new(program);
        command.args(arguments(dir));
        command
    })
}

/// The same of a command.
pub(crate) fn start_as(name: &str, command: impl FnOnce(&PathBuf) -> Command) -> Running {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let name = format!("{name}-{}", STARTED.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(format!("everprof-server-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = command(&dir);
    let child = command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    Running { child, dir }
}

/// Whether this build speaks gRPC, which `make test-servers` sees to.
pub(crate) fn has_grpc(test: &str) -> bool {
    if !cfg!(feature = "grpc") {
        println!("not run: {test} needs the feature grpc, which make test-servers has on");
    }
    cfg!(feature = "grpc")
}

/// A port that nobody listens on.
pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The sum of one value by stack: names and lines, leaf first.
pub(crate) fn by_stack(profile: &Profile, column: usize) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let lines = profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines);
        let frames = lines.map(|line| {
            let function = profile.get_function(line.function);
            format!("{} {}:{}", profile.text(function.name), profile.text(function.filename), line.line)
        });
        let stack = frames.collect::<Vec<_>>().join(" < ");
        *sums.entry(stack).or_default() += sample.values[column];
    }
    sums.retain(|_, sum| *sum != 0);
    sums
}
