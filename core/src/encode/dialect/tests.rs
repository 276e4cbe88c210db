use super::*;
use crate::profile::{Function, Label, LabelValue, Line, Location, LocationId};

fn profile(kind: Kind, stacks: usize, depth: usize) -> Profile {
    let mut profile = Profile::new(kind);
    profile.tags = [("service", "shop"), ("env", "prod")].map(|(k, v)| (k.to_string(), v.to_string())).into();
    (profile.time_nanos, profile.duration_nanos, profile.period) = (1_000, 60_000_000_000, 10);
    for n in 0..stacks {
        let locations: Vec<LocationId> =
            (0..depth).map(|frame| location(&mut profile, &format!("f{}", (n + frame) % 5_000))).collect();
        let stack = profile.stack(&locations);
        let labels = profile.labels(&[
            Label::text("a-b", "1"),
            Label::text("a/b", "2"),
            Label::text("env", "mine"),
            Label::text("span_id", format!("{n:016x}")),
            Label::number("age", 3, "periods"),
        ]);
        let values: Vec<i64> = (1..=profile.sample_types.len() as i64).collect();
        profile.add(stack, labels, &values);
    }
    profile
}

fn location(profile: &mut Profile, name: &str) -> LocationId {
    let name = profile.string(name);
    let function = profile.function(Function { name, ..Function::default() });
    profile.location(Location { lines: vec![Line { function, line: 1, column: 0 }], ..Location::default() })
}

fn decoded(encoded: &[Encoded]) -> Vec<Profile> {
    encoded
        .iter()
        .map(|encoded| pprof::decode(&encoded.bytes).unwrap_or_else(|_| Profile::new(Kind::Cpu)))
        .collect()
}

fn sum(profiles: &[Profile]) -> Vec<i64> {
    profiles
        .iter()
        .map(Profile::totals)
        .reduce(|a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect())
        .unwrap_or_default()
}

fn label<'p>(profile: &'p Profile, key: &str) -> Vec<&'p LabelValue> {
    let samples = profile.samples();
    let labels = samples.flat_map(|sample| profile.get_labels(sample.labels));
    labels.filter(|label| label.key == key).map(|label| &label.value).collect()
}

#[test]
fn pyroscope_has_the_profile_of_a_request_by_its_first_span() {
    let mut profile = Profile::new(Kind::Cpu);
    let stack = profile.stack(&[]);
    let (trace, root) = (Label::text("trace_id", "7"), Label::text("local_root_span_id", "1"));
    for span in ["1", "2", "3"] {
        let labels = profile.labels(&[trace.clone(), Label::text("span_id", span), root.clone()]);
        profile.add(stack, labels, &[1, 10]);
    }
    let alone = profile.labels(&[Label::text("span_id", "9")]);
    profile.add(stack, alone, &[1, 10]);
    let master = [(Kind::Cpu, profile)];
    let sent = decoded(&Dialect::Pyroscope.encode(&master));
    let found =
        sent[0].samples().map(|sample| (sample.values[1], sent[0].get_labels(sample.labels).to_vec()));
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(value, _)| *value);
    // A trace would be a series of Pyroscope before 2.1.
    let of_request = vec![Label::text("span_id", "1")];
    assert_eq!(found, [(10, vec![Label::text("span_id", "9")]), (30, of_request)]);
    assert_eq!(
        label(&decoded(&Dialect::Pprof.encode(&master))[0], "span_id").len(),
        4,
        "all spans are in ours"
    );
}

#[test]
fn labels_are_spelled_as_the_server_spells_them_and_none_is_lost() {
    let master = [(Kind::Cpu, profile(Kind::Cpu, 1, 3))];
    let pyroscope = decoded(&Dialect::Pyroscope.encode(&master));
    let text = |text: &str| LabelValue::Text(text.to_string());
    assert_eq!(label(&pyroscope[0], "a_b"), [&text("1")]);
    assert_eq!(label(&pyroscope[0], "exported_a_b"), [&text("2")]);
    assert_eq!(label(&pyroscope[0], "exported_env"), [&text("mine")], "the series has an env of its own");
    assert!(label(&pyroscope[0], "age").is_empty(), "Pyroscope drops numbers");
    let parca = decoded(&Dialect::Parca.encode(&master));
    assert_eq!(label(&parca[0], "age").len(), 1);
    let own = series(Dialect::Parca, &Dialect::Parca.encode(&master)[0], &master[0].1.tags);
    for pair in [("a_b", "1"), ("exported_a_b", "2"), ("exported_env", "mine"), ("env", "prod")] {
        assert!(own.contains(&(pair.0.to_string(), pair.1.to_string())), "{own:?}");
    }
    let plain = decoded(&Dialect::Pprof.encode(&master));
    assert_eq!(label(&plain[0], "a-b").len(), 1);
}

#[test]
fn what_is_too_much_for_a_server_is_split_and_adds_up() {
    let master = [(Kind::Cpu, profile(Kind::Cpu, 40_000, 30))];
    let encoded = Dialect::Pyroscope.encode(&master);
    let parts = decoded(&encoded);
    assert!(parts.len() >= 3, "{}", parts.len());
    for (part, encoded) in parts.iter().zip(&encoded) {
        assert!(part.samples().len() <= 16_000);
        assert!(pprof::encode_uncompressed(part).len() <= (2 << 20) - (64 << 10), "it would never be taken");
        assert_eq!((part.time_nanos, encoded.duration_nanos), (encoded.time_nanos, 60_000_000_000));
    }
    assert_eq!(sum(&parts), master[0].1.totals());
    let mut ids: Vec<_> = encoded.iter().map(|encoded| encoded.id.to_bytes()).collect();
    ids.dedup();
    assert_eq!(ids.len(), encoded.len(), "each part is a profile of its own");
}

/// Of profiles with the same series and time, Pyroscope keeps one when it compacts.
#[test]
fn parts_of_a_profile_have_times_of_their_own_however_often_they_are_halved() {
    let master = [(Kind::Cpu, profile(Kind::Cpu, 16_500, 24))];
    for dialect in [Dialect::Pyroscope, Dialect::Otlp] {
        let mut parts = dialect.encode(&master);
        let first = parts[0].time_nanos;
        assert_eq!(first, 1_000, "{dialect:?}");
        assert_eq!(times(&parts), times(&dialect.encode(&master)), "the same at each try");
        let mut milliseconds: Vec<i64> = times(&parts).iter().map(|time| time / 1_000_000).collect();
        milliseconds.dedup();
        assert!(parts.len() > 1 && milliseconds.len() == parts.len(), "{dialect:?}: {milliseconds:?}");
        for _ in 0..2 {
            parts = parts.iter().flat_map(|part| halve(dialect, part).into_iter().flatten()).collect();
            let mut times = times(&parts);
            times.sort_unstable();
            times.dedup();
            assert_eq!(times.len(), parts.len(), "{dialect:?}");
            assert!(times.iter().all(|time| (first..first + 1_000_000_000).contains(time)));
        }
    }
    // Others take two at once for one profile.
    let whole = &Dialect::Parca.encode(&[(Kind::Cpu, profile(Kind::Cpu, 7, 3))])[0];
    assert!(halve(Dialect::Parca, whole).is_some_and(|halves| times(&halves) == [1_000, 1_000]));
}

/// Pyroscope makes a profile of each sample type of a request, of which it takes 2 MiB at once in all.
#[test]
fn a_request_of_otlp_is_no_more_than_pyroscope_makes_of_it_at_once() {
    for (kind, samples) in [(Kind::Cpu, 12_000), (Kind::Heap, 6_000)] {
        let master = [(kind, profile(kind, samples, 40))];
        let parts = Dialect::Otlp.encode(&master);
        let pprof = pprof::encode_uncompressed(&master[0].1).len();
        let at_once = pprof / parts.len() * if kind == Kind::Heap { 4 } else { 2 };
        assert!(at_once < 2 << 20, "{kind:?}: {pprof} bytes of pprof in {} parts", parts.len());
    }
}

fn times(parts: &[Encoded]) -> Vec<i64> {
    parts.iter().map(|part| part.time_nanos).collect()
}

#[test]
fn a_deep_stack_has_a_frame_that_says_so() {
    let parts = decoded(&Dialect::Pyroscope.encode(&[(Kind::Cpu, profile(Kind::Cpu, 1, 1_500))]));
    let part = &parts[0];
    let stack: Vec<LocationId> = part.samples().flat_map(|s| part.get_stack(s.stack).to_vec()).collect();
    let name = |at: usize| {
        let line = part.get_location(stack[at]).lines[0];
        part.text(part.get_function(line.function).name)
    };
    assert_eq!((stack.len(), name(0), name(249), name(999)), (1_000, "f0", "f249", "f1499"));
    assert!(name(250).contains("left out") && name(251) == "f751", "{} {}", name(250), name(251));
}

#[test]
fn halves_add_up_to_the_whole() {
    let whole = &Dialect::Pyroscope.encode(&[(Kind::Cpu, profile(Kind::Cpu, 7, 3))])[0];
    let halves = halve(Dialect::Pyroscope, whole).map(|halves| decoded(&halves)).unwrap_or_default();
    assert_eq!(halves.iter().map(|half| half.samples().len()).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(sum(&halves), decoded(std::slice::from_ref(whole))[0].totals());
    let one = &Dialect::Pyroscope.encode(&[(Kind::Cpu, profile(Kind::Cpu, 1, 3))])[0];
    assert!(halve(Dialect::Pyroscope, one).is_none());
}

#[test]
fn allocations_are_sent_once_and_the_live_heap_is_no_change_for_parca() {
    let master = [(Kind::Alloc, profile(Kind::Alloc, 2, 3)), (Kind::Heap, profile(Kind::Heap, 2, 3))];
    let pyroscope = Dialect::Pyroscope.encode(&master);
    assert_eq!(
        pyroscope.iter().map(|one| (one.kind, name(one.kind))).collect::<Vec<_>>(),
        [(Kind::Heap, "memory")]
    );
    let parca = decoded(&Dialect::Parca.encode(&master));
    let types = |profile: &Profile| {
        let names = profile.sample_types.iter().map(|known| known.name.clone());
        (names.collect::<Vec<_>>().join(" "), profile.duration_nanos, profile.default_sample_type.clone())
    };
    assert_eq!(
        parca.iter().map(types).collect::<Vec<_>>(),
        [
            ("alloc_objects alloc_space".to_string(), 60_000_000_000, "alloc_space".to_string()),
            ("inuse_objects inuse_space".to_string(), 0, "inuse_space".to_string())
        ]
    );
    assert_eq!(Dialect::Pprof.encode(&master).len(), 2);
    let waits = decoded(&Dialect::Pyroscope.encode(&[(Kind::Mutex, profile(Kind::Mutex, 1, 1))]));
    assert_eq!((waits[0].period_type.clone(), waits[0].period), (ValueType::new("contentions", "count"), 1));
}

#[test]
fn series_have_the_most_important_labels_and_not_too_many() {
    let mut tags: BTreeMap<String, String> = (0..64).map(|n| (format!("a{n:02}"), "x".to_string())).collect();
    for key in ["service", "version", "env", "host", "pod", "instance", "k8s.node", "host.name", "empty"] {
        tags.insert(key.to_string(), if key == "empty" { "" } else { "v" }.to_string());
    }
    let one = Encoded::pprof(Kind::Cpu, &Profile::new(Kind::Cpu));
    let labels = series(Dialect::Pyroscope, &one, &tags);
    assert_eq!(labels.len(), 20);
    assert!(labels.contains(&("__delta__".to_string(), "false".to_string())), "they are changes already");
    assert!(labels.iter().all(|(key, _)| !key.contains('.')), "they would meet those with _");
    assert!(labels.is_sorted());
    let has = |key: &str| labels.iter().any(|(known, _)| known == key);
    assert!(
        ["__name__", "service_name", "version", "env", "host", "pod", "instance", "a00"]
            .iter()
            .all(|key| has(key))
    );
    assert!(!has("service") && !has("empty"));
    let parca = series(Dialect::Parca, &one, &tags);
    assert!(parca.len() > 60 && parca.iter().any(|(key, _)| key == "k8s_node"));
}

/// Pyroscope counts the labels of a sample with those of its series: 30 at the most, or it refuses all.
#[test]
fn labels_of_a_series_and_of_a_sample_are_within_what_pyroscope_takes_together() {
    let mut profile = Profile::new(Kind::Cpu);
    profile.tags = (0..40).map(|n| (format!("tag{n}"), "x".to_string())).collect();
    let stack = profile.stack(&[]);
    let mut labels: Vec<Label> = (0..12).map(|n| Label::text(format!("a{n:02}"), "y")).collect();
    labels.extend([Label::text("thread_name", "w"), Label::text("state", "on_cpu")]);
    labels.extend([Label::text("span_id", "1"), Label::text("trace_id", "2")]);
    let labels = profile.labels(&labels);
    profile.add(stack, labels, &[1, 10]);
    let tags = profile.tags.clone();
    let encoded = &Dialect::Pyroscope.encode(&[(Kind::Cpu, profile)])[0];
    let part = &decoded(std::slice::from_ref(encoded))[0];
    let own: Vec<&str> = keys(part);
    assert_eq!(own.len(), 10, "nine and the span: {own:?}");
    for key in ["thread_name", "state", "span_id", "a00", "a06"] {
        assert!(own.contains(&key), "{key}: {own:?}");
    }
    assert!(series(Dialect::Pyroscope, encoded, &tags).len() + 9 < 30);
    assert!(part.comments.iter().any(|comment| comment.contains("lack labels")), "{:?}", part.comments);
}

fn keys(profile: &Profile) -> Vec<&str> {
    let labels = profile.samples().flat_map(|sample| profile.get_labels(sample.labels));
    labels.map(|label| label.key.as_str()).collect()
}

/// Each set of labels is a series of Pyroscope's, and what tells least is left out where there are too many.
#[test]
fn pyroscope_has_so_many_sets_of_labels_of_a_profile_and_all_values() {
    let sent = |threads: u32, names: u32, calls: u32, routes: u32| {
        let mut profile = Profile::new(Kind::Wall);
        for n in 0..5_000u32 {
            let at = location(&mut profile, &format!("f{n}"));
            let stack = profile.stack(&[at]);
            let mut labels = vec![
                Label::text("thread_name", format!("pool{}-{}", n % names, n % threads)),
                Label::text("syscall", format!("call{}", n % calls)),
                Label::text("span_id", format!("{n:016x}")),
            ];
            if routes > 0 {
                labels.push(Label::text("route", format!("/{}", (n % routes) * (n % 7) % routes)));
            }
            let labels = profile.labels(&labels);
            profile.add(stack, labels, &vec![1; profile.sample_types.len()]);
        }
        let totals = profile.totals();
        let parts = decoded(&Dialect::Pyroscope.encode(&[(Kind::Wall, profile)]));
        assert_eq!(sum(&parts), totals);
        let mut sets = BTreeSet::new();
        for part in &parts {
            for sample in part.samples() {
                let labels = part.get_labels(sample.labels).iter().filter(|label| label.key != "span_id");
                sets.insert(labels.map(|label| format!("{label:?}")).collect::<Vec<_>>());
            }
            assert_eq!(label(part, "span_id").len(), part.samples().len(), "spans are no series");
        }
        assert!(sets.len() <= 64, "{}", sets.len());
        let comment = parts[0].comments.concat();
        let known: BTreeSet<&str> = parts.iter().flat_map(keys).collect();
        (sets.len(), known.contains("syscall"), known.contains("thread_name"), comment)
    };
    assert_eq!(sent(8, 1, 2, 0), (8, true, true, String::new()));
    let (count, calls, threads, comment) = sent(50, 1, 7, 0);
    assert_eq!((count, calls, threads), (50, false, true));
    assert!(comment.contains("no syscall") && !comment.contains("thread_name"), "{comment}");
    let (count, calls, threads, comment) = sent(100, 4, 7, 0);
    assert_eq!((count, calls, threads), (4, false, true), "of each pool one");
    assert!(comment.contains("numbers at the end of thread_name"), "{comment}");
    let (count, calls, threads, comment) = sent(1, 300, 7, 3);
    assert_eq!((count, calls, threads), (3, false, false));
    assert!(comment.contains("no thread_name"), "{comment}");
    let (count, calls, threads, comment) = sent(1, 300, 7, 1_000);
    assert_eq!((count, calls, threads), (64, false, false));
    assert!(comment.contains("rarest"), "{comment}");
}

#[test]
fn parca_has_a_series_for_each_set_of_labels_and_one_for_the_rest() {
    let mut profile = Profile::new(Kind::Cpu);
    profile.duration_nanos = 1;
    for n in 0..300u32 {
        let name = location(&mut profile, &format!("f{n}"));
        let stack = profile.stack(&[name]);
        // Twenty with ten samples, a hundred with one; and each of a span of its own.
        let worker = if n < 200 { n % 20 } else { n };
        let span = Label::text("span_id", format!("{n:016x}"));
        let labels = profile.labels(&[Label::text("thread_name", format!("w{worker}")), span]);
        profile.add(stack, labels, &[1, 10]);
    }
    let totals = profile.totals();
    let encoded = Dialect::Parca.encode(&[(Kind::Cpu, profile)]);
    assert_eq!(encoded.len(), 32);
    let parts = decoded(&encoded);
    assert_eq!(sum(&parts), totals);
    for (one, part) in encoded.iter().zip(&parts) {
        let has_common =
            series(Dialect::Parca, one, &BTreeMap::new()).iter().any(|(key, _)| key == "thread_name");
        assert_eq!(has_common, label(part, "thread_name").is_empty(), "told of the series, or of the sample");
        assert_eq!(label(part, "span_id").len(), part.samples().len());
    }
    assert_eq!(parts.iter().filter(|part| part.samples().len() == 10).count(), 20);
    assert!(!label(&parts[31], "thread_name").is_empty());
}

/// What the samples of a profile say, in any order: functions, values and labels other than the thread.
fn said(profile: &Profile, thread: Option<&str>) -> Vec<String> {
    let name = |id: &LocationId| {
        let line = profile.get_location(*id).lines[0];
        profile.text(profile.get_function(line.function).name)
    };
    let is_thread = |label: &&Label| label.key == "thread_name";
    let mut said = Vec::new();
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels);
        let of = labels.iter().find(is_thread).map(|label| label.value.clone());
        if of == thread.map(|thread| LabelValue::Text(thread.to_string())) {
            let names: Vec<&str> = profile.get_stack(sample.stack).iter().map(name).collect();
            let labels: Vec<&Label> = labels.iter().filter(|label| !is_thread(label)).collect();
            said.push(format!("{names:?} {:?} {labels:?}", sample.values));
        }
    }
    said.sort();
    said
}

#[test]
fn parts_that_run_the_same_code_share_its_tables_and_say_their_own() {
    let mut profile = Profile::new(Kind::Cpu);
    (profile.time_nanos, profile.duration_nanos) = (1_000, 60_000_000_000);
    for n in 0..120usize {
        let thread = ["first", "second", "third"][if n < 116 { n % 2 } else { 2 }];
        let names = ["main".to_string(), format!("a::{}", n / 2 % 30), format!("b::{}", n * n % 37)];
        let stack: Vec<LocationId> = names.iter().map(|name| location(&mut profile, name)).collect();
        let stack = profile.stack(&stack);
        // A text that no other part has, and one that is a function's name as well.
        let span = Label::text("span_id", format!("{thread}{n}"));
        let labels = [Label::text("thread_name", thread), Label::text("at", "main"), span];
        let labels = profile.labels(&[labels.as_slice(), &[Label::number("age", 3, "periods")]].concat());
        profile.add(stack, labels, &[n as i64 + 1, 10]);
    }
    let all = profile.locations().len();
    let encoded = Dialect::Parca.encode(&[(Kind::Cpu, profile.clone())]);
    let parts = decoded(&encoded);
    let locations: Vec<usize> = parts.iter().map(|part| part.locations().len()).collect();
    assert_eq!((locations[0], locations[1]), (all, all), "they need most of them");
    assert!(locations[2] < all / 2, "{locations:?}: what this one needs, and no more");
    let alike = encoded[0].bytes.iter().zip(&encoded[1].bytes).take_while(|(a, b)| a == b).count();
    assert!(alike > encoded[0].bytes.len() / 4, "{alike} of {}", encoded[0].bytes.len());
    for (part, thread) in parts.iter().zip(["first", "second", "third"]) {
        let mut own = said(&profile, Some(thread));
        // The part's own series tells of the thread, and of whatever else is common.
        own.iter_mut().for_each(|line| {
            *line = line.replace(r#"Label { key: "at", value: Text("main") }, "#, "");
        });
        own.sort();
        assert_eq!(said(part, None), own, "{thread}");
        assert_eq!((part.time_nanos, part.duration_nanos), (1_000, 60_000_000_000));
        assert_eq!(part.sample_types, profile.sample_types);
    }
    assert_eq!(sum(&parts), profile.totals());
}

#[test]
fn datadog_has_names_of_its_own_and_spans_as_numbers() {
    let mut profile = Profile::new(Kind::Heap);
    let at = location(&mut profile, "f");
    let stack = profile.stack(&[at]);
    let labels = profile.labels(&[
        Label::text("thread_name", "w"),
        Label::number("thread_id", 7, "id"),
        Label::text("span_id", "fedcba9876543210"),
        Label::text("local_root_span_id", "00000000000000ff"),
        Label::text("route", "GET /a"),
        Label::text("http.route", "/a"),
        Label::text("env", "mine"),
        Label::text("a/b.c", "d"),
    ]);
    profile.tags = [("env".to_string(), "prod".to_string())].into();
    profile.add(stack, labels, &[1, 2, 3, 4]);
    let other = profile.labels(&[Label::text("span_id", "no number")]);
    profile.add(stack, other, &[1, 2, 3, 4]);
    let heap = &decoded(&Dialect::Datadog.encode(&[(Kind::Heap, profile)]))[0];
    let names: Vec<&str> = heap.sample_types.iter().map(|known| known.name.as_str()).collect();
    assert_eq!(names, ["alloc-samples", "alloc-space", "inuse-objects", "inuse-space"]);
    assert_eq!(heap.default_sample_type, "inuse-space");
    let text = |text: &str| LabelValue::Text(text.to_string());
    // Where there is no unit, readers take the key for it.
    let number = |key: &str, number: u64| LabelValue::Number(number as i64, key.to_string());
    for (key, value) in [
        ("thread name", text("w")),
        ("thread id", LabelValue::Number(7, "id".to_string())),
        ("span id", number("span id", 0xfedc_ba98_7654_3210)),
        ("local root span id", number("local root span id", 0xff)),
        ("trace endpoint", text("/a")),
        ("route", text("GET /a")),
        ("env", text("mine")),
        ("a/b.c", text("d")),
        ("span_id", text("no number")),
    ] {
        assert_eq!(label(heap, key), [&value], "{key}");
    }
    let mut alone = vec![Label::number("span id", 5, "")];
    datadog::complete(&mut alone);
    assert_eq!(alone[1], Label::number("local root span id", 5, ""));
    // Every kind has as many names as values.
    for kind in Kind::ALL {
        assert!(
            datadog::values(kind).is_none_or(|names| names.len() == kind.sample_types().len()),
            "{kind:?}"
        );
    }
}
