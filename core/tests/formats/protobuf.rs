//! Our pprof, decoded by prost with messages declared by hand from profile.proto: a decoder that shares
//! nothing with ours.

use std::io::Read;

use everprof::encode::{Dialect, pprof};
use everprof::profile::Kind;
use flate2::read::GzDecoder;
use prost::Message;

use crate::profiles::{large, small};
use crate::proto;

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

fn ids_are_right(read: &proto::Profile) {
    assert!((1..).zip(&read.mapping).all(|(id, mapping)| mapping.id == id));
    assert!((1..).zip(&read.location).all(|(id, location)| location.id == id));
    assert!((1..).zip(&read.function).all(|(id, function)| function.id == id));
    let has = |id: u64, length: usize| (1..=length as u64).contains(&id);
    let locations = || read.sample.iter().flat_map(|sample| &sample.location_id);
    assert!(locations().all(|id| has(*id, read.location.len())));
    let lines = || read.location.iter().flat_map(|location| &location.line);
    assert!(lines().all(|line| has(line.function_id, read.function.len())));
    let texts = read.function.iter().flat_map(|function| [function.name, function.filename]);
    let texts = texts.chain(read.sample.iter().flat_map(|sample| &sample.label).map(|label| label.str));
    texts.for_each(|text| assert!((text as usize) < read.string_table.len()));
    assert_eq!(read.string_table[0], "");
}

#[test]
fn ids_are_one_to_n_in_order_in_every_dialect() {
    ids_are_right(&proto::Profile::decode(pprof::encode_uncompressed(&large(500, 10)).as_slice()).unwrap());
    // The last of these is deeper than Pyroscope takes.
    let made = [large(500, 10), large(40, 10), large(20, 1_500)];
    let made = made.map(|profile| (Kind::Cpu, profile));
    for dialect in [Dialect::Pprof, Dialect::Pyroscope, Dialect::Parca, Dialect::Datadog] {
        for one in dialect.encode(&made) {
            let mut bytes = Vec::new();
            GzDecoder::new(one.bytes.as_slice()).read_to_end(&mut bytes).unwrap();
            ids_are_right(&proto::Profile::decode(bytes.as_slice()).unwrap());
        }
    }
}

#[test]
fn what_prost_writes_is_read() {
    let ours = pprof::encode_uncompressed(&small());
    let theirs = proto::Profile::decode(ours.as_slice()).unwrap().encode_to_vec();
    let read = pprof::decode(&theirs).unwrap();
    assert_eq!(crate::profiles::content(&read), crate::profiles::content(&small()));
}
