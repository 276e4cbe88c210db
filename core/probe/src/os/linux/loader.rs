//! A watch on the dynamic loader: whether it has loaded or unloaded anything since a moment, in a few loads.
//!
//! `dl_iterate_phdr` says how many objects were ever loaded and unloaded, but takes a lock, so a handler may not ask. The
//! numbers that it tells lie in the loader's own data, which is never unmapped. Where, differs between versions, and is
//! found here, off the handler: of the words that equal the number of objects ever loaded, all are watched, and those that
//! stop to equal it are left out at the next look. How many objects there are now lies behind the head of the loader's
//! list, which debuggers are told of, as the executable's dynamic section tells them. A word too many gives at worst a false alarm; the right one is always among them.
//!
//! Where nothing is found, the watch sees no changes: in static executables, which load nothing, and with musl, which
//! unloads nothing and counts from 0, among thousands of zeros. Not by `dlsym`: that waits for whoever is in the middle of
//! `dlopen`, perhaps in an initialiser that waits for us.

use super::memory;
use super::objects::{Segment, changes, for_each};
use crate::regs::prefetch;

/// What the loader has done since a watch was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    Nothing,
    /// It has loaded objects: there may be code that was not there.
    Loaded,
    /// It has unloaded objects: other code may be where code was.
    Unloaded,
}

/// Words that are watched at most: more that are equal by chance say that nothing is known.
const MOST: usize = 16;

/// The words to look at, and what they were. Good for as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Words of eight bytes that equal the number of objects ever loaded; 0 behind the last.
    loads: [u64; MOST],
    /// A word of four bytes that equals the number of objects that are loaded; 0 where it is not known.
    present: u64,
    seen: (u64, u32),
}

impl Watch {
    /// A watch that sees nothing.
    pub(crate) const fn blind() -> Self {
        Self { loads: [0; MOST], present: 0, seen: (0, 0) }
    }

    /// A watch from the moment on at which the loader told `counts`, objects loaded and unloaded; `before` is the last one
    /// that was set. Off the handler.
    pub(crate) fn set(before: &Self, counts: Option<(u64, u64)>) -> Self {
        let Some((loaded, unloaded)) = counts else { return Self::blind() };
        let mut watch = if before.sees() { *before } else { Self::find(loaded, unloaded) };
        watch.seen = (loaded, loaded.wrapping_sub(unloaded) as u32);
        let keep = |address: u64| if read(address) == Some(loaded) { address } else { 0 };
        let loads = watch.loads.map(keep);
        // Only if nothing happened while we looked: the right word must not be left out.
        if changes() == counts {
            watch.loads = [0; MOST];
            let kept = loads.iter().filter(|&&address| address != 0);
            for (place, address) in watch.loads.iter_mut().zip(kept) {
                *place = *address;
            }
        }
        watch
    }

    /// Whether there is anything to look at.
    pub(crate) fn sees(&self) -> bool {
        self.loads.first().is_some_and(|&first| first != 0)
    }

    /// What the loader has done since. Async-signal-safe.
    #[inline]
    pub(crate) fn change(&self) -> Change {
        let mut change = Change::Nothing;
        for &address in &self.loads {
            if address == 0 {
                break;
            }
            // SAFETY: the word lies in the loader's data, aligned, which is mapped as long as the process lives.
            let loaded = unsafe { (address as *const u64).read_volatile() }.wrapping_sub(self.seen.0);
            let present = if self.present == 0 {
                0
            } else {
                // SAFETY: as above.
                unsafe { (self.present as *const u32).read_volatile() }.wrapping_sub(self.seen.1)
            };
            if loaded as u32 != present {
                return Change::Unloaded;
            }
            if loaded != 0 {
                change = Change::Loaded;
            }
        }
        change
    }

    /// Asks for the words. A hint, for handlers.
    #[inline]
    pub(crate) fn prefetch(&self) {
        for &address in &self.loads {
            if address == 0 {
                break;
            }
            prefetch(address);
        }
    }

    fn find(loaded: u64, unloaded: u64) -> Self {
        let mut watch = Self::blind();
        let Some(loader) = Loader::find() else { return watch };
        let mut found = 0;
        let head = loader.first_object;
        let present = loaded.wrapping_sub(unloaded) as u32;
        loader.each_word(|address, word, next| {
            // The head of the list of objects, and behind it their number.
            if head != 0 && word == head && next as u32 == present && watch.present == 0 {
                watch.present = address + 8;
                return;
            }
            if word == loaded && address != watch.present {
                if let Some(place) = watch.loads.get_mut(found) {
                    *place = address;
                }
                found += 1;
            }
        });
        if found > MOST { Self::blind() } else { watch }
    }
}

/// The address of code of the loader, which stays for as long as the process lives. Off the handler.
pub(crate) fn address() -> Option<u64> {
    Debug::find().map(|debug| debug.code)
}

/// What the loader shows to debuggers.
struct Debug {
    /// Its description of the first object.
    first_object: u64,
    /// A function of its own.
    code: u64,
}

impl Debug {
    fn find() -> Option<Self> {
        let mut dynamic = None;
        for_each(|object| {
            if object.is_executable {
                dynamic = object.segments().find(|segment| segment.kind == libc::PT_DYNAMIC);
            }
        });
        let Segment { address, len, .. } = dynamic?;
        let entries = (0..len.min(MOST_DYNAMIC) / 16).map(|index| address + index * 16);
        let mut entries = entries.map_while(|entry| Some((entry, read(entry)?)));
        let (entry, _) = entries.find(|(_, tag)| *tag == DT_DEBUG)?;
        let debug = read(entry + 8).filter(|&debug| debug != 0)?;
        Some(Self { first_object: read(debug.checked_add(8)?)?, code: read(debug.checked_add(16)?)? })
    }
}

const DT_DEBUG: u64 = 21;
/// Bytes of a dynamic section that are looked through: they have some thirty entries of sixteen bytes.
const MOST_DYNAMIC: u64 = 4096;

/// The loader's data.
struct Loader {
    first_object: u64,
    ranges: [(u64, u64); 4],
}

impl Loader {
    fn find() -> Option<Self> {
        let Debug { first_object, code } = Debug::find()?;
        let mut loader = None;
        for_each(|object| {
            let holds = |segment: Segment| {
                segment.kind == libc::PT_LOAD && code.wrapping_sub(segment.address) < segment.len
            };
            if !object.segments().any(holds) {
                return;
            }
            let data = |segment: &Segment| segment.kind == libc::PT_LOAD && segment.flags & libc::PF_W != 0;
            let mut ranges = [(0, 0); 4];
            for (range, segment) in ranges.iter_mut().zip(object.segments().filter(data)) {
                *range = (segment.address, segment.address.saturating_add(segment.len));
            }
            // In a static executable it is all one, and there is nothing to watch.
            loader = (!object.is_executable).then_some(Self { first_object, ranges });
        });
        loader
    }

    /// Calls `each` with every aligned word's address, the word, and the one behind it.
    fn each_word(&self, mut each: impl FnMut(u64, u64, u64)) {
        const PART: usize = 512;
        for (start, end) in self.ranges {
            let mut address = start.next_multiple_of(8);
            while address < end {
                let mut bytes = [0; PART + 8];
                let copied = memory::copy(address, &mut bytes);
                let (words, _) = bytes.get(..copied).unwrap_or_default().as_chunks::<8>();
                let next = words.iter().skip(1).chain([&[0; 8]]);
                for ((word, next), offset) in words.iter().zip(next).zip((0..PART as u64).step_by(8)) {
                    if address + offset + 8 <= end {
                        each(address + offset, u64::from_ne_bytes(*word), u64::from_ne_bytes(*next));
                    }
                }
                address += PART as u64;
            }
        }
    }
}

fn read(address: u64) -> Option<u64> {
    let mut word = [0; 8];
    (address != 0 && memory::copy(address, &mut word) == 8).then(|| u64::from_ne_bytes(word))
}

#[cfg(all(test, target_env = "gnu", not(target_feature = "crt-static")))]
mod tests {
    use super::{Change, Watch};
    use crate::os::linux::objects::changes;

    /// One test, since what is loaded is the whole process's affair.
    #[test]
    fn a_watch_sees_what_comes_and_goes() {
        let mut watch = Watch::set(&Watch::blind(), changes());
        assert!(watch.sees() && watch.present != 0, "the loader's counters are not found: {watch:?}");
        assert_eq!(watch.change(), Change::Nothing);
        for round in 0..3 {
            let open = || {
                // SAFETY: a library of glibc's that does nothing.
                let handle = unsafe { libc::dlopen(c"libBrokenLocale.so.1".as_ptr(), libc::RTLD_NOW) };
                assert!(!handle.is_null());
                handle
            };
            // SAFETY: nothing of the library is used.
            let close = |handle| assert_eq!(unsafe { libc::dlclose(handle) }, 0);
            let before = watch;
            let handle = open();
            // The first change shows which of the words are meant.
            assert!(watch.change() == Change::Loaded || round == 0 && watch.change() == Change::Unloaded);
            watch = Watch::set(&watch, changes());
            assert_eq!(watch.change(), Change::Nothing);
            close(handle);
            assert_eq!(watch.change(), Change::Unloaded);
            assert_eq!(before.change(), Change::Unloaded);
            // As many as there were, and another one.
            let handle = open();
            assert_eq!(watch.change(), Change::Unloaded);
            close(handle);
            watch = Watch::set(&watch, changes());
            assert_eq!(watch.change(), Change::Nothing);
        }
        assert!(watch.loads.iter().filter(|&&address| address != 0).count() <= 2, "{watch:?}");
    }
}
