//! Requests that break off: which of them do so for what is in them.
//!
//! A connection that breaks in the middle of a request says nothing about the request: the server may be starting anew, or a
//! balancer have none behind it. Only the others tell, where they arrive and this one never does. So a request is given up
//! after a few attempts if another one has arrived since the first of them. In an outage none arrives, and none is given up.

use std::collections::VecDeque;

use super::ProfileId;

/// Attempts after which a request is given up that others have overtaken.
const MOST_CUTS: u32 = 5;
/// Requests that are known; of more, the oldest is forgotten, and begins anew.
const MOST_KNOWN: usize = 64;

/// The requests that broke off lately, each by its first profile.
#[derive(Debug, Default)]
pub(super) struct Cuts(VecDeque<Known>);

#[derive(Debug)]
struct Known {
    id: ProfileId,
    cuts: u32,
    /// Others have arrived meanwhile.
    is_overtaken: bool,
}

impl Cuts {
    /// This one broke off once more. Says how often it has, where that is enough.
    pub(super) fn cut(&mut self, id: ProfileId) -> Option<u32> {
        let known = self.0.iter().position(|known| known.id == id).and_then(|place| self.0.remove(place));
        let mut known = known.unwrap_or(Known { id, cuts: 0, is_overtaken: false });
        known.cuts = known.cuts.saturating_add(1);
        if known.cuts >= MOST_CUTS && known.is_overtaken {
            return Some(known.cuts);
        }
        if self.0.len() >= MOST_KNOWN {
            self.0.pop_front();
        }
        self.0.push_back(known);
        None
    }

    /// This one has arrived.
    pub(super) fn arrived(&mut self, id: ProfileId) {
        self.0.retain(|known| known.id != id);
        self.0.iter_mut().for_each(|known| known.is_overtaken = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_off_while_others_arrive_is_given_up() {
        let (bad, good, mut cuts) = (ProfileId::new(), ProfileId::new(), Cuts::default());
        // An outage.
        assert!((0..100).all(|_| cuts.cut(bad).is_none() && cuts.cut(good).is_none()));
        cuts.arrived(good);
        assert_eq!((cuts.cut(bad), cuts.0.len()), (Some(101), 0));
        cuts.arrived(good);
        assert!((1..MOST_CUTS).all(|_| cuts.cut(bad).is_none()), "it begins anew");
        assert!(cuts.cut(bad).is_none(), "nothing has arrived since the first of them");
        cuts.arrived(bad);
        assert!(cuts.0.is_empty());
    }

    #[test]
    fn no_more_is_known_than_there_is_room_for() {
        let mut cuts = Cuts::default();
        (0..1_000).for_each(|_| _ = cuts.cut(ProfileId::new()));
        assert_eq!(cuts.0.len(), MOST_KNOWN);
    }
}
