//! The page at `/debug/pprof/`: what there is to fetch, what the last period said, and what everprof knows of itself.
//!
//! One HTML document without a script and without requests of its own; every text of the program reaches it as text.

use std::fmt::Write;
use std::time::Duration;

use super::route::LONGEST;
use super::source::About;
use crate::encode::flamegraph::{escaped, plain_page};
use crate::profile::{Activity, Group, Kind, Verdict};
use crate::stats::Stats;

const STYLE: &str = include_str!("index.css");

/// What can be fetched, and what it is; those that last some seconds have a form to choose how many.
const TIMED: [(&str, &str, &str); 3] = [
    ("profile", "cpu", "CPU time of every thread, by stack. Where a busy service spends its processors."),
    ("wall", "wall", "All time of every thread, running or waiting, by stack, state and system call."),
    ("offcpu", "offcpu", "Only the time in which threads wait, by stack and by what they wait for."),
];

/// What is there at once: its path, what it is, and links to its forms.
type AtOnce = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const AT_ONCE: [AtOnce; 3] = [
    (
        "threads",
        "The stacks of all live threads at this moment, with names and states; also as goroutine.",
        &[
            ("flame graph", "threads?format=html"),
            ("text", "threads?debug=1"),
            ("one by one", "threads?debug=2"),
            ("pprof file", "threads"),
        ],
    ),
    ("cmdline", "The arguments that the program was started with.", &[("text", "cmdline")]),
    ("symbol", "The names of addresses, for tools that ask for them.", &[("text", "symbol")]),
];

/// What is there at once where it is among the kinds, and for a stretch of time where it is not: its path, the kinds that make
/// it known, and what it is.
type Followed = (&'static str, &'static [Kind], &'static str);

const FOLLOWED: [Followed; 6] = [
    ("heap", OF_HEAP, "What is allocated and lives now, by stack and age. Where memory is."),
    ("allocs", OF_HEAP, "All that was allocated since the heap is followed. Who keeps the allocator busy."),
    ("mutex", OF_LOCKS, "Waits for locks, by who held them: whose work made others wait."),
    ("lock", OF_LOCKS, "Waits for locks, by who waited."),
    (
        "block",
        OF_LOCKS,
        "Every wait of a thread for another: for locks, conditions, channels, and to be woken.",
    ),
    ("gil", OF_TURNS, "Waits for the lock by which a runtime's threads take turns, such as Python's."),
];
const OF_HEAP: &[Kind] = &[Kind::Heap, Kind::Alloc, Kind::Peak];
const OF_LOCKS: &[Kind] = &[Kind::Lock, Kind::Mutex, Kind::Block];
const OF_TURNS: &[Kind] = &[Kind::Gil];

const MISSING: [(&str, &str); 2] =
    [("threadcreate", "see threads"), ("trace", "no execution traces are written; see wall")];

pub(super) fn page(about: &About) -> String {
    let tag =
        |key: &str| about.tags.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value.as_str());
    let (service, version) = (tag("service"), tag("version"));
    let title =
        if matches!(version, "" | "unknown") { service.to_string() } else { format!("{service} {version}") };
    let mut body = String::new();
    let _ = write!(
        body,
        "<header><h1>{}</h1><p>/debug/pprof/ of process {}</p><ul class=\"tags\">",
        escaped(&title),
        std::process::id()
    );
    for (key, value) in about.tags.iter().filter(|(key, _)| key != "service" && key != "version") {
        let _ = write!(
            body,
            "<li><span class=\"key\">{}</span><span>{}</span></li>",
            escaped(key),
            escaped(value)
        );
    }
    body.push_str("</ul></header>\n<main>\n");
    verdict(&mut body, about);
    kinds(&mut body, about);
    own(&mut body, &about.stats);
    body.push_str("</main>\n");
    plain_page(&format!("{title}: profiles"), STYLE, &body)
}

fn verdict(body: &mut String, about: &About) {
    body.push_str("<section id=\"verdict\"><h2>The last period</h2>");
    match &about.verdict {
        Some(verdict) => {
            let _ = write!(body, "<p class=\"verdict\">{}</p>", escaped(&verdict.to_string()));
            shares(body, verdict);
            let threads = verdict.groups.iter().map(|group| (group, "")).filter(|(group, _)| group.total() > 0);
            groups(body, "Threads", threads);
            // By the labels of the program: of a service whose threads are shared by all, what it does for whom.
            let requests = verdict.requests.iter();
            let requests = requests
                .map(|request| (&request.group, request.waits_in.first().map_or("", String::as_str)));
            groups(body, "Requests", requests);
        }
        None if about.kinds.contains(&Kind::Wall) => {
            let _ = write!(
                body,
                "<p>The verdict, whether the service is CPU-bound or wait-bound, comes with the first period of {} s.</p>",
                about.period_s
            );
        }
        None => body.push_str(
            "<p>Whether the service is CPU-bound or wait-bound is known here where the wall clock is recorded all the time: \
             set <code>kinds=cpu,wall</code>. Of the next seconds the page of \
             <a href=\"wall?seconds=5&amp;format=html\">wall</a> says it.</p>",
        ),
    }
    body.push_str("</section>\n");
}

/// The parts of the time at work as one bar, and its legend.
fn shares(body: &mut String, verdict: &Verdict) {
    let parts: Vec<(Activity, u64)> = Activity::ALL
        .into_iter()
        .filter(|activity| *activity != Activity::Idle)
        .map(|activity| (activity, verdict.all.nanos.get(&activity).copied().unwrap_or_default()))
        .filter(|(_, nanos)| *nanos > 0)
        .collect();
    let all: u64 = parts.iter().map(|(_, nanos)| nanos).sum();
    if all == 0 {
        return;
    }
    let percent = |nanos: u64| 100.0 * nanos as f64 / all as f64;
    body.push_str(
        "<svg class=\"bar\" viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
    );
    let mut at = 0.0;
    for (activity, nanos) in &parts {
        let width = percent(*nanos);
        let _ = write!(
            body,
            "<rect class=\"{}\" x=\"{at:.3}\" width=\"{width:.3}\" height=\"1\"/>",
            class(*activity)
        );
        at += width;
    }
    body.push_str("</svg><ul class=\"legend\">");
    for (activity, nanos) in &parts {
        let (class, share, name) = (class(*activity), percent(*nanos), activity.name());
        let _ = write!(
            body,
            "<li><svg viewBox=\"0 0 1 1\" preserveAspectRatio=\"none\"><rect class=\"{class}\" width=\"1\" height=\"1\"/></svg>{share:.1} % {name}</li>"
        );
    }
    body.push_str("</ul>");
}

/// What each group did most, and where it waited for that, if that is known; nothing where there are none.
fn groups<'v>(body: &mut String, of: &str, groups: impl Iterator<Item = (&'v Group, &'v str)>) {
    const SHOWN: usize = 8;
    let mut groups = groups.take(SHOWN).peekable();
    if groups.peek().is_none() {
        return;
    }
    let _ = write!(
        body,
        "<table class=\"groups\"><thead><tr><th>{of}</th><th>Time</th><th>On CPU</th><th>Otherwise mostly</th></tr></thead><tbody>"
    );
    for (group, place) in groups {
        let most = group
            .nanos
            .iter()
            .filter(|(activity, _)| **activity != Activity::OnCpu)
            .max_by_key(|(_, nanos)| **nanos);
        let otherwise = most.map_or(String::new(), |(activity, _)| {
            format!("{} ({:.0} %)", activity.name(), 100.0 * group.share(*activity))
        });
        let within =
            if place.is_empty() { String::new() } else { format!(" in <code>{}</code>", escaped(place)) };
        let _ = write!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{:.1} %</td><td>{otherwise}{within}</td></tr>",
            escaped(&group.name),
            time(Duration::from_nanos(group.total())),
            100.0 * group.share(Activity::OnCpu)
        );
    }
    body.push_str("</tbody></table>");
}

fn kinds(body: &mut String, about: &About) {
    body.push_str("<section><h2>Profiles</h2>\n<table class=\"kinds\"><tbody>\n");
    for (path, kind, about) in TIMED {
        if Kind::from_name(kind).is_none() {
            continue;
        }
        let _ = write!(
            body,
            "<tr><th id=\"{path}\"><a href=\"{path}?seconds=5&amp;format=html\">{path}</a></th><td>{about}</td><td>"
        );
        form(body, path);
        body.push_str("</td></tr>\n");
    }
    for (path, kinds, what) in FOLLOWED {
        let stats = &about.stats;
        let count = if kinds == OF_HEAP { stats.alloc_samples } else { stats.lock_samples };
        // Where it is not followed, there is nothing yet, and hooks are installed for the seconds that are asked for.
        let is_followed = kinds.iter().any(|kind| about.kinds.contains(kind));
        // Most programs have no such lock.
        if kinds == OF_TURNS && !is_followed {
            continue;
        }
        let link = if is_followed { "" } else { "seconds=5&amp;" };
        let _ = write!(
            body,
            "<tr><th id=\"{path}\"><a href=\"{path}?{link}format=html\">{path}</a></th><td>{what}</td><td class=\"links\">"
        );
        if is_followed {
            let _ = write!(
                body,
                "<span>{count} samples:</span> <a href=\"{path}?format=html\">flame graph</a> <a href=\"{path}?debug=1\">text</a> \
                 <a href=\"{path}\">pprof file</a>; or what changes in "
            );
        }
        form(body, path);
        body.push_str("</td></tr>\n");
    }
    for (path, about, links) in AT_ONCE {
        let _ = write!(
            body,
            "<tr><th><a href=\"{}\">{path}</a></th><td>{about}</td><td class=\"links\">",
            links[0].1
        );
        for (text, link) in links {
            let _ = write!(body, "<a href=\"{link}\">{text}</a> ");
        }
        body.push_str("</td></tr>\n");
    }
    for (name, why) in MISSING {
        let _ = writeln!(body, "<tr class=\"missing\"><th>{name}</th><td>{why}</td><td></td></tr>");
    }
    body.push_str(
        "</tbody></table>\n<p class=\"hint\">For the command line: <code>go tool pprof -http=: \
         <i>this address</i>profile?seconds=10</code></p></section>\n",
    );
}

/// A form that asks for some seconds of it.
fn form(body: &mut String, path: &str) {
    let _ = write!(
        body,
        "<form action=\"{path}\"><label><input name=\"seconds\" type=\"number\" min=\"1\" max=\"{LONGEST}\" value=\"5\" \
         aria-label=\"Seconds of {path}\"> s</label>\
         <button name=\"format\" value=\"html\">Flame graph</button>\
         <button name=\"format\" value=\"pprof\">pprof</button>\
         <button name=\"format\" value=\"speedscope\">speedscope</button>\
         <button name=\"format\" value=\"collapsed\">collapsed</button></form>"
    );
}

/// What everprof knows of itself.
fn own(body: &mut String, stats: &Stats) {
    let mut rows = vec![
        (
            "Rate",
            format!("{:.0} Hz of {:.0} Hz asked for{}", stats.rate_hz, stats.wanted_rate_hz, held(stats)),
        ),
        ("Samples", format!("{}, and {} lost", stats.samples, stats.lost)),
        (
            "CPU time sampled",
            format!("{} of {} that the process used", time(stats.sampled_cpu), time(stats.process_cpu)),
        ),
        (
            "Cost",
            format!(
                "{}, {:.2} % of the process's CPU time",
                time(stats.own_cpu()),
                100.0 * stats.own_share()
            ),
        ),
        ("Memory", format!("{:.1} MiB", stats.memory_bytes as f64 / f64::from(1 << 20))),
        ("Threads", stats.threads.to_string()),
        ("Periods", periods(stats)),
        ("Exported", format!("{} profile sets, {} failed", stats.exported, stats.export_failures)),
        ("Answered here", format!("{} requests, {} refused", stats.serve_requests, stats.serve_refused)),
    ];
    if let Some(problem) = &stats.last_problem {
        rows.push(("Last problem", problem.clone()));
    }
    body.push_str("<section><h2>everprof itself</h2><table class=\"own\"><tbody>");
    for (name, text) in rows {
        let _ = write!(body, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&text));
    }
    let _ = writeln!(
        body,
        "</tbody></table><p class=\"hint\">everprof {}</p></section>",
        env!("CARGO_PKG_VERSION")
    );
}

/// Whether profiles of periods are taken, and why.
fn periods(stats: &Stats) -> String {
    let kinds = if stats.active { stats.active_kinds.join(", ") } else { "nothing is taken now".to_string() };
    if stats.active_reason.is_empty() { kinds } else { format!("{kinds}: {}", stats.active_reason) }
}

fn held(stats: &Stats) -> &'static str {
    // What is held down may be samples of allocations or of waits alone.
    let is_rate = stats.rate_hz < stats.wanted_rate_hz;
    if stats.throttled && is_rate { ", held down by cpu_budget_percent" } else { "" }
}

fn class(activity: Activity) -> &'static str {
    match activity {
        Activity::OnCpu => "on-cpu",
        Activity::Runnable => "ready",
        Activity::Network => "network",
        Activity::Disk => "disk",
        Activity::Lock => "lock",
        Activity::Thread => "thread",
        Activity::Timer => "timer",
        Activity::Idle => "idle",
        _ => "other",
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 100.0 => format!("{seconds:.0} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Function, Label, Line, Location, Profile};

    #[test]
    fn what_requests_wait_for_is_told_by_their_labels() {
        let mut profile = Profile::new(Kind::Wall);
        let name = profile.string("shop::<Stock>::fetch");
        let function = profile.function(Function { name, ..Function::default() });
        let lines = vec![Line { function, line: 0, column: 0 }];
        let place = profile.location(Location { lines, address: 1, ..Location::default() });
        let stack = profile.stack(&[place]);
        for (state, wait, nanos) in [("on_cpu", "", 10), ("awaiting", "network", 90)] {
            let labels = [("endpoint", "/<list>"), ("state", state), ("wait", wait)]
                .map(|(key, value)| Label::text(key, value));
            let labels = profile.labels(&labels);
            profile.add(stack, labels, &[1, nanos]);
        }
        let page = page(&About { verdict: profile.verdict().ok(), ..About::default() });
        let row = "<td>endpoint=/&lt;list&gt;</td><td>0.0 ms</td><td>10.0 %</td><td>waiting for the network (90 %) in \
                   <code>shop::&lt;Stock&gt;::fetch</code></td>";
        assert!(page.contains("<th>Requests</th>") && page.contains(row), "{page}");
    }

    #[test]
    fn without_a_verdict_the_page_leads_to_one() {
        assert!(
            page(&About::default()).contains("<a href=\"wall?seconds=5&amp;format=html\">wall</a> says it")
        );
        let about = About { kinds: vec![Kind::Wall], period_s: 60, ..About::default() };
        assert!(page(&about).contains("comes with the first period of 60 s"));
    }

    #[test]
    fn nothing_of_the_program_becomes_markup() {
        let about = About {
            tags: vec![
                ("service".into(), "<script>alert(1)</script>".into()),
                ("x\"y".into(), "'><img src=x>".into()),
            ],
            stats: Stats { last_problem: Some("<b>".into()), ..Stats::default() },
            ..About::default()
        };
        let page = page(&about);
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(page.contains("default-src 'none'"), "{page}");
    }
}
