//! Snapshots of threads as text: `debug=1` sums up equal stacks in Go's legacy form, which `go tool pprof` reads too;
//! `debug=2` tells thread by thread, as the end of a Go program does.

use std::fmt::Write;

use crate::profile::{Label, LabelValue, Line, Profile, Sample};

pub(super) fn threads(profile: &Profile, name: &str, debug: i64) -> String {
    let mut samples: Vec<Sample<'_>> = profile.samples().collect();
    samples.sort_by_key(|sample| std::cmp::Reverse(count(sample)));
    let mut out = String::new();
    if debug == 1 {
        let total: i64 = samples.iter().map(count).sum();
        let _ = writeln!(out, "{name} profile: total {total}");
        samples.iter().for_each(|sample| stack(&mut out, profile, sample));
        return out;
    }
    let mut number = 0;
    for sample in &samples {
        for _ in 0..count(sample) {
            number += 1;
            thread(&mut out, profile, sample, number);
        }
    }
    out
}

fn count(sample: &Sample<'_>) -> i64 {
    sample.values.first().copied().unwrap_or_default()
}

/// One line of counts and addresses, and comments that name them.
fn stack(out: &mut String, profile: &Profile, sample: &Sample<'_>) {
    let _ = write!(out, "{} @", count(sample));
    for location in profile.get_stack(sample.stack) {
        let _ = write!(out, " {:#x}", profile.get_location(*location).address);
    }
    let labels: Vec<String> = profile.get_labels(sample.labels).iter().map(label).collect();
    let _ = writeln!(out, "\n# labels: {{{}}}", labels.join(", "));
    for location in profile.get_stack(sample.stack) {
        let location = profile.get_location(*location);
        for line in &location.lines {
            let (name, place) = frame(profile, line);
            let _ = writeln!(out, "#\t{:#x}\t{name}\t{place}", location.address);
        }
        if location.lines.is_empty() {
            let _ = writeln!(out, "#\t{:#x}", location.address);
        }
    }
    out.push('\n');
}

/// One thread: its number, what it does, its name and its stack.
fn thread(out: &mut String, profile: &Profile, sample: &Sample<'_>, number: i64) {
    let labels = profile.get_labels(sample.labels);
    let text = |key: &str| labels.iter().find(|label| label.key == key).map(value).unwrap_or_default();
    let id = Some(text("thread_id")).filter(|id| !id.is_empty()).unwrap_or_else(|| number.to_string());
    let what: Vec<String> =
        [text("state"), text("wait"), text("syscall")].into_iter().filter(|word| !word.is_empty()).collect();
    let what = if what.is_empty() { "unknown".to_string() } else { what.join(", ") };
    let _ = writeln!(out, "goroutine {id} [{}, {:?}]:", plain(&what), text("thread_name"));
    for location in profile.get_stack(sample.stack) {
        let location = profile.get_location(*location);
        for line in &location.lines {
            let (name, place) = frame(profile, line);
            let _ = writeln!(out, "{name}(...)\n\t{place}");
        }
        if location.lines.is_empty() {
            let _ = writeln!(out, "{:#x}(...)\n\t?:0", location.address);
        }
    }
    out.push('\n');
}

pub(super) fn frame(profile: &Profile, line: &Line) -> (String, String) {
    let function = profile.get_function(line.function);
    let (name, file) = (profile.text(function.name), profile.text(function.filename));
    let place = if file.is_empty() { "?:0".to_string() } else { format!("{}:{}", plain(file), line.line) };
    (plain(name), place)
}

pub(super) fn label(label: &Label) -> String {
    format!("{:?}:{:?}", label.key, value(label))
}

fn value(label: &Label) -> String {
    match &label.value {
        LabelValue::Text(text) => text.clone(),
        LabelValue::Number(number, _) => number.to_string(),
    }
}

/// On one line: names come from the program.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Function, Location, ValueType};

    fn snapshot() -> Profile {
        let count = ValueType::new("threads", "count");
        let mut profile = Profile::with_types(vec![count.clone()], count, "threads");
        let (name, filename) = (profile.string("shop::serve"), profile.string("/src/shop.rs"));
        let function = profile.function(Function { name, filename, ..Function::default() });
        let lines = vec![Line { function, line: 7, column: 0 }];
        let location = profile.location(Location { address: 0x1000, lines, ..Location::default() });
        let stack = profile.stack(&[location]);
        let labels =
            profile.labels(&[Label::text("thread_name", "worker\n1"), Label::text("state", "off_cpu")]);
        profile.add(stack, labels, &[2]);
        profile
    }

    #[test]
    fn equal_stacks_are_summed_up_and_nobody_breaks_a_line() {
        let wanted = "threads profile: total 2\n2 @ 0x1000\n# labels: {\"state\":\"off_cpu\", \"thread_name\":\"worker\\n1\"}\n\
                      #\t0x1000\tshop::serve\t/src/shop.rs:7\n\n";
        assert_eq!(threads(&snapshot(), "threads", 1), wanted);
        let wanted = "goroutine 1 [off_cpu, \"worker\\n1\"]:\nshop::serve(...)\n\t/src/shop.rs:7\n\n";
        assert!(threads(&snapshot(), "threads", 2).starts_with(wanted));
    }
}
