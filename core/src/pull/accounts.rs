//! The heap and waits for locks as text, `debug=1`: Go's legacy forms, which `go tool pprof` reads too.
//!
//! Go writes the numbers of samples as they are and leaves it to the reader to weigh them by the one rate of all. Ours have
//! weights of their own and are written weighed, in the forms of which readers know that: `heapprofile`, and waits in cycles
//! of a nanosecond with a period of one.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::text;
use crate::profile::{Profile, Sample, StackId};

/// What was allocated and what lives, by stack; what lives most comes first.
pub(super) fn heap(profile: &Profile) -> String {
    let mut rows = rows::<4>(profile);
    rows.sort_by_key(|(stack, [allocs, space, objects, live])| {
        (std::cmp::Reverse((*live, *space, *objects, *allocs)), *stack)
    });
    let total = rows
        .iter()
        .fold([0; 4], |sum: [i64; 4], (_, row)| std::array::from_fn(|at| sum[at].saturating_add(row[at])));
    let values = |[allocs, space, objects, live]: [i64; 4]| format!("{objects}: {live} [{allocs}: {space}]");
    let mut out = format!("heap profile: {} @ heapprofile\n", values(total));
    for (stack, row) in rows {
        let _ = write!(out, "{} @", values(row));
        frames(&mut out, profile, stack);
    }
    let _ = writeln!(
        out,
        "# everprof: one in {} bytes allocated was a sample; values are weighed",
        profile.period
    );
    out
}

/// Waits by stack, the longest first.
pub(super) fn waits(profile: &Profile, name: &str) -> String {
    let head = if name == "mutex" { "mutex" } else { "contention" };
    let mut out = format!("--- {head}:\ncycles/second=1000000000\nsampling period=1\n");
    let mut rows = rows::<2>(profile);
    rows.sort_by_key(|(stack, [count, nanos])| (std::cmp::Reverse((*nanos, *count)), *stack));
    for (stack, [count, nanos]) in rows {
        let _ = write!(out, "{nanos} {count} @");
        frames(&mut out, profile, stack);
    }
    out
}

/// The first values of each stack, whatever its labels.
fn rows<const N: usize>(profile: &Profile) -> Vec<(StackId, [i64; N])> {
    let mut rows: BTreeMap<StackId, [i64; N]> = BTreeMap::new();
    for Sample { stack, values, .. } in profile.samples() {
        let sum = rows.entry(stack).or_insert([0; N]);
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
    }
    rows.into_iter().collect()
}

/// The addresses of a stack, and comments that name them.
fn frames(out: &mut String, profile: &Profile, stack: StackId) {
    for location in profile.get_stack(stack) {
        let _ = write!(out, " {:#x}", profile.get_location(*location).address);
    }
    out.push('\n');
    for location in profile.get_stack(stack) {
        let location = profile.get_location(*location);
        for line in &location.lines {
            let (name, place) = text::frame(profile, line);
            let _ = writeln!(out, "#\t{:#x}\t{name}\t{place}", location.address);
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Function, Kind, Label, Line, Location};

    fn profile(kind: Kind, rows: &[(&str, &[i64])]) -> Profile {
        let mut profile = Profile::new(kind);
        profile.period = 512;
        for (number, (function, values)) in (1..).zip(rows) {
            let name = profile.string(function);
            let function = profile.function(Function { name, ..Function::default() });
            let lines = vec![Line { function, line: 7, column: 0 }];
            let location =
                profile.location(Location { address: 0x1000 * number, lines, ..Location::default() });
            let stack = profile.stack(&[location]);
            for thread in ["a", "b"] {
                let labels = profile.labels(&[Label::text("thread_name", thread)]);
                profile.add(stack, labels, values);
            }
        }
        profile
    }

    #[test]
    fn the_heap_is_written_as_gperftools_does() {
        let of = profile(Kind::Heap, &[("small", &[3, 30, 1, 10]), ("large\n", &[1, 100, 1, 100])]);
        let wanted = "heap profile: 4: 220 [8: 260] @ heapprofile\n\
                      2: 200 [2: 200] @ 0x2000\n#\t0x2000\tlarge \t?:0\n\n\
                      2: 20 [6: 60] @ 0x1000\n#\t0x1000\tsmall\t?:0\n\n\
                      # everprof: one in 512 bytes allocated was a sample; values are weighed\n";
        assert_eq!(heap(&of), wanted);
    }

    #[test]
    fn waits_are_written_as_go_does() {
        let of = profile(Kind::Mutex, &[("short", &[5, 50]), ("long", &[1, 5_000])]);
        let wanted = "--- mutex:\ncycles/second=1000000000\nsampling period=1\n\
                      10000 2 @ 0x2000\n#\t0x2000\tlong\t?:0\n\n100 10 @ 0x1000\n#\t0x1000\tshort\t?:0\n\n";
        assert_eq!(waits(&of, "mutex"), wanted);
        assert!(waits(&of, "block").starts_with("--- contention:\n"));
    }
}
