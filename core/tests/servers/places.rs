//! Where one and the same profiles are sent, and what each place gives back of them: all that `make test-servers` has built.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use everprof::encode::Dialect;
use everprof::profile::{Kind, Profile};

use crate::Running;
use crate::graph::Back;
use crate::{datadog, grafana, has_grpc, otelcol, otlp_read, parca, pyroscope};

/// What a place has of a value of a kind, given the local profile: none where it has nothing yet.
type Has = dyn Fn(Kind, &Profile, usize) -> Option<Back>;

/// A server that runs, with what it has.
pub(crate) struct Place {
    pub(crate) push: String,
    pub(crate) dialect: Dialect,
    /// Whether another place, which stands in for it, speaks the same.
    pub(crate) is_original: bool,
    has: Box<Has>,
    _running: Running,
}

impl Place {
    /// What it has of a value, once that is all of it; after some seconds what it has then.
    pub(crate) fn read_back(&self, kind: Kind, local: &Profile, column: usize) -> Back {
        let mut last = None;
        for _ in 0..100 {
            last = (self.has)(kind, local, column);
            let whole = local.totals()[column];
            if last.as_ref().is_some_and(|back| back.profile.totals()[back.column] == whole * back.scale) {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        last.unwrap_or_else(|| panic!("{} has nothing of {kind:?} {column}", self.push))
    }
}

/// All places that there are.
pub(crate) fn all() -> Vec<Place> {
    let mut schemes = vec!["http"];
    if has_grpc("a part of what is drawn") {
        schemes.push("grpc");
    }
    let over = |place: fn(&str) -> Option<Place>| schemes.iter().filter_map(move |scheme| place(scheme));
    over(of_parca)
        .chain(over(of_collector))
        .chain(of_stand_in())
        .chain(of_datadog())
        .chain(of_grafana())
        .collect()
}

fn of_parca(scheme: &str) -> Option<Place> {
    let (running, port) = parca::parca("")?;
    let has = move |kind: Kind, local: &Profile, column: usize| {
        let (id, scale) = parca::asked(kind, local, column)?;
        let profile = parca::find(port, &id)?;
        Some(Back { profile, column: 0, scale, marks: true })
    };
    let push = format!("parca+{scheme}://127.0.0.1:{port}");
    Some(Place { push, dialect: Dialect::Parca, is_original: false, has: Box::new(has), _running: running })
}

/// What the Collector wrote into a file.
fn of_collector(scheme: &str) -> Option<Place> {
    let collector = otelcol::collector("")?;
    let port = if scheme == "grpc" { collector.grpc } else { collector.http };
    let dir = collector.running.dir.clone();
    let has = move |kind: Kind, local: &Profile, column: usize| {
        let requests = otelcol::written(&dir, 1);
        let is_it = |(scope, profile): &(String, Profile)| {
            Some(scope.as_str()) == parca::name(kind) && profile.sample_types[0] == local.sample_types[column]
        };
        let profile = merged(requests.iter().flat_map(otlp_read::profiles).filter(is_it).map(|(_, of)| of))?;
        Some(Back { profile, column: 0, scale: 1, marks: true })
    };
    let push = format!("otlp+{scheme}://127.0.0.1:{port}");
    Some(Place {
        push,
        dialect: Dialect::Otlp,
        is_original: false,
        has: Box::new(has),
        _running: collector.running,
    })
}

/// What stands in for Pyroscope has each profile as it came.
fn of_stand_in() -> Option<Place> {
    let (running, port) = pyroscope::pyroscope(&[])?;
    let has = move |kind: Kind, _: &Profile, column: usize| {
        let of_kind = |(_, labels, _): &(String, BTreeMap<String, String>, Profile)| {
            labels["__name__"] == pyroscope::name(kind)
        };
        let profile = merged(pyroscope::pushed(port).into_iter().filter(of_kind).map(|(_, _, of)| of))?;
        Some(Back { profile, column, scale: 1, marks: true })
    };
    let push = format!("pyroscope+http://127.0.0.1:{port}");
    Some(Place {
        push,
        dialect: Dialect::Pyroscope,
        is_original: false,
        has: Box::new(has),
        _running: running,
    })
}

fn of_datadog() -> Option<Place> {
    let bin = datadog::tools()?;
    let (running, port) = datadog::agent(&bin);
    let has = move |kind: Kind, _: &Profile, column: usize| {
        let uploads = datadog::uploads(&bin, port, "everprof");
        let file = format!("{}.pprof", kind.name());
        let profile = merged(uploads.into_iter().filter_map(|mut upload| upload.profiles.remove(&file)))?;
        Some(Back { profile, column, scale: 1, marks: true })
    };
    let push = format!("datadog+http://127.0.0.1:{port}");
    Some(Place { push, dialect: Dialect::Datadog, is_original: false, has: Box::new(has), _running: running })
}

/// Pyroscope itself, where there is one.
fn of_grafana() -> Option<Place> {
    let (running, port) = grafana::grafana(&[])?;
    let has = move |kind: Kind, local: &Profile, column: usize| {
        let profile = grafana::merged(port, &grafana::id(kind, local, column))?;
        // What was of no object file is of the first.
        Some(Back { profile, column: 0, scale: 1, marks: false })
    };
    let push = format!("pyroscope+http://127.0.0.1:{port}");
    Some(Place {
        push,
        dialect: Dialect::Pyroscope,
        is_original: true,
        has: Box::new(has),
        _running: running,
    })
}

fn merged(profiles: impl Iterator<Item = Profile>) -> Option<Profile> {
    profiles.reduce(|mut sum, other| {
        sum.merge(&other).unwrap();
        sum
    })
}
