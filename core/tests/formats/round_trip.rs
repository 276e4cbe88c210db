//! What we write we read back, without loss.

use everprof::encode::pprof;
use everprof::profile::{Kind, Label, LabelValue, Profile};

use crate::profiles::{content, large, small};

#[test]
fn a_profile_with_one_of_everything() {
    let profile = small();
    let read = pprof::decode(&pprof::encode(&profile)).unwrap();
    assert_eq!(content(&read), content(&profile));
    let again = pprof::encode_uncompressed(&pprof::decode(&pprof::encode(&read)).unwrap());
    assert_eq!(again, pprof::encode_uncompressed(&read), "reading and writing settles");
}

#[test]
fn a_large_profile_through_several_buffers() {
    let profile = large(2000, 30);
    assert!(pprof::encode_uncompressed(&profile).len() > 128 * 1024, "large enough to be flushed in between");
    let read = pprof::decode(&pprof::encode(&profile)).unwrap();
    assert_eq!(content(&read), content(&profile));
    let raw = pprof::decode(&pprof::encode_uncompressed(&profile)).unwrap();
    assert_eq!(content(&raw), content(&profile), "without compression");
}

#[test]
fn an_empty_profile() {
    let profile = Profile::new(Kind::Cpu);
    let read = pprof::decode(&pprof::encode(&profile)).unwrap();
    assert_eq!(content(&read), content(&profile));
}

#[test]
fn negative_values_survive() {
    let mut profile = small();
    let (stack, labels) = (profile.stack(&[]), profile.labels(&[Label::number("n", -7, "count")]));
    profile.add(stack, labels, &[-1, i64::MIN]);
    let read = pprof::decode(&pprof::encode(&profile)).unwrap();
    assert_eq!(content(&read), content(&profile));
}

#[test]
fn a_number_without_a_unit_gets_the_one_that_readers_assume() {
    let mut profile = Profile::new(Kind::Cpu);
    let labels = profile.labels(&[Label::number("retries", 0, ""), Label::number("request", 5, "")]);
    let stack = profile.stack(&[]);
    profile.add(stack, labels, &[1, 1]);
    let read = pprof::decode(&pprof::encode(&profile)).unwrap();
    let sample = read.samples().next().unwrap();
    let labels = read.get_labels(sample.labels);
    assert_eq!(labels[0].value, LabelValue::Number(5, "bytes".into()), "as Go has it");
    assert_eq!(labels[1].value, LabelValue::Number(0, "retries".into()));
}

#[test]
fn tags_are_comments_and_comments_stay_comments() {
    let mut profile = Profile::new(Kind::Cpu);
    profile.tags.insert("a key=with everything".into(), "x=y".into());
    profile.comments =
        vec!["no tag".into(), "two words = no tag".into(), "=".into(), "a_key_with_everything=z".into()];
    let read = pprof::decode(&pprof::encode(&profile)).unwrap();
    assert_eq!(read.tags.get("a_key_with_everything").map(String::as_str), Some("x=y"));
    assert_eq!(read.comments, profile.comments, "the second value of a key is not lost either");
}
