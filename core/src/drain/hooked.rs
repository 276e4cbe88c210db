//! How the slots of hooked functions are, and when to look at them again.
//!
//! Our thread. An object that is being loaded is in the loader's list before its slots are filled, which may take long, so a
//! change of the list is followed by some more looks. At the end of each period there is one more: for slots that were filled
//! by a first call at the moment of a look.

use everprof_probe::got::Patched;

/// How many wakes after a change there are looks: now, and up to some seconds later. In a process of hundreds of libraries
/// one takes milliseconds, while which the loader waits.
const LOOKS: [u32; 4] = [0, 1, 4, LAST];
const LAST: u32 = 12;

#[derive(Debug, Default)]
pub(super) struct Hooked {
    patched: Patched,
    /// How many wakes ago there was a change; none where that is long ago.
    since: Option<u32>,
    /// That the kernel refused some was said.
    told_refused: bool,
}

impl Hooked {
    /// Takes note of what the first hooking has found. What there is to tell of it, the next look tells.
    pub(super) fn begin(&mut self, patched: Patched) {
        self.patched = patched;
        if patched.refused > 0 {
            self.look_again();
        }
    }

    /// Takes note of what a look has found. Returns what there is to tell of it.
    pub(super) fn note(&mut self, patched: Patched) -> Option<String> {
        self.patched = patched;
        if patched.refused == 0 || std::mem::replace(&mut self.told_refused, true) {
            return None;
        }
        let refused = patched.refused;
        Some(format!(
            "waits for locks are not seen everywhere: {refused} slots could not be made writable, by a rule of the system's or \
             since the process has too many mappings"
        ))
    }

    /// Whether to look again, at a wake before which objects have come or gone.
    pub(super) fn is_due(&mut self, changed: bool) -> bool {
        if changed {
            self.since = Some(0);
        }
        let Some(since) = self.since else { return false };
        self.since = LOOKS.iter().any(|look| *look > since).then_some(since + 1);
        LOOKS.contains(&since)
    }

    /// Has the next wake look again.
    pub(super) fn look_again(&mut self) {
        self.since.get_or_insert(LAST);
    }

    /// Why there is nothing to see, where there is no slot.
    pub(super) fn problem(&self) -> &'static str {
        if self.foreign() > 0 {
            "waits for locks are not seen: another library has hooked the function syscall already"
        } else if self.refused() > 0 {
            "waits for locks are not seen: the system does not let slots of functions be changed"
        } else {
            "waits for locks are not seen: nothing calls the C library by slots that could be hooked, as in a static executable"
        }
    }

    /// Slots that are hooked.
    pub(super) fn slots(&self) -> u64 {
        (self.patched.changed + self.patched.unchanged) as u64
    }

    /// Slots that hold somebody else's function.
    pub(super) fn foreign(&self) -> u64 {
        self.patched.foreign as u64
    }

    /// Slots that could not be changed.
    pub(super) fn refused(&self) -> u64 {
        self.patched.refused as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_followed_by_some_looks_and_a_refusal_is_told_once() {
        let mut hooked = Hooked::default();
        assert!(!hooked.is_due(false));
        assert!(hooked.is_due(true));
        let looks: Vec<u32> = (1..100).filter(|_| hooked.is_due(false)).collect();
        assert_eq!(looks, LOOKS[1..]);
        hooked.look_again();
        assert!(hooked.is_due(false) && !hooked.is_due(false));
        let patched = Patched { changed: 3, unchanged: 4, refused: 1, ..Patched::default() };
        hooked.begin(patched);
        assert!(hooked.is_due(false), "the next look tells it");
        assert!(hooked.note(patched).is_some() && hooked.note(patched).is_none());
        assert_eq!((hooked.slots(), hooked.refused()), (7, 1));
    }
}
