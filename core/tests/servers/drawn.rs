//! The flame graph drawn from what each place gives back is the one drawn from the local file: node for node, value for value.

use std::path::PathBuf;

use everprof::encode::Set;
use everprof::encode::flamegraph::{self, PageOptions};
use everprof::export::Outcome;
use everprof::profile::{Kind, Profile};

use crate::graph::{drawn_alike, of_file};
use crate::places::{self, Place};
use crate::program::Program;
use crate::sets::{exporter, now};
use crate::shop;

const KINDS: [Kind; 4] = [Kind::Cpu, Kind::Wall, Kind::Heap, Kind::Mutex];

/// Of profiles that have a bit of everything.
#[test]
fn all_that_a_stack_can_have_is_drawn_alike() {
    for place in places::all() {
        let sent = KINDS.map(|kind| (kind, shop::profile(kind, "1.0")));
        let profiles = place.dialect.encode(&sent);
        let tags = shop::tags("1.0");
        let endpoint_counts = std::collections::BTreeMap::new();
        let set = Set {
            tags,
            sequence: 0,
            time_nanos: now(),
            duration_nanos: 10_000_000_000,
            endpoint_counts,
            profiles,
        };
        let outcome = exporter(&[("push", &place.push)]).attempt(&set);
        assert!(matches!(outcome, Outcome::Sent), "{}: {outcome:?}", place.push);
        let local = sent.map(|(kind, profile)| (kind, of_file(kind, &profile)));
        is_drawn_alike("made", &place, &local);
    }
}

/// Of what a program recorded of itself, and sent everywhere at once.
#[test]
fn one_recording_is_drawn_alike_wherever_it_went() {
    let places = places::all();
    if places.is_empty() {
        return;
    }
    let push: Vec<&str> = places.iter().map(|place| place.push.as_str()).collect();
    let program = Program::start(&format!("dir,{}", push.join(",")), 3);
    let recorded = program.recorded(&KINDS);
    for place in &places {
        is_drawn_alike("recorded", place, &recorded);
    }
}

fn is_drawn_alike(name: &str, place: &Place, local: &[(Kind, Profile)]) {
    let mut nodes = 0;
    for (kind, profile) in local {
        for column in 0..profile.sample_types.len() {
            let back = place.read_back(*kind, profile, column);
            let what = format!("{} {kind:?} {column}", place.push);
            nodes += drawn_alike(&what, profile, column, &back);
            if profile.sample_types[column].name == "cpu" {
                keep_pages(name, place, &part(profile, column), &part(&back.profile, back.column));
            }
        }
    }
    println!("{}: {nodes} nodes of {} kinds are drawn as the local file is", place.push, local.len());
}

/// What there is of a value, as servers give it back.
fn part(profile: &Profile, column: usize) -> Profile {
    profile.filter(|sample| sample.values[column] != 0)
}

/// The two pages as files where the test in the browser finds them.
fn keep_pages(name: &str, place: &Place, here: &Profile, there: &Profile) {
    let Some(dir) = std::env::var_os("EVERPROF_TEST_SERVERS").map(|dir| PathBuf::from(dir).join("pages"))
    else {
        return;
    };
    std::fs::create_dir_all(&dir).unwrap();
    // Two may speak the same: what stands in for Pyroscope, and Pyroscope.
    let protocol = place.push.split(':').next().unwrap();
    let itself = if place.is_original { "-itself" } else { "" };
    for (file, profile) in
        [(format!("{name}.here"), here), (format!("{name}-{protocol}{itself}.there"), there)]
    {
        let page = flamegraph::html(profile, &PageOptions::default());
        std::fs::write(dir.join(format!("{file}.html")), page).unwrap();
    }
}
