//! Names of code that a JIT compiler made, from the `perf-<pid>.map` that it writes: a line for each function, in the
//! order in which they were compiled.
//!
//! The text is streamed past the addresses that are asked for. Where code was made twice at one place, the later line
//! counts: that is what ran last.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use super::elf::Bytes;
use super::stats::Reason;

/// More than this is not read: the names made last, at the end, are the ones that are wanted.
const SIZE_LIMIT: u64 = 64 << 20;
const LINE_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 1024;
/// Code is made again at the same place, but not this often.
const VISITS_PER_ADDRESS: usize = 4096;

/// The length of the map, which says whether it has grown; 0 where there is none that belongs to this process' user:
/// in a directory that everybody may write to, anybody may have put one.
pub(crate) fn size(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    let own = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == metadata.uid());
    if own || metadata.uid() == 0 { metadata.len() } else { 0 }
}

/// The name for each of the sorted `addresses`.
pub(crate) fn names(path: &Path, addresses: &[u64]) -> Result<Vec<Option<Rc<str>>>, Reason> {
    // Refuses a pipe, which would block.
    let Bytes::File(mut file, size) = Bytes::open(path)? else { return Err(Reason::Missing) };
    if let Some(start) = size.checked_sub(SIZE_LIMIT) {
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start)).map_err(|_| Reason::Missing)?;
    }
    Ok(among(BufReader::with_capacity(64 * 1024, file.take(SIZE_LIMIT)), addresses))
}

/// The name for each of the sorted `addresses` in the text of a map; lines that are not as they should be are passed
/// over.
pub(crate) fn among(mut text: impl BufRead, addresses: &[u64]) -> Vec<Option<Rc<str>>> {
    let mut names: Vec<Option<Rc<str>>> = vec![None; addresses.len()];
    let mut visits_left = VISITS_PER_ADDRESS * addresses.len();
    let mut line = Vec::new();
    loop {
        line.clear();
        match text.by_ref().take(LINE_LIMIT as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return names,
            Ok(_) => {}
        }
        // The last line may be half written, and the rest of a line that is too long is none.
        let Some((start, end, name)) = parse(&line) else { continue };
        let first = addresses.partition_point(|&address| address < start);
        let covered = addresses[first..].iter().take_while(|&&address| address < end).count();
        let Some(left) = visits_left.checked_sub(covered) else { return names };
        visits_left = left;
        if covered > 0 {
            names[first..first + covered].fill(Some(name.into()));
        }
    }
}

fn parse(line: &[u8]) -> Option<(u64, u64, &str)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let (start, size, name) = (number(start)?, number(size)?, name.trim());
    let name = &name[..name.floor_char_boundary(NAME_LIMIT)];
    (!name.is_empty()).then_some((start, start.checked_add(size)?, name))
}

#[cfg(test)]
mod tests {
    use super::among;

    #[test]
    fn the_later_line_counts_and_junk_is_passed_over() {
        let text = "1000 100 first\n\nnonsense\n1080 10 Lazy:inner with spaces\nffffffffffffffff 10 wraps\n\
                    1000 zz size\n1000 8 again\n2000 10 half written";
        let names = among(text.as_bytes(), &[0x1000, 0x1007, 0x1008, 0x1085, 0x10ff, 0x1100, 0x2000]);
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        let inner = Some("Lazy:inner with spaces");
        assert_eq!(names, [Some("again"), Some("again"), Some("first"), inner, Some("first"), None, None]);
    }
}
