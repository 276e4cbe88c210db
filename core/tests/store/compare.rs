//! The tables: what costs, what costs more, and what is only noise.

use everprof::profile::{Kind, LocationId, Profile};
use everprof::store::{Diff, Normalise, Top, diff, top};

use crate::profiles::{add, function, location, mapping, small};

#[test]
fn self_and_total_with_inlined_functions() {
    let top = top(&small()).unwrap();
    let row = |name: &str| top.rows.iter().find(|row| row.function.starts_with(name)).unwrap();
    let millions = |value: i64| value / 1_000_000;
    assert_eq!((millions(row("memcpy").own), millions(row("memcpy").total)), (80, 80));
    assert_eq!((millions(row("shop::hash").own), millions(row("shop::hash").total)), (10, 90));
    assert_eq!((millions(row("shop::serve").own), millions(row("shop::serve").total)), (0, 90));
    assert_eq!((millions(row("main").own), millions(row("main").total)), (0, 90));
    assert_eq!((millions(row("[lost").own), millions(top.total)), (20, 111));
    assert_eq!(top.rows[0].function, "memcpy", "most expensive first");
    let text = top.render(3);
    assert!(text.starts_with("111 ms of cpu in all\n"), "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
    let samples = Top::of(&small(), "samples").unwrap();
    assert_eq!(samples.total, 11);
    let error = Top::of(&small(), "heap").unwrap_err().to_string();
    assert_eq!(error, "the profile has no sample type heap: it has samples, cpu");
}

#[test]
fn recursion_counts_once_and_code_without_a_name_by_its_file() {
    let mut profile = Profile::new(Kind::Cpu);
    let binary = mapping(&mut profile, 0x1000, "/usr/lib/libx.so.1", "");
    let f = function(&mut profile, "f", "f.rs");
    let f = location(&mut profile, Some(binary), 0x1100, &[(f, 1)]);
    let bare = location(&mut profile, Some(binary), 0x1200, &[]);
    let other_bare = location(&mut profile, Some(binary), 0x1300, &[]);
    add(&mut profile, &[bare, f, f, f], &[], [1, 100]);
    add(&mut profile, &[other_bare, f, bare], &[], [1, 100]);
    let top = top(&profile).unwrap();
    let rows: Vec<_> = top.rows.iter().map(|row| (row.function.as_str(), row.own, row.total)).collect();
    assert_eq!(rows, [("[libx.so.1]", 200, 200), ("f", 0, 200)]);
}

/// A program: what each path of functions, root first, costs in samples a second.
struct Program {
    paths: Vec<(Vec<String>, f64)>,
    version: &'static str,
}

impl Program {
    fn new(version: &'static str) -> Self {
        let mut paths = Vec::new();
        for handler in 0..30 {
            for leaf in ["parse", "hash", "memcpy", "alloc"] {
                let path = ["main", "worker", "serve", &format!("handler_{handler}"), leaf];
                paths.push((path.map(str::to_owned).to_vec(), 0.5));
            }
        }
        Self { paths, version }
    }

    fn plus(mut self, path: &[&str], rate: f64) -> Self {
        self.paths.push((path.iter().map(|name| (*name).to_owned()).collect(), rate));
        self
    }

    /// What a profiler with `rate_hz` would see in `seconds`, by chance.
    fn sampled(&self, seconds: f64, load: f64, rate_hz: f64, seed: u64) -> Profile {
        self.sampled_by(1, seconds, load, rate_hz, seed)
    }

    /// The same where each signal stands for several periods, as above the kernel's tick.
    fn sampled_by(&self, periods: i64, seconds: f64, load: f64, rate_hz: f64, seed: u64) -> Profile {
        let mut random = Random(seed * 2 + 1);
        let mut profile = Profile::new(Kind::Cpu);
        profile.period = (1e9 / rate_hz) as i64;
        profile.duration_nanos = (seconds * 1e9) as i64;
        // Each process has its code elsewhere.
        let start = 0x5000_0000 + seed * 0x10_0000;
        let binary = mapping(&mut profile, start, "/bin/shop", self.version);
        for (path, rate) in &self.paths {
            let mut stack: Vec<LocationId> = Vec::new();
            for (depth, name) in path.iter().enumerate() {
                let file = match name.strip_prefix("std_") {
                    Some(name) => format!("/rustc/0123abcd/library/core/src/{name}.rs"),
                    None => format!("/cargo/registry/src/index-1/shop-{}/src/{name}.rs", self.version),
                };
                let named = function(&mut profile, name, &file);
                let address = start + depth as u64 * 64 + name.len() as u64;
                stack.insert(0, location(&mut profile, Some(binary), address, &[(named, depth as i64)]));
            }
            // `rate` is meant at 99 Hz.
            let signals = random.poisson(rate * load * seconds * rate_hz / 99.0 / periods as f64);
            let count = signals * periods;
            if count > 0 {
                let period = profile.period;
                add(&mut profile, &stack, &[], [count, count * period]);
            }
        }
        profile.tags.insert("effective_rate_hz".into(), format!("{:.2}", rate_hz / periods as f64));
        profile
    }
}

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> i64 {
        let mut time = 0.0;
        let mut count = 0;
        loop {
            time -= self.unit().ln();
            if time > mean {
                return count;
            }
            count += 1;
        }
    }
}

fn names(diff: &Diff) -> Vec<&str> {
    diff.regressed().iter().map(|change| change.function.as_str()).collect()
}

#[test]
fn noise_is_not_a_regression() {
    let program = Program::new("1.0");
    for seed in 0..50 {
        let before = program.sampled(60.0, 1.0, 99.0, seed * 2);
        let after = program.sampled(60.0, 1.0, 99.0, seed * 2 + 1);
        let diff = diff(&before, &after).unwrap();
        assert_eq!(names(&diff), Vec::<&str>::new(), "seed {seed}:\n{}", diff.render(5));
        let by_total = Diff::of(&before, &after, None, Normalise::ByTotal).unwrap();
        assert_eq!(names(&by_total), Vec::<&str>::new(), "seed {seed}");
    }
}

/// Of all functions that did not change, how many seem to by more than 2 and by more than 3 standard deviations.
fn false_alarms(periods: i64, seconds: [f64; 2], normalise: Normalise, told: bool) -> [f64; 2] {
    let mut program = Program::new("1.0");
    for function in 0..60 {
        program = program.plus(&["main", &format!("own_{function}")], 0.5 + f64::from(function) / 10.0);
    }
    let (mut alarms, mut all) = ([0.0; 2], 0.0);
    for seed in 0..60 {
        let sides = [0, 1].map(|side| {
            let mut profile =
                program.sampled_by(periods, seconds[side as usize], 1.0, 99.0, 10_000 + seed * 2 + side);
            if !told {
                profile.tags.clear();
            }
            profile
        });
        let [before, after] = &sides;
        for row in Diff::of(before, after, None, normalise).unwrap().rows {
            if row.function.starts_with("own_") {
                all += 1.0;
                alarms[0] += f64::from(u8::from(row.own.z.abs() > 2.0));
                alarms[1] += f64::from(u8::from(row.own.z.abs() > 3.0));
            }
        }
    }
    assert_eq!(all, 3600.0);
    alarms.map(|count| count / all)
}

#[test]
fn chance_raises_as_many_alarms_as_z_claims() {
    // By the normal law 4.6 % lie beyond 2 and 0.27 % beyond 3; of 3,600, that is within 3.5 to 5.7 % and 0 to 0.6 %.
    for periods in [1, 4] {
        for seconds in [[60.0, 60.0], [300.0, 100.0]] {
            for normalise in [Normalise::ByTime, Normalise::ByTotal] {
                let [two, three] = false_alarms(periods, seconds, normalise, true);
                let case = format!("{periods} periods a signal, {seconds:?} s, {normalise:?}: {two} {three}");
                assert!((0.035..0.057).contains(&two) && three < 0.006, "{case}");
            }
        }
    }
    let [two, three] = false_alarms(4, [60.0, 60.0], Normalise::ByTime, false);
    assert!(
        two > 0.2 && three > 0.08,
        "without the number of signals chance looks like change: {two} {three}"
    );
}

#[test]
fn a_fifth_more_is_found_and_a_merge_keeps_what_it_takes() {
    let path = ["main", "worker", "price"];
    let (mut found, mut first) = (0, 0);
    for seed in 0..50 {
        // An hour of a twentieth of a processor, at four periods a signal, as twelve profiles.
        let hour = |version, rate: f64, seed: u64| {
            let program = Program::new(version).plus(&path, rate);
            let mut sum = program.sampled_by(4, 300.0, 1.0, 99.0, seed);
            for part in 1..12 {
                sum.merge(&program.sampled_by(4, 300.0, 1.0, 99.0, seed + part)).unwrap();
            }
            assert_eq!(sum.tags["effective_rate_hz"], "24.75");
            sum
        };
        let diff = diff(&hour("1.0", 5.0, 1_000 * seed), &hour("1.1", 6.0, 1_000 * seed + 500)).unwrap();
        let row = diff.rows.iter().find(|row| row.function == "price").unwrap();
        assert!((row.own.growth() / row.own.before - 0.2).abs() < 0.1, "{row:?}");
        found += i32::from(names(&diff).contains(&"price"));
        first += i32::from(names(&diff).first() == Some(&"price"));
    }
    // 18,000 periods are 4,500 signals: a fifth more is 9.5 standard deviations.
    assert_eq!([found, first], [50, 50]);
}

#[test]
fn the_slow_function_is_named_first_whatever_differs_besides() {
    let slow = ["main", "worker", "serve", "handler_7", "std_call", "checksum", "std_fold"];
    for (seconds, rate_hz, load) in
        [(60.0, 99.0, 1.0), (20.0, 99.0, 1.0), (60.0, 250.0, 1.0), (30.0, 49.0, 1.05)]
    {
        for seed in 0..10 {
            let before = Program::new("1.0").plus(&slow, 0.4).sampled(60.0, 1.0, 99.0, seed);
            let after = Program::new("1.1").plus(&slow, 12.0).sampled(seconds, load, rate_hz, seed + 1000);
            for normalise in [Normalise::ByTime, Normalise::ByTotal] {
                let diff = Diff::of(&before, &after, None, normalise).unwrap();
                let named = names(&diff);
                let case = format!("{seconds} s, {rate_hz} Hz, seed {seed}, {normalise:?}: {named:?}");
                assert_eq!(named[0], "checksum", "not what it is made of: {case}");
                assert!(named.contains(&"std_fold"), "{case}");
                assert!(!named.contains(&"main") && !named.contains(&"parse"), "{case}");
                assert_eq!(diff.rows[0].function, "std_fold", "its own cost grew the most: {case}");
                assert!(diff.rows[0].own.z > 10.0, "{case}");
            }
        }
    }
}

#[test]
fn a_function_that_is_new_and_one_that_is_gone() {
    let before = Program::new("1.0").plus(&["main", "old"], 10.0).sampled(60.0, 1.0, 99.0, 1);
    let after = Program::new("1.1").plus(&["main", "new"], 10.0).sampled(60.0, 1.0, 99.0, 2);
    let diff = diff(&before, &after).unwrap();
    assert_eq!(names(&diff), ["new"]);
    let last = diff.rows.last().unwrap();
    assert_eq!((last.function.as_str(), last.own.after), ("old", 0.0));
    let text = diff.render(3);
    assert!(text.starts_with("cpu per second: "), "{text}");
    assert!(text.lines().nth(2).unwrap().ends_with("!  new"), "{text}");
}

#[test]
fn twice_the_load_is_told_from_a_slower_function() {
    let program = Program::new("1.0");
    let (before, after) = (program.sampled(60.0, 1.0, 99.0, 1), program.sampled(60.0, 2.0, 99.0, 2));
    let by_time = diff(&before, &after).unwrap();
    assert!((by_time.total_after / by_time.total_before - 2.0).abs() < 0.1);
    assert!(by_time.regressed().iter().any(|change| change.function == "main"), "by time everything grew");
    let by_total = Diff::of(&before, &after, None, Normalise::ByTotal).unwrap();
    assert_eq!(names(&by_total), Vec::<&str>::new(), "by share nothing did");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (before, after) =
        (Program::new("1").sampled(10.0, 1.0, 99.0, 1), Program::new("1").sampled(10.0, 1.0, 100.0, 2));
    let error = Diff::of(&before, &after, Some("samples"), Normalise::ByTime).unwrap_err().to_string();
    assert_eq!(
        error,
        "samples were taken every 10101010 nanoseconds before and every 10000000 after, \
         so their counts cannot be compared; compare cpu"
    );
    assert!(Diff::of(&before, &after, Some("heap"), Normalise::ByTime).is_err());
    let mut snapshot = after.clone();
    snapshot.duration_nanos = 0;
    assert_eq!(diff(&before, &snapshot).unwrap().normalise, Normalise::ByTotal, "a snapshot has no seconds");
}
