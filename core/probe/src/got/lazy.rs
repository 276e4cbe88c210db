//! Slots that the loader has not filled yet: they lead to a stub, at whose first call it looks for the function, by name and
//! version.
//!
//! A library may want an older version of a function than the one that a hook calls, which takes other arguments
//! (`pthread_cond_wait` of glibc 2.2.5). Where a slot is filled its word tells; where it is not, the loader is asked what it
//! would fill in. That is not to be asked while its lock is held, as it is while objects are looked through: so names are
//! noted first.

use super::Hook;
use super::dynamic::Version;
use crate::os;

/// Different names and versions at a time; what finds no room is filled by its first call, and hooked at a later look.
const MOST: usize = 64;

/// What the loader would fill in, by a function's name and version.
#[derive(Debug)]
pub(super) struct Bindings {
    known: [Option<Binding>; MOST],
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    name: &'static [u8],
    version: Version,
    target: usize,
}

impl Bindings {
    pub(super) fn new() -> Self {
        Self { known: [None; MOST] }
    }

    /// Whether what belongs to a stub of the function in this version is the hook's original; `None` where it was not asked
    /// yet, and is to be.
    pub(super) fn leads_to(&mut self, hook: &Hook, version: Version) -> Option<bool> {
        for place in &mut self.known {
            match place {
                Some(known) if known.name == hook.name && known.version == version => {
                    return (known.target != 0).then_some(known.target == hook.original);
                }
                Some(_) => {}
                None => {
                    *place = Some(Binding { name: hook.name, version, target: 0 });
                    return None;
                }
            }
        }
        None
    }

    /// Asks the loader. Not while its lock is held. Whether there was anything to ask.
    pub(super) fn resolve(&mut self) -> bool {
        let mut asked = false;
        for binding in self.known.iter_mut().flatten().filter(|binding| binding.target == 0) {
            // 1: no such function, and nothing to ask again.
            binding.target = os::symbol(binding.name, binding.version.name()).max(1);
            asked = true;
        }
        asked
    }
}
