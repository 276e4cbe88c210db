//! Flame graphs as web pages: one self-contained file each, which opens without a network.
//!
//! Called on our own thread or by any program that has a [`Profile`]. The page is data (see `data.rs`) and a script that
//! shows it; they know of each other only the data's format, so that later kinds of profile change one of them.
//!
//! It refuses: code of others, requests of any kind (its Content-Security-Policy allows none), and markup in names: every
//! text of a profile reaches the page as text.
//!
//! Frames are merged by function name and siblings sorted by name, so that two pages of one program look alike. Colours
//! mean what the page's legend says and nothing else.

mod assets;
mod columns;
mod data;
mod frames;
mod rows;
mod text;
mod timeline;
mod tree;

use crate::profile::{Kind, Profile};
use data::Data;
pub(crate) use timeline::Span;
pub use timeline::Timeline;

/// How a page is to look when it opens. The defaults suit: `PageOptions::default()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageOptions {
    /// The page's title; when empty (the default) it is made of the profile's service and version tags.
    pub title: String,
    /// Where the roots of the stacks are.
    pub orientation: Orientation,
}

/// Which way stacks grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// From the top down; the default, since the first screen shows the first callers.
    #[default]
    Icicle,
    /// From the bottom up.
    Flame,
}

/// A page with the flame graph of `profile`, its top functions, callers and callees.
///
/// Values are shown exactly as they are in the profile. Frames whose location has no address, no mapping and a name in
/// brackets that says `lost` or `truncated` (such as `[lost: ring full]`) are marked as what they are.
///
/// ```
/// use everprof::encode::flamegraph::{self, PageOptions};
/// use everprof::profile::{Function, Kind, Line, Location, Profile};
/// let mut profile = Profile::new(Kind::Cpu);
/// let name = profile.string("main");
/// let function = profile.function(Function { name, ..Function::default() });
/// let lines = vec![Line { function, line: 7, column: 0 }];
/// let location = profile.location(Location { address: 0x1000, lines, ..Location::default() });
/// let (stack, labels) = (profile.stack(&[location]), profile.labels(&[]));
/// profile.add(stack, labels, &[1, 10_101_010]);
/// let page = flamegraph::html(&profile, &PageOptions { title: "example".into(), ..PageOptions::default() });
/// assert!(page.starts_with("<!DOCTYPE html>"));
/// ```
pub fn html(profile: &Profile, options: &PageOptions) -> String {
    let title = title(options, || name(profile));
    assets::page(&title, |out| {
        Data::of(&[profile]).write(out, "profile", &title, orientation(options), None);
    })
}

/// A page with one profile of each kind, such as `cpu` and `wall`, taken of the same service at the same time: the graph
/// of one is a click away from the other's, and the verdict of the wall clock stands above both.
///
/// ```
/// use everprof::encode::flamegraph::{self, PageOptions};
/// use everprof::profile::{Kind, Profile};
/// let (cpu, wall) = (Profile::new(Kind::Cpu), Profile::new(Kind::Wall));
/// let page = flamegraph::kinds_html(&[("cpu", &cpu), ("wall", &wall)], &PageOptions::default());
/// assert!(page.starts_with("<!DOCTYPE html>"));
/// ```
pub fn kinds_html(profiles: &[(&str, &Profile)], options: &PageOptions) -> String {
    let empty = [("cpu", &Profile::new(Kind::Cpu))];
    let profiles = if profiles.is_empty() { &empty } else { profiles };
    let title = title(options, || profiles.first().map_or_else(String::new, |(_, profile)| name(profile)));
    assets::page(&title, |out| {
        Data::of_kinds(profiles).write(out, "profile", &title, orientation(options), None);
    })
}

/// A page with the difference of two profiles: what grew is red, what shrank is blue, and both carry a sign.
///
/// Values are compared per second of each profile's duration, or by their share of all where a duration is 0. The table
/// of functions names those that grew most, with the significance that the sample counts give. Sample types that
/// only one of the two has are left out.
///
/// ```
/// use everprof::encode::flamegraph::{self, PageOptions};
/// use everprof::profile::{Kind, Profile};
/// let (mut before, mut after) = (Profile::new(Kind::Cpu), Profile::new(Kind::Cpu));
/// before.tags.insert("version".into(), "1.0".into());
/// after.tags.insert("version".into(), "1.1".into());
/// let page = flamegraph::diff_html(&before, &after, &PageOptions::default());
/// assert!(page.contains("1.0 → 1.1"));
/// ```
pub fn diff_html(before: &Profile, after: &Profile, options: &PageOptions) -> String {
    let title = title(options, || match (before.tags.get("version"), after.tags.get("version")) {
        (Some(old), Some(new)) if old != new => format!("{} {old} → {new}", service(after)),
        _ => format!("{}: before and after", name(after)),
    });
    assets::page(&title, |out| {
        Data::of(&[before, after]).write(out, "diff", &title, orientation(options), None);
    })
}

/// A page of ours that is no flame graph, in the same look: `body` is markup whose texts are [`escaped`].
pub(crate) fn plain_page(title: &str, style: &str, body: &str) -> String {
    assets::plain(title, style, body)
}

/// `text` so that HTML shows it as it is.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text::html_text(&mut out, text);
    out
}

fn title(options: &PageOptions, otherwise: impl FnOnce() -> String) -> String {
    if options.title.is_empty() { otherwise() } else { options.title.clone() }
}

fn name(profile: &Profile) -> String {
    match profile.tags.get("version") {
        Some(version) if version != "unknown" => format!("{} {version}", service(profile)),
        _ => service(profile).to_owned(),
    }
}

fn service(profile: &Profile) -> &str {
    profile.tags.get("service").map_or("Profile", |service| service)
}

fn orientation(options: &PageOptions) -> &'static str {
    match options.orientation {
        Orientation::Icicle => "icicle",
        Orientation::Flame => "flame",
    }
}
