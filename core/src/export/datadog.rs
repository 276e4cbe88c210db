//! Datadog: the upload of a period, and where it goes.
//!
//! One request has the profiles of all kinds, each a file of a form, and the event, which says whose they are and of when.
//! It goes to the agent of the machine, or without one to the intake, which asks for the key of the account. The agent
//! finds out by the headers of the container what else is known about this process.

use std::os::unix::fs::MetadataExt;

use super::ambient::Lookup;
use crate::encode::{Encoded, Set, json};
use crate::options::Url;
use crate::store::civil;
use crate::tags::{NO_POD, UNKNOWN};

/// Where the agent takes profiles, and where the intake does.
const AGENT: &str = "profiling/v1/input";
const INTAKE: &str = "api/v2/profile";
/// Where packages and the operator put the agent's socket.
const SOCKET: &str = "/var/run/datadog/apm.socket";

/// The server that the environment names, as Datadog's own libraries read it. An error says what would be right.
pub(super) fn place(var: Lookup<'_>, is_there: impl Fn(&str) -> bool) -> Result<Url, String> {
    if var("DD_PROFILING_AGENTLESS").is_some_and(|value| matches!(value.as_str(), "true" | "1")) {
        let site = var("DD_SITE").unwrap_or_else(|| "datadoghq.com".to_string());
        return Url::parse(true, &format!("intake.profile.{site}"))
            .map_err(|_| "DD_SITE is not the name of a site, such as datadoghq.eu".to_string());
    }
    if let Some(url) = var("DD_TRACE_AGENT_URL") {
        let wrong = |right: &str| format!("DD_TRACE_AGENT_URL: {right}");
        let target = match url.split_once("://") {
            Some(("http", rest)) => Url::parse(false, rest),
            Some(("https", rest)) => Url::parse(true, rest),
            Some(("unix", rest)) => Url::parse_socket(rest),
            _ => Err("give http://, https:// or unix:// and where the agent listens".to_string()),
        };
        return target.map_err(|right| wrong(&right));
    }
    let host = var("DD_AGENT_HOST");
    if host.is_none() && is_there(SOCKET) {
        return Url::parse_socket(SOCKET);
    }
    let port = var("DD_TRACE_AGENT_PORT").unwrap_or_else(|| "8126".to_string());
    let host = host.unwrap_or_else(|| "localhost".to_string());
    let host =
        if host.matches(':').count() > 1 && !host.starts_with('[') { format!("[{host}]") } else { host };
    Url::parse(false, &format!("{host}:{port}"))
        .map_err(|right| format!("DD_AGENT_HOST and DD_TRACE_AGENT_PORT: {right}"))
}

/// The same, where no option says what it is about.
pub(super) fn place_here(var: Lookup<'_>) -> Result<Url, String> {
    place(var, |path| std::path::Path::new(path).exists())
}

/// Whether this is the intake, and no agent.
pub(super) fn is_intake(url: &Url) -> bool {
    url.host.starts_with("intake.profile.") || url.path_and_query().0.ends_with(INTAKE)
}

/// The path of a request, below that of the URL unless that names it.
pub(super) fn path(url: &Url) -> String {
    let end = if is_intake(url) { INTAKE } else { AGENT };
    let (path, query) = url.path_and_query();
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let path = path.trim_end_matches('/');
    if path.ends_with(end) { format!("{path}{query}") } else { format!("{path}/{end}{query}") }
}

/// The body of an upload and its media type. Of a set that goes in several, one alone has the counts of its requests.
pub(super) fn form(set: &Set, profiles: &[Encoded], has_counts: bool) -> (String, Vec<u8>) {
    let names = names(profiles);
    let sizes: usize = profiles.iter().map(|profile| profile.bytes.len() + 256).sum();
    let mut body = Vec::with_capacity(sizes + 4096);
    // What is in no profile by chance: 122 bits of it.
    let boundary = profiles.first().map_or(String::new(), |profile| format!("everprof-{}", profile.id));
    let mut part = |name: &str, file: &str, media: &str, bytes: &[u8]| {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: {media}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    };
    part("event", "event.json", "application/json", event(set, profiles, &names, has_counts).as_bytes());
    for (name, profile) in names.iter().zip(profiles) {
        part(name, name, "application/octet-stream", &profile.bytes);
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// The files' names: those of the kinds, and of several of one kind with a number.
fn names(profiles: &[Encoded]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(profiles.len());
    for profile in profiles {
        let kind = profile.kind.name();
        let numbers = (2..).map(|number| format!("{kind}-{number}.pprof"));
        let mut free =
            std::iter::once(format!("{kind}.pprof")).chain(numbers).filter(|name| !names.contains(name));
        let name = free.next().unwrap_or_default();
        names.push(name);
    }
    names
}

/// Whose profiles these are, and of when.
fn event(set: &Set, profiles: &[Encoded], names: &[String], has_counts: bool) -> String {
    // A part that was halved, or comes later, is of its own time.
    let start = profiles.iter().map(|profile| profile.time_nanos).min().unwrap_or(set.time_nanos);
    let end = set.time_nanos.saturating_add(set.duration_nanos).max(start);
    let attachments: Vec<String> = names.iter().map(|name| json::string(name)).collect();
    format!(
        "{{\"attachments\":[{}],\"tags_profiler\":{},\"start\":\"{}\",\"end\":\"{}\",\"family\":\"native\",\"version\":\"4\",\
         \"endpoint_counts\":{},\"internal\":{{}},\"info\":{{\"profiler\":{{\"name\":\"everprof\",\"version\":\"{}\"}}}}}}",
        attachments.join(","),
        json::string(&tags(set)),
        rfc3339(start),
        rfc3339(end),
        if has_counts { counts(set) } else { NO_COUNTS.to_string() },
        env!("CARGO_PKG_VERSION"),
    )
}

/// As Datadog's own libraries say that nothing was counted.
const NO_COUNTS: &str = "null";

/// How many requests of each endpoint ended.
fn counts(set: &Set) -> String {
    if set.endpoint_counts.is_empty() {
        return NO_COUNTS.to_string();
    }
    let counts = set.endpoint_counts.iter();
    let counts: Vec<String> =
        counts.map(|(endpoint, count)| format!("{}:{count}", json::string(endpoint))).collect();
    format!("{{{}}}", counts.join(","))
}

/// Names of tags that Datadog has for ours.
const NAMES: [(&str, &str); 5] = [
    ("instance", "runtime-id"),
    ("pod", "pod_name"),
    ("namespace", "kube_namespace"),
    ("node", "kube_node"),
    ("service", "service"),
];

/// Nothing of this process but what the set has: it may be of another one, which left it on disk.
fn tags(set: &Set) -> String {
    let mut tags: Vec<(String, String)> = [
        ("runtime", "native".to_string()),
        ("language", "rust".to_string()),
        ("profiler_version", env!("CARGO_PKG_VERSION").to_string()),
        ("profile_seq", set.sequence.to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    for (key, value) in &set.tags {
        // What nobody knows is no tag of theirs.
        if value.is_empty() || value == UNKNOWN || key == "pod" && value == NO_POD {
            continue;
        }
        let key = NAMES.iter().find(|(ours, _)| ours == key).map_or(key.as_str(), |(_, theirs)| theirs);
        if tags.iter().all(|(known, _)| known != key) {
            tags.push((key.to_string(), value.clone()));
        }
    }
    let tags: Vec<String> =
        tags.iter().map(|(key, value)| format!("{key}:{}", value.replace(',', "_"))).collect();
    tags.join(",")
}

/// The variable that says more of the container.
pub(super) const EXTERNAL: &str = "DD_EXTERNAL_ENV";

/// What requests carry beside the form: by what they are known, and to the agent in which container they began.
pub(super) fn headers(set: &Set, url: &Url, external: Option<&str>) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("dd-evp-origin", "everprof".to_string()),
        ("dd-evp-origin-version", env!("CARGO_PKG_VERSION").to_string()),
    ];
    if is_intake(url) {
        return headers;
    }
    match set.tag("container_id") {
        "" => headers.extend(own_group().map(|inode| ("datadog-entity-id", format!("in-{inode}")))),
        id => headers
            .extend([("datadog-container-id", id.to_string()), ("datadog-entity-id", format!("ci-{id}"))]),
    }
    headers.extend(external.map(|value| ("datadog-external-env", value.to_string())));
    headers
}

/// The number of our control group's directory, by which the agent knows the container where it has no name here. None on
/// the host itself, whose group would be a wrong answer.
fn own_group() -> Option<u64> {
    // The kernel's number of the first namespace of control groups.
    const HOSTS: u64 = 0xEFFF_FFFB;
    if std::fs::metadata("/proc/self/ns/cgroup").ok()?.ino() == HOSTS {
        return None;
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let inode = std::fs::metadata(format!("/sys/fs/cgroup{path}")).ok()?.ino();
    (inode > 2).then_some(inode)
}

/// The key of the account, for the intake: that of the environment, which is for Datadog alone, or `push_token`.
pub(super) fn key(token: &str, var: Lookup<'_>) -> Result<String, String> {
    let key = var("DD_API_KEY").unwrap_or_else(|| token.to_string());
    let key = key.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "the intake asks for the account's API key: give it as push_token, or in DD_API_KEY".to_string()
        );
    }
    Ok(key.to_string())
}

/// A moment as RFC 3339 has it, in nanoseconds.
fn rfc3339(nanos: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400;
    let (seconds, rest) = (nanos.div_euclid(SECOND), nanos.rem_euclid(SECOND));
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:09}Z")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(vars: &[(&str, &str)], has_socket: bool) -> Result<String, String> {
        let var =
            |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string());
        place(&var, |_| has_socket).map(|url| url.text())
    }

    #[test]
    fn the_environment_names_the_agent_as_for_datadogs_own_libraries() {
        for (vars, has_socket, text) in [
            (&[][..], false, "http://localhost:8126/"),
            (&[], true, "unix:///var/run/datadog/apm.socket"),
            (&[("DD_AGENT_HOST", "10.0.0.1")], true, "http://10.0.0.1:8126/"),
            (&[("DD_AGENT_HOST", "fd00::1"), ("DD_TRACE_AGENT_PORT", "1")], true, "http://[fd00::1]:1/"),
            (
                &[("DD_AGENT_HOST", "h"), ("DD_TRACE_AGENT_URL", "unix:///run/a.sock")],
                false,
                "unix:///run/a.sock",
            ),
            (&[("DD_TRACE_AGENT_URL", "http://a:1234/base")], false, "http://a:1234/base"),
            (
                &[("DD_PROFILING_AGENTLESS", "true"), ("DD_SITE", "datadoghq.eu"), ("DD_AGENT_HOST", "h")],
                false,
                "https://intake.profile.datadoghq.eu/",
            ),
        ] {
            assert_eq!(found(vars, has_socket).as_deref(), Ok(text));
        }
        for wrong in
            [("DD_TRACE_AGENT_URL", "a:1234"), ("DD_AGENT_HOST", "a b"), ("DD_TRACE_AGENT_PORT", "x")]
        {
            assert!(found(&[wrong], false).unwrap_err().contains(wrong.0));
        }
    }

    #[test]
    fn the_intake_is_told_from_an_agent_and_asks_for_a_key() {
        let path = |is_secure, text| path(&Url::parse(is_secure, text).unwrap());
        assert_eq!(path(false, "h:8126"), "/profiling/v1/input");
        assert_eq!(path(false, "h/base/?x=y"), "/base/profiling/v1/input?x=y");
        assert_eq!(path(false, "h/profiling/v1/input"), "/profiling/v1/input");
        assert_eq!(path(true, "intake.profile.datadoghq.com"), "/api/v2/profile");
        assert_eq!(path(true, "proxy/api/v2/profile"), "/api/v2/profile");
        assert_eq!(key("", &|_| Some("from-outside".to_string())).as_deref(), Ok("from-outside"));
        assert_eq!(key("for-others", &|_| Some("from-outside".to_string())).as_deref(), Ok("from-outside"));
        assert_eq!(key("told", &|_| None).as_deref(), Ok("told"));
        assert!(key("", &|_| None).unwrap_err().contains("DD_API_KEY"));
        assert!(!key("sesame\r\nopen", &|_| None).unwrap_err().contains("sesame"));
    }

    #[test]
    fn moments_are_written_as_the_standard_has_them() {
        assert_eq!(rfc3339(1_709_210_096_789_000_001), "2024-02-29T12:34:56.789000001Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn tags_are_datadogs_and_say_nothing_that_nobody_knows() {
        let mut set = Set { sequence: 3, ..Set::default() };
        for (key, value) in [
            ("service", "shop"),
            ("version", UNKNOWN),
            ("pod", NO_POD),
            ("instance", "u-1"),
            ("a", "b,c"),
            ("runtime", "x"),
        ] {
            set.tags.insert(key.to_string(), value.to_string());
        }
        let tags = tags(&set);
        let has = |tag: &str| tags.split(',').any(|known| known == tag);
        assert!(
            has("service:shop") && has("runtime-id:u-1") && has("a:b_c") && has("profile_seq:3"),
            "{tags}"
        );
        assert!(!tags.contains("version:unknown") && !tags.contains("pod") && !has("runtime:x"), "{tags}");
    }
}
