//! Profiles of OTLP as a decoder that shares no code with ours reads them, after the published proto v1.11.0; and as text, with
//! everything that indices point at, so that two requests say the same where their texts are the same.
#![allow(dead_code, unreachable_pub, missing_docs)] // not all is used by each of the binaries that this is part of

use std::fmt::Write as _;

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(message, repeated, tag = "1")]
    pub resource_profiles: Vec<ResourceProfiles>,
    #[prost(message, optional, tag = "2")]
    pub dictionary: Option<Dictionary>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Dictionary {
    #[prost(message, repeated, tag = "1")]
    pub mapping_table: Vec<Mapping>,
    #[prost(message, repeated, tag = "2")]
    pub location_table: Vec<Location>,
    #[prost(message, repeated, tag = "3")]
    pub function_table: Vec<Function>,
    #[prost(message, repeated, tag = "4")]
    pub link_table: Vec<Link>,
    #[prost(string, repeated, tag = "5")]
    pub string_table: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub attribute_table: Vec<KeyValueAndUnit>,
    #[prost(message, repeated, tag = "7")]
    pub stack_table: Vec<Stack>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResourceProfiles {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_profiles: Vec<ScopeProfiles>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScopeProfiles {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub profiles: Vec<Profile>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    #[prost(message, optional, tag = "1")]
    pub sample_type: Option<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    #[prost(uint64, tag = "4")]
    pub duration_nano: u64,
    #[prost(message, optional, tag = "5")]
    pub period_type: Option<ValueType>,
    #[prost(int64, tag = "6")]
    pub period: i64,
    #[prost(bytes = "vec", tag = "7")]
    pub profile_id: Vec<u8>,
    #[prost(int32, repeated, tag = "11")]
    pub attribute_indices: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ValueType {
    #[prost(int32, tag = "1")]
    pub type_strindex: i32,
    #[prost(int32, tag = "2")]
    pub unit_strindex: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    #[prost(int32, tag = "1")]
    pub stack_index: i32,
    #[prost(int32, repeated, tag = "2")]
    pub attribute_indices: Vec<i32>,
    #[prost(int32, tag = "3")]
    pub link_index: i32,
    #[prost(int64, repeated, tag = "4")]
    pub values: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Mapping {
    #[prost(uint64, tag = "1")]
    pub memory_start: u64,
    #[prost(uint64, tag = "2")]
    pub memory_limit: u64,
    #[prost(uint64, tag = "3")]
    pub file_offset: u64,
    #[prost(int32, tag = "4")]
    pub filename_strindex: i32,
    #[prost(int32, repeated, tag = "5")]
    pub attribute_indices: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Stack {
    #[prost(int32, repeated, tag = "1")]
    pub location_indices: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Location {
    #[prost(int32, tag = "1")]
    pub mapping_index: i32,
    #[prost(uint64, tag = "2")]
    pub address: u64,
    #[prost(message, repeated, tag = "3")]
    pub lines: Vec<Line>,
    #[prost(int32, repeated, tag = "4")]
    pub attribute_indices: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Line {
    #[prost(int32, tag = "1")]
    pub function_index: i32,
    #[prost(int64, tag = "2")]
    pub line: i64,
    #[prost(int64, tag = "3")]
    pub column: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Function {
    #[prost(int32, tag = "1")]
    pub name_strindex: i32,
    #[prost(int32, tag = "2")]
    pub system_name_strindex: i32,
    #[prost(int32, tag = "3")]
    pub filename_strindex: i32,
    #[prost(int64, tag = "4")]
    pub start_line: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Link {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
    #[prost(int32, tag = "3")]
    pub key_strindex: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValueAndUnit {
    #[prost(int32, tag = "1")]
    pub key_strindex: i32,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
    #[prost(int32, tag = "3")]
    pub unit_strindex: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3, 5, 8")]
    pub value: Option<Any>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Yes(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
    #[prost(message, tag = "5")]
    List(ArrayValue),
    /// A place in the dictionary, as the Collector writes the texts of resources.
    #[prost(int32, tag = "8")]
    Place(i32),
}

#[derive(Clone, PartialEq, Message)]
pub struct ArrayValue {
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

fn at<T>(table: &[T], index: i32) -> &T {
    &table[usize::try_from(index).unwrap()]
}

impl Dictionary {
    fn text(&self, index: i32) -> &str {
        at(&self.string_table, index).as_str()
    }

    fn any(&self, value: Option<&AnyValue>) -> String {
        match value.and_then(|any| any.value.as_ref()).expect("a value is missing") {
            Any::Text(text) => format!("{text:?}"),
            Any::Place(place) => format!("{:?}", self.text(*place)),
            Any::Yes(yes) => yes.to_string(),
            Any::Number(number) => number.to_string(),
            Any::List(list) => {
                let values: Vec<String> = list.values.iter().map(|one| self.any(Some(one))).collect();
                format!("[{}]", values.join(", "))
            }
        }
    }

    fn attributes(&self, indices: &[i32]) -> String {
        let one = |index: &i32| {
            let of = at(&self.attribute_table, *index);
            let unit = self.text(of.unit_strindex);
            let space = if unit.is_empty() { "" } else { " " };
            format!("{}={}{space}{unit}", self.text(of.key_strindex), self.any(of.value.as_ref()))
        };
        indices.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn value_type(&self, of: Option<&ValueType>) -> String {
        let of = of.expect("a type is missing");
        format!("{}/{}", self.text(of.type_strindex), self.text(of.unit_strindex))
    }

    fn location(&self, index: i32) -> String {
        let location = at(&self.location_table, index);
        let lines = location.lines.iter().map(|line| {
            let of = at(&self.function_table, line.function_index);
            format!("{:?}@{}:{}", self.text(of.name_strindex), self.text(of.filename_strindex), line.line)
        });
        let file = self.text(at(&self.mapping_table, location.mapping_index).filename_strindex);
        format!(
            "{} ({file}+{:#x} {})",
            lines.collect::<Vec<_>>().join(" < "),
            location.address,
            self.attributes(&location.attribute_indices)
        )
    }
}

/// Everything that a request says but for the profiles' IDs, which differ from run to run.
pub fn text(request: &Request) -> String {
    let of = request.dictionary.as_ref().expect("no dictionary");
    assert_eq!(of.mapping_table[0], Mapping::default());
    assert_eq!(of.location_table[0], Location::default());
    assert_eq!(of.function_table[0], Function::default());
    assert_eq!(of.link_table[0], Link::default());
    // The Collector writes the value that is none.
    let none = |value: &AnyValue| value.value.is_none();
    let first = &of.attribute_table[0];
    assert!(first.key_strindex == 0 && first.unit_strindex == 0 && first.value.as_ref().is_none_or(none));
    assert_eq!(of.stack_table[0], Stack::default());
    assert_eq!(of.string_table[0], "");
    let mut out = String::new();
    for resource in &request.resource_profiles {
        let mut pairs: Vec<String> = resource
            .resource
            .as_ref()
            .expect("no resource")
            .attributes
            .iter()
            .map(|pair| format!("{}{}={}", pair.key, of.text(pair.key_strindex), of.any(pair.value.as_ref())))
            .collect();
        pairs.sort();
        writeln!(out, "resource {}", pairs.join(", ")).unwrap();
        for scope in &resource.scope_profiles {
            writeln!(out, "scope {}", scope.scope.as_ref().expect("no scope").name).unwrap();
            scope.profiles.iter().for_each(|profile| one(of, profile, &mut out));
        }
    }
    for mapping in &of.mapping_table[1..] {
        let attributes = of.attributes(&mapping.attribute_indices);
        let (start, limit) = (mapping.memory_start, mapping.memory_limit);
        writeln!(out, "mapping {} {start:#x} {limit:#x} {attributes}", of.text(mapping.filename_strindex))
            .unwrap();
    }
    out
}

fn one(of: &Dictionary, profile: &Profile, out: &mut String) {
    assert_eq!(profile.profile_id.len(), 16);
    writeln!(
        out,
        "profile {} period {} {} time {} {} {}",
        of.value_type(profile.sample_type.as_ref()),
        profile.period,
        of.value_type(profile.period_type.as_ref()),
        profile.time_unix_nano,
        profile.duration_nano,
        of.attributes(&profile.attribute_indices)
    )
    .unwrap();
    for sample in &profile.samples {
        assert_eq!(sample.values.len(), 1, "one value where there are no times");
        let stack = at(&of.stack_table, sample.stack_index).location_indices.iter();
        let link = at(&of.link_table, sample.link_index);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        writeln!(
            out,
            "sample {} | {} | {} | {}",
            sample.values[0],
            stack.map(|index| of.location(*index)).collect::<Vec<_>>().join(" < "),
            of.attributes(&sample.attribute_indices),
            hex(&link.trace_id) + " " + &hex(&link.span_id)
        )
        .unwrap();
    }
}
