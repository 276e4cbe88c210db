//! Writes the pages that the browser tests open, and beside each the samples as plain JSON, from which the tests
//! compute what a page has to show. `cargo run -p everprof --example browser_pages -- <directory>`; with a word more, without
//! the large ones.
//!
//! Everything is deterministic: the random numbers come from a generator with a fixed seed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod heap;
mod random;
mod timeline;
mod wall;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs};

use everprof::encode::flamegraph::{self, PageOptions};
use everprof::profile::{
    Function, Kind, Label, LabelValue, Line, Location, LocationId, Mapping, MappingId, Profile, Sample,
    ValueType,
};

fn main() {
    let directory: PathBuf = env::args().nth(1).map_or_else(|| "target/browser".into(), Into::into);
    fs::create_dir_all(&directory).unwrap();
    let one = |name: &str, profile: Profile| {
        let page = flamegraph::html(&profile, &PageOptions::default());
        write(&directory, name, &page, &[&profile]);
    };
    let pair = |name: &str, before: &Profile, after: &Profile| {
        let page = flamegraph::diff_html(before, after, &PageOptions::default());
        write(&directory, name, &page, &[before, after]);
    };
    one("service", service(0));
    one("hostile", hostile());
    one("wide", wide());
    one("odd", odd());
    one("one", one_sample());
    one("empty", Profile::new(Kind::Cpu));
    one("many", many());
    one("tall", tall());
    for (name, profile) in wall::pages() {
        wall::expect(&directory, name, &profile);
        one(name, profile);
    }
    one("offcpu", wall::off_cpu());
    pair("countless", &countless([100, 50, -20]), &countless([100, 90, -40]));
    pair("nothing", &Profile::new(Kind::Cpu), &Profile::new(Kind::Cpu));
    pair("diff", &service(0), &service(1));

    heap::pages(&directory);
    random::pages(&directory);

    let ran = service(0);
    write(&directory, "kinds", &wall::kinds(&ran), &[&ran]);
    timeline::write(&directory, env::args().nth(2).is_none());
    if env::args().nth(2).is_some() {
        return;
    }

    let profile = large(100_000);
    let start = Instant::now();
    let page = flamegraph::html(&profile, &PageOptions::default());
    let bytes = page.len();
    write(&directory, "large", &page, &[]);
    println!(
        "large.html: {} samples, {bytes} bytes, written in {:?}",
        profile.samples().len(),
        start.elapsed()
    );
}

fn write(directory: &Path, name: &str, page: &str, profiles: &[&Profile]) {
    fs::write(directory.join(format!("{name}.html")), page).unwrap();
    let samples = |profile: &&Profile| -> serde_json::Value {
        profile.samples().map(|sample| plain(profile, sample)).collect()
    };
    let plain: Vec<serde_json::Value> = profiles.iter().map(samples).collect();
    fs::write(directory.join(format!("{name}.json")), serde_json::to_string(&plain).unwrap()).unwrap();
}

/// A sample as its names, root first, its labels, and its values as text.
fn plain(profile: &Profile, sample: Sample<'_>) -> serde_json::Value {
    let mut names: Vec<&str> = Vec::new();
    for &location in profile.get_stack(sample.stack) {
        for line in &profile.get_location(location).lines {
            names.push(profile.text(profile.get_function(line.function).name));
        }
    }
    names.reverse();
    let labels: serde_json::Map<String, serde_json::Value> = profile
        .get_labels(sample.labels)
        .iter()
        .map(|label| {
            let value = match &label.value {
                LabelValue::Text(text) => text.clone(),
                LabelValue::Number(number, unit) => format!("{number} {unit}"),
            };
            (label.key.clone(), value.into())
        })
        .collect();
    let values: Vec<String> = sample.values.iter().map(i64::to_string).collect();
    serde_json::json!({ "stack": names, "labels": labels, "values": values })
}

/// Xorshift, seeded.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Builds stacks from paths such as `main;a;>b`, root first; `>` marks a frame that was inlined into the one before.
struct Builder {
    profile: Profile,
    modules: Vec<(String, MappingId)>,
}

impl Builder {
    fn new(version: &str) -> Self {
        Self::of(Kind::Cpu, version)
    }

    fn of(kind: Kind, version: &str) -> Self {
        let mut profile = Profile::new(kind);
        profile.period = 10_101_010;
        profile.time_nanos = 1_790_000_000_000_000_000;
        profile.duration_nanos = 60_000_000_000;
        for (key, value) in [
            ("service", "checkout"),
            ("version", version),
            ("env", "production"),
            ("host", "node-17.eu-west"),
            ("pod", "checkout-7f9c6b5d4-x2x9k"),
            ("instance", "9f2c1d8e4b"),
            ("region", "eu-west-1"),
        ] {
            profile.tags.insert(key.into(), value.into());
        }
        Self { profile, modules: Vec::new() }
    }

    fn module(&mut self, path: &str) -> MappingId {
        if let Some((_, id)) = self.modules.iter().find(|(known, _)| known == path) {
            return *id;
        }
        let start = 0x5555_0000_0000 + 0x1000_0000 * self.modules.len() as u64;
        let filename = self.profile.string(path);
        let mapping =
            Mapping { memory_start: start, memory_limit: start + 0x100_0000, filename, ..Mapping::default() };
        let id = self.profile.mapping(mapping);
        self.modules.push((path.to_owned(), id));
        id
    }

    fn line(&mut self, name: &str) -> Line {
        let crate_name = name.trim_start_matches('<').split("::").next().unwrap_or(name).to_owned();
        let id = self.profile.string(name);
        let file = if name.contains("::") { format!("/src/{crate_name}/src/lib.rs") } else { String::new() };
        let filename = self.profile.string(&file);
        let function = self.profile.function(Function { name: id, filename, ..Function::default() });
        Line { function, line: 10 + name.len() as i64 * 3, column: 0 }
    }

    fn stack(&mut self, path: &str) -> Vec<LocationId> {
        let mut locations: Vec<Location> = Vec::new();
        for name in path.split(';') {
            if let Some(inlined) = name.strip_prefix('>') {
                let line = self.line(inlined);
                locations.last_mut().unwrap().lines.insert(0, line);
            } else if name.starts_with('[') {
                let lines = vec![self.line(name)];
                locations.push(Location { lines, ..Location::default() });
            } else {
                let module = match name {
                    name if name.contains("::") || name == "main" => "/app/bin/checkout",
                    name if name.starts_with("deflate") => "/usr/lib/x86_64-linux-gnu/libz.so.1.2.13",
                    _ => "/usr/lib/x86_64-linux-gnu/libc.so.6",
                };
                let (mapping, line) = (Some(self.module(module)), self.line(name));
                let address = 0x5555_0000_1000 + u64::from(line.function.index() as u32) * 64;
                locations.push(Location { mapping, address, lines: vec![line] });
            }
        }
        locations.iter().rev().map(|location| self.profile.location(location.clone())).collect()
    }

    fn add(&mut self, path: &str, labels: &[Label], samples: i64) {
        let locations = self.stack(path);
        let stack = self.profile.stack(&locations);
        let labels = self.profile.labels(labels);
        self.profile.add(stack, labels, &[samples, samples * 10_101_010]);
    }
}

const RUNTIME: &str = "clone3;start_thread;std::sys::pal::unix::thread::Thread::new::thread_start;\
    >core::ops::function::FnOnce::call_once;tokio::runtime::blocking::pool::Inner::run;\
    tokio::runtime::scheduler::multi_thread::worker::run;tokio::runtime::scheduler::multi_thread::worker::Context::run_task;\
    tokio::runtime::task::harness::Harness<T,S>::poll;>tokio::runtime::task::core::Core<T,S>::poll";
const HTTP: &str = "<hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T> as core::future::future::Future>::poll;\
    hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T>::poll_catch";
const ROUTER: &str = "<axum::routing::Router<S> as tower_service::Service<http::request::Request<B>>>::call;>axum::routing::path_router::PathRouter<S>::call_with_state";

/// A service under load. Generation 1 has a planted regression in `checkout::pricing::discount`, a function that is
/// new, and one that is gone.
fn service(generation: i64) -> Profile {
    let mut b = Builder::new(if generation == 0 { "1.0" } else { "1.1" });
    let mut random = Random(0x9e37_79b9_7f4a_7c15 + generation as u64);
    if generation == 1 {
        b.profile.duration_nanos = 90_000_000_000;
        b.profile.time_nanos += 3_600_000_000_000;
        // Two periods a signal.
        b.profile.tags.insert("effective_rate_hz".into(), "49.5".into());
    }
    let handlers: &[(&str, &str, i64)] = &[
        (
            "/cart",
            "checkout::handlers::cart;checkout::pricing::total;>checkout::pricing::sum;core::iter::traits::iterator::Iterator::fold",
            61,
        ),
        (
            "/cart",
            "checkout::handlers::cart;checkout::pricing::total;checkout::pricing::discount;checkout::pricing::discount;checkout::pricing::round",
            8,
        ),
        (
            "/cart",
            "checkout::handlers::cart;serde_json::ser::to_vec;>serde_json::ser::format_escaped_str;<alloc::vec::Vec<T,A> as core::clone::Clone>::clone;malloc;_int_malloc",
            37,
        ),
        (
            "/pay",
            "checkout::handlers::pay;serde_json::de::from_slice;serde_json::read::SliceRead::parse_str",
            44,
        ),
        (
            "/pay",
            "checkout::handlers::pay;checkout::crypto::sign;>sha2::sha256::compress256;sha2::sha256::x86::digest_blocks",
            83,
        ),
        ("/pay", "checkout::handlers::pay;parking_lot::raw_mutex::RawMutex::lock_slow;syscall", 6),
        (
            "/list",
            "checkout::handlers::list;flate2::zio::write_with_status;deflate;deflate_slow;deflate_longest_match",
            97,
        ),
        (
            "/list",
            "checkout::handlers::list;checkout::catalog::load;regex_automata::meta::regex::Regex::search;regex_automata::dfa::search::find_fwd",
            52,
        ),
        (
            "/list",
            "checkout::handlers::list;checkout::catalog::load;checkout::catalog::sort;core::slice::sort::stable::driftsort;>core::slice::sort::stable::merge::merge;__memcpy_avx_unaligned_erms",
            33,
        ),
        (
            "/list",
            "checkout::handlers::list;[truncated: 212 frames];serde_json::value::ser::serialize;serde_json::value::ser::serialize;serde_json::value::ser::serialize",
            9,
        ),
    ];
    for worker in 0..4 {
        for (endpoint, path, weight) in handlers {
            for tenant in ["acme", "globex", "initech"] {
                let labels = [
                    Label::text("thread_name", format!("tokio-runtime-w{worker}")),
                    Label::text("endpoint", *endpoint),
                    Label::text("tenant", tenant),
                ];
                let regressed = generation == 1 && path.contains("discount");
                let time = if generation == 1 { 3 } else { 2 };
                let samples = (weight * time + random.below(*weight as u64 / 4 + 2) as i64)
                    * if regressed { 9 } else { 1 };
                b.add(&format!("{RUNTIME};{HTTP};{ROUTER};{path}"), &labels, samples);
                if regressed {
                    b.add(
                        &format!(
                            "{RUNTIME};{HTTP};{ROUTER};checkout::handlers::cart;checkout::audit::record"
                        ),
                        &labels,
                        20,
                    );
                }
                if generation == 0 && path.contains("crypto") {
                    b.add(
                        &format!(
                            "{RUNTIME};{HTTP};{ROUTER};checkout::handlers::pay;checkout::legacy::verify"
                        ),
                        &labels,
                        14,
                    );
                }
            }
        }
        let thread = [Label::text("thread_name", format!("tokio-runtime-w{worker}"))];
        b.add(
            &format!("{RUNTIME};tokio::runtime::io::driver::Driver::turn;mio::poll::Poll::poll;epoll_wait"),
            &thread,
            19,
        );
        b.add("[lost: ring full]", &thread, 7);
    }
    let main = [Label::text("thread_name", "main")];
    b.add("_start;__libc_start_main;main;std::rt::lang_start_internal;checkout::main;checkout::config::load;toml_edit::parser::parse_document", &main, 24);
    b.add("_start;__libc_start_main;main;std::rt::lang_start_internal;checkout::main;checkout::cache::warm;checkout::cache::warm;checkout::cache::warm;checkout::cache::insert", &main, 31);
    let bytes = [Label::text("thread_name", "compactor"), Label::number("batch", 4096, "bytes")];
    b.add(
        "clone3;start_thread;checkout::compactor::run;zstd_safe::compress;ZSTD_compressBlock_doubleFast",
        &bytes,
        120,
    );
    b.profile
}

/// Names that try to be markup, script, or something else than they are.
fn hostile() -> Profile {
    let mut b = Builder::new("</title><script>window.pwned=1</script>\u{202e}1.1");
    b.profile.tags.insert("\u{202e}gat\u{2066}\u{61c}".into(), "\u{202e}eulav\u{e0041}".into());
    b.profile
        .tags
        .insert("<img src=x onerror=window.pwned=2>".into(), "\"'><svg onload=window.pwned=3>".into());
    let names = [
        "</script><script>window.pwned=4</script>",
        "<!--<script>",
        "</script x='",
        "<!-- <script ",
        "]]><img src=x onerror=window.pwned=5>",
        "\u{202e}desrever\u{202c}",
        "line\nbreak\u{0}nul\u{7f}",
        "\u{2028}\u{2029}",
        "__proto__",
        "constructor",
        "名前::関数<型>::呼ぶ",
        "a(b[c]{d}*e+f?g^h$i|j\\k.",
        "<a as b>::c<d<e<f>>>",
        "<<<<<<<<<<<<",
        "",
    ];
    for (place, name) in names.iter().enumerate() {
        let labels = [Label::text("thread_name", *name), Label::text(*name, "__proto__")];
        b.add(&format!("main;{name};leaf::{name}"), &labels, place as i64 + 1);
    }
    b.add(&vec!["deep::recursion"; 3000].join(";"), &[], 50);
    b.add(&format!("main;{}", "x".repeat(20_000)), &[], 3);
    b.profile
}

/// A name of three megabytes that patterns find hard, one frame 2,000 deep, 200 label keys, a value of a megabyte.
fn odd() -> Profile {
    let mut b = Builder::new("odd");
    b.add(&format!("main;{}", "<<a as b>::c".repeat(250_000)), &[], 4000);
    b.add(&vec!["again"; 2000].join(";"), &[Label::text("value", "v".repeat(1 << 20))], 4000);
    for key in 0..200 {
        for value in 0..30 {
            let label = Label::text(format!("key_{key}"), format!("value {value}"));
            b.add("main;labelled", &[label], 1);
        }
    }
    b.profile
}

/// 30 sample types, 500 values of a label, 20,000 callees of one function, and a function under 5,000 frames.
fn many() -> Profile {
    let types = (0..30)
        .map(|place| ValueType::new(format!("type_{place}"), if place == 3 { "apples" } else { "count" }));
    let mut profile = Profile::with_types(types.collect(), ValueType::new("type_0", "count"), "type_7");
    let frame = |profile: &mut Profile, name: &str| {
        let name = profile.string(name);
        let function = profile.function(Function { name, ..Function::default() });
        let lines = vec![Line { function, line: 1, column: 0 }];
        profile.location(Location { address: function.index() as u64 + 1, lines, ..Location::default() })
    };
    let root = frame(&mut profile, "app::main");
    for place in 0..20_000 {
        let leaf = frame(&mut profile, &format!("app::sibling_{place:05}"));
        let stack = profile.stack(&[leaf, root]);
        let labels = profile.labels(&[Label::text("user", format!("user {}", place % 500))]);
        let values: Vec<i64> = (0..30).map(|kind| (kind + 1) * (1 + place % 3)).collect();
        profile.add(stack, labels, &values);
    }
    let mut deep: Vec<LocationId> =
        (0..5_000).map(|place| frame(&mut profile, &format!("app::deep_{place}"))).collect();
    deep.push(root);
    let stack = profile.stack(&deep);
    let labels = profile.labels(&[]);
    profile.add(stack, labels, &[2_000_000; 30]);
    profile
}

/// What is hot stands below 120 frames that all stacks share.
fn tall() -> Profile {
    let mut b = Builder::new("tall");
    let trunk: Vec<String> = (0..120).map(|place| format!("runtime::poll_{place}")).collect();
    let trunk = trunk.join(";");
    for (leaf, samples) in [("app::hot", 60), ("app::warm", 30), ("app::hot;core::fmt::write", 20)] {
        b.add(&format!("{trunk};{leaf}"), &[], samples);
    }
    b.profile
}

/// Nothing but nanoseconds, no duration, and a value that is negative: what a file of others may hold.
fn countless(values: [i64; 3]) -> Profile {
    let cpu = ValueType::new("cpu", "nanoseconds");
    let mut profile = Profile::with_types(vec![cpu.clone()], cpu, "cpu");
    for (place, value) in values.into_iter().enumerate() {
        let name = profile.string(&format!("app::part_{place}"));
        let function = profile.function(Function { name, ..Function::default() });
        let lines = vec![Line { function, line: 1, column: 0 }];
        let location = profile.location(Location { address: place as u64 + 1, lines, ..Location::default() });
        let (stack, labels) = (profile.stack(&[location]), profile.labels(&[]));
        profile.add(stack, labels, &[value]);
    }
    profile
}

fn one_sample() -> Profile {
    let mut b = Builder::new("one");
    b.add("main", &[], 1);
    b.profile
}

/// Nanoseconds that no JavaScript number holds exactly.
fn wide() -> Profile {
    let mut profile = Profile::with_types(
        vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
        ValueType::new("cpu", "nanoseconds"),
        "cpu",
    );
    profile.duration_nanos = 30 * 86_400_000_000_000;
    for (name, value) in [("a", 9_007_199_254_740_993), ("b", 4_611_686_018_427_387_904), ("c", 1), ("c2", 3)]
    {
        let id = profile.string(name);
        let function = profile.function(Function { name: id, ..Function::default() });
        let lines = vec![Line { function, line: 1, column: 0 }];
        let location = profile.location(Location { address: value as u64, lines, ..Location::default() });
        let stack = profile.stack(&[location]);
        let labels = profile.labels(&[]);
        profile.add(stack, labels, &[1, value]);
    }
    profile
}

/// Many stacks of about 30 frames, over 6,000 functions, that part ways at every depth.
fn large(stacks: usize) -> Profile {
    let mut b = Builder::new("2.0");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let crates = [
        "checkout",
        "tokio",
        "hyper",
        "serde_json",
        "rustls",
        "regex",
        "sqlx",
        "tracing",
        "axum",
        "std",
        "h2",
        "bytes",
    ];
    let functions: Vec<LocationId> = (0..6_000)
        .map(|place: u64| {
            let name = format!("{}::module_{}::function_{place}", crates[(place % 12) as usize], place % 97);
            b.stack(&name)[0]
        })
        .collect();
    let mut distinct = HashSet::new();
    while distinct.len() < stacks {
        let depth = 24 + random.below(13);
        // Each frame has a favourite callee and a few others, so that stacks share their upper parts and the graph has
        // towers, as those of a real program do.
        let mut at = random.below(100).saturating_sub(80) / 4;
        let mut stack = Vec::new();
        for _ in 0..depth {
            stack.push(functions[(at % 6_000) as usize]);
            let choice = if random.below(100) < 84 { 0 } else { 1 + random.below(4) };
            at = at.wrapping_mul(31).wrapping_add(7 + choice * 1_009);
        }
        stack.reverse();
        let stack = b.profile.stack(&stack);
        distinct.insert(stack);
        let thread = Label::text("thread_name", format!("worker-{}", random.below(16)));
        let labels =
            b.profile.labels(&[thread, Label::text("tenant", format!("tenant-{}", random.below(40)))]);
        let weight = 1 + random.below(3) as i64;
        b.profile.add(stack, labels, &[weight, weight * 10_101_010]);
    }
    b.profile
}
