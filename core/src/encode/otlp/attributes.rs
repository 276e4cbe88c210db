//! What OpenTelemetry calls what we know: the tags of the deployment, labels, and what pprof has and OTLP has not.

use std::collections::{BTreeMap, BTreeSet};

use super::dictionary::{Any, Dictionary};
use crate::encode::protobuf::Writer;
use crate::profile::{EFFECTIVE_RATE, Location, Profile};
use crate::tags::{NO_POD, UNKNOWN};

/// Our tags and labels, and the names of the semantic conventions.
const NAMES: [(&str, &str); 10] = [
    ("service", "service.name"),
    ("version", "service.version"),
    ("instance", "service.instance.id"),
    ("env", "deployment.environment.name"),
    ("host", "host.name"),
    ("pod", "k8s.pod.name"),
    ("namespace", "k8s.namespace.name"),
    ("node", "k8s.node.name"),
    ("container_id", "container.id"),
    (EFFECTIVE_RATE, "everprof.effective_rate_hz"),
];

fn convention(key: &str) -> &str {
    NAMES.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, name)| name)
}

/// The name of a label of a sample.
pub(super) fn of_label(key: &str) -> &str {
    match key {
        "thread_name" => "thread.name",
        "thread_id" => "thread.id",
        key => key,
    }
}

/// `Resource`: the tags, without those that say that nobody knows.
pub(super) fn resource(tags: &BTreeMap<String, String>, resource: &mut Writer) {
    let mut names = BTreeSet::new();
    let is_known = |key: &str, value: &str| match key {
        "version" | "env" | "host" => value != UNKNOWN,
        "pod" => value != NO_POD,
        key => key != EFFECTIVE_RATE,
    };
    // What the conventions name wins over a tag that the user spelled so.
    let (named, others): (Vec<_>, Vec<_>) = tags.iter().partition(|(key, _)| convention(key) != key.as_str());
    for (key, value) in named.into_iter().chain(others) {
        if is_known(key, value) && !value.is_empty() && names.insert(convention(key)) {
            resource.message(1, |pair| {
                pair.string(1, convention(key));
                pair.message(2, |any| Any::Text(value).write(any));
            });
        }
    }
}

/// The attributes of a `Profile`.
pub(super) fn of_profile(profile: &Profile, dictionary: &mut Dictionary<'_>) -> Vec<u64> {
    let mut attributes = Vec::new();
    if let Some(rate) = profile.tags.get(EFFECTIVE_RATE) {
        attributes.push(dictionary.attribute(convention(EFFECTIVE_RATE), &Any::Text(rate), ""));
    }
    if !profile.comments.is_empty() {
        attributes.push(dictionary.attribute("pprof.profile.comment", &Any::Texts(&profile.comments), ""));
    }
    attributes
}

/// In which language a place of the program is written, as far as names tell: Rust has a mangling of its own. What is in no
/// object file, such as a visible loss, is of none.
pub(super) fn frame_type(profile: &Profile, location: &Location) -> Option<&'static str> {
    location.mapping?;
    let line = location.lines.last()?;
    let name = profile.text(profile.get_function(line.function).system_name);
    Some(if is_rust(name) { "rust" } else { "native" })
}

/// Whether a linker's name is one of Rust's, of either mangling.
fn is_rust(name: &str) -> bool {
    let is_hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    let is_legacy = |rest: &str| {
        rest.strip_suffix('E').and_then(|rest| rest.rsplit_once("17h")).is_some_and(|(_, hash)| is_hash(hash))
    };
    name.starts_with("_R") || name.strip_prefix("_ZN").is_some_and(is_legacy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_linkers_tell_the_language() {
        for (name, rust) in [
            ("_RNvCs4fqI2P2rA04_4shop4main", true),
            ("_ZN4core3ops8function6FnOnce9call_once17h0123456789abcdefE", true),
            ("_ZN9__gnu_cxx13new_allocatorIcE8allocateEmPKv", false),
            ("_ZN3foo17hnothexnothexnotE", false),
            ("main", false),
            ("", false),
        ] {
            assert_eq!(is_rust(name), rust, "{name}");
        }
    }
}
