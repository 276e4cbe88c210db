//! The names of addresses, for tools that fetched a profile without names: `go tool pprof -symbolize=remote`.

use std::fmt::Write;

use crate::symbolize::{Mode, Options, Symbolizer, maps};

/// Names are read from symbol tables within this; lines are not asked for.
const MEMORY: usize = 16 << 20;

/// A line `0xADDRESS NAME` for each address that has a name, of those that are parted by `+` in `list`.
pub(super) fn names(symbolizer: &mut Option<Symbolizer>, list: &[u8]) -> String {
    // Tools only ask whether there are any.
    let mut out = "num_symbols: 1\n".to_string();
    let mut wanted: Vec<u64> = list.split(|byte| *byte == b'+').filter_map(address).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let Ok(modules) = maps::own() else { return out };
    let options = Options { mode: Mode::Names, memory_budget: MEMORY, ..Options::default() };
    let symbolizer = symbolizer.get_or_insert_with(|| Symbolizer::new(options));
    for module in &modules {
        let inside: Vec<u64> = wanted.iter().copied().filter(|address| module.contains(*address)).collect();
        if inside.is_empty() {
            continue;
        }
        for (address, symbols) in inside.iter().zip(symbolizer.resolve(module, &inside)) {
            // The one that was really called, which has the others in it.
            if let Some(symbol) = symbols.last() {
                let _ = writeln!(out, "{address:#x} {}", one_line(&symbol.name));
            }
        }
    }
    out
}

/// A number as Go's `ParseUint` reads it with the base 0: 0x, 0o, 0b, or decimal.
fn address(word: &[u8]) -> Option<u64> {
    let word = std::str::from_utf8(word).ok()?.trim_end();
    let (digits, base) = match word.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&word[2..], 16),
        [b'0', b'o' | b'O', ..] => (&word[2..], 8),
        [b'0', b'b' | b'B', ..] => (&word[2..], 2),
        [b'0', _, ..] => (&word[1..], 8),
        _ => (word, 10),
    };
    let fit = !digits.starts_with(['+', '-']);
    u64::from_str_radix(digits, base).ok().filter(|address| fit && *address != 0)
}

fn one_line(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_function_of_this_test() {}

    #[test]
    fn functions_have_names_and_other_numbers_none() {
        let here = a_function_of_this_test as fn() as usize;
        let list = format!("0+x+-1+18446744073709551616+{here}+{here:#x}+0x1+0x+");
        let names = names(&mut None, list.as_bytes());
        let lines: Vec<&str> = names.lines().collect();
        assert_eq!(lines.len(), 2, "{names}");
        assert_eq!(lines[0], "num_symbols: 1");
        assert!(
            lines[1].starts_with(&format!("{here:#x} ")) && lines[1].contains("a_function_of_this_test"),
            "{names}"
        );
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (word, wanted) in [
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("0b11", Some(3)),
            ("12", Some(12)),
            ("0x+1", None),
            ("", None),
        ] {
            assert_eq!(address(word.as_bytes()), wanted, "{word}");
        }
    }
}
