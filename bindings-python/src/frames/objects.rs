//! Whose code is at an address: the interpreter's object, be it the executable or a library, and everprof's own.

use std::ops::Range;
use std::sync::Mutex;

/// Where code of the two is.
#[derive(Debug, Default)]
pub(super) struct Objects {
    interpreter: Vec<Range<u64>>,
    own: Vec<Range<u64>>,
    /// The mappings as they were when an address was asked for that was not among them.
    maps: Mutex<String>,
}

impl Objects {
    /// By the process's mappings: the object with the interpreter's function at `function`.
    pub(super) fn find(function: u64) -> Self {
        let maps = read_maps();
        let own = (Self::find as *const ()).expose_provenance() as u64;
        let (interpreter, own) = (of_object(&maps, function), of_object(&maps, own));
        Self { interpreter, own, maps: Mutex::new(maps) }
    }

    /// Where the interpreter's object begins.
    pub(super) fn base(&self) -> Option<u64> {
        self.interpreter.iter().map(|range| range.start).min()
    }

    /// Whether the code at an address is of a library whose file's name begins so.
    pub(super) fn is_extension(&self, address: u64, name: &str) -> bool {
        let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&address));
        if is_in(&self.interpreter) || is_in(&self.own) {
            return false;
        }
        let has_name = |maps: &str| {
            let (_, path) = maps.lines().filter_map(line).find(|(range, _)| range.contains(&address))?;
            Some(path.rsplit('/').next().unwrap_or(path).starts_with(name))
        };
        // In a fork's child the lock may be held by a thread that is not there: then the maps are read again.
        let Ok(mut maps) = self.maps.try_lock() else { return has_name(&read_maps()).unwrap_or(false) };
        has_name(&maps).unwrap_or_else(|| {
            *maps = read_maps();
            has_name(&maps).unwrap_or(false)
        })
    }

    /// Whether the first of the callers that is not everprof's own, such as its hooks, is of the interpreter.
    pub(super) fn is_interpreters(&self, callers: &[u64]) -> bool {
        let is_in = |ranges: &[Range<u64>], address: u64| ranges.iter().any(|range| range.contains(&address));
        let first = callers.iter().find(|address| !is_in(&self.own, **address));
        first.is_some_and(|address| is_in(&self.interpreter, *address))
    }
}

fn read_maps() -> String {
    std::fs::read_to_string("/proc/self/maps").unwrap_or_default()
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_by_their_objects() {
        let maps = "1000-2000 r-xp 00000000 fe:01 1                  /usr/bin/python3\n\
                    2000-3000 rw-p 00000000 00:00 0 \n\
                    3000-4000 r-xp 00000000 fe:01 2                  /x/_everprof abi3.so\n\
                    5000-6000 r-xp 00000000 fe:01 1                  /usr/bin/python3\n";
        let objects = Objects {
            interpreter: of_object(maps, 0x5008),
            own: of_object(maps, 0x3008),
            maps: Mutex::new(maps.into()),
        };
        assert_eq!(objects.interpreter, [0x1000..0x2000, 0x5000..0x6000]);
        assert!(objects.is_interpreters(&[0x3100, 0x3200, 0x1500, 0x9000]));
        assert!(!objects.is_interpreters(&[0x3100, 0x9000, 0x1500]) && !objects.is_interpreters(&[]));
        assert_eq!(objects.base(), Some(0x1000));
        let two = maps.to_string() + "7000-8000 r-xp 00000000 fe:01 3   /x/_queue.cpython-312.so\n";
        *objects.maps.lock().unwrap() = two;
        let is_queue =
            [0x7008, 0x3008, 0x1008, 0x2008].map(|address| objects.is_extension(address, "_queue."));
        assert_eq!(is_queue, [true, false, false, false]);
        assert!(of_object(maps, 0x2008).is_empty(), "no file");
    }
}
