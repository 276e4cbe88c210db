//! The exporter to a server over HTTP: its requests, and the one policy of what is tried again.
//!
//! What the other side cannot have is sent again. What it has refused is not. What it may have or not is given up and
//! counted, unless the options say `at_least_once`: no server known to us tells a repetition at once, so that it would count
//! twice (with Pyroscope until it compacts). That is so of an answer that never came, and of gateways that say so: 504, and what
//! Envoy says of a connection that broke. What is too large is halved, and the halves are tried. A request is one profile, or all of
//! a period where the server takes them together; a set that failed in its middle goes on with the request where it stopped, and
//! one that breaks off again and again lets others go first ([`Cuts`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cuts::Cuts;
use super::http::{Answer, Client, Failure, Hold, PROXY_WANTS, Reply, Request, Trust, filled};
use super::parcel::{dialect_of, parcel, requests, value};
use super::{Dialect, Encoded, Exporter, Interrupt, Loss, Outcome, ProfileId, Set, datadog, otlp};
use crate::encode::dialect::halve;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Guarantee, Protocol, Url};
use crate::report;

/// What is common to requests to all servers.
#[derive(Clone)]
pub(super) struct Manner {
    /// The value of `Authorization`, where the URL has no user.
    pub(super) authorization: Option<String>,
    pub(super) tenant: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) guarantee: Guarantee,
    pub(super) trust: Trust,
    pub(super) proxy: Option<Url>,
    /// What Datadog's agent is to know of our container, by the environment.
    pub(super) external: Option<String>,
    /// What no error may show, whatever the server sends back.
    pub(super) secrets: Vec<String>,
}

/// How often a request is halved: into 16 parts at the most.
const MOST_HALVINGS: u32 = 4;
/// How often a request meets a limit before it is tried in halves: what is larger than its server ever takes at once, is told
/// the same as what comes too fast.
const LIMITED: u32 = 3;
/// Bytes, compressed, that no limit was made for.
const SMALL: usize = 16 << 10;
/// What is read of an answer that says yes.
const MOST_YES: usize = 16 << 10;

pub(super) struct ServerExporter {
    name: String,
    protocol: Protocol,
    url: Url,
    client: Client,
    hold: Hold,
    manner: Manner,
    cuts: Cuts,
    /// The set at hand, by its first profile, and what of it is still to be sent.
    at: Option<ProfileId>,
    rest: VecDeque<(Vec<Encoded>, u32)>,
    /// The server has, or may have, the counts of the set's requests: the rest of the set goes without them.
    has_counts: bool,
    /// How often the first of them met a limit.
    limited: u32,
    lost: Option<(Loss, Error)>,
}

/// What an answer means for one request.
enum Verdict {
    Taken,
    TooLarge(String),
    Lost(Loss, String),
    Later(String, Option<Duration>),
    /// It was reached, and broke off or could not do it. That may be for this request.
    Cut(String),
    /// Too much, or too fast.
    Limited(String, Option<Duration>),
}

/// As the server says when, and else as it may be for this request.
fn later(problem: String, after: Option<Duration>) -> Verdict {
    if after.is_some() { Verdict::Later(problem, after) } else { Verdict::Cut(problem) }
}

impl ServerExporter {
    pub(super) fn new(name: String, protocol: Protocol, url: Url, manner: Manner) -> Self {
        let hold = Hold::default();
        let client = Client::new(url.clone(), manner.trust.clone(), manner.secrets.clone());
        let client = client.by(manner.proxy.clone()).held(hold.clone()).keeping();
        let (cuts, rest) = (Cuts::default(), VecDeque::new());
        Self {
            name,
            protocol,
            url,
            client,
            hold,
            manner,
            cuts,
            at: None,
            rest,
            has_counts: false,
            limited: 0,
            lost: None,
        }
    }

    fn send(&self, set: &Set, profiles: &[Encoded]) -> Verdict {
        let (Some(profile), Some(parcel)) =
            (profiles.first(), parcel(self.protocol, &self.url, set, profiles, !self.has_counts))
        else {
            return Verdict::Taken;
        };
        if self.longest_age().is_some_and(|age| is_older(profile.time_nanos, age, SystemTime::now())) {
            return Verdict::Lost(Loss::Expired, "it is too old for that server by now".to_string());
        }
        let request = Request {
            method: parcel.method,
            path: parcel.path,
            content_type: &parcel.content_type,
            headers: self.headers(set, profile),
            body: &parcel.body,
            wanted: MOST_YES,
        };
        let judged = match self.protocol.is_grpc() {
            true => self.client.call(&request).map(|reply| self.judge_reply(&reply)),
            false => self.client.send(&request).map(|answer| self.judge(&answer)),
        };
        judged.unwrap_or_else(|failure| match failure {
            Failure::NotSent(problem) => Verdict::Later(problem, None),
            Failure::Cut(problem) => Verdict::Cut(problem),
            Failure::Unfit(problem) => Verdict::Lost(Loss::Refused, problem),
            Failure::Unknown(problem) => self.unknown(problem, None),
        })
    }

    fn headers(&self, set: &Set, profile: &Encoded) -> Vec<(String, String)> {
        let filled_in =
            |(name, text): &(String, String)| (name.clone(), filled(text, |name| value(name, set, profile)));
        let mut headers: Vec<(String, String)> = self.manner.headers.iter().map(filled_in).collect();
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() && headers.iter().all(|(known, _)| known != name) {
                headers.push((name.to_string(), value.to_string()));
            }
        };
        add("authorization", self.manner.authorization.as_deref().unwrap_or_default());
        add("x-scope-orgid", &self.manner.tenant);
        match self.protocol {
            Protocol::Pyroscope => add("connect-protocol-version", "1"),
            Protocol::Otlp => add("content-encoding", "gzip"),
            Protocol::OtlpGrpc => add("grpc-encoding", "gzip"),
            Protocol::Datadog => {
                let own = datadog::headers(set, &self.url, self.manner.external.as_deref());
                own.iter().for_each(|(name, value)| add(name, value));
            }
            _ => {}
        }
        headers
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        let problem = || self.client.describe(answer);
        match answer.status {
            _ if answer.is_success() => match self.is_answer_of_its_own(answer) {
                true if self.protocol == Protocol::Otlp
                    && answer.content_type == "application/x-protobuf" =>
                {
                    self.taken(&answer.body)
                }
                true => Verdict::Taken,
                false => Verdict::Lost(Loss::Refused, format!("no such server is there: {}", problem())),
            },
            300..400 => {
                let problem = format!(
                    "it answers {}, and redirects are not followed: name the place itself",
                    answer.status
                );
                Verdict::Lost(Loss::Refused, problem)
            }
            // It is the proxy that speaks: the server has nothing of it yet.
            407 => Verdict::Later(PROXY_WANTS.to_string(), None),
            413 => Verdict::TooLarge(problem()),
            // By its specification there is no other time at which it might be taken.
            408 if self.protocol == Protocol::Otlp => Verdict::Lost(Loss::Refused, problem()),
            429 if is_about_series(&answer.body) => Verdict::Lost(Loss::Refused, problem()),
            // More than its burst is never taken whole.
            429 if self.protocol == Protocol::Pyroscope => Verdict::Limited(problem(), answer.retry_after),
            // A gateway that has handed the request on, and had no answer either.
            504 => self.unknown(problem(), answer.retry_after),
            503 if was_handed_on(&String::from_utf8_lossy(&answer.body)) => {
                self.unknown(problem(), answer.retry_after)
            }
            // Said of all that is sent, and so no word about this one.
            429 => Verdict::Later(problem(), answer.retry_after),
            408 | 502 | 503 => later(problem(), answer.retry_after),
            // By its specification as well; the others say it when they are starting anew, and may have the profile.
            500.. if self.protocol == Protocol::Otlp => Verdict::Lost(Loss::Failed, problem()),
            499 | 500.. => self.unknown(problem(), answer.retry_after),
            400..500 => Verdict::Lost(Loss::Refused, problem()),
            _ => Verdict::Lost(Loss::Failed, problem()),
        }
    }

    /// The classes of OTLP's specification, by the numbers of gRPC. What may have been taken in spite of its status goes by the
    /// guarantee.
    fn judge_reply(&self, reply: &Reply) -> Verdict {
        let colon = if reply.words.is_empty() { "" } else { ": " };
        let problem =
            format!("it answers with the status {}{colon}{}", reply.code, self.client.clean(&reply.words));
        match reply.code {
            0 if self.protocol == Protocol::OtlpGrpc => self.taken(&reply.message),
            0 => Verdict::Taken,
            // RESOURCE_EXHAUSTED and OUT_OF_RANGE are also what servers say to a message that is larger than they take.
            8 | 11 if is_about_size(&reply.words) => Verdict::TooLarge(problem),
            // CANCELLED, DEADLINE_EXCEEDED
            1 | 4 => self.unknown(problem, reply.retry_after),
            14 if was_handed_on(&reply.words) => self.unknown(problem, reply.retry_after),
            // ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
            10 | 11 | 14 | 15 => later(problem, reply.retry_after),
            8 if reply.retry_after.is_some() => Verdict::Later(problem, reply.retry_after),
            // Pyroscope does not say when, over HTTP neither.
            8 if reply.words.contains("push rate limit") => Verdict::Later(problem, None),
            // UNKNOWN, INTERNAL
            2 | 13 if self.protocol != Protocol::OtlpGrpc => self.unknown(problem, reply.retry_after),
            2 | 13 => Verdict::Lost(Loss::Failed, problem),
            _ => Verdict::Lost(Loss::Refused, problem),
        }
    }

    /// What a server of OTLP says yes to. What it did not take it will not take another time.
    fn taken(&self, response: &[u8]) -> Verdict {
        match otlp::rejected(response) {
            None => Verdict::Taken,
            Some((0, words)) => {
                let words = self.client.clean(&words);
                report::warn_once(&format!("{} took a profile, and says: {words}", self.name));
                Verdict::Taken
            }
            Some((count, words)) => {
                let what = if count == 1 { "a profile".to_string() } else { format!("{count} profiles") };
                Verdict::Lost(Loss::Refused, format!("it did not take {what}: {}", self.client.clean(&words)))
            }
        }
    }

    fn unknown(&self, problem: String, after: Option<Duration>) -> Verdict {
        match self.manner.guarantee == Guarantee::AtLeastOnce || self.may_repeat() {
            true => later(problem, after),
            false => Verdict::Lost(Loss::Unknown, problem),
        }
    }

    /// A page of HTML with the status 200 is not the word of a server of profiles, but of a portal before it.
    fn is_answer_of_its_own(&self, answer: &Answer) -> bool {
        match self.protocol {
            Protocol::Post | Protocol::Put => true,
            _ => answer.content_type != "text/html",
        }
    }
}

/// As the servers of Go, Rust, Java and C++ say it.
fn is_about_size(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["larger than max", "too large", "exceeds maximum"].iter().any(|part| words.contains(part))
}

/// What Envoy says of a connection that broke after it had handed the request on. It says the same of one that never came to
/// be, but for its reason.
fn was_handed_on(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("disconnect/reset before headers")
        && !["connection failure", "connection timeout", "overflow"].iter().any(|part| words.contains(part))
}

/// As Pyroscope says that a tenant has more series than it may: the next try would bring the same ones. Those that it still had
/// room for it has taken.
fn is_about_series(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).to_ascii_lowercase().contains("active series limit")
}

/// Pyroscope takes what is less than an hour old.
const PYROSCOPE: Duration = Duration::from_secs(55 * 60);

fn is_older(time_nanos: i64, age: Duration, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_nanos(u64::try_from(time_nanos).unwrap_or_default());
    // A clock that was put right meanwhile may say anything; the server then has the last word.
    time_nanos > 0 && now.saturating_sub(then) > age
}

impl Exporter for ServerExporter {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn dialect(&self) -> Dialect {
        dialect_of(self.protocol)
    }

    fn export(&mut self, set: &Set) -> Result<()> {
        match self.attempt(set) {
            Outcome::Sent => Ok(()),
            Outcome::Lost(_, error) | Outcome::Later(error, _) | Outcome::Cut(error) => Err(error),
        }
    }

    fn spool_name(&self) -> Option<String> {
        let (path, _) = self.url.path_and_query();
        // What is long may be a secret, and may be another one after a restart.
        let known = |part: &str| part.len() < 16 || part.contains('{');
        let path: Vec<&str> = path.split('/').filter(|part| known(part)).collect();
        let mut place = format!("{} {} {}", self.name, self.manner.tenant, path.join("/"));
        // Whose sets they are is said by a header as well.
        for (name, value) in &self.manner.headers {
            if ["x-scope-orgid", "projectid"].contains(&name.as_str()) {
                place += &format!(" {name}={value}");
            }
        }
        // Two users of one server are two tenants. Who has no password may be one.
        let user = self.url.user.as_ref().map(|(user, password)| (user.as_str(), password.is_empty()));
        let user = user.filter(|(user, is_alone)| !is_alone || known(user));
        Some(user.map_or(place.clone(), |(user, _)| format!("{place} {user}")))
    }

    fn longest_age(&self) -> Option<Duration> {
        (self.protocol == Protocol::Pyroscope).then_some(PYROSCOPE)
    }

    fn unsent(&mut self, set: &Set) -> (Set, Option<(Loss, Error)>) {
        if self.at.take() != set.profiles.first().map(|profile| profile.id) {
            return (set.clone(), None);
        }
        let profiles = self.rest.drain(..).flat_map(|(profiles, _)| profiles).collect();
        let endpoint_counts = if self.has_counts { BTreeMap::new() } else { set.endpoint_counts.clone() };
        (Set { profiles, tags: set.tags.clone(), endpoint_counts, ..*set }, self.lost.take())
    }

    /// What is put in its place again is there once.
    fn may_repeat(&self) -> bool {
        self.protocol == Protocol::Put
    }

    fn interrupt(&self) -> Option<Interrupt> {
        let hold = self.hold.clone();
        Some(Box::new(move || hold.end()))
    }

    fn idle(&mut self) {
        self.client.hang_up();
    }

    fn attempt(&mut self, set: &Set) -> Outcome {
        self.go_on(set)
    }
}

impl ServerExporter {
    /// Whether two halves of a profile would be put in one place, where the second is all that stays.
    fn would_overwrite(&self) -> bool {
        self.protocol == Protocol::Put && !self.url.path.contains("{id}")
    }

    /// Puts two halves in the place of the first request. Whether there are two.
    fn halve_first(&mut self) -> bool {
        let Some((profiles, halvings)) = self.rest.front() else { return false };
        let halvings = halvings + 1;
        let halves =
            if halvings <= MOST_HALVINGS { halves(dialect_of(self.protocol), profiles) } else { None };
        let Some(halves) = halves else { return false };
        self.rest.pop_front();
        halves.into_iter().rev().for_each(|half| self.rest.push_front((half, halvings)));
        true
    }

    /// Of the first request, which may be more than the server takes at once, so that waiting is no use. Of one of OTLP it may
    /// have taken some sample types already.
    fn meet_limit(&mut self, after: Option<Duration>) {
        self.limited += 1;
        let is_split = self.protocol == Protocol::Pyroscope;
        let bytes =
            self.rest.front().map_or(0, |(profiles, _)| profiles.iter().map(|one| one.bytes.len()).sum());
        if is_split && after.is_none() && self.limited >= LIMITED && bytes > SMALL && self.halve_first() {
            self.limited = 0;
        }
    }

    /// Sends what is left of a set.
    fn go_on(&mut self, set: &Set) -> Outcome {
        let Some(first) = set.profiles.first().map(|profile| profile.id) else { return Outcome::Sent };
        if self.at != Some(first) {
            self.at = Some(first);
            self.rest = requests(self.protocol, set).into_iter().map(|profiles| (profiles, 0)).collect();
            (self.has_counts, self.limited, self.lost) = (false, 0, None);
        }
        while let Some((profiles, _)) = self.rest.front() {
            let (loss, problem) = match self.send(set, profiles) {
                Verdict::Later(problem, after) => return Outcome::Later(unavailable(problem), after),
                Verdict::Limited(problem, after) => {
                    self.meet_limit(after);
                    return Outcome::Later(unavailable(problem), after);
                }
                Verdict::Taken => {
                    let arrived = profiles.first().map(|first| first.id);
                    (self.has_counts, self.limited) = (true, 0);
                    self.rest.pop_front();
                    arrived.into_iter().for_each(|id| self.cuts.arrived(id));
                    continue;
                }
                Verdict::Cut(problem) => {
                    match profiles.first().and_then(|first| self.cuts.failed(first.id)) {
                        None => {
                            // The others of the set are next.
                            self.rest.rotate_left(1);
                            return Outcome::Cut(unavailable(problem));
                        }
                        Some(count) => {
                            let problem = format!("{problem}; so it was {count} times, while others arrived");
                            (Loss::Broken, problem)
                        }
                    }
                }
                Verdict::TooLarge(problem) if self.would_overwrite() => (
                    Loss::Refused,
                    format!("{problem}; put {{id}} into its path, and it is sent in parts of that name"),
                ),
                Verdict::TooLarge(problem) => {
                    if self.halve_first() {
                        continue;
                    }
                    (Loss::Refused, problem)
                }
                Verdict::Lost(loss, problem) => (loss, problem),
            };
            self.rest.pop_front();
            // It may have them for all that.
            self.has_counts |= matches!(loss, Loss::Failed | Loss::Unknown);
            self.limited = 0;
            let later =
                (loss == Loss::Unknown && !self.rest.is_empty()).then(|| unavailable(problem.clone()));
            self.lost.get_or_insert((loss, unavailable(problem)));
            // Each part would take as long to have no answer as this one.
            if let Some(error) = later {
                return Outcome::Later(error, None);
            }
        }
        self.at = None;
        match self.lost.take() {
            None => Outcome::Sent,
            Some((loss, error)) => Outcome::Lost(loss, error),
        }
    }
}

/// Two requests with half of it each: of several profiles with some of them, of one with a half of its samples.
fn halves(dialect: Dialect, profiles: &[Encoded]) -> Option<[Vec<Encoded>; 2]> {
    if let [one] = profiles {
        return halve(dialect, one).map(|halves| halves.map(|half| vec![half]));
    }
    let (first, second) = profiles.split_at(profiles.len() / 2);
    (!first.is_empty()).then(|| [first.to_vec(), second.to_vec()])
}

fn unavailable(problem: String) -> Error {
    Error::new(ErrorKind::Unavailable, problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_place_on_disk_and_no_secret_is_in_its_name() {
        let with = |url: &str, headers: &[(&str, &str)]| {
            let url = Url::parse(false, url).unwrap();
            let text = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
            let manner = Manner {
                authorization: None,
                tenant: String::new(),
                headers: headers.iter().map(text).collect(),
                guarantee: Guarantee::AtMostOnce,
                trust: Trust::default(),
                proxy: None,
                secrets: Vec::new(),
                external: None,
            };
            ServerExporter::new("post+http://h".into(), Protocol::Post, url, manner).spool_name().unwrap()
        };
        let name = |url: &str| with(url, &[]);
        assert_eq!(name("h/in"), "post+http://h  /in");
        assert_ne!(with("h", &[("x-scope-orgid", "a")]), with("h", &[("x-scope-orgid", "b")]));
        assert_eq!(with("h", &[("x-key", "a")]), name("h"), "it may be a secret, and another one tomorrow");
        assert_eq!(name("1234:a@h/in"), "post+http://h  /in 1234");
        assert_ne!(name("1234:a@h/in"), name("1235:a@h/in"));
        assert_eq!(name("1234:a@h/in"), name("1234:b@h/in"), "a password may change");
        assert_eq!(name("0123456789abcdef@h/in"), name("h/in"), "a token may change");
    }

    #[test]
    fn what_is_too_old_for_a_server_is_not_sent() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let at = |seconds: i64| is_older(seconds * 1_000_000_000, PYROSCOPE, now);
        assert!(!at(10_000) && !at(7_000) && at(6_000));
        assert!(!at(20_000) && !at(0) && !at(-5), "clocks that were put right");
    }
}
