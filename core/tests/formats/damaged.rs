//! Files that are not what they should be: errors that say what is wrong, and no panic.

use std::io::Write;

use everprof::ErrorKind;
use everprof::encode::pprof::{self, Limits};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use crate::profiles::{content, small};
use crate::proto;

/// The error of the small profile after `change`.
fn error_after(change: impl FnOnce(&mut proto::Profile)) -> String {
    let mut profile = proto::Profile::decode(pprof::encode_uncompressed(&small()).as_slice()).unwrap();
    change(&mut profile);
    let error = pprof::decode(&profile.encode_to_vec()).expect_err("a damaged profile was read");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    error.to_string()
}

#[test]
fn the_error_names_what_is_wrong() {
    let error = error_after(|profile| profile.sample[1].location_id[0] = 99);
    assert_eq!(error, "sample 2 names location 99, which does not exist");
    let error = error_after(|profile| profile.sample[2].value.clear());
    assert_eq!(error, "sample 3 has 0 values for 2 sample types");
    let error = error_after(|profile| profile.location[0].line[0].function_id = 1000);
    assert_eq!(error, "location 1 names function 1000, which does not exist");
    let error = error_after(|profile| profile.function[1].id = 1);
    assert_eq!(error, "two entries of the function table have the id 1");
    let error = error_after(|profile| profile.mapping[1].id = 0);
    assert_eq!(error, "mapping 2 has no id, or the id 0");
    let error = error_after(|profile| profile.function[1].name = 4000);
    assert!(
        error.starts_with("function 2 has the name of string 4000, but the string table has "),
        "{error}"
    );
    let error = error_after(|profile| profile.string_table[0] = "x".into());
    assert_eq!(error, "the first string of the string table is not the empty one");
    let error = error_after(|profile| profile.default_sample_type = -1);
    assert!(
        error.starts_with("the profile has the default_sample_type of string 18446744073709551615"),
        "{error}"
    );
}

#[test]
fn what_is_not_pprof_at_all() {
    let error = |bytes: &[u8]| pprof::decode(bytes).unwrap_err().to_string();
    assert_eq!(error(b""), "the file is empty: a profile has at least a string table");
    assert_eq!(
        error(b"<html></html>"),
        "not a pprof file: a wire type that protobuf 3 does not have at byte 0"
    );
    assert!(error(b"\x1f\x8b\x08").starts_with("the gzip file is damaged: "), "{}", error(b"\x1f\x8b\x08"));
    let whole = pprof::encode(&small());
    let cut = error(&whole[..whole.len() / 2]);
    assert!(cut.starts_with("the gzip file is damaged: "), "{cut}");
    let mut flipped = whole.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    assert!(error(&flipped).starts_with("the gzip file is damaged: "), "the check sum is checked");
}

/// What could be read can be written, and reads as the same again.
fn settles(bytes: &[u8]) -> bool {
    let Ok(profile) = pprof::decode(bytes) else { return false };
    let written = pprof::encode_uncompressed(&profile);
    let again = pprof::decode(&written).expect("our own file");
    assert_eq!(content(&again), content(&profile));
    assert_eq!(pprof::encode_uncompressed(&again), written);
    true
}

#[test]
fn every_cut_and_every_flipped_bit_is_survived() {
    let whole = pprof::encode_uncompressed(&small());
    let cuts = (0..whole.len()).filter(|length| settles(&whole[..*length])).count();
    let flips = (0..whole.len() * 8)
        .filter(|bit| {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            settles(&flipped)
        })
        .count();
    assert_eq!(cuts, 0, "the strings come last, and the last one is needed");
    assert!(flips > whole.len(), "only {flips} flips were still readable");
}

#[test]
fn fields_in_any_order_and_more_than_once() {
    // Each byte of this is deliberate: a mapping with its build id before its file name, and the file name
    // twice.
    let text = ["", "build", "file", "other file"].map(|text| {
        let mut field = vec![0x32, text.len() as u8];
        field.extend_from_slice(text.as_bytes());
        field
    });
    let mapping = [0x1a, 8, 0x30, 1, 0x28, 3, 0x28, 2, 0x08, 9];
    let bytes = [&mapping[..], &text.concat()].concat();
    assert!(settles(&bytes));
    let profile = pprof::decode(&bytes).unwrap();
    assert_eq!(profile.text(profile.mappings()[0].filename), "file", "the last one counts");
}

#[test]
fn a_small_file_that_unpacks_into_a_large_one_is_refused() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(9));
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..4 {
        gzip.write_all(&zeros).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 10_000);
    let limits = Limits { uncompressed_bytes: 1 << 20, ..Limits::default() };
    let error = pprof::decode_within(&bomb, limits).unwrap_err().to_string();
    assert_eq!(error, "the profile has more than 1048576 bytes after decompression");
}

#[test]
fn a_file_that_repeats_one_large_label_is_refused() {
    let mut profile = proto::Profile::decode(pprof::encode_uncompressed(&small()).as_slice()).unwrap();
    profile.string_table.push("x".repeat(1 << 20));
    let str = profile.string_table.len() as i64 - 1;
    for num in 0..1000 {
        let key = proto::Label { key: str, num, num_unit: 1, str: 0 };
        profile.sample.push(proto::Sample { location_id: vec![], value: vec![1, 1], label: vec![key] });
    }
    let limits = Limits { memory_bytes: 16 << 20, ..Limits::default() };
    let error = pprof::decode_within(&profile.encode_to_vec(), limits).unwrap_err().to_string();
    assert_eq!(error, "the profile needs more than 16777216 bytes of memory");
}
