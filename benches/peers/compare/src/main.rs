//! Runs the profilers in turn, A B A B, so that what else the machine does falls on all alike; takes the median of the
//! rounds of each figure; prints a table, and writes one JSON object a line into a file for each topic.
//!
//! `compare [--rounds N] [--out DIR] [TOPIC…]`; the binaries lie beside this one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cases that the same peers go through.
struct Topic {
    name: &'static str,
    /// The binary, where there is one for all, which is told the peer's name.
    shared: Option<&'static str>,
    /// What the binaries' names begin with, where there is one for each peer.
    prefix: &'static str,
    /// How often each peer runs, unless the command line says otherwise.
    rounds: usize,
    peers: &'static [&'static str],
    cases: &'static [&'static str],
}

/// The one that the others are compared with.
const EVERPROF: &str = "everprof";
const PROFILERS: &[&str] = &["pprof-default", "pprof-frame-pointer", "pyroscope"];

const PEER: &str = "peer";
/// What the program's allocator does: no samples, allocations, and the live heap as well.
const ALLOCATIONS: &[&str] = &["allocations off", "allocations alloc", "allocations heap"];

const TOPICS: &[Topic] = &[
    Topic {
        prefix: "alloc-system",
        shared: None,
        name: "alloc-system",
        rounds: 3,
        peers: &["bare", "dhat"],
        cases: ALLOCATIONS,
    },
    Topic {
        prefix: "alloc-jemalloc",
        shared: None,
        name: "alloc-jemalloc",
        rounds: 3,
        peers: &["bare", "pprof"],
        cases: ALLOCATIONS,
    },
    Topic { prefix: "malloc", shared: None, name: "malloc", rounds: 3, peers: &["bare"], cases: ALLOCATIONS },
    Topic {
        prefix: "malloc-preload",
        shared: None,
        name: "malloc-preload",
        rounds: 3,
        peers: &["nothing", "jemalloc", "jemalloc-prof", "heaptrack"],
        cases: ALLOCATIONS,
    },
    Topic {
        prefix: "locks",
        shared: None,
        name: "locks",
        rounds: 3,
        peers: &["bare"],
        cases: &[
            "std 1",
            "parking_lot 1",
            "pthread 1",
            "futex 1 unsampled",
            "std 2 unsampled",
            "std 2",
            "std 8",
            "std 32",
            "parking_lot 2",
            "parking_lot 32",
            "pthread 2",
            "pthread 32",
        ],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "memory",
        rounds: 3,
        peers: PROFILERS,
        cases: &["memory 10000"],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "upload",
        rounds: 1,
        peers: &["pyroscope"],
        cases: &["upload 60 100", "upload 60 10000"],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "labels",
        rounds: 3,
        peers: &["pyroscope"],
        cases: &["labels"],
    },
    Topic {
        prefix: PEER,
        name: "symbolize",
        shared: Some("../full/tools"),
        rounds: 3,
        peers: &["backtrace", "addr2line", "blazesym"],
        cases: &["symbolize lines", "symbolize names"],
    },
    Topic {
        prefix: PEER,
        name: "encode",
        shared: Some("../full/tools"),
        rounds: 5,
        peers: &["prost"],
        cases: &["encode"],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "wall",
        rounds: 3,
        peers: &["everyone"],
        cases: &["wall 1000 10", "wall 4000 19"],
    },
    Topic { prefix: PEER, shared: None, name: "threads", rounds: 3, peers: &[], cases: &["threads 1000"] },
    Topic {
        prefix: PEER,
        shared: None,
        name: "stacks",
        rounds: 1,
        peers: &["pprof-default", "pprof-frame-pointer", "pprof-framehop"],
        cases: &["stacks rust", "stacks mixed"],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "totals",
        rounds: 1,
        peers: &["pprof-default", "pyroscope"],
        cases: &[
            "totals steady 1 99",
            "totals steady 1 1000",
            "totals steady 8 99",
            "totals steady 8 1000",
            "totals steady 32 99",
            "totals steady 32 1000",
            "totals bursts 1 99",
            "totals bursts 8 1000",
            "totals short 1 99",
            "totals short 1 1000",
        ],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "overhead",
        rounds: 3,
        peers: &["floor", "pprof-default", "pyroscope"],
        cases: &["overhead 99"],
    },
    Topic {
        prefix: PEER,
        shared: None,
        name: "handler",
        rounds: 3,
        peers: &["floor", "pprof-default", "pprof-frame-pointer", "pprof-framehop", "pyroscope"],
        cases: &["warm 33", "warm 103", "timer 33", "timer 103", "cold 33", "cold 103"],
    },
];

fn main() {
    let mut rounds = None;
    let mut out = PathBuf::from("target/bench");
    let mut topics = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().and_then(|text| text.parse().ok()),
            "--out" => out = arguments.next().expect("a directory").into(),
            _ => topics.push(argument),
        }
    }
    fs::create_dir_all(&out).expect("a directory to write to");
    let here = std::env::current_exe().expect("a path");
    let binaries = here.parent().expect("a directory");
    for topic in
        TOPICS.iter().filter(|topic| topics.is_empty() || topics.iter().any(|name| name == topic.name))
    {
        let mut lines = String::new();
        println!(
            "\n{}\n{:24} {:26} {:>10} {:>22} {:>12} {:>8}",
            topic.name, "case", "metric", EVERPROF, "peer", "", "ratio"
        );
        for case in topic.cases {
            lines += &compare(binaries, topic, case, rounds.unwrap_or(topic.rounds));
            fs::write(out.join(topic.name).with_extension("jsonl"), &lines).expect("a file can be written");
        }
    }
}

/// The figures of one peer: by metric, in the order they came, with unit and one value a round.
type Figures = Vec<(String, String, Vec<f64>)>;

fn compare(binaries: &Path, topic: &Topic, case: &str, rounds: usize) -> String {
    let mut all: BTreeMap<&str, Figures> = BTreeMap::new();
    for _ in 0..rounds {
        for peer in std::iter::once(&EVERPROF).chain(topic.peers) {
            add(all.entry(peer).or_default(), &run(binaries, topic, peer, case));
        }
    }
    let mut lines = String::new();
    for (metric, unit, values) in all.get(EVERPROF).into_iter().flatten() {
        let ours = median(values);
        let with_metric = |peer: &&str| {
            let figures = all.get(*peer)?;
            let (_, _, values) = figures.iter().find(|(name, ..)| name == metric)?;
            Some((peer.to_string(), median(values)))
        };
        let peers: Vec<_> = topic.peers.iter().filter_map(with_metric).collect();
        if peers.is_empty() {
            lines += &tell(case, metric, unit, ours, None);
        }
        for (name, theirs) in &peers {
            lines += &tell(case, metric, unit, ours, Some((name, *theirs)));
        }
    }
    lines
}

/// A line of the table, and one of JSON.
fn tell(case: &str, metric: &str, unit: &str, ours: f64, peer: Option<(&String, f64)>) -> String {
    let ratio = peer.map(|(_, theirs)| ours / theirs).filter(|ratio| ratio.is_finite());
    let (name, theirs) =
        peer.map_or((String::new(), String::new()), |(name, theirs)| (name.clone(), number(theirs)));
    let shown = ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
    println!(
        "{case:24} {:26} {:>10} {name:>22} {theirs:>12} {shown:>8}",
        format!("{metric} ({unit})"),
        number(ours)
    );
    let mut line = String::new();
    let json = |value: Option<f64>| value.map_or("null".to_string(), |value| format!("{value}"));
    let peer_name = peer.map_or("null".to_string(), |(name, _)| format!("\"{name}\""));
    let _ = writeln!(
        line,
        "{{\"case\":\"{case}\",\"metric\":\"{metric}\",\"unit\":\"{unit}\",\"everprof\":{},\"peer\":{},\"peer_name\":{peer_name},\"ratio\":{}}}",
        json(Some(ours)),
        json(peer.map(|(_, theirs)| theirs)),
        json(ratio),
    );
    line
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn run(binaries: &Path, topic: &Topic, peer: &str, case: &str) -> String {
    let mut command = match topic.shared {
        Some(name) => Command::new(binaries.join(name)),
        None => Command::new(binaries.join(format!("{}-{peer}", topic.prefix))),
    };
    command.args(topic.shared.map(|_| peer));
    let output =
        command.args(case.split(' ')).env("THREAD_IDS", "on").output().expect("built by `make bench-rust`");
    if !output.status.success() {
        eprintln!("{peer} {case}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn add(figures: &mut Figures, printed: &str) {
    for line in printed.lines() {
        let mut columns = line.split('\t');
        let (Some(metric), Some(unit), Some(Ok(value))) =
            (columns.next(), columns.next(), columns.next().map(str::parse::<f64>))
        else {
            continue;
        };
        match figures.iter_mut().find(|(name, ..)| name == metric) {
            Some((_, _, values)) => values.push(value),
            None => figures.push((metric.into(), unit.into(), vec![value])),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}
