//! A profile made anew by the rules of a dialect: some of its samples, some of their values, with labels spelled right.

use std::collections::{BTreeSet, HashMap};

use super::{Common, LabelSets, Rules, labels_of, series_keys};
use crate::profile::{
    Function, FunctionId, LabelsId, Line, Location, LocationId, Mapping, MappingId, Profile, Sample, StackId,
    StringId,
};

/// Frames of a deep stack that stay on the side of the leaf; the others are at the root, by which a server sums up.
const LEAF_FRAMES: usize = 250;
const LEFT_OUT: &str = "[frames left out: deeper than the server takes]";
const TOO_MANY: &str = "samples lack labels: they had more than the server takes";

/// The profile in the making.
pub(super) struct Rewrite<'a> {
    from: &'a Profile,
    pub(super) to: Profile,
    rules: &'a Rules,
    columns: &'a [usize],
    /// What the series tells, and the samples need not.
    common: &'a Common,
    sets: &'a LabelSets,
    taken: BTreeSet<String>,
    mappings: Vec<MappingId>,
    functions: HashMap<FunctionId, FunctionId>,
    locations: HashMap<LocationId, LocationId>,
    stacks: HashMap<StackId, StackId>,
    labels: HashMap<LabelsId, LabelsId>,
    values: Vec<i64>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(
        from: &'a Profile,
        rules: &'a Rules,
        columns: &'a [usize],
        common: &'a Common,
        sets: &'a LabelSets,
    ) -> Self {
        let types: Vec<_> = columns.iter().map(|column| from.sample_types[*column].clone()).collect();
        let default = match types.iter().any(|known| known.name == from.default_sample_type) {
            true => from.default_sample_type.clone(),
            false => types.last().map_or(String::new(), |last| last.name.clone()),
        };
        let mut to = Profile::with_types(types, from.period_type.clone(), default);
        (to.time_nanos, to.duration_nanos) = (from.time_nanos, from.duration_nanos);
        to.tags.clone_from(&from.tags);
        to.comments.clone_from(&from.comments);
        to.comments.extend(sets.told());
        // All of them, in their order: the first one is the main binary.
        let mappings = from.mappings().iter().map(|mapping| copy_mapping(from, mapping, &mut to)).collect();
        Self {
            from,
            to,
            rules,
            columns,
            common,
            sets,
            taken: series_keys(rules, from),
            mappings,
            functions: HashMap::new(),
            locations: HashMap::new(),
            stacks: HashMap::new(),
            labels: HashMap::new(),
            values: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, sample: &Sample<'_>) {
        let stack = match self.stacks.get(&sample.stack) {
            Some(known) => *known,
            None => {
                let made = self.stack(sample.stack);
                self.stacks.insert(sample.stack, made);
                made
            }
        };
        let labels = match self.labels.get(&sample.labels) {
            Some(known) => *known,
            None => {
                let made = self.label_set(sample.labels);
                self.labels.insert(sample.labels, made);
                made
            }
        };
        self.values.clear();
        self.values.extend(self.columns.iter().map(|column| sample.values[*column]));
        self.to.add(stack, labels, &self.values);
    }

    fn stack(&mut self, id: StackId) -> StackId {
        let stack = self.from.get_stack(id);
        let most = self.rules.frames;
        let mut locations = Vec::with_capacity(stack.len().min(most));
        if stack.len() <= most {
            locations.extend(stack.iter().map(|id| self.location(*id)));
        } else {
            let roots = stack.len() - (most - LEAF_FRAMES - 1);
            locations.extend(stack[..LEAF_FRAMES].iter().map(|id| self.location(*id)));
            locations.push(self.mark());
            locations.extend(stack[roots..].iter().map(|id| self.location(*id)));
        }
        self.to.stack(&locations)
    }

    fn mark(&mut self) -> LocationId {
        let name = self.to.string(LEFT_OUT);
        let function = self.to.function(Function { name, system_name: name, ..Function::default() });
        let lines = vec![Line { function, line: 0, column: 0 }];
        self.to.location(Location { lines, ..Location::default() })
    }

    fn location(&mut self, id: LocationId) -> LocationId {
        if let Some(known) = self.locations.get(&id) {
            return *known;
        }
        let location = self.from.get_location(id);
        let lines = location.lines.iter();
        let lines = lines.map(|line| Line { function: self.function(line.function), ..*line }).collect();
        let mapping = location.mapping.map(|mapping| self.mappings[mapping.index()]);
        let made = self.to.location(Location { mapping, address: location.address, lines });
        self.locations.insert(id, made);
        made
    }

    fn function(&mut self, id: FunctionId) -> FunctionId {
        if let Some(known) = self.functions.get(&id) {
            return *known;
        }
        let function = self.from.get_function(id);
        let mut string = |id: StringId| self.to.string(self.from.text(id));
        let made = Function {
            name: string(function.name),
            system_name: string(function.system_name),
            filename: string(function.filename),
            start_line: function.start_line,
        };
        let made = self.to.function(made);
        self.functions.insert(id, made);
        made
    }

    fn label_set(&mut self, id: LabelsId) -> LabelsId {
        let mut labels = labels_of(self.rules, &self.taken, self.from.get_labels(id));
        labels.retain(|label| self.common.iter().all(|(key, _)| *key != label.key));
        if self.sets.choose(&mut labels) && !self.to.comments.iter().any(|comment| comment == TOO_MANY) {
            self.to.comments.push(TOO_MANY.to_string());
        }
        self.to.labels(&labels)
    }
}

fn copy_mapping(from: &Profile, mapping: &Mapping, to: &mut Profile) -> MappingId {
    let (filename, build_id) = (from.text(mapping.filename), from.text(mapping.build_id));
    let (filename, build_id) = (to.string(filename), to.string(build_id));
    to.mapping(Mapping { filename, build_id, ..mapping.clone() })
}
