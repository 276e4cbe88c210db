//! Profiles out of requests of OTLP, as a decoder of others reads those: each has one sample type, and its scope names its kind.

use everprof::profile::{
    Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, Profile, ValueType,
};

use crate::otlp_proto::{self, Dictionary, Request};

/// The profiles of a request with the names of their scopes.
pub(crate) fn profiles(request: &Request) -> Vec<(String, Profile)> {
    let dictionary = request.dictionary.as_ref().unwrap();
    let scopes = request.resource_profiles.iter().flat_map(|resource| &resource.scope_profiles);
    let of_scope = |scope: &otlp_proto::ScopeProfiles| {
        let name = scope.scope.as_ref().unwrap().name.clone();
        let one = |profile| (name.clone(), Reading::of(dictionary, profile));
        scope.profiles.iter().map(one).collect::<Vec<_>>()
    };
    scopes.flat_map(of_scope).collect()
}

struct Reading<'d> {
    from: &'d Dictionary,
    to: Profile,
}

impl Reading<'_> {
    fn of(from: &Dictionary, profile: &otlp_proto::Profile) -> Profile {
        let text = |index: i32| from.string_table[index as usize].clone();
        let value_type = |of: &Option<otlp_proto::ValueType>| {
            let of = of.as_ref().unwrap();
            ValueType::new(text(of.type_strindex), text(of.unit_strindex))
        };
        let own = value_type(&profile.sample_type);
        let name = own.name.clone();
        let to = Profile::with_types(vec![own], value_type(&profile.period_type), name);
        let mut reading = Reading { from, to };
        (reading.to.period, reading.to.duration_nanos) = (profile.period, profile.duration_nano as i64);
        for sample in &profile.samples {
            let stack = &from.stack_table[sample.stack_index as usize].location_indices;
            let stack: Vec<LocationId> = stack.iter().map(|index| reading.location(*index)).collect();
            let (stack, labels) = (reading.to.stack(&stack), reading.to.labels(&[]));
            reading.to.add(stack, labels, &[sample.values.iter().sum()]);
        }
        reading.to
    }

    fn string(&mut self, index: i32) -> everprof::profile::StringId {
        self.to.string(&self.from.string_table[index as usize])
    }

    fn location(&mut self, index: i32) -> LocationId {
        let from = &self.from.location_table[index as usize];
        let lines = from.lines.iter();
        let lines = lines.map(|line| Line {
            function: self.function(line.function_index),
            line: line.line,
            column: line.column,
        });
        let lines = lines.collect();
        let mapping = (from.mapping_index != 0).then(|| self.mapping(from.mapping_index));
        self.to.location(Location { mapping, address: from.address, lines })
    }

    fn function(&mut self, index: i32) -> FunctionId {
        let from = &self.from.function_table[index as usize];
        let name = self.string(from.name_strindex);
        let system_name = self.string(from.system_name_strindex);
        let filename = self.string(from.filename_strindex);
        self.to.function(Function { name, system_name, filename, start_line: from.start_line })
    }

    fn mapping(&mut self, index: i32) -> MappingId {
        let from = &self.from.mapping_table[index as usize];
        let filename = self.string(from.filename_strindex);
        self.to.mapping(Mapping {
            memory_start: from.memory_start,
            memory_limit: from.memory_limit,
            file_offset: from.file_offset,
            filename,
            ..Mapping::default()
        })
    }
}
