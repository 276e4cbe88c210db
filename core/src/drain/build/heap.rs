//! The profiles of allocations and of the live heap.

use super::super::heap::{HeapCut, HeapRow};
use super::super::names::Names;
use super::Builder;
use crate::profile::{Kind, Label, Profile};
use crate::symbolize;

/// The functions between an allocation of the program and us.
const PLUMBING: [&str; 6] =
    ["everprof_probe::", "<everprof_probe::", "__rustc::", "__rust_", "__rg_", "__rdl_"];

/// What was allocated in a period, by stack, and for [`Kind::Heap`] what of it and of all before lives at its end.
pub(in super::super) fn heap(kind: Kind, cut: &HeapCut, names: &Names<'_>, mode: symbolize::Mode) -> Profile {
    let mut builder = Builder::new(kind, &cut.names, names, mode);
    builder.profile.period = cut.interval as i64;
    let mut rows: Vec<&HeapRow> = cut.rows.iter().collect();
    rows.sort_unstable_by_key(|row| (row.key.stack, row.key.thread, row.key.labels, row.age));
    for row in rows {
        let round = |value: f64| value.round() as i64;
        let allocated = [round(row.allocated.objects), round(row.allocated.bytes)];
        let live = [round(row.live.objects), round(row.live.bytes)];
        let stack = builder.stack_without(row.key.stack, &PLUMBING);
        match kind {
            Kind::Heap => {
                let age = Label::number("age", row.age as i64, "periods");
                let labels = builder.labels(row.key, &[age]);
                builder.profile.add(stack, labels, &[allocated[0], allocated[1], live[0], live[1]]);
            }
            _ if allocated == [0, 0] => {}
            _ => {
                let labels = builder.labels(row.key, &[]);
                builder.profile.add(stack, labels, &allocated);
            }
        }
    }
    let lost = [cut.lost.objects.round() as i64, cut.lost.bytes.round() as i64, 0, 0];
    if lost[0] != 0 {
        let stack = builder.mark("lost: too many samples of allocations at once");
        let labels = builder.profile.labels(&[]);
        builder.profile.add(
            stack,
            labels,
            lost.get(..builder.profile.sample_types.len()).unwrap_or_default(),
        );
    }
    builder.profile
}
