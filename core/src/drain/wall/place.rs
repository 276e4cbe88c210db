//! Where a thread waits: seen from outside, or told by the thread itself.

use everprof_probe::os::{self, Clock, State, WaitFor};
use everprof_probe::sample::{CALL_WORDS, Frame, Header, Trace, frames, missing};
use everprof_probe::unwind::{self, End};
use everprof_probe::waiting::{self, Look, Looker};

use crate::aggregate::Waited;

/// Where a thread waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) words: Box<[u64]>,
    pub(crate) labels: u32,
    pub(crate) trace: Trace,
    pub(crate) waited: Waited,
    /// Where the stack is not whole: the tables that it was walked with. With others it may be.
    walked_with: Option<u32>,
}

/// What a look from outside has found.
pub(crate) enum Seen {
    /// It runs, or is gone.
    Running,
    /// It has ended, and stays as long as others of the process go on: a first thread does.
    Ended,
    /// It waits here.
    Waiting(Place),
    /// It waited here, and has gone on while it was looked at: no callers are known.
    Moved(Place),
    /// It waits, and not all is known of where.
    Partly(Place, Why),
}

/// Why not all is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The kernel does not say what the thread does.
    Untold,
    /// Nor lets us read its stack.
    Unreadable,
    /// The process has no room for the file that would tell.
    NoRoom,
    /// The stack was read and a caller could not be found.
    NotWhole,
}

impl Place {
    /// Looks at thread `tid`, which by a look just now has `used` so many nanoseconds of the processors.
    pub(crate) fn seen(looker: &mut Looker, tid: u32, used: u64, words: &mut [u64]) -> Seen {
        let tables = unwind::generation();
        let look = looker.look_since(tid, used, words);
        let stack = if let Look::Waiting(waiting) = look { waiting.words } else { 0 };
        Self::of(look, tid, words.get(..stack).unwrap_or_default(), tables)
    }

    /// What a look at thread `tid` has found, with its stack, which was walked with these `tables`.
    pub(crate) fn of(look: Look, tid: u32, stack: &[u64], tables: u32) -> Seen {
        let waiting = match look {
            Look::Waiting(waiting) => waiting,
            Look::Running | Look::Gone => return Seen::Running,
            Look::Untold => return Self::untold(tid),
            Look::NotNow => return Seen::Partly(Self::not_now(tid), Why::NoRoom),
        };
        let call = waiting.wait.call;
        let mut wait = os::waits_for(call, &waiting.wait.arguments);
        // Outside of a call for a page, unless it was made to stand still where it was; or in a call that nobody waits in.
        if call.is_none() || wait == WaitFor::Other {
            match os::standing(tid).map(|standing| standing.state) {
                Some(State::Running | State::Ended) if call.is_none() => return Seen::Running,
                Some(State::Stopped) => wait = WaitFor::Process,
                _ => {}
            }
        }
        let place = Place {
            words: stack.into(),
            labels: waiting.labels,
            trace: waiting.trace,
            waited: Waited { call, wait: wait as u8, ..Waited::default() },
            walked_with: (waiting.end != End::Root).then_some(tables),
        };
        match waiting.end {
            _ if waiting.moved => Seen::Moved(place),
            _ if !waiting.readable => Seen::Partly(place, Why::Unreadable),
            End::Lost => Seen::Partly(place, Why::NotWhole),
            _ if waiting.lacks_runtime => Seen::Partly(place, Why::NotWhole),
            _ => Seen::Waiting(place),
        }
    }

    /// Where the kernel does not tell the call, it may still tell whether the thread runs.
    fn untold(tid: u32) -> Seen {
        let wait = match os::standing(tid).map(|standing| standing.state) {
            Some(State::Running) => return Seen::Running,
            Some(State::Ended) => return Seen::Ended,
            Some(State::Fixed) => WaitFor::Disk,
            Some(State::Stopped) => WaitFor::Process,
            Some(State::Waiting) | None => WaitFor::Other,
        };
        let waited = Waited { wait: wait as u8, ..Waited::default() };
        Seen::Partly(Place { waited, ..Self::not_seen(tid) }, Why::Untold)
    }

    /// Somewhere: the next look may find out where.
    fn not_now(tid: u32) -> Place {
        Place { walked_with: Some(unwind::generation().wrapping_sub(1)), ..Self::not_seen(tid) }
    }

    fn not_seen(tid: u32) -> Place {
        let used = Clock::Thread(tid).now().unwrap_or_default();
        let (labels, trace) = waiting::in_force(tid, used);
        Place { labels, trace, ..Self::unknown() }
    }

    /// That it waits, and nothing else.
    pub(crate) fn unknown() -> Place {
        Place { words: [missing(0)].into(), ..Place::default() }
    }

    /// What a thread has told itself; `None` where it was in no system call.
    pub(crate) fn told(header: &Header, words: &[u64]) -> Option<Place> {
        let (call, stack) = words.split_first_chunk::<CALL_WORDS>()?;
        let Some(Frame::Native(pc)) = frames(stack).next() else { return None };
        let wait = waiting::interrupted(*call, pc)?;
        // Of a call without a number nothing is known; of none, that would be the wait for a page.
        let kind = wait.call.map_or(WaitFor::Other, |call| os::waits_for(Some(call), &wait.arguments));
        Some(Place {
            words: stack.into(),
            labels: header.labels,
            trace: header.trace,
            waited: Waited { call: wait.call, wait: kind as u8, ..Waited::default() },
            walked_with: None,
        })
    }

    /// The same place with what `outside` knows better: the call, by the kernel's own account.
    pub(crate) fn with_call_of(self, outside: &Place) -> Place {
        // The call is begun again at its own instruction, of two or four bytes; the kernel tells the one behind it.
        let is_same = self.leaf().abs_diff(outside.leaf()) <= 4;
        Place { waited: if is_same { outside.waited } else { self.waited }, ..self }
    }

    /// The same place, where the thread did not wait for what it had asked for, but to be let go on.
    pub(super) fn stopped(self) -> Place {
        Place { waited: Waited { wait: WaitFor::Process as u8, ..Waited::default() }, ..self }
    }

    fn leaf(&self) -> u64 {
        self.words.first().copied().unwrap_or_default()
    }

    /// Whether nothing is known of it.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(frames(&self.words).next(), None | Some(Frame::Missing(_)))
    }

    /// Whether another look would show the same.
    pub(crate) fn is_final(&self) -> bool {
        self.walked_with.is_none_or(|tables| tables == unwind::generation())
    }

    /// Whether callers are missing.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(frames(&self.words).last(), None | Some(Frame::Missing(_)))
    }
}

/// What a number of [`Waited`] stands for.
pub(crate) fn name_of(wait: u8) -> &'static str {
    const NAMES: [(WaitFor, &str); 11] = [
        (WaitFor::Other, "other"),
        (WaitFor::Network, "network"),
        (WaitFor::Disk, "disk"),
        (WaitFor::Thread, "thread"),
        (WaitFor::Lock, "lock"),
        (WaitFor::Timer, "timer"),
        (WaitFor::Pipe, "pipe"),
        (WaitFor::Events, "events"),
        (WaitFor::Process, "process"),
        (WaitFor::Client, "client"),
        (WaitFor::Answer, "answer"),
    ];
    NAMES.iter().find(|(known, _)| *known as u8 == wait).map_or("other", |(_, name)| name)
}
