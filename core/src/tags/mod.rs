//! Tags: what every profile of this process says about where it comes from.
//!
//! Resolved once at the start, on the thread that starts the profiler, and again in the child of a fork. `service`,
//! `version`, `env`, `host`, `pod` and `instance` are always there; `namespace`, `node`, `container_id` and the user's
//! own where they are known. For each tag the first of these that says something is taken:
//!
//! 1. the options (`service`, `version`, `env`, then `tags`), from code, `EVERPROF_*` or a file,
//! 2. `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! 3. `DD_SERVICE`, `DD_VERSION`, `DD_ENV`, `DD_HOSTNAME`,
//! 4. Kubernetes' downward API: `POD_NAME`, `POD_NAMESPACE`, `NODE_NAME`, the files in `/etc/podinfo`, the namespace of
//!    the service account,
//! 5. facts of the host and the container, and the file name of the executable.
//!
//! What the options hold is valid already. What the environment says is made valid where it is not, with one warning:
//! a bad pod label must not keep a service from starting.

mod container;
mod identity;
mod kubernetes;
mod otel;
mod sources;

pub use sources::Sources;

use std::collections::BTreeMap;

use crate::options::Options;
use crate::pairs;

/// Value of `version` and `env` where nobody says one, and of `host` where the system does not.
pub const UNKNOWN: &str = "unknown";
/// Value of `pod` outside of Kubernetes.
pub const NO_POD: &str = "none";

/// The tags of this process, by key.
///
/// ```
/// use everprof::{Options, tags::{Sources, Tags}};
/// let options = Options::parse("service=checkout,tags=team=payments").unwrap();
/// let vars = [("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,service.version=1.4")];
/// let tags = Tags::resolve(&options, &Sources::fake(vars, "/nonexistent"));
/// assert_eq!(tags.get("service"), Some("checkout"));
/// assert_eq!(tags.get("version"), Some("1.4"));
/// assert_eq!(tags.get("team"), Some("payments"));
/// assert_eq!(tags.get("pod"), Some("none"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// The tags that `options` and `sources` tell. Reads a few small files; never fails.
    pub fn resolve(options: &Options, sources: &Sources) -> Tags {
        let (tags, changed) = resolve(options, sources);
        if !changed.is_empty() {
            log::warn!(
                target: "everprof",
                "tags from the environment were changed to fit: {}; keys are A-Z a-z 0-9 _ . - / and values short text",
                changed.join(", ")
            );
        }
        tags
    }

    /// The value of a tag.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All tags, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// All tags, as [`crate::profile::Profile::tags`] takes them.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The same tags with a fresh `instance`: those of a child after fork, whatever named the parent's instance.
    pub fn with_new_instance(&self) -> Tags {
        let mut tags = self.clone();
        tags.0.insert("instance".to_string(), identity::uuid());
        tags
    }
}

/// The tags, and the keys of those that had to be changed.
fn resolve(options: &Options, sources: &Sources) -> (Tags, Vec<String>) {
    let mut tags = Collected::default();
    let own = [("service", &options.service), ("version", &options.version), ("env", &options.env)];
    for (key, value) in own {
        tags.offer(key, value.as_str());
    }
    for (key, value) in options.tags.as_map() {
        tags.offer(key, value);
    }
    otel::offer(sources, &mut tags);
    for (key, variable) in
        [("service", "DD_SERVICE"), ("version", "DD_VERSION"), ("env", "DD_ENV"), ("host", "DD_HOSTNAME")]
    {
        tags.offer_maybe(key, sources.var(variable));
    }
    kubernetes::offer(sources, &mut tags);
    tags.offer_maybe("container_id", container::id(sources));
    tags.offer_maybe("host", identity::host(sources));
    tags.offer_maybe("service", sources.executable());
    for (key, value) in
        [("service", UNKNOWN), ("version", UNKNOWN), ("env", UNKNOWN), ("host", UNKNOWN), ("pod", NO_POD)]
    {
        tags.offer(key, value);
    }
    if !tags.by_key.contains_key("instance") {
        tags.offer("instance", &identity::uuid());
    }
    (Tags(tags.by_key), tags.changed)
}

/// Tags as they come in: the first value offered for a key stays.
#[derive(Default)]
struct Collected {
    by_key: BTreeMap<String, String>,
    changed: Vec<String>,
}

/// More than anybody reads; keeps one long `OTEL_RESOURCE_ATTRIBUTES` from becoming part of every profile.
const MAX_TAGS: usize = 128;

impl Collected {
    fn offer_maybe(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.offer(key, &value);
        }
    }

    /// Takes a tag unless its key has a value already; nothing at all is said by an empty one.
    fn offer(&mut self, key: &str, value: &str) {
        let (clean_key, clean_value) = (pairs::sanitised_key(key), pairs::sanitised_value(value));
        let Some(clean_key) = clean_key else {
            self.note(key);
            return;
        };
        if clean_value.is_empty() || self.by_key.contains_key(&clean_key) {
            return;
        }
        if self.by_key.len() >= MAX_TAGS && !ALWAYS.contains(&clean_key.as_str()) {
            self.note(key);
            return;
        }
        if clean_key != key || clean_value != value {
            self.note(key);
        }
        self.by_key.insert(clean_key, clean_value);
    }

    fn note(&mut self, key: &str) {
        self.changed.push(pairs::sanitised_value(key));
    }
}

const ALWAYS: [&str; 6] = ["service", "version", "env", "host", "pod", "instance"];

#[cfg(test)]
mod tests;
