//! The flame graph that a page draws, read out of the page: two profiles are drawn alike where each node stands in the same
//! place, has the same name, file, line and object file, the same value of its own and the same sum.
//!
//! What servers give back is compared as it is drawn, sample type by sample type. Of labels the graph has nothing to compare
//! with: Parca and Pyroscope sum samples of all labels up in what they give back, and Datadog spells them in its own way. They
//! are compared where they are pushed.

use std::collections::BTreeMap;
use std::io::Read;

use everprof::encode::flamegraph::{self, PageOptions};
use everprof::encode::{Dialect, pprof};
use everprof::profile::{Kind, Profile};

use crate::http::unbase64;

/// The nodes as they are drawn: depth first, each before those that it calls, siblings by their names.
#[derive(Debug, PartialEq, Eq)]
struct Graph(Vec<Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    depth: usize,
    name: String,
    /// Inlined, called, lost, truncated, of several lines, the application's own.
    flags: u64,
    /// File, object file and line; none where the node has several.
    place: Option<(String, String, i64)>,
    /// What ends here, by file, object file and line.
    ends: BTreeMap<(String, String, i64), i64>,
    own: i64,
    total: i64,
}

const INLINED: u64 = 1;
const CALLED: u64 = 16;
const SEVERAL: u64 = 32;

/// The profile as it comes from its file.
pub(crate) fn of_file(kind: Kind, profile: &Profile) -> Profile {
    let [file] = &Dialect::Pprof.encode(&[(kind, profile.clone())])[..] else { panic!("one file") };
    pprof::decode(&file.bytes).unwrap()
}

/// What a server gave back of a sample type is drawn as the local profile is, each value times `scale`.
pub(crate) fn drawn_alike(what: &str, local: &Profile, column: usize, back: &Profile, at: usize, scale: i64) {
    let (mut local, back) = (Graph::of(local, column), Graph::of(back, at));
    for node in &mut local.0 {
        node.own *= scale;
        node.total *= scale;
        node.ends.values_mut().for_each(|value| *value *= scale);
    }
    assert!(!local.0.is_empty(), "{what}: there is nothing to draw");
    for (number, (here, there)) in local.0.iter().zip(&back.0).enumerate() {
        assert_eq!(there, here, "{what}: node {number} of {}, there and here", local.0.len());
    }
    let beyond = local.0.iter().chain(&back.0).nth(local.0.len().min(back.0.len()));
    assert_eq!(back.0.len(), local.0.len(), "{what}: nodes there and here; the next is {beyond:?}");
}

impl Graph {
    /// What the page of a profile draws of a sample type. Samples that have none of it are left out, as servers do.
    fn of(profile: &Profile, column: usize) -> Graph {
        let profile = profile.filter(|sample| sample.values[column] != 0);
        let page = flamegraph::html(&profile, &PageOptions::default());
        let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
        let end = start + page[start..].find("</script>").unwrap();
        let data: serde_json::Value = serde_json::from_str(&page[start..end]).unwrap();
        let count = |name: &str| data[name].as_u64().unwrap() as usize;
        assert_eq!(data["types"].as_array().unwrap().len(), profile.sample_types.len());
        let strings: Vec<String> = serde_json::from_value(data["strings"].clone()).unwrap();
        let mut read = Columns::of(data["packed"].as_str().unwrap());

        let frame = |read: &mut Columns| Frame {
            name: read.number() as usize,
            file: read.number() as usize,
            module: read.number() as usize,
            line: read.signed(),
            flags: read.number(),
        };
        let frames: Vec<Frame> = (0..count("frame_count")).map(|_| frame(&mut read)).collect();
        let text = |place: usize| strings[place].clone();
        let place = |frame: &Frame| (text(frame.file), text(frame.module), frame.line);

        let ups: Vec<usize> = (0..count("node_count")).map(|_| read.number() as usize).collect();
        let mut followers = vec![0i64; frames.len() + 1];
        let mut before = 0;
        let mut frame_of = Vec::new();
        for _ in &ups {
            let number = followers[before] + read.signed();
            followers[before] = number;
            before = number as usize + 1;
            frame_of.push(number as usize);
        }
        let mut depth = 0;
        let mut nodes: Vec<Node> = Vec::new();
        for (up, number) in ups.iter().zip(&frame_of) {
            let frame = &frames[*number];
            depth = depth + 1 - up;
            let kind = if frame.flags & INLINED == 0 { frame.flags | CALLED } else { frame.flags };
            let flags = read.number() ^ kind;
            let place = (flags & SEVERAL == 0).then(|| place(frame));
            let (name, ends) = (text(frame.name), BTreeMap::new());
            nodes.push(Node { depth, name, flags, place, ends, own: 0, total: 0 });
        }

        let rows = count("sample_count");
        let mut leaf = 0;
        let mut leaves = Vec::new();
        for _ in 0..rows {
            leaf += read.number() as usize;
            leaves.push(leaf);
        }
        // Label sets and profiles.
        (0..2 * rows).for_each(|_| _ = read.number());
        let of_node = |leaf: usize| leaf.checked_sub(1).map_or(0, |node| frame_of[node] as i64);
        let own_frames: Vec<i64> = leaves.iter().map(|&leaf| of_node(leaf) + read.signed()).collect();
        for at in 0..profile.sample_types.len() {
            for (&leaf, &frame) in leaves.iter().zip(&own_frames) {
                let value = read.signed();
                if let Some(node) = leaf.checked_sub(1).filter(|_| at == column) {
                    nodes[node].own += value;
                    *nodes[node].ends.entry(place(&frames[frame as usize])).or_default() += value;
                }
            }
        }
        assert!(read.rest.len() == 0);
        for node in 0..nodes.len() {
            let below = nodes[node + 1..].iter().take_while(|below| below.depth > nodes[node].depth);
            nodes[node].total = nodes[node].own + below.map(|below| below.own).sum::<i64>();
        }
        Graph(nodes)
    }
}

struct Frame {
    name: usize,
    file: usize,
    module: usize,
    line: i64,
    flags: u64,
}

/// The packed numbers of a page.
struct Columns {
    rest: std::vec::IntoIter<u8>,
}

impl Columns {
    fn of(packed: &str) -> Columns {
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(unbase64(packed).as_slice()).read_to_end(&mut bytes).unwrap();
        Columns { rest: bytes.into_iter() }
    }

    fn number(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.rest.next().unwrap();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    fn signed(&mut self) -> i64 {
        let value = self.number();
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }
}
