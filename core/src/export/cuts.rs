//! Requests that fail again and again: which of them do so for what is in them.
//!
//! A connection that breaks, or a server that is not available, says nothing about the request: it may be starting anew, or a
//! balancer have none behind it. Only the others tell, where they arrive and this one never does. So a failure counts if
//! another request has arrived since the one before, and it is asked how likely as many are by chance, as the others fare:
//! below one in a thousand, the request is given up. In an outage none arrives, and none is given up; where all others
//! arrive, the fourth failure is enough; a server that refuses nine of ten for its load may do so 65 times.

use std::collections::VecDeque;

use super::ProfileId;

/// Below this chance it is the request.
const UNLIKELY: f64 = 0.001;
/// Requests that are known; of more, the oldest is forgotten, and begins anew.
const MOST_KNOWN: usize = 64;

/// The requests that failed lately, each by its first profile.
#[derive(Debug, Default)]
pub(super) struct Cuts(VecDeque<Known>);

#[derive(Debug)]
struct Known {
    id: ProfileId,
    failures: u32,
    /// Those of them that count, and whether the next one does.
    overtaken: i32,
    is_overtaken: bool,
    /// How others have fared since it failed and another one arrived.
    others_arrived: u32,
    others_failed: u32,
}

impl Known {
    fn new(id: ProfileId) -> Self {
        Self { id, failures: 0, overtaken: 0, is_overtaken: false, others_arrived: 0, others_failed: 0 }
    }

    /// The chance that a request fails as often as this one, as the others fare.
    fn chance(&self) -> f64 {
        let (arrived, failed) = (f64::from(self.others_arrived), f64::from(self.others_failed));
        // As Laplace has it, for few that were seen.
        ((failed + 1.0) / (arrived + failed + 2.0)).powi(self.overtaken)
    }
}

impl Cuts {
    /// This one failed once more. Says how often it has, where that is enough.
    pub(super) fn failed(&mut self, id: ProfileId) -> Option<u32> {
        let known = self.0.iter().position(|known| known.id == id).and_then(|place| self.0.remove(place));
        for other in self.0.iter_mut().filter(|other| other.others_arrived > 0) {
            other.others_failed = other.others_failed.saturating_add(1);
        }
        let mut known = known.unwrap_or(Known::new(id));
        known.failures = known.failures.saturating_add(1);
        known.overtaken = known.overtaken.saturating_add(i32::from(std::mem::take(&mut known.is_overtaken)));
        if known.chance() < UNLIKELY {
            return Some(known.failures);
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
        for other in &mut self.0 {
            other.others_arrived = other.others_arrived.saturating_add(1);
            other.is_overtaken = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_while_others_arrive_is_given_up() {
        let (bad, mut cuts) = (ProfileId::new(), Cuts::default());
        for _ in 0..3 {
            assert!(cuts.failed(bad).is_none());
        }
        for _ in 0..3 {
            cuts.arrived(ProfileId::new());
            assert!(cuts.failed(bad).is_none() && cuts.failed(bad).is_none());
        }
        cuts.arrived(ProfileId::new());
        assert_eq!((cuts.failed(bad), cuts.0.len()), (Some(10), 0));
        assert!(cuts.failed(bad).is_none(), "it begins anew");
        cuts.arrived(bad);
        assert!(cuts.0.is_empty());
    }

    #[test]
    fn in_an_outage_none_is_given_up_and_after_it_none_for_what_was_in_it() {
        let (ids, mut cuts): (Vec<_>, _) = ((0..10).map(|_| ProfileId::new()).collect(), Cuts::default());
        for _ in 0..1_000 {
            assert!(ids.iter().all(|id| cuts.failed(*id).is_none()));
        }
        ids[1..].iter().for_each(|id| cuts.arrived(*id));
        assert!((0..10).all(|_| cuts.failed(ids[0]).is_none()));
    }

    /// A server that takes every tenth request, whichever that is.
    #[test]
    fn a_server_under_load_costs_no_request() {
        let (mut cuts, mut waiting, mut turn, mut lost) = (Cuts::default(), VecDeque::new(), 0, 0);
        for _ in 0..1_000 {
            waiting.push_back(ProfileId::new());
            for _ in 0..9 {
                let Some(id) = waiting.pop_front() else { break };
                turn = (turn * 7 + 3) % 1_009;
                match turn % 10 {
                    0 => cuts.arrived(id),
                    _ if cuts.failed(id).is_some() => lost += 1,
                    _ => waiting.push_back(id),
                }
            }
        }
        assert!(lost < 10, "{lost}");
    }

    #[test]
    fn no_more_is_known_than_there_is_room_for() {
        let mut cuts = Cuts::default();
        (0..1_000).for_each(|_| _ = cuts.failed(ProfileId::new()));
        assert_eq!(cuts.0.len(), MOST_KNOWN);
    }
}
