//! The profiles of allocations and of the live heap.

use super::super::heap::{Amount, HeapCut, HeapRow};
use super::super::names::Names;
use super::{Builder, Plumbing, order};
use crate::profile::{Kind, Label, Profile};
use crate::symbolize;

/// The functions between an allocation of the program and us: ours, and those of Rust's library that only pass it on. What is
/// then the leaf says what was wanted, `Vec<T>::push` or `Box<T>::new`; Go hides its allocator in the same way.
const PLUMBING: Plumbing = Plumbing {
    names: &[
        "everprof_probe::",
        "__rustc::",
        "__rust_",
        "__rg_",
        "__rdl_",
        "alloc::alloc::",
        "alloc::raw_vec::",
        "core::alloc::",
    ],
    files: &[
        "library/alloc/src/alloc.rs",
        "library/alloc/src/raw_vec",
        "library/core/src/alloc/",
        "probe/src/alloc.rs",
        "probe/src/heap/",
        "everprof-probe-",
    ],
};

/// What was allocated, by stack, and for [`Kind::Heap`] what of it and of all before lives; for [`Kind::Peak`] what lived when
/// there was most.
pub(in super::super) fn heap(kind: Kind, cut: &HeapCut, names: &Names<'_>, mode: symbolize::Mode) -> Profile {
    let mut builder = Builder::new(kind, &cut.names, names, mode);
    builder.profile.period = cut.interval as i64;
    let mut rows: Vec<&HeapRow> = cut.rows.iter().collect();
    rows.sort_unstable_by_key(|row| (order(&row.key), row.age));
    for row in rows {
        let Some(values) = values(kind, row.allocated, row.live) else { continue };
        let stack = builder.stack_without(row.key.stack, &PLUMBING);
        let age =
            row.age.filter(|_| kind == Kind::Heap).map(|age| Label::number("age", age as i64, "periods"));
        let labels = builder.labels(row.key, age.as_slice());
        builder.profile.add(stack, labels, &values);
    }
    let none = Amount::default();
    for (reason, allocated, live) in [
        ("lost: too many samples of allocations at once", cut.lost, none),
        ("lost: too many places", cut.rest, none),
        ("lost: too many live blocks at once", none, cut.unfollowed),
    ] {
        if kind == Kind::Peak {
            break;
        }
        if let Some(values) = values(kind, allocated, live) {
            let stack = builder.mark(reason);
            let labels = builder.profile.labels(&[]);
            builder.profile.add(stack, labels, &values);
        }
    }
    if let Some(at) = cut.peak_at.and_then(|at| u64::try_from(at).ok()) {
        let seconds = at / 1_000_000_000;
        builder.profile.comments.push(format!("peak at {seconds} seconds since the epoch"));
    }
    builder.profile
}

/// The values of a sample of this kind; none where there is nothing to tell.
fn values(kind: Kind, allocated: Amount, live: Amount) -> Option<Vec<i64>> {
    let [allocated, live] =
        [allocated, live].map(|amount| [amount.objects, amount.bytes].map(|value| value.round() as i64));
    let values = match kind {
        Kind::Heap => [allocated, live].concat(),
        Kind::Peak => live.to_vec(),
        _ => allocated.to_vec(),
    };
    values.iter().any(|value| *value != 0).then_some(values)
}
