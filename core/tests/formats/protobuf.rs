//! Our pprof, decoded by prost with messages declared by hand from profile.proto: a decoder that shares nothing with ours.

use everprof::encode::pprof;
use prost::Message;

use crate::profiles::{large, small};

pub mod proto {
    //! profile.proto, field for field.

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "7")]
        pub drop_frames: i64,
        #[prost(int64, tag = "8")]
        pub keep_frames: i64,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
        #[prost(int64, tag = "15")]
        pub doc_url: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(int64, tag = "1")]
        pub key: i64,
        #[prost(int64, tag = "2")]
        pub str: i64,
        #[prost(int64, tag = "3")]
        pub num: i64,
        #[prost(int64, tag = "4")]
        pub num_unit: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub memory_limit: u64,
        #[prost(uint64, tag = "4")]
        pub file_offset: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(int64, tag = "6")]
        pub build_id: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
        #[prost(bool, tag = "5")]
        pub is_folded: bool,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
        #[prost(int64, tag = "3")]
        pub column: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
        #[prost(int64, tag = "5")]
        pub start_line: i64,
    }
}

#[test]
fn prost_reads_what_the_profile_says() {
    let read = proto::Profile::decode(pprof::encode_uncompressed(&small()).as_slice()).unwrap();
    let text = |index: i64| read.string_table[index as usize].as_str();
    let types: Vec<_> = read.sample_type.iter().map(|kind| (text(kind.r#type), text(kind.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(text(0), "");
    assert_eq!(text(read.default_sample_type), "cpu");
    assert_eq!(
        read.period_type.map(|kind| (text(kind.r#type), text(kind.unit))),
        Some(("cpu", "nanoseconds"))
    );
    assert_eq!((read.period, read.duration_nanos), (10_101_010, 60_000_000_000));
    assert_eq!(read.time_nanos, 1_763_814_000_123_456_789);
    let comments: Vec<_> = read.comment.iter().map(|&index| text(index)).collect();
    assert_eq!(
        comments,
        ["service=shop", "team=a=b; \"c\" \\ ü", "version=1.0", "hand-made for the tests"],
        "tags sorted by key, then the rest"
    );
    assert_eq!(text(read.mapping[0].filename), "/usr/bin/shop", "the main binary is first");
    assert!(read.mapping.iter().all(|mapping| mapping.has_functions && mapping.has_inline_frames));
    assert_eq!(read.location[1].line.len(), 2, "an inlined function and its caller");
    assert_eq!(
        text(read.function[read.location[1].line[0].function_id as usize - 1].filename),
        "/src/hash.rs"
    );
    assert_eq!(read.location[3].mapping_id, 0, "a loss has no mapping");
    assert_eq!(read.sample.len(), 4);
    assert_eq!(read.sample[0].value, [3, 30_303_030]);
    let labels: Vec<_> =
        read.sample[0].label.iter().map(|label| (text(label.key), text(label.str), label.num)).collect();
    assert_eq!(labels, [("bytes", "", 512), ("tenant", "α", 0), ("thread_name", "worker-1", 0)]);
    assert_eq!(text(read.sample[2].label[0].num_unit), "count", "a number has a unit, or readers drop a 0");
}

#[test]
fn ids_are_one_to_n_in_order() {
    let read = proto::Profile::decode(pprof::encode_uncompressed(&large(500, 10)).as_slice()).unwrap();
    assert!((1..).zip(&read.mapping).all(|(id, mapping)| mapping.id == id));
    assert!((1..).zip(&read.location).all(|(id, location)| location.id == id));
    assert!((1..).zip(&read.function).all(|(id, function)| function.id == id));
}

#[test]
fn what_prost_writes_is_read() {
    let ours = pprof::encode_uncompressed(&small());
    let theirs = proto::Profile::decode(ours.as_slice()).unwrap().encode_to_vec();
    let read = pprof::decode(&theirs).unwrap();
    assert_eq!(crate::profiles::content(&read), crate::profiles::content(&small()));
}
