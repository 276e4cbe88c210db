//! A profile with what real ones have and the sets of other tests do not: inlined functions, functions of several lines,
//! recursion, code without a name, losses, names of others' making, and values that are nothing.

use std::collections::BTreeMap;

use everprof::profile::{Function, Kind, Label, Line, Location, LocationId, Mapping, MappingId, Profile};

use crate::sets::now;

/// The function that a version of the shop makes slow, and by how many nanoseconds.
pub(crate) const SLOW: (&str, i64) = ("shop::search", 400 * PERIOD);
const PERIOD: i64 = 10_101_010;

/// A profile of that kind of now, of a version of the shop.
pub(crate) fn profile(kind: Kind, version: &str) -> Profile {
    made(kind, version, false)
}

/// The processor's profile of a version in which one function is slower, and nothing else is other.
pub(crate) fn regressed(version: &str) -> Profile {
    made(Kind::Cpu, version, true)
}

fn made(kind: Kind, version: &str, is_slow: bool) -> Profile {
    let mut profile = Profile::new(kind);
    (profile.duration_nanos, profile.period, profile.time_nanos) = (10_000_000_000, PERIOD, now());
    profile.tags = tags(version);
    let mut made = Made { shop: None, profile };
    made.shop = Some(made.mapping("/bin/shop", "0123abcd", 0x1000, true));
    let libc = Some(made.mapping("/usr/lib/libc.so.6", "4567cdef", 0x10_0000, true));
    // Of whose functions nothing is known. Where something is, Pyroscope forgets addresses.
    let stripped = Some(made.mapping("/usr/lib/libz.so.1", "89ab0123", 0x20_0000, false));
    let main = made.code(0x2000, &[("main", 3)]);
    // One place in the code, where two functions are inlined into a third.
    let pay = made.code(0x2010, &[("shop::round", 41), ("shop::price", 90), ("shop::pay", 12)]);
    let pay_later = made.code(0x2020, &[("shop::price", 97), ("shop::pay", 14)]);
    let search = made.code(0x2030, &[("shop::search", 60)]);
    let sort = [0x2040, 0x2044].map(|at| made.code(at, &[("shop::sort<T, U>", 70 + (at & 7) as i64)]));
    let strange = made.code(0x2050, &[("Basket<\"&;\u{fc}>::add(int, ...) const", 5)]);
    let copy = made.named(libc, 0x10_0040, &[("memcpy", 0)]);
    let bare = made.location(stripped, 0x20_0080);
    let lost = made.mark("[lost: ring full]");
    let deep: Vec<LocationId> = (0..300).map(|n| made.code(0x3000 + n, &[("shop::walk", 80)])).collect();

    made.add(&[pay, main], "worker-0", 40);
    made.add(&[pay_later, main], "worker-0", 30);
    made.add(&[pay, main], "worker-1", 20);
    made.add(&[sort[0], sort[1], sort[0], search, main], "worker-1", 7);
    made.add(&[sort[1], sort[0], search, main], "worker-1", 5);
    made.add(&[copy, strange, main], "worker-0", 3);
    made.add(&[bare, strange, main], "worker-0", 2);
    made.add(&[strange, main], "worker-0", 1);
    made.add(&[lost], "worker-0", 9);
    made.add(&[&deep[..], &[main]].concat(), "worker-1", 11);
    if is_slow {
        made.add(&[search, main], "worker-1", SLOW.1 / PERIOD);
    }
    made.profile
}

pub(crate) fn tags(version: &str) -> BTreeMap<String, String> {
    [("service", "shop"), ("version", version)].map(|(key, value)| (key.into(), value.into())).into()
}

struct Made {
    shop: Option<MappingId>,
    profile: Profile,
}

impl Made {
    fn mapping(&mut self, filename: &str, build_id: &str, memory_start: u64, has_names: bool) -> MappingId {
        let (filename, build_id) = (self.profile.string(filename), self.profile.string(build_id));
        self.profile.mapping(Mapping {
            memory_start,
            memory_limit: memory_start + 0xf000,
            filename,
            build_id,
            has_functions: has_names,
            has_filenames: has_names,
            has_line_numbers: has_names,
            has_inline_frames: has_names,
            ..Mapping::default()
        })
    }

    /// Code of the shop at an address: what is inlined before what it is inlined into, each with its line.
    fn code(&mut self, address: u64, lines: &[(&str, i64)]) -> LocationId {
        self.named(self.shop, address, lines)
    }

    fn named(&mut self, mapping: Option<MappingId>, address: u64, lines: &[(&str, i64)]) -> LocationId {
        let lines = lines
            .iter()
            .map(|&(name, line)| {
                let filename = self.profile.string(if line == 0 { "" } else { "src/shop.rs" });
                let name = self.profile.string(name);
                let function = Function { name, system_name: name, filename, start_line: 0 };
                Line { function: self.profile.function(function), line, column: 0 }
            })
            .collect();
        self.profile.location(Location { mapping, address, lines })
    }

    fn location(&mut self, mapping: Option<MappingId>, address: u64) -> LocationId {
        self.profile.location(Location { mapping, address, lines: Vec::new() })
    }

    fn mark(&mut self, name: &str) -> LocationId {
        self.named(None, 0, &[(name, 0)])
    }

    /// A stack, its leaf first. Every third one has nothing of the first value.
    fn add(&mut self, stack: &[LocationId], thread: &str, times: i64) {
        let stack = self.profile.stack(stack);
        let labels = self.profile.labels(&[Label::text("thread_name", thread), Label::text("tenant", "a")]);
        let columns = self.profile.sample_types.len() as i64;
        let value = |column: i64| match column {
            0 if times % 3 == 0 => 0,
            _ => times * (1 + column * (PERIOD - 1)),
        };
        self.profile.add(stack, labels, &(0..columns).map(value).collect::<Vec<i64>>());
    }
}
