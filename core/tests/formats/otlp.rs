//! OTLP profiles: what a decoder of others reads in them, what is split, and what points where.

use std::collections::HashSet;
use std::io::Read;

use everprof::encode::{Dialect, Encoded, Format};
use everprof::profile::{Kind, Label, Profile};
use prost::Message;

use crate::otlp_proto::{self, Request};
use crate::profiles::{add, large, location, small};

/// The small profile, of a request that is a part of a trace.
pub fn traced() -> Profile {
    let mut profile = small();
    for (key, value) in [("env", "unknown"), ("host", "h1"), ("pod", "none"), ("effective_rate_hz", "99.00")]
    {
        profile.tags.insert(key.into(), value.into());
    }
    let name = profile.string("work");
    let system_name = profile.string("_RNvCs4fqI2P2rA04_4shop4work");
    let function = everprof::profile::Function { name, system_name, ..Default::default() };
    let function = profile.function(function);
    let binary = profile.locations()[0].mapping;
    let work = location(&mut profile, binary, 0x5000_0000_4000, &[(function, 9)]);
    let span = Label::text("span_id", "b7ad6b7169203331");
    let labels = [Label::text("trace_id", "0af7651916cd43dd8448eb211c80319c"), span.clone()];
    add(&mut profile, &[work], &labels, [1, 10_101_010]);
    // No link without both.
    add(&mut profile, &[work], &[span], [1, 0]);
    profile
}

/// What is in the gzip.
pub fn plain(encoded: &Encoded) -> Vec<u8> {
    assert_eq!(encoded.format, Format::Otlp);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(encoded.bytes.as_slice()).read_to_end(&mut plain).unwrap();
    plain
}

fn request(encoded: &Encoded) -> Request {
    let plain = plain(encoded);
    let request = Request::decode(plain.as_slice()).unwrap();
    assert_eq!(request.encoded_len(), plain.len(), "nothing else is in it");
    request
}

#[test]
fn a_request_says_what_the_profile_says() {
    let encoded = Dialect::Otlp.encode(&[(Kind::Cpu, traced())]);
    assert_eq!(encoded.len(), 1);
    crate::golden::check("small.otlp.txt", otlp_proto::text(&request(&encoded[0])).as_bytes());
}

#[test]
fn each_profile_of_a_request_has_an_id_of_its_own_made_of_the_stable_one() {
    let encoded = &Dialect::Otlp.encode(&[(Kind::Cpu, small())])[0];
    let request = request(encoded);
    let ids: Vec<&Vec<u8>> =
        request.resource_profiles[0].scope_profiles[0].profiles.iter().map(|one| &one.profile_id).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| id[..15] == encoded.id.to_bytes()[..15]));
}

#[test]
fn what_is_too_large_for_a_server_is_split_and_adds_up() {
    let profile = large(36_000, 30);
    let totals = profile.totals();
    let encoded = Dialect::Otlp.encode(&[(Kind::Cpu, profile)]);
    assert!(encoded.len() > 1);
    let (mut sums, mut samples) = ([0, 0], 0);
    for one in &encoded {
        assert!(plain(one).len() <= 2 << 20);
        let request = request(one);
        let profiles = &request.resource_profiles[0].scope_profiles[0].profiles;
        // The type to show first stands first.
        for (place, profile) in profiles.iter().rev().enumerate() {
            sums[place] += profile.samples.iter().map(|sample| sample.values[0]).sum::<i64>();
            samples += profile.samples.len();
        }
        let dictionary = request.dictionary.as_ref().unwrap();
        assert_eq!(
            dictionary.string_table.iter().collect::<HashSet<_>>().len(),
            dictionary.string_table.len()
        );
        let stacks: HashSet<i32> =
            profiles.iter().flat_map(|one| &one.samples).map(|sample| sample.stack_index).collect();
        assert_eq!(stacks.len() + 1, dictionary.stack_table.len(), "no stack that nobody points at");
    }
    assert_eq!(sums.to_vec(), totals);
    assert_eq!(samples, 2 * 36_000);
}

#[test]
fn what_tells_nothing_is_left_out_and_levels_have_no_duration() {
    assert!(Dialect::Otlp.encode(&[(Kind::Cpu, Profile::new(Kind::Cpu))]).is_empty());
    let mut heap = Profile::new(Kind::Heap);
    heap.duration_nanos = 7;
    let stack = heap.stack(&[]);
    let labels = heap.labels(&[]);
    heap.add(stack, labels, &[1, 2, 0, 4]);
    let encoded = Dialect::Otlp.encode(&[(Kind::Alloc, Profile::new(Kind::Alloc)), (Kind::Heap, heap)]);
    let text = otlp_proto::text(&request(&encoded[0]));
    assert_eq!(
        text,
        "resource \nscope memory\n\
         profile inuse_space/bytes period 1 space/bytes time 0 0 \nsample 4 |  |  |  \n\
         profile alloc_objects/count period 1 space/bytes time 0 7 \nsample 1 |  |  |  \n\
         profile alloc_space/bytes period 1 space/bytes time 0 7 \nsample 2 |  |  |  \n"
    );
}
