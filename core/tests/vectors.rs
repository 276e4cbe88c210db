//! The vectors that all languages share: what an option reads as, and what is refused with which words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use everprof::{Error, Options};
use serde_json::{Map, Value};

fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn cases<'v>(vectors: &'v Value, topic: &str) -> &'v Vec<Value> {
    let cases = vectors[topic].as_array().unwrap();
    assert!(!cases.is_empty(), "{topic} has no vectors");
    cases
}

fn text<'v>(case: &'v Value, key: &str) -> &'v str {
    case[key].as_str().unwrap_or_else(|| panic!("no text {key:?} in {case}"))
}

fn variables(case: &Value) -> Vec<(String, String)> {
    let pairs = case["variables"].as_object().unwrap();
    pairs.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_string())).collect()
}

/// The options named have the texts named, and all others their defaults.
fn assert_options(options: &Options, expected: &Map<String, Value>, case: &Value) {
    for name in expected.keys() {
        assert!(options.get(name).is_some(), "no option {name} in {case}");
    }
    for (spec, text) in options.iter() {
        let default = spec.default_text();
        let wanted = expected.get(spec.name).map_or(default.as_str(), |text| text.as_str().unwrap());
        assert_eq!(text, wanted, "{} in {case}", spec.name);
    }
}

#[test]
fn values_have_one_canonical_text() {
    let vectors = load("options");
    for case in cases(&vectors, "set") {
        let mut options = Options::default();
        let name = text(case, "name");
        options.set(name, text(case, "value")).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(options.get(name).as_deref(), Some(text(case, "text")), "{case}");
        let canonical = options.clone();
        options.set(name, text(case, "text")).unwrap();
        assert!(options == canonical, "{case}: the canonical text reads as something else");
    }
}

#[test]
fn strings_files_and_the_environment_say_the_same_as_set() {
    let vectors = load("options");
    for case in cases(&vectors, "strings") {
        let options = Options::parse(text(case, "text")).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_options(&options, case["options"].as_object().unwrap(), case);
    }
    for case in cases(&vectors, "files") {
        let mut options = Options::default();
        options
            .apply_lines(text(case, "text"), "test.conf")
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_options(&options, case["options"].as_object().unwrap(), case);
    }
    for case in cases(&vectors, "environment") {
        let mut options = Options::default();
        options.apply_vars(variables(case)).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_options(&options, case["options"].as_object().unwrap(), case);
        assert_eq!(options.is_enabled(), case["runs"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn errors_have_their_kind_name_what_was_wrong_and_change_nothing() {
    type Attempt = fn(&mut Options, &Value) -> Result<(), Error>;
    let attempts: [(&str, Attempt); 4] = [
        ("set", |options, case| options.set(text(case, "name"), text(case, "value"))),
        ("strings", |options, case| options.apply(text(case, "text"))),
        ("files", |options, case| options.apply_lines(text(case, "text"), "test.conf")),
        ("environment", |options, case| options.apply_vars(variables(case))),
    ];
    let vectors = load("errors");
    for (topic, attempt) in attempts {
        for case in cases(&vectors, topic) {
            let mut options = Options::parse("rate_hz=7,service=before").unwrap();
            let before = options.clone();
            let error = attempt(&mut options, case).expect_err(&case.to_string());
            assert_eq!(error.kind().name(), text(case, "kind"), "{case}");
            let message = error.to_string();
            assert!(message.contains(text(case, "message")), "{case}: {message}");
            assert!(options == before, "{case} changed something");
        }
    }
}

#[test]
fn every_option_has_vectors_of_both_sorts() {
    for file in ["options", "errors"] {
        let vectors = load(file);
        for spec in Options::table() {
            let some = cases(&vectors, "set").iter().any(|case| case["name"] == spec.name);
            assert!(some, "{} has no vector in {file}.json", spec.name);
        }
    }
}
