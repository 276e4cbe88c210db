//! The model of one profile: profile.proto's, as interned tables with typed handles.
//!
//! Built by the aggregator at the end of a period and by the readers of `encode`; read by the encoders, the
//! merge and the diff. Every table interns: the same string, function, location or stack is stored once, so
//! that equality of handles is equality of content within one profile. Handles of one profile mean nothing in
//! another.

mod hash;
mod kind;
mod locations;
mod merge;
mod samples;
mod signals;
mod stable;
mod table;
mod verdict;

pub use kind::{Kind, ValueType};
pub use locations::{Function, FunctionId, Line, Location, LocationId, Mapping, MappingId};
pub use samples::{Label, LabelValue, LabelsId, Sample, StackId};
pub(crate) use samples::{Loose, Samples};
pub(crate) use signals::EFFECTIVE_RATE;
pub(crate) use stable::{is_place, nameless, title};
pub use table::StringId;
pub(crate) use verdict::{AT_WORK, CROWDED, MOST, TASKS, WORKS, come_soon, is_of_application};
pub use verdict::{Activity, Bound, Group, Request, Verdict};

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use table::{Lists, Strings, Table};

/// One profile: what was sampled in one stretch of time, of one [`Kind`].
///
/// ```
/// use everprof::profile::{Function, Kind, Label, Line, Location, Profile};
/// let mut profile = Profile::new(Kind::Cpu);
/// let name = profile.string("main");
/// let function = profile.function(Function { name, ..Function::default() });
/// let lines = vec![Line { function, line: 7, column: 0 }];
/// let location = profile.location(Location { address: 0x1000, lines, ..Location::default() });
/// let stack = profile.stack(&[location]);
/// let labels = profile.labels(&[Label::text("tenant", "a")]);
/// profile.add(stack, labels, &[1, 10_101_010]);
/// profile.add(stack, labels, &[2, 20_202_020]);
/// assert_eq!(profile.samples().next().unwrap().values, [3, 30_303_030]);
/// ```
#[derive(Clone, Debug)]
pub struct Profile {
    /// What the values count, in order.
    pub sample_types: Vec<ValueType>,
    /// Name of the sample type a viewer shows first.
    pub default_sample_type: String,
    /// What one period is measured in.
    pub period_type: ValueType,
    /// Mean distance of two samples, in units of `period_type`.
    pub period: i64,
    /// Start of the period, nanoseconds since the Unix epoch.
    pub time_nanos: i64,
    /// Length of the period on the monotonic clock, nanoseconds; 0 for a snapshot.
    pub duration_nanos: i64,
    /// Tags of the deployment: service, version, env, host, pod, instance and the user's own.
    pub tags: BTreeMap<String, String>,
    /// Free text about the profile, one line each; tags are not repeated here.
    pub comments: Vec<String>,
    strings: Strings,
    mappings: Table<Mapping>,
    functions: Table<Function>,
    locations: Table<Location>,
    stacks: Lists<LocationId>,
    labels: Table<Vec<Label>>,
    samples: Samples,
}

impl Profile {
    /// An empty profile with the sample types and the period type of `kind`.
    pub fn new(kind: Kind) -> Self {
        Self::with_types(kind.sample_types(), kind.period_type(), kind.default_sample_type())
    }

    /// An empty profile of any sample types, for readers of foreign files.
    pub fn with_types(
        sample_types: Vec<ValueType>,
        period_type: ValueType,
        default_sample_type: impl Into<String>,
    ) -> Self {
        let width = sample_types.len();
        Self {
            sample_types,
            default_sample_type: default_sample_type.into(),
            period_type,
            period: 0,
            time_nanos: 0,
            duration_nanos: 0,
            tags: BTreeMap::new(),
            comments: Vec::new(),
            strings: Strings::default(),
            mappings: Table::default(),
            functions: Table::default(),
            locations: Table::default(),
            stacks: Lists::default(),
            labels: Table::default(),
            samples: Samples::new(width),
        }
    }

    /// Interns a string.
    pub fn string(&mut self, text: &str) -> StringId {
        self.strings.intern(text)
    }

    /// Interns a mapping. The first one is the main binary, by profile.proto's convention.
    pub fn mapping(&mut self, mapping: Mapping) -> MappingId {
        MappingId(self.mappings.intern(mapping))
    }

    /// Interns a function.
    pub fn function(&mut self, function: Function) -> FunctionId {
        FunctionId(self.functions.intern(function))
    }

    /// Interns a location.
    pub fn location(&mut self, location: Location) -> LocationId {
        LocationId(self.locations.intern(location))
    }

    // What only goes on into a sum need not be told apart here: the three below do not look for what they take, so that equal
    // content may have several handles.

    pub(crate) fn append_string(&mut self, text: &str) -> StringId {
        self.strings.append(text)
    }

    pub(crate) fn append_function(&mut self, function: Function) -> FunctionId {
        FunctionId(self.functions.append(function))
    }

    pub(crate) fn append_location(&mut self, location: Location) -> LocationId {
        LocationId(self.locations.append(location))
    }

    /// Interns a stack, leaf first.
    pub fn stack(&mut self, locations: &[LocationId]) -> StackId {
        StackId(self.stacks.intern(locations))
    }

    /// Interns a label set. Labels are sorted by key, so that their order at the call does not matter, and a
    /// number without a unit gets the one that readers of pprof give it.
    pub fn labels(&mut self, labels: &[Label]) -> LabelsId {
        let mut labels = labels.to_vec();
        labels.iter_mut().for_each(Label::complete_unit);
        labels.sort_by(|a, b| a.key.cmp(&b.key));
        LabelsId(self.labels.intern(labels))
    }

    /// Adds `values`, one for each sample type, to the sample of `stack` and `labels`.
    pub fn add(&mut self, stack: StackId, labels: LabelsId, values: &[i64]) {
        self.samples.add(stack, labels, values);
    }

    /// The text of a string handle.
    pub fn text(&self, id: StringId) -> &str {
        self.strings.get(id)
    }

    /// The handle of `text`, where the profile holds it.
    pub fn find_string(&self, text: &str) -> Option<StringId> {
        self.strings.find(text)
    }

    /// The mapping behind a handle.
    pub fn get_mapping(&self, id: MappingId) -> &Mapping {
        self.mappings.get(id.0)
    }

    /// The function behind a handle.
    pub fn get_function(&self, id: FunctionId) -> &Function {
        self.functions.get(id.0)
    }

    /// The location behind a handle.
    pub fn get_location(&self, id: LocationId) -> &Location {
        self.locations.get(id.0)
    }

    /// The locations of a stack, leaf first.
    pub fn get_stack(&self, id: StackId) -> &[LocationId] {
        self.stacks.get(id.0)
    }

    /// The labels of a label set, sorted by key.
    pub fn get_labels(&self, id: LabelsId) -> &[Label] {
        self.labels.get(id.0)
    }

    /// All strings, in the order of their handles, starting with the empty one.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.strings.iter()
    }

    /// All mappings, in the order of their handles.
    pub fn mappings(&self) -> &[Mapping] {
        self.mappings.as_slice()
    }

    /// The main binary's, where there is any.
    pub(crate) fn main_mapping(&self) -> Option<MappingId> {
        self.mappings().first().map(|_| MappingId(0))
    }

    /// All functions, in the order of their handles.
    pub fn functions(&self) -> &[Function] {
        self.functions.as_slice()
    }

    /// All locations, in the order of their handles.
    pub fn locations(&self) -> &[Location] {
        self.locations.as_slice()
    }

    /// All samples, in the order in which they were first added.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = Sample<'_>> {
        self.samples.iter()
    }

    /// The place among the values of a sample of the sample type called `name`, or of the one to show first.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] where the profile has no such sample type, naming those that it has.
    ///
    /// ```
    /// use everprof::profile::{Kind, Profile};
    /// let profile = Profile::new(Kind::Cpu);
    /// assert_eq!(profile.find_sample_type(Some("samples")).unwrap(), 0);
    /// assert_eq!(profile.find_sample_type(None).unwrap(), 1);
    /// ```
    pub fn find_sample_type(&self, name: Option<&str>) -> Result<usize> {
        let place = |name: &str| self.sample_types.iter().position(|value_type| value_type.name == name);
        let found = match name {
            Some(name) => place(name),
            // What other readers show first: the default, or else the last.
            None => place(&self.default_sample_type).or(self.sample_types.len().checked_sub(1)),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = self.sample_types.iter().map(|known| known.name.as_str()).collect();
            let message = match (name, known.as_slice()) {
                (Some(name), [_, ..]) => {
                    format!("the profile has no sample type {name}: it has {}", known.join(", "))
                }
                _ => "the profile has no sample types".to_owned(),
            };
            Error::new(ErrorKind::InvalidData, message)
        })
    }

    /// About how many bytes it holds.
    pub(crate) fn memory(&self) -> usize {
        // A location has one line, most often, and a set of labels two, each with an allocation or two of its own.
        const LOCATION: usize = 128;
        const LABELS: usize = 256;
        let samples = self.samples().len() * (8 * self.sample_types.len() + 32);
        let stacks = self.stacks.items() * size_of::<LocationId>() + self.stacks.len() * 24;
        let tables = self.locations().len() * LOCATION + self.labels.as_slice().len() * LABELS;
        samples + stacks + tables + self.functions().len() * 48 + self.strings.bytes()
    }

    /// The sum of each sample type over all samples.
    pub fn totals(&self) -> Vec<i64> {
        let mut totals = vec![0i64; self.sample_types.len()];
        for sample in self.samples() {
            for (total, value) in totals.iter_mut().zip(sample.values) {
                *total = total.saturating_add(*value);
            }
        }
        totals
    }
}
