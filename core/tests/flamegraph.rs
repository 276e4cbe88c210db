//! The pages of `encode::flamegraph` as files: their shape, their policy, and that no name of a profile becomes markup.
//! What they show and do is tested in a browser: `make test-browser`.
#![allow(clippy::unwrap_used)]

use everprof::encode::flamegraph::{self, Orientation, PageOptions};
use everprof::profile::{Function, Kind, Label, Line, Location, Profile};

const HOSTILE: &str = "</script><script>alert(1)</script><!-- \" ' & \u{2028}";

#[test]
fn hostile_names_stay_inside_the_data() {
    let mut profile = profile(&[&["main", HOSTILE]]);
    profile.tags.insert(HOSTILE.into(), HOSTILE.into());
    let options = PageOptions { title: HOSTILE.into(), ..PageOptions::default() };
    for page in [flamegraph::html(&profile, &options), flamegraph::diff_html(&profile, &profile, &options)] {
        let harmless = flamegraph::html(&Profile::new(Kind::Cpu), &PageOptions::default());
        for markup in ["<script", "</script", "<!--", "<style", "<meta"] {
            let count = |page: &str| page.matches(markup).count();
            assert_eq!(count(&page), count(&harmless), "{markup}");
        }
        assert_eq!(data(&page)["title"], HOSTILE);
        assert!(data(&page)["strings"].as_array().unwrap().iter().any(|text| text == HOSTILE));
        assert_eq!(data(&page)["profiles"][0]["tags"][0][1], HOSTILE);
    }
}

#[test]
fn the_policy_allows_one_script_and_one_style_and_no_request() {
    let page = flamegraph::html(&profile(&[&["main"]]), &PageOptions::default());
    let policy = between(&page, "Content-Security-Policy\" content=\"", "\">");
    let directives: Vec<&str> = policy.split("; ").collect();
    assert_eq!(directives[0], "default-src 'none'");
    for (directive, name) in directives[1..3].iter().zip(["script-src", "style-src"]) {
        let hash = directive.strip_prefix(&format!("{name} 'sha256-")).unwrap().strip_suffix('\'').unwrap();
        assert_eq!(hash.len(), 44);
    }
    assert_eq!(directives[3..], ["base-uri 'none'", "form-action 'none'"]);
    assert!(!page.contains("unsafe-inline"));
    // The policy must stand before anything it is to govern.
    assert!(page.find("Content-Security-Policy").unwrap() < page.find("<style>").unwrap());
}

#[test]
fn titles_come_from_the_options_or_from_the_tags() {
    let mut old = profile(&[&["main"]]);
    old.tags.insert("service".into(), "shop".into());
    old.tags.insert("version".into(), "1.0".into());
    let mut new = old.clone();
    new.tags.insert("version".into(), "1.1".into());
    let options = PageOptions::default();
    let title = |page: &str| between(page, "<title>", "</title>").to_owned();
    assert_eq!(title(&flamegraph::html(&old, &options)), "shop 1.0");
    assert_eq!(title(&flamegraph::diff_html(&old, &new, &options)), "shop 1.0 → 1.1");
    assert_eq!(title(&flamegraph::diff_html(&old, &old, &options)), "shop 1.0: before and after");
    let options = PageOptions { title: "mine".into(), orientation: Orientation::Flame };
    let page = flamegraph::html(&old, &options);
    assert_eq!(title(&page), "mine");
    assert_eq!(data(&page)["orientation"], "flame");
}

#[test]
fn shared_parts_of_stacks_are_written_once() {
    let page = flamegraph::html(
        &profile(&[&["a", "b", "c"], &["a", "b", "d"], &["a", "b"]]),
        &PageOptions::default(),
    );
    assert_eq!(data(&page)["node_count"], 4);
    assert_eq!(data(&page)["sample_count"], 3);
    assert_eq!(data(&page)["profiles"][0]["totals"], serde_json::json!(["6", "60"]));
}

#[test]
fn sums_that_a_script_could_not_hold_are_marked() {
    let mut profile = profile(&[&["a"]]);
    let wide = |profile: &Profile| {
        let page = flamegraph::html(profile, &PageOptions::default());
        data(&page)["types"].as_array().unwrap().iter().map(|t| t["wide"] == true).collect::<Vec<bool>>()
    };
    assert_eq!(wide(&profile), [false, false]);
    let (stack, labels) = (profile.stack(&[]), profile.labels(&[]));
    profile.add(stack, labels, &[1, 1 << 53]);
    assert_eq!(wide(&profile), [false, true]);
}

#[test]
fn code_without_a_name_goes_by_its_module() {
    let mut profile = profile(&[]);
    let filename = profile.string("/usr/lib/libssl.so.3");
    let mapping = profile.mapping(everprof::profile::Mapping {
        memory_start: 0x7000_0000,
        memory_limit: 0x7001_0000,
        file_offset: 0x2000,
        filename,
        ..Default::default()
    });
    let known = Location { mapping: Some(mapping), address: 0x7000_0010, ..Location::default() };
    let lost = Location { address: 0xdead, ..Location::default() };
    let stack = [profile.location(known), profile.location(lost)];
    let (stack, labels) = (profile.stack(&stack), profile.labels(&[]));
    profile.add(stack, labels, &[1, 1]);
    let page = flamegraph::html(&profile, &PageOptions::default());
    let strings = data(&page)["strings"].clone();
    for name in ["[libssl.so.3]", "libssl.so.3+0x2010", "[unknown]", "0xdead"] {
        assert!(strings.as_array().unwrap().iter().any(|text| text == name), "{strings}");
    }
}

#[test]
fn names_lose_what_differs_from_build_to_build() {
    let profile =
        profile(&[&["shop::cart::h0123456789abcdef", "shop::pay.llvm.8123", "shop::h0", "shop::x.llvm.y"]]);
    let page = flamegraph::html(&profile, &PageOptions::default());
    let strings = data(&page)["strings"].clone();
    for name in ["shop::cart", "shop::pay", "shop::h0", "shop::x.llvm.y"] {
        assert!(strings.as_array().unwrap().iter().any(|text| text == name), "{strings}");
    }
}

#[test]
fn a_pair_shows_the_sample_types_that_both_have() {
    use everprof::profile::ValueType;
    let cpu = profile(&[&["a"]]);
    let types = vec![ValueType::new("cpu", "nanoseconds"), ValueType::new("wall", "nanoseconds")];
    let mut other = Profile::with_types(types, ValueType::new("cpu", "nanoseconds"), "wall");
    let (stack, labels) = (other.stack(&[]), other.labels(&[]));
    other.add(stack, labels, &[7, 9]);
    let page = flamegraph::diff_html(&cpu, &other, &PageOptions::default());
    let shown = data(&page);
    assert_eq!(shown["types"].as_array().unwrap().len(), 1);
    assert_eq!(shown["types"][0]["name"], "cpu");
    assert_eq!(shown["profiles"][0]["totals"], serde_json::json!(["10"]));
    assert_eq!(shown["profiles"][1]["totals"], serde_json::json!(["7"]));
}

/// A profile of the given stacks, root first; the first one has one sample, the second two, and so on.
fn profile(stacks: &[&[&str]]) -> Profile {
    let mut profile = Profile::new(Kind::Cpu);
    for (place, names) in stacks.iter().enumerate() {
        let mut locations = Vec::new();
        for name in names.iter().rev() {
            let name = profile.string(name);
            let function = profile.function(Function { name, ..Function::default() });
            let lines = vec![Line { function, line: 3, column: 0 }];
            locations.push(profile.location(Location { address: 0x1000, lines, ..Location::default() }));
        }
        let (stack, labels) = (profile.stack(&locations), profile.labels(&[Label::text(HOSTILE, HOSTILE)]));
        let samples = place as i64 + 1;
        profile.add(stack, labels, &[samples, samples * 10]);
    }
    profile
}

fn data(page: &str) -> serde_json::Value {
    serde_json::from_str(between(page, "id=\"data\">", "</script>")).unwrap()
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    let from = text.find(start).unwrap() + start.len();
    &text[from..from + text[from..].find(end).unwrap()]
}
