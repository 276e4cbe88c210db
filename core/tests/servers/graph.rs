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
const LOST: u64 = 2;
const TRUNCATED: u64 = 4;
const CALLED: u64 = 16;
const SEVERAL: u64 = 32;

/// The profile as it comes from its file.
pub(crate) fn of_file(kind: Kind, profile: &Profile) -> Profile {
    let [file] = &Dialect::Pprof.encode(&[(kind, profile.clone())])[..] else { panic!("one file") };
    pprof::decode(&file.bytes).unwrap()
}

/// A value of a profile as a server gives it back.
pub(crate) struct Back {
    pub(crate) profile: Profile,
    pub(crate) column: usize,
    /// It shows so many times what it was sent.
    pub(crate) scale: i64,
    /// Whether it tells what is code of no object file, as losses are.
    pub(crate) marks: bool,
}

/// What a server gave back is drawn as the local profile's value is. Returns how many nodes there are.
pub(crate) fn drawn_alike(what: &str, local: &Profile, column: usize, back: &Back) -> usize {
    let (mut local, mut there) = (Graph::of(local, column), Graph::of(&back.profile, back.column));
    for node in &mut local.0 {
        node.own *= back.scale;
        node.total *= back.scale;
        node.ends.values_mut().for_each(|value| *value *= back.scale);
    }
    if !back.marks {
        local.0.iter_mut().chain(&mut there.0).for_each(|node| node.flags &= !(LOST | TRUNCATED));
    }
    assert!(!local.0.is_empty(), "{what}: there is nothing to draw");
    let difference = local.difference(&there);
    assert!(difference.is_none(), "{what}: node, here and there: {difference:#?}");
    local.0.len()
}

impl Graph {
    /// The first node that is not the same in both.
    fn difference<'g>(&'g self, other: &'g Graph) -> Option<(usize, Option<&'g Node>, Option<&'g Node>)> {
        let most = self.0.len().max(other.0.len());
        let mut pairs = (0..most).map(|number| (number, self.0.get(number), other.0.get(number)));
        pairs.find(|(_, here, there)| here != there)
    }

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

/// What is not the same is told, of whatever it is: the comparison above would else be worth nothing.
#[test]
fn what_is_drawn_otherwise_is_told() {
    let mut shop = crate::shop::profile(Kind::Cpu, "1.0");
    let drawn = |profile: &Profile| Graph::of(profile, 1);
    let all = drawn(&shop);
    assert_eq!(all.difference(&drawn(&of_file(Kind::Cpu, &shop))), None);
    assert_eq!(all.0.iter().filter(|node| node.depth == 1).count(), 2, "what was lost, and main");
    assert_eq!(
        all.0.iter().filter(|node| node.depth == 1).map(|node| node.total).sum::<i64>(),
        shop.totals()[1]
    );
    for place in 0..shop.samples().len() {
        let mut at = 0..;
        let part = shop.filter(|_| at.next() != Some(place));
        assert!(all.difference(&drawn(&part)).is_some(), "without sample {place}");
    }
    assert!(all.difference(&drawn(&crate::shop::regressed("1.0"))).is_some());
    // The same stack, but that the leaf is at another line: it was at one.
    let sample = shop.samples().find(|sample| shop.get_stack(sample.stack).len() == 2).unwrap();
    let (stack, labels, values) =
        (shop.get_stack(sample.stack).to_vec(), sample.labels, sample.values.to_vec());
    let mut leaf = shop.get_location(stack[0]).clone();
    leaf.lines[0].line += 1;
    let leaf = shop.location(leaf);
    let moved = shop.stack(&[leaf, stack[1]]);
    let mut with_more = shop.clone();
    let again = shop.stack(&stack);
    shop.add(again, labels, &values);
    with_more.add(moved, labels, &values);
    assert!(drawn(&shop).difference(&drawn(&with_more)).is_some());
}
