//! Calls from one object into another go through slots: words in the caller's global offset table that the loader has
//! filled. Here a function of ours is put into the slots of some functions, and the old one back.
//!
//! Our thread. The loader's lock is held meanwhile, so no object comes or goes; the program's threads run on, and each
//! call takes the way that the slot shows at that moment. A slot is one aligned word, changed by one store.
//!
//! Which slots: those of relocations of a symbol by its name, in any object that does not define that symbol itself, and only
//! where the slot holds the very function that ours will call in its place, or the stub by which the loader fills it with that
//! at the first call (`lazy`). So calls inside of one object, an allocator of an object's own, older versions of a function,
//! hooks of others, and what `dlmopen` has put elsewhere are left alone. Slots that are read-only by now are made writable for the moment of the
//! store, and read-only again. Nothing is remembered: to undo is to look for slots that hold our function, so that objects
//! that are gone need no care.
//!
//! An object is in the loader's list before its slots are filled. Whether they are is seen by what is to be read-only then:
//! as long as it can be written to, the loader is at work there, and would fault where we had taken that away. So such slots
//! are left for later, and changed only where they stay as they are (`settled`).
//!
//! Functions of which a process may have several, such as allocators', are the subject of [`ways`].
//!
//! What there is no slot for is not seen: calls inside of the C library, and everything in a static executable.

mod dynamic;
mod lazy;
mod pages;
pub mod ways;

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::os;
use crate::os::objects::{self, Object};

use dynamic::Dynamic;
use lazy::Bindings;
use pages::{Page, Pages};

/// One function to stand in for another.
#[derive(Debug)]
pub struct Hook {
    /// The symbol's name.
    pub name: &'static [u8],
    /// Ours.
    pub ours: usize,
    /// The function that ours calls: the one in slots that were filled. 0 where there is none.
    pub original: usize,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patched {
    /// Slots that have changed.
    pub changed: usize,
    /// Slots that were as they should be.
    pub unchanged: usize,
    /// Slots that hold somebody else's function.
    pub foreign: usize,
    /// Slots whose page the kernel would not make writable.
    pub refused: usize,
    /// Slots that the loader may not have filled for good yet: to be looked at again.
    pub pending: usize,
}

impl core::ops::AddAssign for Patched {
    fn add_assign(&mut self, more: Self) {
        self.changed += more.changed;
        self.unchanged += more.unchanged;
        self.foreign += more.foreign;
        self.refused += more.refused;
        self.pending += more.pending;
    }
}

/// Puts the hooks into the slots of every object, those that were loaded since the last call as well. Our thread.
pub fn install(hooks: &[Hook]) -> Patched {
    let (mut bindings, settled) = (Bindings::new(), settled());
    let first = fill(hooks, &mut bindings, settled);
    if !bindings.resolve() {
        return first;
    }
    // Stubs were met of which it was not known where they lead.
    let second = fill(hooks, &mut bindings, settled);
    let unchanged = second.unchanged.saturating_sub(first.changed);
    Patched { changed: first.changed + second.changed, unchanged, ..second }
}

fn fill(hooks: &[Hook], bindings: &mut Bindings, settled: bool) -> Patched {
    each_slot(hooks, |hook, slot, patched| {
        let now = slot.word.load(Ordering::Relaxed);
        if now == hook.ours {
            patched.unchanged += 1;
        } else if hook.original != 0 && now == hook.original {
            slot.put(now, hook.ours, settled, patched);
        } else if hook.original != 0
            && let Some(version) = slot.dynamic.stub(slot.word, now)
        {
            match bindings.leads_to(hook, version) {
                Some(true) => slot.put(now, hook.ours, settled, patched),
                Some(false) => patched.foreign += 1,
                None => {}
            }
        } else {
            patched.foreign += 1;
        }
    })
}

/// Puts what was there before into every slot that holds a hook. Calls that are inside of one go on. Our thread.
pub fn remove(hooks: &[Hook]) -> Patched {
    each_slot(hooks, |hook, slot, patched| {
        if slot.word.load(Ordering::Relaxed) == hook.ours {
            slot.put(hook.ours, hook.original, true, patched);
        }
    })
}

/// Of the functions with these names, the addresses, as slots hold them; 0 where there is none. Our thread.
///
/// A function's address may be that of a stub in the executable, where that is not position-independent: all objects then
/// take that for the address, but it leads through a slot of the executable's.
pub fn originals<const N: usize>(names: [&'static [u8]; N]) -> [usize; N] {
    let mut found = names.map(|name| os::symbol(name, None));
    let mut is_stub = [false; N];
    let hooks = names.map(|name| Hook { name, ours: 0, original: 0 });
    each_slot(&hooks, |hook, slot, _| {
        for ((name, address), is_stub) in names.iter().zip(&found).zip(&mut is_stub) {
            *is_stub |= *name == hook.name && slot.is_inside(*address);
        }
    });
    for ((address, name), _) in found.iter_mut().zip(names).zip(is_stub).filter(|(_, is_stub)| *is_stub) {
        *address = os::symbol_of_libc(name);
    }
    found
}

/// One slot of an object.
struct Slot<'o> {
    word: &'o AtomicUsize,
    object: &'o Object<'o>,
    dynamic: &'o Dynamic,
    pages: &'o Pages,
}

impl Slot<'_> {
    /// Whether `address` is code of the object itself.
    fn is_inside(&self, address: usize) -> bool {
        self.object.segments().any(|segment| {
            let is_code = segment.kind == libc::PT_LOAD && segment.flags & libc::PF_X != 0;
            is_code && (address as u64).wrapping_sub(segment.address) < segment.len
        })
    }

    /// Puts `target` in the place of `now`, unless the program or the loader was faster.
    fn put(&self, now: usize, target: usize, settled: bool, patched: &mut Patched) {
        if self.dynamic.is_read_only(core::ptr::from_ref(self.word) as u64) {
            match self.pages.open(self.word, settled) {
                Page::Open | Page::Free => {}
                Page::Busy => {
                    patched.pending += 1;
                    return;
                }
                Page::Refused => {
                    patched.refused += 1;
                    return;
                }
            }
        }
        let put = self.word.compare_exchange(now, target, Ordering::AcqRel, Ordering::Relaxed);
        if put.is_ok() { patched.changed += 1 } else { patched.pending += 1 }
    }
}

/// Whether the loader has been seen with the same objects a while ago, so that it is at work on none of them.
fn settled() -> bool {
    const A_WHILE: u64 = 1_000_000_000;
    static LOADED: AtomicU64 = AtomicU64::new(0);
    static SINCE: AtomicU64 = AtomicU64::new(0);
    let (now, loaded) = (os::monotonic(), objects::changes().map_or(0, |(loaded, _)| loaded));
    if LOADED.swap(loaded, Ordering::Relaxed) != loaded {
        SINCE.store(now, Ordering::Relaxed);
    }
    now.saturating_sub(SINCE.load(Ordering::Relaxed)) > A_WHILE
}

fn each_slot(hooks: &[Hook], mut each: impl FnMut(&Hook, &Slot<'_>, &mut Patched)) -> Patched {
    let mut patched = Patched::default();
    objects::for_each(|object| {
        let Some(dynamic) = Dynamic::of(object) else { return };
        let pages = Pages::default();
        dynamic.each_import(|name, word| {
            if let Some(hook) = hooks.iter().find(|hook| hook.name == name) {
                each(hook, &Slot { word, object, dynamic: &dynamic, pages: &pages }, &mut patched);
            }
        });
    });
    patched
}
