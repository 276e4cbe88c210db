//! The JSON of speedscope.app: one profile for each sample type, or for each thread and sample type.
//!
//! Richer than what speedscope makes of a pprof file, of which it reads one sample type and one function a
//! location: here inlined functions are frames of their own, and frames have their file and line. The viewer
//! wants values that are not negative, so what is is left out.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use super::frames::{Frame, bare_name, frames, function_name, label};
use super::json;
use crate::profile::{Profile, Sample, ValueType};

/// What to write. The default is one profile for each sample type.
///
/// ```
/// use everprof::encode::speedscope::Speedscope;
/// let by_thread = Speedscope::default().group_by("thread_name");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speedscope {
    group_by: Option<String>,
}

impl Speedscope {
    /// One profile for each value of this label and each sample type, such as one for each `thread_name`.
    pub fn group_by(mut self, key: impl Into<String>) -> Self {
        self.group_by = Some(key.into());
        self
    }

    /// `profile` as speedscope's JSON.
    pub fn encode(&self, profile: &Profile) -> String {
        let mut groups: BTreeMap<String, Vec<Sample<'_>>> = BTreeMap::new();
        for sample in profile.samples() {
            let group =
                self.group_by.as_deref().map(|key| label(profile, &sample, key).unwrap_or("-".into()));
            groups.entry(group.unwrap_or_default()).or_default().push(sample);
        }
        if groups.is_empty() {
            // The viewer wants at least one profile.
            groups.insert(String::new(), Vec::new());
        }
        let mut table = FrameTable::default();
        let mut profiles = Vec::new();
        let mut active = None;
        for (group, samples) in &groups {
            for (place, value_type) in profile.sample_types.iter().enumerate() {
                if value_type.name == profile.default_sample_type {
                    active.get_or_insert(profiles.len());
                }
                profiles.push(one_profile(profile, group, samples, place, value_type, &mut table));
            }
        }
        let name = profile.tags.get("service").map_or("everprof", String::as_str);
        format!(
            "{{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\
             \"exporter\":\"everprof@{}\",\"name\":{},\"activeProfileIndex\":{},\
             \"shared\":{{\"frames\":[{}]}},\"profiles\":[{}]}}\n",
            env!("CARGO_PKG_VERSION"),
            json::string(name),
            active.unwrap_or(0),
            table.json,
            profiles.join(",")
        )
    }
}

/// `profile` as speedscope's JSON, one profile for each sample type, the default one on top.
///
/// ```
/// use everprof::encode::speedscope;
/// use everprof::profile::{Kind, Profile};
/// let json = speedscope::encode(&Profile::new(Kind::Cpu));
/// assert!(json.contains(r#""unit":"nanoseconds""#));
/// ```
pub fn encode(profile: &Profile) -> String {
    Speedscope::default().encode(profile)
}

fn one_profile(
    profile: &Profile,
    group: &str,
    samples: &[Sample<'_>],
    place: usize,
    value_type: &ValueType,
    table: &mut FrameTable,
) -> String {
    let mut stacks = String::new();
    let mut weights = String::new();
    let mut end = 0i64;
    for sample in samples {
        let value = sample.values[place];
        if value <= 0 {
            continue;
        }
        separate(&mut stacks);
        separate(&mut weights);
        end = end.saturating_add(value);
        stacks.push('[');
        for (depth, frame) in frames(profile, sample).enumerate() {
            let id = table.id(profile, frame);
            // Writing into a string cannot fail.
            let _ = write!(stacks, "{}{id}", if depth == 0 { "" } else { "," });
        }
        stacks.push(']');
        let _ = write!(weights, "{value}");
    }
    let unit = match value_type.unit.as_str() {
        unit @ ("nanoseconds" | "microseconds" | "milliseconds" | "seconds" | "bytes") => unit,
        _ => "none",
    };
    let name =
        if group.is_empty() { value_type.name.clone() } else { format!("{group}: {}", value_type.name) };
    format!(
        "{{\"type\":\"sampled\",\"name\":{},\"unit\":\"{unit}\",\"startValue\":0,\"endValue\":{end},\
         \"samples\":[{stacks}],\"weights\":[{weights}]}}",
        json::string(&name)
    )
}

fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push(',');
    }
}

/// The frames that all profiles of a file share.
#[derive(Default)]
struct FrameTable {
    index: HashMap<Frame, usize>,
    json: String,
}

impl FrameTable {
    fn id(&mut self, profile: &Profile, frame: Frame) -> usize {
        let next = self.index.len();
        *self.index.entry(frame).or_insert_with(|| {
            separate(&mut self.json);
            push_frame(&mut self.json, profile, frame);
            next
        })
    }
}

fn push_frame(out: &mut String, profile: &Profile, frame: Frame) {
    out.push_str("{\"name\":");
    match frame {
        Frame::Function(id, line) => {
            json::push_string(out, function_name(profile, id));
            let file = profile.text(profile.get_function(id).filename);
            if !file.is_empty() {
                out.push_str(",\"file\":");
                json::push_string(out, file);
            }
            if line > 0 {
                let _ = write!(out, ",\"line\":{line}");
            }
        }
        Frame::Bare(id) => json::push_string(out, &bare_name(profile, profile.get_location(id))),
        // Groups are profiles of their own here, not frames.
        Frame::Root(_) => json::push_string(out, ""),
    }
    out.push('}');
}
