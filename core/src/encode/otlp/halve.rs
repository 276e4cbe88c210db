//! A request in two, for a server that found the whole too large: by its stacks, each half with what they point at.
//!
//! Rows keep their numbers, so that nothing else has to be written anew: those that a half does not need are its zero values.

use std::collections::HashSet;
use std::io::Read;

use flate2::read::GzDecoder;

use super::{ProfileId, of_column, time_of_part};
use crate::encode::protobuf::{Fields, Value, WireError, Writer, integers};
use crate::encode::{Encoded, gzip};

/// No request of ours has more without compression.
const MOST: u64 = 64 << 20;

/// Two requests with half of the stacks each. None where there are no two, or where it is not ours.
pub(in super::super) fn halve(whole: &Encoded) -> Option<[Encoded; 2]> {
    let mut bytes = Vec::new();
    GzDecoder::new(whole.bytes.as_slice()).take(MOST).read_to_end(&mut bytes).ok()?;
    let dictionary = message(&bytes, 2).ok()??;
    // Those that are not needed any more, from a halving before, are empty.
    let stacks: Vec<u64> =
        rows(dictionary, 7).ok()?.into_iter().filter(|(_, of)| !of.is_empty()).map(|(row, _)| row).collect();
    let middle = *stacks.get(stacks.len() / 2).filter(|_| stacks.len() > 1)?;
    // There are no more stacks than samples were.
    let half = |before: usize, keep: &dyn Fn(u64) -> bool| {
        let (id, time_nanos) = (ProfileId::new(), time_of_part(whole.time_nanos, before));
        let bytes = part(&bytes, dictionary, (time_nanos, id), keep).ok()?;
        Some(Encoded { bytes: gzip::compress(&bytes), time_nanos, id, ..whole.clone() })
    };
    Some([half(0, &|stack| stack < middle)?, half(stacks.len() / 2, &|stack| stack >= middle)?])
}

/// The request with these stacks alone.
fn part(
    request: &[u8],
    dictionary: &[u8],
    (time_nanos, id): (i64, ProfileId),
    keep: &dyn Fn(u64) -> bool,
) -> Result<Vec<u8>, WireError> {
    let mut out = Writer::with_capacity(request.len() / 2);
    let (mut strings, mut count) = (HashSet::new(), 0);
    let mut profile = |bytes: &[u8], out: &mut Writer| -> Result<(), WireError> {
        for field in Fields::new(bytes) {
            match field? {
                (2, Value::Bytes(sample)) if !keep(number(sample, 1)?) => {}
                (3, _) => out.fixed64(3, time_nanos.max(0) as u64),
                (7, _) => {
                    out.bytes(7, &of_column(id, count));
                    count += 1;
                }
                (place @ (1 | 5), Value::Bytes(of_type)) => {
                    strings.extend([number(of_type, 1)?, number(of_type, 2)?]);
                    out.element(place, of_type);
                }
                (place, value) => copy(out, place, value),
            }
        }
        Ok(())
    };
    within(request, &[1, 2, 2], true, &mut out, &mut profile)?;
    let mut written = Ok(());
    out.message(2, |out| written = tables(dictionary, strings, out, keep));
    written.map(|()| out.into_bytes())
}

/// Writes what stands in the place of a message.
type Write<'w> = dyn FnMut(&[u8], &mut Writer) -> Result<(), WireError> + 'w;

/// Copies a message, but those at the end of this way of fields by `write`; and of the outermost only these.
fn within(
    bytes: &[u8],
    way: &[u32],
    is_outermost: bool,
    out: &mut Writer,
    write: &mut Write<'_>,
) -> Result<(), WireError> {
    let Some((first, rest)) = way.split_first() else { return write(bytes, out) };
    for field in Fields::new(bytes) {
        match field? {
            (place, Value::Bytes(inner)) if place == *first => {
                let mut written = Ok(());
                out.message(place, |out| written = within(inner, rest, false, out, write));
                written?;
            }
            (place, value) if !is_outermost => copy(out, place, value),
            _ => {}
        }
    }
    Ok(())
}

/// The dictionary, of which only what these stacks need is there.
fn tables(
    dictionary: &[u8],
    mut strings: HashSet<u64>,
    out: &mut Writer,
    keep: &dyn Fn(u64) -> bool,
) -> Result<(), WireError> {
    let (mut locations, mut functions) = (HashSet::new(), HashSet::new());
    for (_, stack) in rows(dictionary, 7)?.into_iter().filter(|(row, _)| keep(*row)) {
        for field in Fields::new(stack) {
            if let (1, list) = field? {
                integers(list)
                    .try_for_each(|location| location.map(|location| _ = locations.insert(location)))?;
            }
        }
    }
    for (_, location) in rows(dictionary, 2)?.into_iter().filter(|(row, _)| locations.contains(row)) {
        for line in fields(location, 3)? {
            functions.insert(number(line, 1)?);
        }
    }
    for (_, function) in rows(dictionary, 3)?.into_iter().filter(|(row, _)| functions.contains(row)) {
        strings.extend([number(function, 1)?, number(function, 2)?, number(function, 3)?]);
    }
    for mapping in fields(dictionary, 1)? {
        strings.insert(number(mapping, 4)?);
    }
    for attribute in fields(dictionary, 6)? {
        strings.extend([number(attribute, 1)?, number(attribute, 3)?]);
    }
    let is_needed = |table: u32, row: u64| match table {
        2 => locations.contains(&row),
        3 => functions.contains(&row),
        5 => strings.contains(&row),
        7 => keep(row),
        _ => true,
    };
    for table in 1..=7 {
        for (row, bytes) in rows(dictionary, table)? {
            out.element(table, if is_needed(table, row) { bytes } else { b"" });
        }
    }
    Ok(())
}

fn copy(out: &mut Writer, place: u32, value: Value<'_>) {
    match value {
        Value::Varint(value) => out.uint(place, value),
        Value::Fixed64(value) => out.fixed64(place, value),
        Value::Fixed32(value) => out.fixed32(place, value),
        Value::Bytes(bytes) => out.element(place, bytes),
    }
}

/// The messages of that number.
fn fields(bytes: &[u8], wanted: u32) -> Result<Vec<&[u8]>, WireError> {
    let mut found = Vec::new();
    for field in Fields::new(bytes) {
        if let (place, Value::Bytes(bytes)) = field?
            && place == wanted
        {
            found.push(bytes);
        }
    }
    Ok(found)
}

fn rows(dictionary: &[u8], table: u32) -> Result<Vec<(u64, &[u8])>, WireError> {
    Ok((0..).zip(fields(dictionary, table)?).collect())
}

fn message(bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>, WireError> {
    fields(bytes, wanted).map(|found| found.last().copied())
}

/// An integer; 0 where it is left out.
fn number(bytes: &[u8], wanted: u32) -> Result<u64, WireError> {
    let mut found = 0;
    for field in Fields::new(bytes) {
        if let (place, Value::Varint(value)) = field?
            && place == wanted
        {
            found = value;
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::encode::otlp::encode;
    use crate::profile::{Function, Kind, Label, Line, Location, Profile};

    fn profile(stacks: u64) -> Profile {
        let mut profile = Profile::new(Kind::Cpu);
        for n in 0..stacks {
            let name = profile.string(&format!("function_{n}"));
            let function = profile.function(Function { name, ..Function::default() });
            let lines = vec![Line { function, line: 1, column: 0 }];
            let location = profile.location(Location { address: n + 1, lines, ..Location::default() });
            let stack = profile.stack(&[location]);
            let labels = profile.labels(&[Label::text("n", n.to_string())]);
            profile.add(stack, labels, &[1, 10]);
        }
        profile
    }

    fn plain(encoded: &Encoded) -> Vec<u8> {
        let mut bytes = Vec::new();
        GzDecoder::new(encoded.bytes.as_slice()).read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Samples in all profiles of a request, and the names that it still has.
    fn content(encoded: &Encoded) -> (usize, usize) {
        let bytes = plain(encoded);
        let scope = message(message(&bytes, 1).unwrap().unwrap(), 2).unwrap().unwrap();
        let profiles = fields(scope, 2).unwrap();
        let dictionary = message(&bytes, 2).unwrap().unwrap();
        let names = fields(dictionary, 5).unwrap();
        (
            profiles.iter().map(|profile| fields(profile, 2).unwrap().len()).sum(),
            names.iter().filter(|name| name.starts_with(b"function_")).count(),
        )
    }

    /// When its profiles are, by themselves.
    fn times(encoded: &Encoded) -> Vec<u64> {
        let bytes = plain(encoded);
        let scope = message(message(&bytes, 1).unwrap().unwrap(), 2).unwrap().unwrap();
        let times = fields(scope, 2).unwrap().into_iter().flat_map(|profile| Fields::new(profile).flatten());
        let time = |field| match field {
            (3, Value::Fixed64(time)) => Some(time),
            _ => None,
        };
        times.filter_map(time).collect()
    }

    #[test]
    fn halves_have_times_of_their_own_and_say_so() {
        let mut profile = profile(101);
        profile.time_nanos = 5_000;
        let whole = &encode(&[(Kind::Cpu, profile)])[0];
        let [first, second] = halve(whole).unwrap();
        assert_eq!([first.time_nanos, second.time_nanos], [5_000, 505_000]);
        assert_eq!([times(&first), times(&second)], [[5_000; 2], [505_000; 2]]);
    }

    #[test]
    fn halves_have_half_of_the_stacks_and_what_they_need() {
        let whole = &encode(&[(Kind::Cpu, profile(101))])[0];
        assert_eq!(content(whole), (202, 101));
        let halves = halve(whole).unwrap();
        let [first, second] = halves.each_ref().map(content);
        assert_eq!((first, second), ((100, 50), (102, 51)));
        assert!(halves[0].id != halves[1].id && halves[0].id != whole.id);
        assert!(halves.iter().all(|half| plain(half).len() < plain(whole).len() * 2 / 3));
        let quarters = halve(&halves[1]).unwrap();
        assert_eq!(quarters.each_ref().map(content), [(50, 25), (52, 26)]);
        assert!(halve(&encode(&[(Kind::Cpu, profile(1))])[0]).is_none());
        assert!(halve(&Encoded { bytes: b"nothing".to_vec(), ..whole.clone() }).is_none());
    }
}
