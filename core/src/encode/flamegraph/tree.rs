//! The tree of all stacks, merged by name.
//!
//! Built once for a page: [`Tree`] sorts the stacks of the [`Rows`] by the names of their frames and lays them into each
//! other. It takes four bytes for a frame of a stack and nine for a node, and no table of nodes to search.

use std::cmp::Ordering;

use super::frames::{INLINED, Tables};
use super::rows::Rows;

/// At least once the node was called, not inlined.
const CALLED: u8 = 16;
/// The node's frames differ in their line or file.
const SEVERAL: u8 = 32;

/// The nodes below the root, depth first, siblings in the order of their names.
pub(super) struct Tree {
    /// How many levels above the place below the node before it a node stands.
    pub(super) up: Vec<u32>,
    /// One of the frames that the node is made of.
    pub(super) frame: Vec<u32>,
    pub(super) flags: Vec<u8>,
    /// For each stack its last node, counted from 1; 0 is the root.
    pub(super) leaf: Vec<u32>,
}

impl Tree {
    pub(super) fn of(rows: &Rows, tables: &Tables<'_>) -> Self {
        let frames = tables.frames();
        let name = |frame: u32| frames[frame as usize].name;
        let mut order: Vec<u32> = (0..rows.stack_count()).collect();
        order.sort_unstable_by(|&a, &b| by_names(rows.stack(a), rows.stack(b), name));

        let mut tree = Self {
            up: Vec::new(),
            frame: Vec::new(),
            flags: Vec::new(),
            leaf: vec![0; rows.stack_count() as usize],
        };
        // The nodes from the root to the last one.
        let mut path: Vec<u32> = Vec::new();
        for number in order {
            let stack = rows.stack(number);
            let shared = path.iter().zip(stack);
            let shared =
                shared.take_while(|(node, frame)| name(tree.frame[**node as usize]) == name(**frame));
            let shared = shared.count();
            for (&node, &frame) in path.iter().zip(&stack[..shared]) {
                tree.join(node as usize, frame, tables);
            }
            for (depth, &frame) in stack.iter().enumerate().skip(shared) {
                tree.up.push((path.len() - depth) as u32);
                path.truncate(depth);
                path.push(tree.frame.len() as u32);
                tree.frame.push(frame);
                tree.flags.push(kind(frames[frame as usize].flags));
            }
            path.truncate(stack.len());
            tree.leaf[number as usize] = path.last().map_or(0, |node| node + 1);
        }
        tree
    }

    /// One more frame of a node's name.
    fn join(&mut self, node: usize, frame: u32, tables: &Tables<'_>) {
        if self.frame[node] == frame {
            return;
        }
        let [first, other] = [self.frame[node], frame].map(|frame| tables.frames()[frame as usize]);
        self.flags[node] |= kind(other.flags);
        if (first.line, first.file) != (other.line, other.file) {
            self.flags[node] |= SEVERAL;
        }
    }
}

/// The flags of a node that has this one frame.
pub(super) fn kind(flags: u8) -> u8 {
    if flags & INLINED == 0 { flags | CALLED } else { flags }
}

fn by_names(a: &[u32], b: &[u32], name: impl Fn(u32) -> u32) -> Ordering {
    a.iter().map(|&frame| name(frame)).cmp(b.iter().map(|&frame| name(frame)))
}
