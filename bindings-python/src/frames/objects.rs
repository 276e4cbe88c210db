//! Whose code is at an address: the interpreter's object, be it the executable or a library, and everprof's own.

use std::ops::Range;

/// Where code of the two is.
#[derive(Debug, Default)]
pub(super) struct Objects {
    interpreter: Vec<Range<u64>>,
    own: Vec<Range<u64>>,
}

impl Objects {
    /// By the process's mappings: the object with the interpreter's function at `function`.
    pub(super) fn find(function: u64) -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let own = (Self::find as *const ()).expose_provenance() as u64;
        Self { interpreter: of_object(&maps, function), own: of_object(&maps, own) }
    }

    /// Whether the first of the callers that is not everprof's own, such as its hooks, is of the interpreter.
    pub(super) fn is_interpreters(&self, callers: &[u64]) -> bool {
        let is_in = |ranges: &[Range<u64>], address: u64| ranges.iter().any(|range| range.contains(&address));
        let first = callers.iter().find(|address| !is_in(&self.own, **address));
        first.is_some_and(|address| is_in(&self.interpreter, *address))
    }
}

/// The mappings of the file that is mapped at `address`.
fn of_object(maps: &str, address: u64) -> Vec<Range<u64>> {
    let lines = || maps.lines().filter_map(line);
    let Some((_, path)) = lines().find(|(range, _)| range.contains(&address)) else { return Vec::new() };
    lines().filter(|(_, other)| *other == path && !path.is_empty()).map(|(range, _)| range).collect()
}

/// A line such as `7f12-7f34 r-xp 00000000 fe:01 123   /usr/lib/libx.so`.
fn line(line: &str) -> Option<(Range<u64>, &str)> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?..number(end)?, words.nth(4).unwrap_or_default().trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_by_their_objects() {
        let maps = "1000-2000 r-xp 00000000 fe:01 1                  /usr/bin/python3\n\
                    2000-3000 rw-p 00000000 00:00 0 \n\
                    3000-4000 r-xp 00000000 fe:01 2                  /x/_everprof abi3.so\n\
                    5000-6000 r-xp 00000000 fe:01 1                  /usr/bin/python3\n";
        let objects = Objects { interpreter: of_object(maps, 0x5008), own: of_object(maps, 0x3008) };
        assert_eq!(objects.interpreter, [0x1000..0x2000, 0x5000..0x6000]);
        assert!(objects.is_interpreters(&[0x3100, 0x3200, 0x1500, 0x9000]));
        assert!(!objects.is_interpreters(&[0x3100, 0x9000, 0x1500]) && !objects.is_interpreters(&[]));
        assert!(of_object(maps, 0x2008).is_empty(), "no file");
    }
}
