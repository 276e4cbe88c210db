//! What Kubernetes tells a pod about itself: variables and files of the downward API.
//!
//! The usual names are taken: `POD_NAME`, `POD_NAMESPACE` and `NODE_NAME`, and a volume at `/etc/podinfo` with the files
//! `name`, `namespace`, `labels` and `annotations`. Of labels and annotations those count that name the service by
//! Kubernetes' or Datadog's convention, and `everprof/<key>`, which becomes the tag `<key>`.

use super::Collected;
use super::sources::Sources;

const LABELS: [(&str, &str); 5] = [
    ("tags.datadoghq.com/service", "service"),
    ("tags.datadoghq.com/version", "version"),
    ("tags.datadoghq.com/env", "env"),
    ("app.kubernetes.io/name", "service"),
    ("app.kubernetes.io/version", "version"),
];
const OWN_PREFIX: &str = "everprof/";
const NAMESPACE_FILE: &str = "var/run/secrets/kubernetes.io/serviceaccount/namespace";

pub(super) fn offer(sources: &Sources, tags: &mut Collected) {
    let in_cluster = sources.var("KUBERNETES_SERVICE_HOST").is_some();
    let line = |path: &str| sources.file(path).map(|text| text.trim().to_string());

    tags.offer_maybe("pod", sources.var("POD_NAME"));
    tags.offer_maybe("pod", line("etc/podinfo/name"));
    if in_cluster {
        // A pod's host name is its name, unless it runs on the host's network or was given another.
        tags.offer_maybe("pod", sources.var("HOSTNAME"));
    }
    tags.offer_maybe("namespace", sources.var("POD_NAMESPACE"));
    tags.offer_maybe("namespace", line("etc/podinfo/namespace"));
    tags.offer_maybe("namespace", line(NAMESPACE_FILE));
    tags.offer_maybe("node", sources.var("NODE_NAME"));
    // In a pod the kernel's host name is the pod's; the host is the node.
    tags.offer_maybe("host", sources.var("NODE_NAME"));

    let described: Vec<(String, String)> = ["etc/podinfo/annotations", "etc/podinfo/labels"]
        .into_iter()
        .filter_map(|path| sources.file(path))
        .flat_map(|text| text.lines().filter_map(pair).collect::<Vec<_>>())
        .collect();
    for (key, value) in &described {
        if let Some(own) = key.strip_prefix(OWN_PREFIX) {
            tags.offer(own, value);
        }
    }
    for (label, tag) in LABELS {
        let found = described.iter().find(|(key, _)| key == label);
        tags.offer_maybe(tag, found.map(|(_, value)| value.clone()));
    }
}

/// A line `key="value"` with the value as Go's `%q` quotes it.
fn pair(line: &str) -> Option<(String, String)> {
    let (key, quoted) = line.split_once('=')?;
    let inner = quoted.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut value = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            value.push(letter);
            continue;
        }
        let digits = match letters.next()? {
            'n' | 't' | 'r' | 'a' | 'b' | 'f' | 'v' => {
                value.push(' ');
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            plain => {
                value.push(plain);
                continue;
            }
        };
        let code: String = letters.by_ref().take(digits).collect();
        value.push(
            char::from_u32(u32::from_str_radix(&code, 16).ok()?).unwrap_or(char::REPLACEMENT_CHARACTER),
        );
    }
    Some((key.trim().to_string(), value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quoted_lines_are_read_as_go_wrote_them() {
        let read = |line| pair(line).map(|(key, value)| format!("{key}|{value}"));
        assert_eq!(read(r#"app="a \"b\" \\c""#).unwrap(), r#"app|a "b" \c"#);
        assert_eq!(read(r#"a="x\ny\u00e9\x41""#).unwrap(), "a|x yéA");
        for broken in ["a", "a=b", r#"a="\u12"#, r#"a="\"#, r#"a="\uzzzz""#] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }
}
