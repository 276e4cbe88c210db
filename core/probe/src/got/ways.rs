//! Functions of which a process may have several of one name, and that have to be kept apart: a block goes back to the
//! allocator that it came from. So there are several functions of ours for each name, and each goes on to one original:
//! what a slot held is what is called, now as before.
//!
//! Besides slots, words in an object's data that hold such a function's address are taken, since a table of `malloc` and
//! `free` is one way of calling them; and the slots of the C library for its own functions, which it has so that others can
//! take their place.
//!
//! What a slot holds before the first call is a stub of the object itself. Then the loader's answer is the first object's
//! that defines the function; where there is more than one allocator, an object may have been loaded so that it gets
//! another, and the slot is left until it is filled.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::pages::Pages;
use super::{Dynamic, Patched, Slot, settled};
use crate::os::objects::{self, Object};

/// How many originals of one name are told apart. Slots that hold yet another one are left alone.
pub const WAYS: usize = 4;

/// A name, and ours for it.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// The symbol's name.
    pub name: &'static [u8],
    /// Ours, each with its way on.
    pub ours: [usize; WAYS],
    /// Where they go: 0 until it is known.
    pub originals: &'static [AtomicUsize; WAYS],
    /// Which slots are of interest.
    pub which: Which,
    /// Whether it gives something back. Those are hooked first and longest, so that nothing is known whose end is not seen.
    pub releases: bool,
}

/// Which of a function's slots are of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those that lead to an allocator which has `malloc` too: other functions of the name call that.
    Allocators,
    /// Those of objects that are no allocators themselves.
    NotOfAllocators,
}

/// Puts ours into the slots of every object, those that were loaded since the last call as well. Our thread.
pub fn install(functions: &[Function]) -> Patched {
    let settled = settled();
    let exports = Exports::read(functions);
    let put = |function: (usize, &Function), place: &Place<'_>, patched: &mut Patched| {
        let now = place.slot.word.load(Ordering::Relaxed);
        if function.1.ours.contains(&now) {
            patched.unchanged += 1;
            return;
        }
        match exports.original(function, place, now) {
            Original::Known(original) => match way(function.1, original) {
                Some(ours) => place.slot.put(now, ours, settled, patched),
                None => patched.foreign += 1,
            },
            Original::Unknown => patched.pending += 1,
            Original::Foreign => patched.foreign += 1,
            Original::Its => {}
        }
    };
    let mut patched = each_slot(functions, true, put);
    patched += each_slot(functions, false, put);
    patched
}

/// Puts what was there before into every slot that holds one of ours. Calls that are inside of one go on. Our thread.
pub fn remove(functions: &[Function]) -> Patched {
    let take = |(_, function): (usize, &Function), place: &Place<'_>, patched: &mut Patched| {
        let now = place.slot.word.load(Ordering::Relaxed);
        let mut ways = function.ours.iter().zip(function.originals);
        if let Some((_, original)) = ways.find(|(ours, _)| **ours == now) {
            place.slot.put(now, original.load(Ordering::Relaxed), true, patched);
        }
    };
    let mut patched = each_slot(functions, false, take);
    patched += each_slot(functions, true, take);
    patched
}

/// The one of ours that goes on to `original`. Only our thread says where they go, before any slot holds it.
fn way(function: &Function, original: usize) -> Option<usize> {
    let mut ways = function.ours.iter().zip(function.originals);
    let (ours, _) = ways.find(|(_, known)| {
        let is_free = known.compare_exchange(0, original, Ordering::Release, Ordering::Relaxed).is_ok();
        is_free || known.load(Ordering::Relaxed) == original
    })?;
    Some(*ours)
}

/// What a slot leads to.
enum Original {
    Known(usize),
    /// Not yet known.
    Unknown,
    /// Something that is not to be called in its place.
    Foreign,
    /// The object's own, or what it is to have for itself.
    Its,
}

/// A slot, with what is to be known of its object.
struct Place<'o> {
    slot: Slot<'o>,
    /// Where the object begins.
    base: u64,
}

/// A function that an object defines.
#[derive(Clone, Copy, Default)]
struct Export {
    /// The function's place in the list.
    function: usize,
    address: usize,
    /// Where the object begins.
    base: u64,
}

/// What all objects define of the functions, in the loader's order.
struct Exports {
    list: [Export; MOST_EXPORTS],
    len: usize,
    /// Where the C library begins, and that of C++.
    c_library: u64,
    c_plus_plus: u64,
}

const MOST_EXPORTS: usize = 256;
/// What the C library alone defines.
const OF_C_LIBRARY: &[u8] = b"__libc_start_main";
/// What the library of C++ alone defines.
const OF_C_PLUS_PLUS: &[u8] = b"__cxa_throw";
/// What makes an object an allocator, the first function of the list.
const MALLOC: usize = 0;

impl Exports {
    fn read(functions: &[Function]) -> Self {
        let mut exports =
            Self { list: [Export::default(); MOST_EXPORTS], len: 0, c_library: 0, c_plus_plus: 0 };
        // SAFETY: no preconditions.
        let loader = unsafe { libc::getauxval(libc::AT_BASE) };
        objects::for_each(|object| {
            let Some(dynamic) = Dynamic::of(object) else { return };
            let base = base(object);
            let is_c_library = dynamic.export(OF_C_LIBRARY).is_some();
            // The loader's own, in older releases, are for itself; but musl's loader is the C library.
            if base == loader && !is_c_library {
                return;
            }
            if exports.c_library == 0 && is_c_library {
                exports.c_library = base;
            }
            if exports.c_plus_plus == 0 && dynamic.export(OF_C_PLUS_PLUS).is_some() {
                exports.c_plus_plus = base;
            }
            for (number, function) in functions.iter().enumerate() {
                if let Some(address) = dynamic.export(function.name)
                    && let Some(free) = exports.list.get_mut(exports.len)
                {
                    *free = Export { function: number, address: address as usize, base };
                    exports.len += 1;
                }
            }
        });
        exports
    }

    fn all(&self) -> impl Iterator<Item = &Export> {
        self.list.iter().take(self.len)
    }

    fn is_allocator(&self, base: u64) -> bool {
        self.all().any(|export| export.function == MALLOC && export.base == base)
    }

    fn original(&self, (number, function): (usize, &Function), place: &Place<'_>, now: usize) -> Original {
        let of_name = || self.all().filter(move |export| export.function == number);
        let is_c_library = place.base == self.c_library;
        let own = of_name().find(|export| export.base == place.base);
        let is_own_function = own.is_some_and(|own| own.address == now);
        // What it defines itself, unless another one's goes before, as an allocator's do before the C++ library's.
        if is_own_function && !is_c_library {
            return Original::Its;
        }
        if function.which == Which::NotOfAllocators && self.is_allocator(place.base) {
            return Original::Its;
        }
        let found = if place.slot.is_inside(now) && !is_own_function {
            // No allocators but the one whose function comes first, and the C library's.
            let Some(first) = of_name().next() else { return Original::Foreign };
            if own.is_some() && place.base != self.c_plus_plus && !is_c_library {
                // Its own or another one's, as it was loaded.
                return Original::Unknown;
            }
            if first.base == place.base && !is_c_library {
                return Original::Its;
            }
            let is_another = |other: &&Export| other.base != first.base && other.base != self.c_library;
            if self.all().filter(|export| export.function == MALLOC).any(|other| is_another(&other)) {
                return Original::Unknown;
            }
            Some(first)
        } else {
            of_name().find(|export| export.address == now)
        };
        match (function.which, found) {
            (Which::Allocators, Some(export)) if self.is_bare(export) => Original::Its,
            (_, Some(export)) => Original::Known(export.address),
            // Not filled yet, or nobody has it.
            (_, None) if now == 0 => Original::Its,
            // A hook of somebody else's, a stub of the executable, which has a slot of its own, data that the program has
            // filled itself, or what the file had there, before the loader came to it.
            (_, None) => Original::Foreign,
        }
    }

    /// Whether a function comes from an object that is no allocator, or from the C library.
    fn is_bare(&self, export: &Export) -> bool {
        export.base == self.c_library || !self.is_allocator(export.base)
    }
}

fn each_slot(
    functions: &[Function],
    releases: bool,
    mut each: impl FnMut((usize, &Function), &Place<'_>, &mut Patched),
) -> Patched {
    let mut patched = Patched::default();
    objects::for_each(|object| {
        let Some(dynamic) = Dynamic::of(object) else { return };
        let pages = Pages::default();
        dynamic.each_reference(|reference| {
            let mut known = functions.iter().enumerate();
            if let Some(function) = known.find(|(_, function)| function.name == reference.name)
                && function.1.releases == releases
            {
                let slot = Slot { word: reference.word, object, dynamic: &dynamic, pages: &pages };
                each(function, &Place { slot, base: base(object) }, &mut patched);
            }
        });
    });
    patched
}

/// Where an object begins: what tells it from others.
fn base(object: &Object<'_>) -> u64 {
    let loaded = object.segments().filter(|segment| segment.kind == libc::PT_LOAD);
    loaded.map(|segment| segment.address).min().unwrap_or_default()
}
