//! Collapsed stacks: one line a stack, root first, and its value. The format that every flame graph tool
//! reads.
//!
//! ```text
//! main;shop::serve;memcpy 30303030
//! ```
//!
//! One sample type and no labels; what a name may not hold is replaced: `;` by `:`, and line breaks by
//! spaces. Lines come in the order in which the profile has its stacks, each stack once. Values of zero or
//! less are left out, because no reader expects them.

use std::collections::HashMap;

use super::frames::{Frame, Roots, bare_name, frames, function_name};
use crate::error::Result;
use crate::profile::Profile;

/// What to write. The default is the default sample type, with nothing added to the stacks.
///
/// ```
/// use everprof::encode::collapsed::Collapsed;
/// let by_thread = Collapsed::default().sample_type("samples").root_label("thread_name");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collapsed {
    sample_type: Option<String>,
    root_labels: Vec<String>,
}

impl Collapsed {
    /// The values of this sample type, such as `samples`.
    pub fn sample_type(mut self, name: impl Into<String>) -> Self {
        self.sample_type = Some(name.into());
        self
    }

    /// A frame for the value of this label at the root of each stack; given several times, in this order.
    pub fn root_label(mut self, key: impl Into<String>) -> Self {
        self.root_labels.push(key.into());
        self
    }

    /// The stacks of `profile`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidData`] where the profile has no such sample type, naming those that it has.
    pub fn encode(&self, profile: &Profile) -> Result<String> {
        let place = profile.find_sample_type(self.sample_type.as_deref())?;
        let mut names = Names::default();
        let mut roots = Roots::default();
        let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut stacks: Vec<(Vec<u32>, i64)> = Vec::new();
        for sample in profile.samples() {
            let value = sample.values[place];
            let mut stack = Vec::new();
            for key in &self.root_labels {
                let root = roots.frame(profile, &sample, key);
                stack.push(names.id(profile, &roots, root));
            }
            stack.extend(frames(profile, &sample).map(|frame| names.id(profile, &roots, frame)));
            let line = *index.entry(stack).or_insert_with_key(|stack| {
                stacks.push((stack.clone(), 0));
                stacks.len() - 1
            });
            stacks[line].1 = stacks[line].1.saturating_add(value);
        }
        let mut out = String::new();
        for (stack, value) in stacks.iter().filter(|(stack, value)| !stack.is_empty() && *value > 0) {
            for (depth, &name) in stack.iter().enumerate() {
                if depth > 0 {
                    out.push(';');
                }
                out.push_str(&names.texts[name as usize]);
            }
            out.push_str(&format!(" {value}\n"));
        }
        Ok(out)
    }
}

/// The stacks of `profile` in its default sample type.
///
/// # Errors
/// [`crate::ErrorKind::InvalidData`] where the profile has no sample types.
///
/// ```
/// use everprof::encode::collapsed;
/// use everprof::profile::{Function, Kind, Line, Location, Profile};
/// let mut profile = Profile::new(Kind::Cpu);
/// let name = profile.string("main");
/// let function = profile.function(Function { name, ..Function::default() });
/// let lines = vec![Line { function, line: 7, column: 0 }];
/// let main = profile.location(Location { lines, ..Location::default() });
/// let (stack, labels) = (profile.stack(&[main]), profile.labels(&[]));
/// profile.add(stack, labels, &[1, 10_101_010]);
/// assert_eq!(collapsed::encode(&profile).unwrap(), "main 10101010\n");
/// ```
pub fn encode(profile: &Profile) -> Result<String> {
    Collapsed::default().encode(profile)
}

/// Frames by the text they have in the file: two of the same text are one.
#[derive(Default)]
struct Names {
    of_frame: HashMap<Frame, u32>,
    of_text: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Names {
    fn id(&mut self, profile: &Profile, roots: &Roots, frame: Frame) -> u32 {
        // Lines within a function do not matter here.
        let frame = match frame {
            Frame::Function(id, _) => Frame::Function(id, 0),
            frame => frame,
        };
        if let Some(&id) = self.of_frame.get(&frame) {
            return id;
        }
        let text = match frame {
            Frame::Function(id, _) => clean(function_name(profile, id)),
            Frame::Bare(id) => clean(&bare_name(profile, profile.get_location(id))),
            Frame::Root(place) => clean(roots.text(place)),
        };
        let id = *self.of_text.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            (self.texts.len() - 1) as u32
        });
        self.of_frame.insert(frame, id);
        id
    }
}

fn clean(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            ';' => ':',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}
