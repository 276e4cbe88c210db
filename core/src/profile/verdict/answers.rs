//! Which waits for the network are waits for an answer, in groups of threads that hardly ever run.
//!
//! A thread that asks a slow upstream all day runs for less of its time than many an idle one, and so does one of a pool that
//! has little to do. What it waits for differs: somebody owes it an answer. Whether it said the last word on its connection
//! the kernel knows, but that is not enough: a consumer that asks its broker for the next message, and is answered once there
//! is one, said the last word too, and so did one that confirmed the last message. They wait for work, and to call an idle
//! service wait-bound is worse than to call a waiting one idle. So an answer counts where
//!
//! - **it comes soon.** Brokers let those who ask wait for half a second and longer before they say that there is nothing.
//!   Only while a profile is made it is known how many waits there were, so the label `wait=answer` stands for this already
//!   ([`come_soon`]). The limit decides only for what would be idle otherwise: the upstream of threads that run for a
//!   hundredth of their time, or that are labelled, is waited for whatever time it takes;
//! - **there is something in it**, so that it leaves its asker something to do. To hear that there is nothing takes less
//!   than a thousandth of the time that it was waited for.
//!
//! Times of the last words are told in ticks of some milliseconds, and who has an answer and asks on at once does it within
//! one. So a place in the application's code at which some of the waits are known to be for an answer is one where all of
//! them are; one that is only told to is never known to be owed anything, and without names each wait is judged by itself.

use super::{Activity, Place, Reading};

/// Answers come soon within twice this time, in nanoseconds: a wait that is longer than the time between two looks is told
/// twice, when it is found, and with the rest of it. Where looks come less often than this, soon is not known of any.
const SOON: u64 = 200_000_000;
/// A group that runs for less than this part of what it waited for answers was told that there is nothing.
const WORTHWHILE: u64 = 1_000;
/// A place at which this part of the time is known to be for an answer waits for answers.
const SOME: u64 = 10;

/// Whether answers come soon that were waited for so many nanoseconds, of which looks told so many times.
pub(crate) const fn come_soon(told: u64, nanos: u64) -> bool {
    nanos <= SOON.saturating_mul(told)
}

impl Reading {
    /// Whether what a place of a group waits for from the network is answers.
    pub(super) fn is_answered(&self, place: &Place) -> bool {
        let nanos = |is_owed| {
            let same = Place { is_owed, ..place.clone() };
            self.places.get(&same).copied().unwrap_or_default()
        };
        let (owed, open) = (nanos(true), nanos(false));
        let asks = !place.functions.is_empty() && SOME * owed >= owed + open;
        let answers = if asks { owed + open } else { owed };
        let ran = self.groups.get(&place.group).map_or(0, |group| group.of(Activity::OnCpu));
        owed > 0 && (asks || place.is_owed) && answers <= WORTHWHILE * ran
    }
}
