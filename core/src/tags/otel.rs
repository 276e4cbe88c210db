//! `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, by OpenTelemetry's specification: comma-separated `key=value`,
//! percent-encoded, the name variable before the attribute.

use super::Collected;
use super::sources::Sources;
use crate::pairs;

/// Attributes that have a short name here; the others keep theirs.
const SHORT: [(&str, &str); 10] = [
    ("service.name", "service"),
    ("service.version", "version"),
    ("service.instance.id", "instance"),
    ("deployment.environment.name", "env"),
    ("deployment.environment", "env"),
    ("host.name", "host"),
    ("k8s.pod.name", "pod"),
    ("k8s.namespace.name", "namespace"),
    ("k8s.node.name", "node"),
    ("container.id", "container_id"),
];

pub(super) fn offer(sources: &Sources, tags: &mut Collected) {
    if let Some(name) = sources.var("OTEL_SERVICE_NAME").filter(|name| is_known(name)) {
        tags.offer("service", &name);
    }
    let Some(attributes) = sources.var("OTEL_RESOURCE_ATTRIBUTES") else { return };
    for pair in attributes.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            tags.note(pair);
            continue;
        };
        let key = key.trim();
        let short = SHORT.iter().find(|(long, _)| *long == key).map_or(key, |(_, short)| short);
        match pairs::percent_decode(value.trim()) {
            Ok(value) if short == "service" && !is_known(&value) => {}
            Ok(value) => tags.offer(short, &value),
            // Not encoded by the letter of the specification, but plain enough to be of use.
            Err(_) => {
                tags.note(key);
                tags.offer(short, value);
            }
        }
    }
}

/// `unknown_service` and `unknown_service:java` are what SDKs put where nobody named the service.
fn is_known(service: &str) -> bool {
    !service.starts_with("unknown_service")
}
