//! What a profiler outside of the process may read of it: OpenTelemetry's process context (OTEP 4719), with what readers of
//! threads' contexts (OTEP 4947) have to know, where the option `otel_context` says so.
//!
//! Our thread, at each start. There is one such context in a process: where an SDK has published its own, ours stays away,
//! and so do the records of threads, whose attributes the other's table would name wrongly.

use std::collections::BTreeMap;

use everprof_probe::{os, record};

use crate::encode::protobuf::Writer;
use crate::report;

/// The layout of threads' contexts, by the name that readers know: that of the time before the specification was merged.
const SCHEMA: &str = "tlsdesc_v1_dev";
/// OpenTelemetry's names of our tags.
const NAMES: [(&str, &str); 8] = [
    ("service", "service.name"),
    ("version", "service.version"),
    ("env", "deployment.environment.name"),
    ("instance", "service.instance.id"),
    ("host", "host.name"),
    ("pod", "k8s.pod.name"),
    ("namespace", "k8s.namespace.name"),
    ("node", "k8s.node.name"),
];

/// Publishes the context, or says why not; without `wanted`, threads do not go on to.
pub(super) fn publish(wanted: bool, tags: &BTreeMap<String, String>) {
    record::publish(false);
    if !wanted {
        return;
    }
    let has_other = || std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("OTEL_CTX"));
    if !os::has_context() && has_other() {
        return report::warn(
            "otel_context: somebody else in this process has published a process context, so that ours stays away; leave it \
             to them, or switch theirs off",
        );
    }
    if os::publish_context(&payload(tags)) {
        record::publish(true);
    } else {
        report::warn(
            "otel_context: the system allows no mapping with a name (memfd_create, PR_SET_VMA): there is no context",
        );
    }
}

/// The message `ProcessContext`.
fn payload(tags: &BTreeMap<String, String>) -> Vec<u8> {
    let mut message = Writer::default();
    message.message(1, |resource| {
        for (tag, name) in NAMES {
            if let Some(value) = tags.get(tag).filter(|value| !value.is_empty()) {
                attribute(resource, 1, name, |any| any.string(1, value));
            }
        }
    });
    attribute(&mut message, 2, "threadlocal.schema_version", |any| any.string(1, SCHEMA));
    attribute(&mut message, 2, "threadlocal.attribute_key_map", |any| {
        any.message(5, |list| record::KEYS.iter().for_each(|key| list.message(1, |any| any.string(1, key))));
    });
    message.into_bytes()
}

/// A `KeyValue`.
fn attribute(message: &mut Writer, field: u32, key: &str, value: impl FnOnce(&mut Writer)) {
    message.message(field, |pair| {
        pair.string(1, key);
        pair.message(2, value);
    });
}
