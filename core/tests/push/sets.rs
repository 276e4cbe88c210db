//! The sets that tests send: the same ones to servers of ours and to real ones.
#![allow(dead_code, clippy::unwrap_used)] // not all is used by each of the binaries that this is part of

use std::time::{SystemTime, UNIX_EPOCH};

use everprof::Options;
use everprof::encode::{Dialect, Set};
use everprof::export::{self, Exporter};
use everprof::profile::{Function, Kind, Label, Line, Location, Mapping, Profile};

/// The only exporter of these options.
pub(crate) fn exporter(options: &[(&str, &str)]) -> Box<dyn Exporter> {
    let mut made = Options::default();
    for (name, value) in options {
        made.set(name, value).unwrap();
    }
    let mut exporters = export::of_options(&made).unwrap();
    assert_eq!(exporters.len(), 1);
    exporters.remove(0)
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// A set of one profile with that many samples, in a dialect.
pub(crate) fn set(dialect: Dialect, samples: u64, time_nanos: i64) -> Set {
    let tags = [("service", "shop"), ("version", "1.0"), ("env", "prod"), ("k8s.node-name", "n1")];
    let tags = tags.map(|(key, value)| (key.to_string(), value.to_string())).into();
    let mut profile = profile(Kind::Cpu, samples);
    profile.time_nanos = time_nanos;
    profile.tags = Clone::clone(&tags);
    let profiles = dialect.encode(&[(Kind::Cpu, profile)]);
    Set { tags, sequence: 7, time_nanos, duration_nanos: 10_000_000_000, profiles, ..Set::default() }
}

/// A profile of that many samples.
pub(crate) fn profile(kind: Kind, samples: u64) -> Profile {
    let mut profile = Profile::new(kind);
    (profile.duration_nanos, profile.period) = (10_000_000_000, 10_101_010);
    let (filename, build_id) = (profile.string("/bin/shop"), profile.string("0123abcd"));
    let mapping = profile.mapping(Mapping {
        memory_start: 0x1000,
        memory_limit: 0x9000,
        filename,
        build_id,
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
        ..Mapping::default()
    });
    for n in 0..samples {
        let mut stack = Vec::new();
        for (depth, name) in
            [format!("leaf{n}"), "shop::handle".to_string(), "main".to_string()].iter().enumerate()
        {
            let (text, file) = (profile.string(name), profile.string("shop.rs"));
            let function =
                profile.function(Function { name: text, system_name: text, filename: file, start_line: 3 });
            let lines = vec![Line { function, line: 10 + n as i64, column: 0 }];
            let address = 0x2000 + n * 16 + depth as u64;
            stack.push(profile.location(Location { mapping: Some(mapping), address, lines }));
        }
        let stack = profile.stack(&stack);
        let labels = profile.labels(&[
            Label::text("thread_name", format!("worker-{}", n % 2)),
            Label::text("tenant/id", "a"),
            Label::text("trace_id", "0af7651916cd43dd8448eb211c80319c"),
            Label::text("span_id", "b7ad6b7169203331"),
        ]);
        let values: Vec<i64> =
            (0..profile.sample_types.len() as i64).map(|column| 1 + column * 10_101_010).collect();
        profile.add(stack, labels, &values);
    }
    profile
}
