//! Profiles out of profiles: several summed into one, and the part of one that is of interest.

use std::collections::HashMap;

use super::{Function, FunctionId, LabelsId, Line, Location, LocationId, Mapping, MappingId, Profile};
use super::{Loose, Sample, StackId, StringId, ValueType};
use crate::error::{Error, ErrorKind, Result};

impl Profile {
    /// Adds what `other` counted: of another period, another process or another machine.
    ///
    /// Samples of the same code add up although each process has it at other addresses: an object file of the
    /// same build is the same mapping, and addresses in it are moved to where this profile has it. The
    /// durations are summed, so that a total divided by the duration stays a mean per process. Tags in which
    /// the two differ are dropped, but for `effective_rate_hz`, which becomes that of both.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] where the two count different things; this profile is then as it was.
    ///
    /// ```
    /// use everprof::profile::{Kind, Profile};
    /// let mut sum = Profile::new(Kind::Cpu);
    /// sum.merge(&Profile::new(Kind::Cpu)).unwrap();
    /// ```
    pub fn merge(&mut self, other: &Profile) -> Result<()> {
        self.merge_without(other, &[])
    }

    /// The same without labels of these keys: what they tell apart is summed up.
    pub(crate) fn merge_without(&mut self, other: &Profile, keys: &[&str]) -> Result<()> {
        self.merge_header(other, || other.totals())?;
        let mut import = Import::new(other, self);
        import.left_out = keys;
        for sample in other.samples() {
            import.sample(&sample);
        }
        Ok(())
    }

    /// The same for a profile whose samples are not in it yet.
    pub(crate) fn merge_loose(&mut self, other: &Profile, samples: &Loose) -> Result<()> {
        let width = other.sample_types.len();
        self.merge_header(other, || samples.totals(width))?;
        let mut import = Import::new(other, self);
        for (stack, labels, values) in samples.iter(width) {
            import.add(stack, labels, values);
        }
        Ok(())
    }

    /// A sum of nothing but `other`, whose samples are not in it yet.
    pub(crate) fn of_loose(other: &Profile, samples: &Loose) -> Profile {
        let mut sum = other.without_samples();
        let mut import = Import::new(other, &mut sum);
        for (stack, labels, values) in samples.iter(other.sample_types.len()) {
            import.add(stack, labels, values);
        }
        sum
    }

    /// Adds samples that name this profile's own locations and label sets.
    pub(crate) fn add_loose(&mut self, samples: &Loose) {
        for (stack, labels, values) in samples.iter(self.sample_types.len()) {
            let stack = self.stack(stack);
            self.add(stack, labels, values);
        }
    }

    /// Everything but the samples. `totals` are those of the other.
    fn merge_header(&mut self, other: &Profile, totals: impl Fn() -> Vec<i64>) -> Result<()> {
        if self.sample_types != other.sample_types || self.period_type != other.period_type {
            let message = format!(
                "profiles of different things cannot be merged: {} and {}",
                counted(self),
                counted(other)
            );
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        self.period = self.period.max(other.period);
        self.time_nanos = match (self.time_nanos, other.time_nanos) {
            (0, time) | (time, 0) => time,
            (a, b) => a.min(b),
        };
        self.duration_nanos = self.duration_nanos.saturating_add(other.duration_nanos);
        let rate = self.rate_with(other, totals);
        self.tags.retain(|key, value| other.tags.get(key) == Some(value));
        if let Some(rate) = rate {
            self.set_rate(rate);
        }
        for comment in &other.comments {
            if !self.comments.contains(comment) {
                self.comments.push(comment.clone());
            }
        }
        Ok(())
    }

    /// Divides every value, to the nearest whole. `by` is above 0.
    pub(crate) fn divide(&mut self, by: i64) {
        if by > 1 {
            self.samples.divide(by);
        }
    }

    /// Leaves the values of the types of which `keep` holds; the others are 0.
    pub(crate) fn keep_values(&mut self, keep: impl Fn(&ValueType) -> bool) {
        let kept: Vec<bool> = self.sample_types.iter().map(keep).collect();
        self.samples.keep(&kept);
    }

    /// Turns the sign of every value: merged into a later snapshot, this one is then taken off it.
    pub(crate) fn negate(&mut self) {
        self.samples.negate();
    }

    /// The part of this profile whose samples `keep` accepts, with all else as it is.
    ///
    /// ```
    /// use everprof::profile::{Kind, Label, Profile};
    /// let mut profile = Profile::new(Kind::Cpu);
    /// let stack = profile.stack(&[]);
    /// for (tenant, count) in [("a", 1), ("b", 2)] {
    ///     let labels = profile.labels(&[Label::text("tenant", tenant)]);
    ///     profile.add(stack, labels, &[count, 10_101_010 * count]);
    /// }
    /// let of_a = profile.filter(|sample| profile.get_labels(sample.labels).contains(&Label::text("tenant", "a")));
    /// assert_eq!(of_a.totals(), [1, 10_101_010]);
    /// ```
    pub fn filter(&self, mut keep: impl FnMut(&Sample<'_>) -> bool) -> Profile {
        let mut part = self.without_samples();
        let mut import = Import::new(self, &mut part);
        for sample in self.samples().filter(|sample| keep(sample)) {
            import.sample(&sample);
        }
        part
    }

    /// The same with empty tables.
    fn without_samples(&self) -> Profile {
        let types = (self.sample_types.clone(), self.period_type.clone());
        let mut empty = Profile::with_types(types.0, types.1, self.default_sample_type.clone());
        empty.period = self.period;
        empty.time_nanos = self.time_nanos;
        empty.duration_nanos = self.duration_nanos;
        empty.tags = self.tags.clone();
        empty.comments = self.comments.clone();
        empty
    }
}

/// What a profile counts, for a message.
fn counted(profile: &Profile) -> String {
    let name = |value_type: &ValueType| format!("{}/{}", value_type.name, value_type.unit);
    let types: Vec<String> = profile.sample_types.iter().map(name).collect();
    format!("[{} per {}]", types.join(", "), name(&profile.period_type))
}

/// Carries samples from one profile into another, each handle translated once.
struct Import<'a> {
    from: &'a Profile,
    to: &'a mut Profile,
    mappings: Vec<(MappingId, u64)>,
    functions: Vec<Option<FunctionId>>,
    locations: Vec<Option<LocationId>>,
    stacks: Vec<Option<StackId>>,
    labels: Vec<Option<LabelsId>>,
    /// Keys of labels that do not come along.
    left_out: &'a [&'a str],
    stack: Vec<LocationId>,
}

impl<'a> Import<'a> {
    fn new(from: &'a Profile, to: &'a mut Profile) -> Self {
        let mappings = import_mappings(from, to);
        Self {
            from,
            to,
            mappings,
            functions: vec![None; from.functions().len()],
            locations: vec![None; from.locations().len()],
            stacks: vec![None; from.stacks.len()],
            labels: vec![None; from.labels.as_slice().len()],
            left_out: &[],
            stack: Vec::new(),
        }
    }

    fn sample(&mut self, sample: &Sample<'_>) {
        let place = sample.stack.0 as usize;
        let stack = match self.stacks[place] {
            Some(stack) => stack,
            None => {
                self.stack.clear();
                for id in self.from.get_stack(sample.stack) {
                    let location = self.location(*id);
                    self.stack.push(location);
                }
                *self.stacks[place].insert(self.to.stack(&self.stack))
            }
        };
        let labels = self.labels(sample.labels);
        self.to.add(stack, labels, sample.values);
    }

    /// A sample whose stack no table has.
    fn add(&mut self, stack: &[LocationId], labels: LabelsId, values: &[i64]) {
        self.stack.clear();
        for id in stack {
            let location = self.location(*id);
            self.stack.push(location);
        }
        let (stack, labels) = (self.to.stack(&self.stack), self.labels(labels));
        self.to.add(stack, labels, values);
    }

    fn labels(&mut self, id: LabelsId) -> LabelsId {
        let place = id.0 as usize;
        if let Some(labels) = self.labels[place] {
            return labels;
        }
        let labels = match (self.from.get_labels(id), self.left_out) {
            (labels, []) => self.to.labels(labels),
            (labels, keys) => {
                let kept = labels.iter().filter(|label| !keys.contains(&label.key.as_str()));
                self.to.labels(&kept.cloned().collect::<Vec<_>>())
            }
        };
        *self.labels[place].insert(labels)
    }

    fn location(&mut self, id: LocationId) -> LocationId {
        if let Some(location) = self.locations[id.index()] {
            return location;
        }
        let Location { mapping, address, lines } = self.from.get_location(id);
        let (mapping, moved) = match mapping.map(|id| self.mappings[id.index()]) {
            Some((mapping, moved)) => (Some(mapping), moved),
            None => (None, 0),
        };
        let lines =
            lines.iter().map(|line| Line { function: self.function(line.function), ..*line }).collect();
        let location = Location { mapping, address: address.wrapping_add(moved), lines };
        *self.locations[id.index()].insert(self.to.location(location))
    }

    fn function(&mut self, id: FunctionId) -> FunctionId {
        if let Some(function) = self.functions[id.index()] {
            return function;
        }
        let function = self.from.get_function(id);
        let mut string = |id: StringId| self.to.string(self.from.text(id));
        let function = Function {
            name: string(function.name),
            system_name: string(function.system_name),
            filename: string(function.filename),
            start_line: function.start_line,
        };
        *self.functions[id.index()].insert(self.to.function(function))
    }
}

/// For each mapping of `from` the one of `to` that is the same object file, or a new one; and what to add to addresses.
fn import_mappings(from: &Profile, to: &mut Profile) -> Vec<(MappingId, u64)> {
    let mut known: HashMap<Part, (MappingId, u64)> = HashMap::new();
    for (place, mapping) in (0..).zip(to.mappings()) {
        known.entry(Part::of(to, mapping)).or_insert((MappingId(place), mapping.memory_start));
    }
    let mut imported = Vec::with_capacity(from.mappings().len());
    for mapping in from.mappings() {
        let (id, start) = *known.entry(Part::of(from, mapping)).or_insert_with(|| {
            let filename = to.string(from.text(mapping.filename));
            let build_id = to.string(from.text(mapping.build_id));
            let id = to.mapping(Mapping { filename, build_id, ..mapping.clone() });
            (id, mapping.memory_start)
        });
        imported.push((id, start.wrapping_sub(mapping.memory_start)));
    }
    imported
}

/// A part of one build, wherever it was loaded.
#[derive(PartialEq, Eq, Hash)]
struct Part {
    object: Object,
    file_offset: u64,
    size: u64,
    flags: [bool; 4],
}

/// What two mappings of one file have in common. Without a build id the name decides, and without a name only the
/// addresses can.
#[derive(PartialEq, Eq, Hash)]
enum Object {
    Build(String),
    Name(String),
    Address(u64),
}

impl Part {
    fn of(profile: &Profile, mapping: &Mapping) -> Self {
        let object = match (profile.text(mapping.build_id), profile.text(mapping.filename)) {
            ("", "") => Object::Address(mapping.memory_start),
            ("", name) => Object::Name(name.to_owned()),
            (build_id, _) => Object::Build(build_id.to_owned()),
        };
        let Mapping {
            file_offset, has_functions, has_filenames, has_line_numbers, has_inline_frames, ..
        } = *mapping;
        Self {
            object,
            file_offset,
            size: mapping.memory_limit.wrapping_sub(mapping.memory_start),
            flags: [has_functions, has_filenames, has_line_numbers, has_inline_frames],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Kind, Label};
    use super::*;

    /// A process that has `/bin/a` at `start`, with one sample `offset` into it.
    fn process(start: u64, build: &str, offset: u64, name: &str) -> Profile {
        let mut profile = Profile::new(Kind::Cpu);
        profile.duration_nanos = 10;
        let (filename, build_id) = (profile.string("/bin/a"), profile.string(build));
        let limit = start + 0x1000;
        let mapping =
            Mapping { memory_start: start, memory_limit: limit, filename, build_id, ..Mapping::default() };
        let mapping = Some(profile.mapping(mapping));
        let name = profile.string(name);
        let function = profile.function(Function { name, ..Function::default() });
        let lines = vec![Line { function, line: 1, column: 0 }];
        let location = profile.location(Location { mapping, address: start + offset, lines });
        let (stack, labels) = (profile.stack(&[location]), profile.labels(&[Label::text("k", "v")]));
        profile.add(stack, labels, &[1, 10]);
        profile
    }

    #[test]
    fn the_same_code_at_other_addresses_adds_up() {
        let mut sum = process(0x1000, "b1", 0x20, "f");
        sum.time_nanos = 200;
        sum.tags.insert("service".into(), "s".into());
        sum.tags.insert("pod".into(), "1".into());
        let mut other = process(0x7000, "b1", 0x20, "f");
        other.time_nanos = 100;
        other.tags.insert("service".into(), "s".into());
        other.tags.insert("pod".into(), "2".into());
        sum.merge(&other).unwrap();
        assert_eq!(sum.totals(), [2, 20]);
        assert_eq!((sum.samples().len(), sum.mappings().len(), sum.locations().len()), (1, 1, 1));
        assert_eq!((sum.time_nanos, sum.duration_nanos), (100, 20));
        assert_eq!(sum.tags.keys().collect::<Vec<_>>(), ["service"], "a sum is of no single pod");
    }

    /// A comparison of each with each would take minutes here.
    #[test]
    fn a_hundred_thousand_mappings_are_merged() {
        let generated = |first: u64| {
            let mut profile = Profile::new(Kind::Cpu);
            let filename = profile.string("[jit]");
            for at in 0..100_000 {
                let start = (first + at) << 12;
                let (memory_limit, file_offset) = (start + 0x1000, at);
                let mapping = Mapping {
                    memory_start: start,
                    memory_limit,
                    file_offset,
                    filename,
                    ..Mapping::default()
                };
                profile.mapping(mapping);
            }
            profile
        };
        let mut sum = generated(1);
        sum.merge(&generated(50)).unwrap();
        assert_eq!(sum.mappings().len(), 100_000);
    }

    #[test]
    fn another_build_is_other_code() {
        let mut sum = process(0x1000, "b1", 0x20, "f");
        sum.merge(&process(0x1000, "b2", 0x20, "f")).unwrap();
        assert_eq!((sum.samples().len(), sum.mappings().len(), sum.functions().len()), (2, 2, 1));
        sum.merge(&process(0x1000, "b1", 0x28, "f")).unwrap();
        assert_eq!((sum.samples().len(), sum.mappings().len()), (3, 2));
    }

    #[test]
    fn different_sample_types_are_an_error_that_names_both() {
        let mut sum = process(0x1000, "b1", 0x20, "f");
        let types = vec![ValueType::new("inuse_space", "bytes")];
        let other = Profile::with_types(types, ValueType::new("space", "bytes"), "inuse_space");
        let error = sum.merge(&other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "profiles of different things cannot be merged: \
             [samples/count, cpu/nanoseconds per cpu/nanoseconds] and [inuse_space/bytes per space/bytes]"
        );
        assert_eq!(sum.totals(), [1, 10], "nothing was changed");
    }
}
