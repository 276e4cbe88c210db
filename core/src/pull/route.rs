//! Which answer a request gets: at once, or after work that is not done here.
//!
//! The paths, parameters and words are those of Go's `net/http/pprof`, so that what reads Go's services reads ours.
//! Nothing here takes time, and nothing of a request is believed before it was looked at.

use super::answer::{Answer, TEXT};
use super::only::Only;
use super::request::{Method, Request};
use crate::profile::Kind;

/// The longest profile that may be asked for, in seconds.
pub(crate) const LONGEST: i64 = 600;

/// What follows from a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Now(Answer),
    Later(Work),
}

/// What has to be done for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A recording of so many seconds; as a `delta` it says what became of levels, such as that of the live heap.
    Record { name: String, kind: Kind, seconds: u64, form: Form, delta: bool, only: Only },
    /// The stacks of all threads, now, or what a kind has counted by now.
    Snapshot { name: String, kind: Kind, debug: i64, form: Form, only: Only },
    /// How threads change in so many seconds.
    Change { name: String, seconds: u64, form: Form, only: Only },
    /// The names of addresses.
    Symbols(Vec<u8>),
    /// The page that leads to the others.
    Index,
}

impl Work {
    /// Whether it takes the seconds that were asked for.
    pub(super) fn lasts(&self) -> bool {
        matches!(self, Work::Record { .. } | Work::Change { .. })
    }
}

/// What a profile is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Pprof,
    Page,
    Collapsed,
    Speedscope,
}

pub(super) fn decide(request: &Request) -> Decision {
    let Some(name) = name(&request.path) else { return Decision::Now(not_found()) };
    let posts = name == "symbol";
    match request.method {
        Method::Other => return Decision::Now(refused(posts)),
        Method::Post if !posts => return Decision::Now(refused(posts)),
        _ => {}
    }
    match (named(name, request), request.method) {
        // Only what is cheap is done for the sake of headers.
        (
            Decision::Later(work @ (Work::Record { .. } | Work::Snapshot { .. } | Work::Change { .. })),
            Method::Head,
        ) => Decision::Now(work.head()),
        (decision, _) => decision,
    }
}

/// The folder that ours is in.
pub(super) const PARENT: &str = "/debug/";

/// What is meant by a path; a program may have put ours behind a prefix of its own, which may be called as ours is. Only
/// what is spelled as it should be is known: no percent-encoding, no dots.
fn name(path: &str) -> Option<&str> {
    let tail = &path[path.rfind(PARENT)? + PARENT.len()..];
    match tail {
        "fgprof" | "pprof" => Some(tail),
        _ => tail.strip_prefix("pprof/"),
    }
}

fn named(name: &str, request: &Request) -> Decision {
    let now = |answer| Decision::Now(answer);
    match name {
        "" => Decision::Later(Work::Index),
        "pprof" => now(beside(&request.path)),
        "cmdline" => now(Answer::of(TEXT, command_line())),
        "symbol" if request.method == Method::Post => Decision::Later(Work::Symbols(request.body.clone())),
        "symbol" => Decision::Later(Work::Symbols(request.query.clone().into_bytes())),
        "profile" => recording(name, Kind::Cpu, request),
        "fgprof" => fgprof(request),
        "goroutine" | "threads" => snapshot(name, Kind::Threads, request),
        // Both have all four values of Go's; what is shown first differs.
        "heap" | "alloc" | "allocs" => snapshot(name, Kind::Heap, request),
        "lock" => snapshot(name, Kind::Lock, request),
        "mutex" => snapshot(name, Kind::Mutex, request),
        "block" => snapshot(name, Kind::Block, request),
        "gil" => snapshot(name, Kind::Gil, request),
        "delta_heap" | "delta_mutex" | "delta_block" => now(unknown(
            "what changed since the last request is not kept, since there may be several who ask: say over how many seconds, \
             as in heap?seconds=10",
        )),
        "threadcreate" => {
            now(unknown("who creates threads is not recorded; those that live are in /debug/pprof/threads"))
        }
        "trace" => {
            now(unknown("everprof writes no execution traces; what threads wait for is in /debug/pprof/wall"))
        }
        _ => match Kind::from_name(name) {
            Some(kind) => recording(name, kind, request),
            None => now(Answer::error(404, "Unknown profile")),
        },
    }
}

/// A profile of the next seconds: what is no number of seconds means 30, as in Go.
fn recording(name: &str, kind: Kind, request: &Request) -> Decision {
    let seconds = match request.value("seconds").parse::<i64>() {
        Ok(seconds) if seconds > 0 => seconds,
        _ => 30,
    };
    lasting(seconds, request, |seconds, form, only| Work::Record {
        name: name.to_string(),
        kind,
        seconds,
        form,
        delta: false,
        only,
    })
}

/// The wall clock as `felixge/fgprof` serves it, which is stricter about its parameters.
fn fgprof(request: &Request) -> Decision {
    let given = request.value("seconds");
    match given.parse::<i64>() {
        _ if given.is_empty() => recording("wall", Kind::Wall, request),
        Ok(seconds) if seconds > 0 => recording("wall", Kind::Wall, request),
        _ => Decision::Now(Answer::error(400, "bad seconds: give a positive whole number")),
    }
}

/// What there is now, or with `seconds` what changes; `gc=1` asks for something that there is not here, and is accepted.
fn snapshot(name: &str, kind: Kind, request: &Request) -> Decision {
    let given = request.value("seconds");
    let debug = request.number("debug");
    if given.is_empty() {
        return match form(request) {
            Ok((form, only)) => {
                Decision::Later(Work::Snapshot { name: name.to_string(), kind, debug, form, only })
            }
            Err(answer) => Decision::Now(answer),
        };
    }
    let Some(seconds) = given.parse::<i64>().ok().filter(|seconds| *seconds > 0) else {
        return Decision::Now(Answer::error(
            400,
            "invalid value for \"seconds\" - must be a positive integer",
        ));
    };
    if seconds <= LONGEST && debug != 0 {
        return Decision::Now(Answer::error(400, "seconds and debug params are incompatible"));
    }
    let name = name.to_string();
    lasting(seconds, request, |seconds, form, only| match kind {
        Kind::Threads => Work::Change { name, seconds, form, only },
        // An account counts for it from the beginning on, and begins where there is none.
        _ => Work::Record { name, kind, seconds, form, delta: true, only },
    })
}

fn lasting(seconds: i64, request: &Request, work: impl FnOnce(u64, Form, Only) -> Work) -> Decision {
    if seconds > LONGEST {
        // As Go refused what its server would not have had the time for.
        let reason =
            format!("profile duration exceeds the limit of this server: give at most {LONGEST} seconds");
        return Decision::Now(Answer::error(400, &reason));
    }
    match form(request) {
        Ok((form, only)) => Decision::Later(work(seconds.unsigned_abs(), form, only)),
        Err(answer) => Decision::Now(answer),
    }
}

fn form(request: &Request) -> Result<(Form, Only), Answer> {
    let form = match &*request.value("format") {
        "" | "pprof" => Form::Pprof,
        "html" => Form::Page,
        "collapsed" | "folded" => Form::Collapsed,
        "speedscope" => Form::Speedscope,
        _ => {
            let right = "unknown format: give pprof, html, collapsed (or folded) or speedscope";
            return Err(Answer::error(400, right));
        }
    };
    let only = Only::of(request).map_err(|problem| Answer::error(400, problem))?;
    Ok((form, only))
}

/// The arguments that the program was started with, as Go joins them.
fn command_line() -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;
    let arguments: Vec<Vec<u8>> = std::env::args_os().map(OsStringExt::into_vec).collect();
    arguments.join(&0)
}

/// The folder without its slash leads to itself, so that the links of its page are right.
fn beside(path: &str) -> Answer {
    let mut answer = Answer::elsewhere(if path == "/debug/pprof" { "/debug/pprof/" } else { "pprof/" });
    answer.status = 301;
    answer
}

/// Nothing of ours, in the words of Go's server.
pub(crate) fn not_found() -> Answer {
    let mut answer = Answer::of(TEXT, "404 page not found\n");
    answer.status = 404;
    answer
}

/// A profile that there is not, and why.
fn unknown(reason: &str) -> Answer {
    Answer::error(404, &format!("Unknown profile: {reason}"))
}

/// Pages of others may send a browser here to POST; nothing of ours changes anything, but recordings cost.
fn refused(posts: bool) -> Answer {
    let allowed = if posts { "GET, HEAD, POST" } else { "GET, HEAD" };
    Answer::error(405, &format!("the method is not allowed: give {allowed}")).with("Allow", allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str) -> Decision {
        decide(&Request { path: path.to_string(), query: query.to_string(), ..Request::default() })
    }

    fn status(decision: Decision) -> u16 {
        match decision {
            Decision::Now(answer) => answer.status,
            Decision::Later(_) => 200,
        }
    }

    #[test]
    fn seconds_are_read_by_gos_rules() {
        for (query, wanted) in [
            ("", 30),
            ("seconds=", 30),
            ("seconds=0", 30),
            ("seconds=-1", 30),
            ("seconds=1.5", 30),
            ("seconds=5", 5),
        ] {
            let Decision::Later(Work::Record { seconds, kind, .. }) = get("/debug/pprof/profile", query)
            else {
                unreachable!("{query}")
            };
            assert_eq!((seconds, kind), (wanted, Kind::Cpu), "{query}");
        }
        for (path, query, wanted) in [
            ("/debug/pprof/profile", "seconds=600", 200),
            ("/debug/pprof/profile", "seconds=601", 400),
            ("/debug/pprof/profile", "seconds=99999999999999999999", 200),
            ("/debug/pprof/goroutine", "seconds=0", 400),
            ("/debug/pprof/goroutine", "seconds=x", 400),
            ("/debug/pprof/goroutine", "seconds=1&debug=1", 400),
            ("/debug/pprof/goroutine", "seconds=1&debug=x", 200),
            ("/debug/pprof/goroutine", "seconds=9223372036854775807", 400),
            ("/debug/pprof/heap", "seconds=0", 400),
            ("/debug/pprof/heap", "gc=1", 200),
            ("/debug/pprof/allocs", "debug=1", 200),
            ("/debug/pprof/mutex", "seconds=1&debug=1", 400),
            ("/debug/pprof/block", "seconds=601", 400),
            ("/debug/pprof/lock", "format=html", 200),
            ("/debug/pprof/peak", "seconds=1", 200),
            ("/debug/pprof/delta_heap", "", 404),
            ("/debug/fgprof", "seconds=0", 400),
            ("/debug/fgprof", "format=folded&seconds=3", 200),
            ("/debug/fgprof", "format=svg", 400),
            ("/debug/pprof/heap", "label=tenant:a", 200),
            ("/debug/pprof/profile", "label=tenant", 400),
        ] {
            assert_eq!(status(get(path, query)), wanted, "{path}?{query}");
        }
    }

    #[test]
    fn only_paths_that_are_spelled_as_they_should_be_are_known() {
        for (path, wanted) in [
            ("/debug/pprof/", 200),
            ("/debug/pprof/wall", 200),
            ("/behind/a/prefix/debug/pprof/wall", 200),
            ("/debug/shop/debug/pprof/wall", 200),
            ("/debug/pprof", 301),
            // Of a program's own router: that it has no other page is not ours to say.
            ("/", 404),
            ("/debug/pprof/profile/", 404),
            ("/debug/pprof//profile", 404),
            ("/debug/pprof/../pprof/profile", 404),
            ("/debug/pprof/%70rofile", 404),
            ("/debug/pprof/profile%00", 404),
            ("/debug/", 404),
            ("/debug/pprofile", 404),
            ("", 404),
        ] {
            assert_eq!(status(get(path, "")), wanted, "{path}");
        }
    }

    #[test]
    fn methods_that_change_things_are_refused() {
        let ask = |method, path: &str| {
            status(decide(&Request { method, path: path.to_string(), ..Request::default() }))
        };
        assert_eq!(ask(Method::Post, "/debug/pprof/profile"), 405);
        assert_eq!(ask(Method::Other, "/debug/pprof/symbol"), 405);
        assert_eq!(ask(Method::Post, "/debug/pprof/symbol"), 200);
        assert_eq!(ask(Method::Head, "/debug/pprof/profile"), 200);
    }
}
