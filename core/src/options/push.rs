//! Where profiles go: the list of targets, and what requests to them carry.

use std::fmt;
use std::path::PathBuf;

use super::spell::HIDDEN;
use super::url::Url;
use super::value::{Setting, Shape};
use crate::pairs;

/// Where profiles go: into the directory of the option `dir` by default.
///
/// ```
/// let mut options = everprof::Options::default();
/// options.set("push", "pyroscope+http://ann:secret@pyroscope:4040, dir").unwrap();
/// assert!(format!("{options:?}").contains("pyroscope+http://pyroscope:4040,dir"));
/// assert!(options.set("push", "pyroscope").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push(Vec<Target>);

/// One place that profiles go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The directory of the option `dir`.
    Dir,
    /// Another directory.
    File(PathBuf),
    /// A server.
    Server(Protocol, Url),
    /// A server whose place the environment tells.
    Found(Protocol),
}

/// What a server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Grafana Pyroscope's Push API.
    Pyroscope,
    /// Parca's WriteRaw over HTTP.
    Parca,
    /// OTLP profiles, over HTTP.
    Otlp,
    /// Parca's WriteRaw over gRPC.
    ParcaGrpc,
    /// OTLP profiles, over gRPC.
    OtlpGrpc,
    /// Datadog's agent, or its intake.
    Datadog,
    /// Google Cloud Profiler, which is asked what it wants.
    Google,
    /// pprof as it is, by POST.
    Post,
    /// pprof as it is, by PUT.
    Put,
}

impl Protocol {
    /// A name that stands twice is that of HTTP first.
    const ALL: [(Protocol, &'static str); 9] = [
        (Protocol::Pyroscope, "pyroscope"),
        (Protocol::Parca, "parca"),
        (Protocol::Otlp, "otlp"),
        (Protocol::ParcaGrpc, "parca"),
        (Protocol::OtlpGrpc, "otlp"),
        (Protocol::Datadog, "datadog"),
        (Protocol::Google, "google"),
        (Protocol::Post, "post"),
        (Protocol::Put, "put"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(protocol, _)| *protocol == self).map_or("", |(_, name)| name)
    }

    fn of_name(name: &str) -> Option<Protocol> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(protocol, _)| *protocol)
    }

    /// The protocol of a name that stands alone, whose servers the environment names.
    fn found(name: &str) -> Option<Protocol> {
        Self::of_name(&name.to_ascii_lowercase())
            .filter(|protocol| matches!(protocol, Protocol::Datadog | Protocol::Google))
    }

    pub(crate) fn is_grpc(self) -> bool {
        matches!(self, Protocol::ParcaGrpc | Protocol::OtlpGrpc)
    }

    /// The port that its servers listen at, where a URL names none. With TLS it is that of `https`: there is a gateway before
    /// the server then, which those ports are not of.
    fn port(self, is_secure: bool) -> u16 {
        match self {
            _ if is_secure => 443,
            Protocol::Pyroscope => 4040,
            Protocol::Parca | Protocol::ParcaGrpc => 7070,
            Protocol::OtlpGrpc => 4317,
            Protocol::Otlp => 4318,
            Protocol::Datadog => 8126,
            Protocol::Google | Protocol::Post | Protocol::Put => 80,
        }
    }

    fn over_grpc(self) -> Option<Protocol> {
        match self {
            Protocol::Parca => Some(Protocol::ParcaGrpc),
            Protocol::Otlp => Some(Protocol::OtlpGrpc),
            _ => None,
        }
    }

    /// A URL with the scheme by which this protocol is spelled in it.
    fn spelled(self, url: &str) -> String {
        let url = if self.is_grpc() { url.replacen("http", "grpc", 1) } else { url.to_string() };
        format!("{}+{url}", self.name())
    }
}

const RIGHT: &str = "off, dir, file:///path, datadog, google, and PROTOCOL+http://host, PROTOCOL+https://host or \
                     PROTOCOL+unix:///path/of.socket with one of the protocols pyroscope, parca, otlp, datadog, post and put, or \
                     otlp and parca with grpc:// and grpcs://; several parted by commas";
/// More targets than this are a mistake: each has a thread and a queue.
const MOST_TARGETS: usize = 8;

impl Push {
    /// In the order in which they were given.
    pub(crate) fn targets(&self) -> &[Target] {
        &self.0
    }

    /// The servers that profiles are sent to, without what is secret about them; directories are not among them.
    pub fn servers(&self) -> impl Iterator<Item = String> + '_ {
        self.0
            .iter()
            .filter(|target| matches!(target, Target::Server(..) | Target::Found(_)))
            .map(Target::shown)
    }

    /// Whether profiles go to no place at all, so that they can be fetched only.
    pub fn is_off(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Push {
    fn default() -> Self {
        Self(vec![Target::Dir])
    }
}

impl Setting for Push {
    const SECRET: bool = true;
    const SHAPE: Shape = Shape::List;

    fn accepts() -> String {
        RIGHT.to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.eq_ignore_ascii_case("off") {
            return Ok(Self(Vec::new()));
        }
        let mut targets = Vec::new();
        for (place, part) in parts(text).iter().enumerate() {
            let target = Target::parse(part).map_err(|right| format!("target {}: {right}", place + 1))?;
            if targets.contains(&target) {
                return Err(format!("target {} is given twice: give it once", place + 1));
            }
            targets.push(target);
        }
        match targets.len() {
            0 => Err(format!("give {RIGHT}")),
            count if count > MOST_TARGETS => Err(format!("give at most {MOST_TARGETS} targets")),
            _ => Ok(Self(targets)),
        }
    }

    fn text(&self) -> String {
        if self.is_off() {
            return "off".to_string();
        }
        self.0.iter().map(Target::text).collect::<Vec<_>>().join(",")
    }

    fn shown(&self) -> String {
        if self.is_off() {
            return "off".to_string();
        }
        self.0.iter().map(Target::shown).collect::<Vec<_>>().join(",")
    }
}

/// The targets of a list. A comma within a URL belongs to it where no target begins behind.
fn parts(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for piece in text.split([',', ' ', '\t', '\n']).map(str::trim).filter(|piece| !piece.is_empty()) {
        let begins =
            piece.contains("://") || piece.eq_ignore_ascii_case("dir") || Protocol::found(piece).is_some();
        match parts.last_mut() {
            Some(last) if !begins && last.contains("://") => *last += &format!(",{piece}"),
            _ => parts.push(piece.to_string()),
        }
    }
    parts
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("dir") {
            return Ok(Self::Dir);
        }
        if let Some(protocol) = Protocol::found(text) {
            return Ok(Self::Found(protocol));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Err(format!("give {RIGHT}")) };
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "file" {
            return match rest.starts_with('/') && rest.len() > 1 && !rest.contains(char::is_control) {
                true => Ok(Self::File(PathBuf::from(rest))),
                false => Err("give file:// and an absolute path".to_string()),
            };
        }
        let (protocol, transport) = scheme.split_once('+').unwrap_or(("", &scheme));
        if !matches!(transport, "http" | "https" | "unix" | "grpc" | "grpcs") {
            return Err(format!("give {RIGHT}"));
        }
        let Some(protocol) = Protocol::of_name(protocol) else {
            let right = "say what the server understands: pyroscope+, parca+, otlp+, datadog+, post+ or put+ before http";
            return Err(right.to_string());
        };
        if transport == "unix" {
            return Ok(Self::Server(protocol, Url::parse_socket(rest)?));
        }
        let is_grpc = transport.starts_with("grpc");
        let protocol = match is_grpc {
            true => protocol.over_grpc().ok_or("give grpc and grpcs to otlp and parca only")?,
            false => protocol,
        };
        let is_secure = matches!(transport, "https" | "grpcs");
        let url = Url::parse_at(is_secure, protocol.port(is_secure), rest)?;
        match is_grpc && url.path != "/" {
            false => Ok(Self::Server(protocol, url)),
            true => Err("give a host and a port to gRPC, which has no path".to_string()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Dir => "dir".to_string(),
            Self::File(path) => format!("file://{}", path.display()),
            Self::Server(protocol, url) => protocol.spelled(&url.text()),
            Self::Found(protocol) => protocol.name().to_string(),
        }
    }

    /// What may stand in a log.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Server(protocol, url) => protocol.spelled(&url.shown()),
            _ => self.text(),
        }
    }
}

/// Headers of requests. They may hold secrets, and are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

/// What the way of sending a request decides, and nobody else.
const OURS: [&str; 12] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authorization",
];

impl Headers {
    /// Name and value of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "[none]" } else { HIDDEN })
    }
}

impl Setting for Headers {
    const SECRET: bool = true;
    const SHAPE: Shape = Shape::Pairs;

    fn accepts() -> String {
        "name=value,name=value".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (place, part) in text.split(',').map(str::trim).filter(|part| !part.is_empty()).enumerate() {
            let wrong = |right: &str| format!("header {}: {right}", place + 1);
            let Some((name, value)) = part.split_once('=') else {
                return Err(wrong("give name=value, and a comma in a value as %2C"));
            };
            let name = name.trim().to_ascii_lowercase();
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || name.len() > pairs::MAX_KEY_BYTES || !name.bytes().all(is_token) {
                return Err(wrong("give the name of an HTTP header"));
            }
            if OURS.contains(&name.as_str()) || name.starts_with("grpc-") {
                return Err(wrong("this one is set by everprof: leave it out"));
            }
            if headers.iter().any(|(known, _)| *known == name) {
                return Err(wrong("it is given twice: give it once"));
            }
            let value = pairs::percent_decode(value.trim()).map_err(|right| wrong(&right))?;
            if value.len() > 4096 || !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                return Err(wrong("give at most 4096 visible ASCII characters"));
            }
            headers.push((name, value));
        }
        Ok(Self(headers))
    }

    fn text(&self) -> String {
        let pair = |(name, value): &(String, String)| format!("{name}={}", pairs::percent_encode(value));
        self.0.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}

/// The project that profiles belong to at Google; empty where the environment or the machine says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project(String);

impl Project {
    /// The name, or the empty text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Project {
    fn accepts() -> String {
        "the ID of a project, 6 to 63 of a-z, 0-9 and -:., a letter first".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-:.".contains(&byte);
        let is_right = (6..=63).contains(&text.len())
            && text.bytes().all(is_fit)
            && text.starts_with(|first: char| first.is_ascii_lowercase());
        if text.is_empty() || is_right {
            Ok(Self(text.to_string()))
        } else {
            Err(format!("give {}", Self::accepts()))
        }
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// The tenant of a server that has several; empty where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant(String);

impl Tenant {
    /// The name, or the empty text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Tenant {
    fn accepts() -> String {
        "at most 150 letters, digits and !-_.*'()|".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"!-_.*'()|".contains(&byte);
        if text.len() <= 150 && text.bytes().all(is_fit) {
            return Ok(Self(text.to_string()));
        }
        Err(format!("give {}", Self::accepts()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown_without_their_secrets() {
        for (text, canonical, shown) in [
            ("", "off", "off"),
            ("dir", "dir", "dir"),
            ("DIR, file:///var/p", "dir,file:///var/p", "dir,file:///var/p"),
            ("otlp+http://c:4318", "otlp+http://c:4318/", "otlp+http://c:4318"),
            (
                "OTLP+grpc://c:4317, parca+grpcs://p",
                "otlp+grpc://c:4317/,parca+grpcs://p/",
                "otlp+grpc://c:4317,parca+grpcs://p",
            ),
            ("pyroscope+http://p:4040", "pyroscope+http://p:4040/", "pyroscope+http://p:4040"),
            ("pyroscope+http://p", "pyroscope+http://p:4040/", "pyroscope+http://p:4040"),
            ("pyroscope+http://p:80/x", "pyroscope+http://p:80/x", "pyroscope+http://p:80"),
            ("pyroscope+https://p", "pyroscope+https://p/", "pyroscope+https://p"),
            (
                "otlp+http://c,otlp+grpc://c,otlp+grpcs://c:4317",
                "otlp+http://c:4318/,otlp+grpc://c:4317/,otlp+grpcs://c:4317/",
                "otlp+http://c:4318,otlp+grpc://c:4317,otlp+grpcs://c:4317",
            ),
            (
                "parca+http://p,parca+grpc://[::1],datadog+http://d",
                "parca+http://p:7070/,parca+grpc://[::1]:7070/,datadog+http://d:8126/",
                "parca+http://p:7070,parca+grpc://[::1]:7070,datadog+http://d:8126",
            ),
            ("Datadog,dir", "datadog,dir", "datadog,dir"),
            (
                "datadog+unix:///run/apm.socket,put+unix:///s:/p?k=v",
                "datadog+unix:///run/apm.socket,put+unix:///s:/p?k=v",
                "datadog+unix:///run/apm.socket,put+unix:///s",
            ),
            (
                "put+https://s3/b/{kind}?X-Sig=a,b post+http://u:p@h",
                "put+https://s3/b/{kind}?X-Sig=a,b,post+http://u:p@h/",
                "put+https://s3,post+http://h",
            ),
        ] {
            let push = Push::parse(text).unwrap();
            assert_eq!((push.text().as_str(), push.shown().as_str()), (canonical, shown));
            assert_eq!(Push::parse(&push.text()).unwrap(), push);
            assert!(!format!("{push:?}").contains("X-Sig") && !format!("{push:?}").contains("u:p"));
        }
    }

    #[test]
    fn wrong_targets_are_told_by_their_place_and_not_by_their_text() {
        for (wrong, right) in [
            ("here", "target 1: give off, dir"),
            ("dir,http://ann:pw@h", "target 2: say what the server understands"),
            ("dir,dir", "target 2 is given twice"),
            ("file://x", "absolute path"),
            ("post+unix://x", "absolute path of a socket"),
            ("post", "target 1: give off, dir"),
            ("pyroscope+ftp://h", "target 1: give off, dir"),
            ("post+http://", "give a host"),
            ("post+grpc://h", "to otlp and parca only"),
            ("otlp+grpc://h/path", "gRPC, which has no path"),
            ("grpc+http://h", "say what the server understands"),
            ("post+http://h/a#b", "without a fragment"),
        ] {
            let error = Push::parse(wrong).unwrap_err();
            assert!(error.contains(right) && !error.contains("pw"), "{wrong}: {error}");
        }
        let many: Vec<String> = (0..9).map(|n| format!("post+http://h{n}")).collect();
        assert!(Push::parse(&many.join(",")).unwrap_err().contains("at most 8"));
    }

    #[test]
    fn headers_cannot_smuggle_others() {
        let headers = Headers::parse("Authorization=Bearer a%2Cb , x-team=one").unwrap();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("authorization", "Bearer a,b"), ("x-team", "one")]);
        assert_eq!(Headers::parse(&headers.text()).unwrap(), headers);
        assert_eq!(format!("{headers:?}"), "[hidden]");
        for wrong in [
            "a",
            "=b",
            "a b=c",
            "a=b%0d%0ac: d",
            "a=%00",
            "Host=x",
            "grpc-timeout=1S",
            "content-length=1",
            "a=1,A=2",
            "a=ä",
        ] {
            assert!(Headers::parse(wrong).is_err(), "{wrong}");
        }
    }
}
