//! Google Cloud Profiler, version 2: a server that says when it wants a profile, and of what.
//!
//! It has about one profile a minute of all replicas of a version in a zone, and chooses them: a request hangs until this
//! process is the next. So it is no place that periods are sent to, but a conversation, which a thread of its own has
//! (`profiler/google.rs`): that one knows how profiles are taken, this module what is asked and answered, over REST, since
//! gRPC would be as large as the rest of the exporters together. A profile that could not be sent is given up: another
//! replica is asked next.

#[cfg_attr(not(feature = "tls"), path = "no_key.rs")]
mod key;
mod token;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ambient::{Kept, Lookup};
use super::http::{Answer, Client, Failure, Hold, Request, Trust, base64};
use super::{Loss, proxy};
use crate::encode::json::{self, Value};
use crate::options::{Options, ProxyChoice, Url};
use crate::tags::{NO_POD, UNKNOWN};
use token::Token;

/// How long a request may hang until a profile is wanted.
const LONGEST_POLL: Duration = Duration::from_secs(300);
const LONGEST_UPLOAD: Duration = Duration::from_secs(60);
/// Of a machine's own server, or a server of tokens.
const LONGEST_ERRAND: Duration = Duration::from_secs(10);
/// What is read of an answer: none is longer where it is what it should be.
const MOST_ANSWER: usize = 64 << 10;
/// The longest that the server may send us away.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);
const API: &str = "cloudprofiler.googleapis.com";

/// Where profiles are asked for, by the options and the environment.
#[derive(Clone)]
pub(crate) struct Plan {
    /// What it is called in messages.
    pub(crate) name: String,
    url: Url,
    project: Option<String>,
    /// The file of a service account's key.
    key_file: Option<String>,
    metadata: Url,
    trust: Trust,
    proxy: ProxyChoice,
    /// What the environment says of proxies.
    proxies: Kept,
    secrets: Vec<String>,
}

/// The address where none is given.
pub(super) fn place() -> Result<Url, String> {
    Url::parse(true, API)
}

impl Plan {
    pub(super) fn new(
        name: String,
        url: Url,
        options: &Options,
        trust: Trust,
        secrets: Vec<String>,
        var: Lookup<'_>,
    ) -> Result<Self, String> {
        let project = match options.push_project.as_str() {
            "" => var("GOOGLE_CLOUD_PROJECT").or_else(|| var("GCLOUD_PROJECT")),
            own => Some(own.to_string()),
        };
        let host = var("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_string());
        let metadata = Url::parse(false, &host).map_err(|right| format!("GCE_METADATA_HOST: {right}"))?;
        let key_file = var("GOOGLE_APPLICATION_CREDENTIALS");
        Ok(Self {
            name,
            url,
            project,
            key_file,
            metadata,
            trust,
            proxy: options.push_proxy.choice().clone(),
            proxies: Kept::new(&proxy::VARIABLES, var),
            secrets,
        })
    }
}

/// A profile that the server wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What the server calls it.
    name: String,
    /// Of what, such as `CPU`.
    pub(crate) sort: String,
    /// Of how long, where it is of a stretch of time.
    pub(crate) duration: Duration,
}

/// Why there is nothing to do for now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The server names a time: others are to be profiled first.
    Asked(Duration),
    /// Something is wrong.
    Failed(String),
}

/// One side of the conversation.
pub(crate) struct Agent {
    plan: Plan,
    tags: BTreeMap<String, String>,
    hold: Hold,
    token: Option<(Token, Instant)>,
    /// Once it is known.
    project: Option<String>,
    /// Once it was asked for; none outside of Google's machines.
    zone: Option<Option<String>>,
}

impl Agent {
    pub(crate) fn new(plan: Plan, tags: BTreeMap<String, String>, hold: Hold) -> Self {
        Self { project: plan.project.clone(), plan, tags, hold, token: None, zone: None }
    }

    /// Waits until the server wants a profile of one of these sorts.
    pub(crate) fn poll(&mut self, sorts: &[&str]) -> Result<Wanted, Pause> {
        let token = self.token().map_err(Pause::Failed)?;
        let project = self.project().map_err(Pause::Failed)?;
        let body = format!(
            "{{\"deployment\":{},\"profileType\":[{}]}}",
            self.deployment(&project),
            sorts.iter().map(|sort| json::string(sort)).collect::<Vec<_>>().join(",")
        );
        let path = format!("v2/projects/{project}/profiles");
        let asked = Asked { method: "POST", path: &path, body: body.as_bytes(), time: LONGEST_POLL };
        let (answer, described) = self.ask(&asked, &token).map_err(Pause::Failed)?;
        if answer.is_success() {
            return wanted(&answer.body).ok_or_else(|| Pause::Failed("its answer is no profile".to_string()));
        }
        if answer.status == 401 {
            self.token = None;
        }
        Err(pause(&answer).map_or(Pause::Failed(described), Pause::Asked))
    }

    /// Sends the profile that was wanted.
    pub(crate) fn upload(&mut self, wanted: &Wanted, pprof: &[u8]) -> Result<(), (Loss, String)> {
        let token = self.token().map_err(|problem| (Loss::Failed, problem))?;
        let tag = |key: &str| self.tags.get(key).filter(|value| *value != UNKNOWN && *value != NO_POD);
        let instance = tag("pod").or_else(|| tag("host"));
        let labels =
            instance.map_or(String::new(), |name| format!("\"instance\":{}", json::string(cut(name, 512))));
        let body = format!(
            "{{\"name\":{},\"profileType\":{},\"profileBytes\":\"{}\",\"labels\":{{{labels}}}}}",
            json::string(&wanted.name),
            json::string(&wanted.sort),
            base64(pprof)
        );
        let path = format!("v2/{}?updateMask=profileBytes,labels", wanted.name);
        let asked = Asked { method: "PATCH", path: &path, body: body.as_bytes(), time: LONGEST_UPLOAD };
        match self.try_to_ask(&asked, &token) {
            Ok((answer, _)) if answer.is_success() => Ok(()),
            Ok((Answer { status: 400..500, .. }, described)) => Err((Loss::Refused, described)),
            Ok((_, described)) => Err((Loss::Failed, described)),
            Err(Failure::Unknown(problem)) => Err((Loss::Unknown, problem)),
            Err(failure) => Err((Loss::Failed, failure.into_problem())),
        }
    }

    fn ask(&self, asked: &Asked<'_>, token: &Token) -> Result<(Answer, String), String> {
        self.try_to_ask(asked, token).map_err(Failure::into_problem)
    }

    fn try_to_ask(&self, asked: &Asked<'_>, token: &Token) -> Result<(Answer, String), Failure> {
        let base = self.plan.url.path_and_query().0.trim_end_matches('/');
        let path = format!("{base}/{}", asked.path);
        let headers = vec![("authorization".to_string(), format!("Bearer {}", token.value))];
        let errand = Errand {
            headers,
            content_type: "application/json",
            ..Errand::new(&self.plan.url, asked.method, path)
        };
        self.try_to_run(&Errand { body: asked.body, time: asked.time, secret: Some(&token.value), ..errand })
    }

    /// One request and its answer, with what an error would say of that.
    fn run(&self, errand: &Errand<'_>) -> Result<(Answer, String), String> {
        self.try_to_run(errand).map_err(Failure::into_problem)
    }

    fn try_to_run(&self, errand: &Errand<'_>) -> Result<(Answer, String), Failure> {
        let mut secrets = self.plan.secrets.clone();
        secrets.extend(errand.secret.map(str::to_string));
        // Machines' own servers, and tests', are on no other side of a proxy. The start has warned of one that cannot be used.
        let proxy = match errand.url.is_secure {
            true => {
                proxy::of(errand.url, &self.plan.proxy, &|name| self.plan.proxies.var(name)).unwrap_or(None)
            }
            false => None,
        };
        secrets.extend(proxy.iter().flat_map(proxy::secrets));
        let client = Client::new(errand.url.clone(), self.plan.trust.clone(), secrets);
        let client = client.by(proxy).within(errand.time).held(self.hold.clone());
        let request = Request {
            method: errand.method,
            path: errand.path.clone(),
            content_type: errand.content_type,
            headers: errand.headers.clone(),
            body: errand.body,
            wanted: MOST_ANSWER,
        };
        let answer = client.send(&request)?;
        let described = client.describe(&answer);
        Ok((answer, described))
    }

    fn token(&mut self) -> Result<Token, String> {
        // Renewed before its end, or the end would come while a request hangs.
        const SPARE: Duration = Duration::from_secs(360);
        if let Some((token, end)) = &self.token
            && end.checked_duration_since(Instant::now()).is_some_and(|left| left > SPARE)
        {
            return Ok(token.clone());
        }
        let token = match self.plan.key_file.clone() {
            Some(path) => self.of_key(&path)?,
            None => self.of_machine()?,
        };
        self.token = Some((token.clone(), Instant::now() + token.lifetime));
        Ok(token)
    }

    fn of_machine(&self) -> Result<Token, String> {
        let text = self.metadata("instance/service-accounts/default/token").map_err(|problem| {
            format!("no credentials: {problem}; outside of Google's machines, name a key file in GOOGLE_APPLICATION_CREDENTIALS")
        })?;
        token::read(&text)
    }

    fn of_key(&mut self, path: &str) -> Result<Token, String> {
        let key = key::read(path)?;
        self.project = self.project.take().or_else(|| key.project.clone());
        let body = key.request()?;
        let errand = Errand {
            body: body.as_bytes(),
            secret: Some(&body),
            content_type: "application/x-www-form-urlencoded",
            ..Errand::new(&key.server, "POST", key.server.path.clone())
        };
        let (answer, described) = self.run(&errand)?;
        match answer.is_success() {
            true => token::read(&String::from_utf8_lossy(&answer.body)),
            false => Err(format!("no token for {path}: {described}")),
        }
    }

    fn project(&mut self) -> Result<String, String> {
        if self.project.is_none() {
            let found = self.metadata("project/project-id").map_err(|problem| {
                format!("no project: {problem}; name it by push_project or GOOGLE_CLOUD_PROJECT")
            })?;
            self.project = Some(found);
        }
        let project = self.project.clone().unwrap_or_default();
        let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-:.".contains(&byte);
        match !project.is_empty() && project.bytes().all(is_right) {
            true => Ok(project),
            false => Err("the name of the project is none of Google's: name it by push_project".to_string()),
        }
    }

    /// What the machine's own server says.
    fn metadata(&self, path: &str) -> Result<String, String> {
        let headers = vec![("metadata-flavor".to_string(), "Google".to_string())];
        let path = format!("/computeMetadata/v1/{path}");
        let errand = Errand { headers, ..Errand::new(&self.plan.metadata, "GET", path) };
        let (answer, described) =
            self.run(&errand).map_err(|problem| format!("{}: {problem}", self.plan.metadata.host))?;
        match answer.is_success() {
            true => Ok(String::from_utf8_lossy(&answer.body).trim().to_string()),
            false => Err(format!("{}: {described}", self.plan.metadata.host)),
        }
    }

    /// Whose profiles these are: those of one deployment are one to the server.
    fn deployment(&mut self, project: &str) -> String {
        // Asked once: not to be on a machine of Google's is no error, and takes as long as a name that nobody knows.
        let on_machine = self.plan.key_file.is_none();
        if self.zone.is_none() {
            let zone = if on_machine { self.metadata("instance/zone").ok() } else { None };
            self.zone = Some(zone.and_then(|zone| zone.rsplit('/').next().map(str::to_string)));
        }
        let mut labels = vec!["\"language\":\"rust\"".to_string()];
        let zone = self.zone.clone().flatten();
        let version = self.tags.get("version").filter(|version| *version != UNKNOWN);
        for (key, value) in [("zone", zone.as_ref()), ("version", version)] {
            labels.extend(value.map(|value| format!("\"{key}\":{}", json::string(cut(value, 256)))));
        }
        let service = self.tags.get("service").map_or("", String::as_str);
        format!(
            "{{\"projectId\":{},\"target\":{},\"labels\":{{{}}}}}",
            json::string(project),
            json::string(&target(service)),
            labels.join(",")
        )
    }
}

struct Asked<'a> {
    method: &'static str,
    path: &'a str,
    body: &'a [u8],
    time: Duration,
}

/// A request to one of several servers.
struct Errand<'a> {
    url: &'a Url,
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    content_type: &'static str,
    body: &'a [u8],
    time: Duration,
    /// What no error may show.
    secret: Option<&'a str>,
}

impl<'a> Errand<'a> {
    fn new(url: &'a Url, method: &'static str, path: String) -> Self {
        let content_type = "text/plain";
        Self {
            url,
            method,
            path,
            headers: Vec::new(),
            content_type,
            body: b"",
            time: LONGEST_ERRAND,
            secret: None,
        }
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    match value.get(key) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// The profile that an answer wants.
fn wanted(body: &[u8]) -> Option<Wanted> {
    let profile = json::parse(std::str::from_utf8(body).ok()?)?;
    let name = text(&profile, "name")?;
    // It becomes a path.
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if !name.starts_with("projects/") || name.contains("..") || !name.bytes().all(is_right) {
        return None;
    }
    let duration = text(&profile, "duration").map_or(Some(Duration::ZERO), seconds)?;
    Some(Wanted { name: name.to_string(), sort: text(&profile, "profileType")?.to_string(), duration })
}

/// How long the server wants to be left alone: `google.rpc.RetryInfo` in the details of an error.
fn pause(answer: &Answer) -> Option<Duration> {
    let body = json::parse(std::str::from_utf8(&answer.body).ok()?)?;
    let Some(Value::List(details)) = body.get("error").and_then(|error| error.get("details")) else {
        return None;
    };
    let delay = details.iter().find_map(|detail| seconds(text(detail, "retryDelay")?))?;
    Some(delay.min(LONGEST_PAUSE))
}

/// A duration as JSON has it: `12.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The nearest name that a deployment can have: `[a-z0-9]([-a-z0-9_.]{0,253}[a-z0-9])?`.
fn target(service: &str) -> String {
    let fit = |letter: char| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.') => letter,
        _ => '-',
    };
    let name: String = service.chars().map(fit).collect();
    let ends = |letter: char| !letter.is_ascii_alphanumeric();
    let name = cut(name.trim_start_matches(ends), 255).trim_end_matches(ends);
    if name.is_empty() { UNKNOWN.to_string() } else { name.to_string() }
}

fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

/// The pauses after failures, drawn by chance below a bound that grows from a minute to an hour.
pub(crate) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(3600);

    pub(crate) const fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The next pause. `chance` is from 0 to 1.
    pub(crate) fn next(&mut self, chance: f64) -> Duration {
        let pause = self.0.mul_f64(chance.clamp(0.0, 1.0));
        self.0 = self.0.mul_f64(1.3).min(Self::LONGEST);
        pause
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The start has warned of it, and Google's server is asked without.
    #[test]
    fn a_proxy_that_cannot_be_used_is_left_out() {
        let var = |name: &str| (name == "HTTPS_PROXY").then(|| "socks5://p:1".to_string());
        let url = Url::parse(true, "nobody.invalid").unwrap();
        let (options, trust) = (Options::default(), Trust::default());
        let plan = Plan::new("google".into(), url.clone(), &options, trust, Vec::new(), &var).unwrap();
        let agent = Agent::new(plan, BTreeMap::new(), Hold::default());
        let problem = agent.run(&Errand::new(&url, "GET", "/".into())).unwrap_err();
        assert!(!problem.contains("PROXY"), "{problem}");
    }

    #[test]
    fn answers_want_a_profile_or_to_be_left_alone() {
        let yes =
            br#"{"name": "projects/p/profiles/a-1", "profileType": "CPU", "duration": "9.5s", "labels": {}}"#;
        let expected = Wanted {
            name: "projects/p/profiles/a-1".into(),
            sort: "CPU".into(),
            duration: Duration::from_millis(9500),
        };
        assert_eq!(wanted(yes), Some(expected));
        for wrong in [
            r#"{"name": "projects/p/../../x", "profileType": "CPU"}"#,
            r#"{"name": "http://elsewhere", "profileType": "CPU"}"#,
            r#"{"name": "projects/p/profiles/a", "profileType": "CPU", "duration": "-1s"}"#,
            r#"{"name": "projects/p/profiles/a"}"#,
            "no",
        ] {
            assert_eq!(wanted(wrong.as_bytes()), None, "{wrong}");
        }
        let aborted = br#"{"error": {"code": 409, "status": "ABORTED", "details": [{"@type": "x"},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "22.25s"}]}}"#;
        let pause = |body: &[u8]| pause(&Answer { status: 409, body: body.to_vec(), ..Answer::default() });
        assert_eq!(pause(aborted), Some(Duration::from_millis(22_250)));
        assert_eq!(pause(br#"{"error": {"details": [{"retryDelay": "1e99s"}]}}"#), None);
        assert_eq!(pause(br#"{"error": {"details": [{"retryDelay": "999999s"}]}}"#), Some(LONGEST_PAUSE));
        assert_eq!(pause(b"{}"), None);
    }

    #[test]
    fn names_of_services_are_made_to_fit() {
        for (service, expected) in [
            ("shop", "shop"),
            ("Shop/API é", "shop-api"),
            ("_x_", "x"),
            ("", "unknown"),
            ("9a.b-c_d", "9a.b-c_d"),
        ] {
            assert_eq!(target(service), expected);
        }
        assert_eq!(target(&"a".repeat(300)).len(), 255);
    }

    #[test]
    fn pauses_grow_from_a_minute_to_an_hour() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u64> = (0..30).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!((pauses[..4].to_vec(), pauses[29]), (vec![60, 78, 101, 131], 3600));
        assert_eq!(Backoff::new().next(0.0), Duration::ZERO);
        assert_eq!(Backoff::new().next(0.5).as_secs(), 30);
    }
}
