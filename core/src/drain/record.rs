//! Recordings: profiles of a stretch that somebody asked for, beside the periods and without disturbing them.
//!
//! The sums are cut where a recording begins and where it ends, so that a recording, like a period, is made of whole
//! segments, and each sample is counted once and named once. Whoever asks waits for such a cut: those who ask at the same
//! time share one, and cuts take no more than a part of a processor, so that a host which asks over and over waits rather
//! than pays. There are never more than a few recordings at once, and none lasts for ever: who has forgotten his, by the
//! death of a thread say, loses it.
//!
//! Our thread.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use everprof_probe::os::{Clock, gettid, monotonic};

use super::close::Cut;
use super::fleet::Work;
use super::publish::Job;
use super::sampler::Sampler;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Kind, Profile};
use crate::recorder;

/// So many at once.
const MOST: usize = 16;
/// No longer than this.
const LONGEST: Duration = Duration::from_secs(3600);
/// Cuts take this part of a processor at most; those that are asked for meanwhile wait and share the next one.
const CUT_SHARE: u64 = 10;
/// How long to wait where the publisher is behind.
const PAUSE: u64 = 5_000_000;

/// The recordings at hand.
#[derive(Debug, Default)]
pub(super) struct Recordings {
    open: Vec<Open>,
    asked: Vec<Asked>,
    /// When the next cut may be, on the monotonic clock.
    next_cut: u64,
}

#[derive(Debug)]
struct Open {
    id: u64,
    kind: Kind,
    began: Instant,
    /// A segment of it is missing.
    damaged: bool,
}

/// Who waits for the next cut.
#[derive(Debug)]
enum Asked {
    Begin(u64, Kind, Sender<Result<()>>),
    End(u64, Sender<Result<Profile>>),
}

impl Asked {
    fn id(&self) -> u64 {
        match self {
            Asked::Begin(id, ..) | Asked::End(id, _) => *id,
        }
    }
}

impl Recordings {
    /// Those at hand that are made of segments, by number.
    pub(super) fn open(&self) -> Vec<(u64, Kind)> {
        let segmented = self.open.iter().filter(|open| !open.kind.needs_hooks());
        segmented.map(|open| (open.id, open.kind)).collect()
    }

    /// Whether one of them needs looks at threads that wait.
    pub(super) fn need_looks(&self) -> bool {
        self.open.iter().any(|open| open.kind.needs_looks())
    }

    /// Their kinds.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.open.iter().map(|open| open.kind)
    }

    /// A segment was given up: those at hand that are made of such are not whole.
    pub(super) fn damage(&mut self) {
        self.open.iter_mut().for_each(|open| open.damaged |= !open.kind.needs_hooks());
    }

    /// How long to sleep at most: somebody may wait for a cut.
    pub(super) fn rest(&self) -> Duration {
        if self.asked.is_empty() {
            return Duration::MAX;
        }
        Duration::from_nanos(self.next_cut.saturating_sub(monotonic()))
    }

    fn take(&mut self, id: u64) -> Option<Open> {
        let at = self.open.iter().position(|open| open.id == id)?;
        Some(self.open.swap_remove(at))
    }

    fn begin(&mut self, id: u64, kind: Kind) {
        self.open.push(Open { id, kind, began: Instant::now(), damaged: false });
    }

    /// The kinds that there will be once everybody was served that asked.
    fn expected_kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        let ends =
            |id: u64| self.asked.iter().any(|asked| matches!(asked, Asked::End(ended, _) if *ended == id));
        let begun = self.asked.iter().filter_map(|asked| match asked {
            Asked::Begin(_, kind, _) => Some(*kind),
            Asked::End(..) => None,
        });
        self.open.iter().filter(move |open| !ends(open.id)).map(|open| open.kind).chain(begun)
    }

    /// How many there will be once everybody was served that asked.
    fn expected(&self) -> usize {
        let begin = self.asked.iter().filter(|asked| matches!(asked, Asked::Begin(..))).count();
        self.open.len() + begin
    }
}

impl Sampler {
    /// Somebody wants to begin a recording, to be known by that number.
    pub(super) fn record(&mut self, id: u64, kind: Kind, begun: Sender<Result<()>>) {
        if kind == Kind::Threads {
            let _ = begun.send(Err(a_moment()));
            return;
        }
        if kind.needs_recorder() && !recorder::tells_pauses() {
            let _ = begun.send(Err(nobody_tells(kind)));
            return;
        }
        if self.recordings.expected() >= MOST {
            let message = format!("{MOST} recordings run already: finish one of them first, or drop it");
            let _ = begun.send(Err(Error::new(ErrorKind::Unavailable, message)));
            return;
        }
        if kind.needs_hooks() {
            // Its account has no cuts to wait for.
            self.recordings.begin(id, kind);
            let answer = self.on_request(|own| own.begin_to_count(id, kind));
            let failed = answer.is_err();
            if begun.send(answer).is_err() || failed {
                self.give_up(id);
            }
            return;
        }
        self.recordings.asked.push(Asked::Begin(id, kind, begun));
    }

    /// Somebody wants the profile of recording `id`; with `as_change`, what became of levels and not what they are.
    pub(super) fn finish(&mut self, id: u64, as_change: bool, named: Sender<Result<Profile>>) {
        match self.recordings.open.iter().find(|open| open.id == id).map(|open| open.kind) {
            Some(kind) if kind.needs_hooks() => {
                self.recordings.take(id);
                self.on_request(|own| own.end_to_count(id, kind, as_change, named));
            }
            Some(_) => self.recordings.asked.push(Asked::End(id, named)),
            None => _ = named.send(Err(too_long())),
        }
    }

    /// Nobody wants recording `id` any more, nor waits for it.
    pub(super) fn give_up(&mut self, id: u64) {
        self.recordings.asked.retain(|asked| asked.id() != id);
        if let Some(open) = self.recordings.take(id) {
            if open.kind.needs_hooks() {
                return self.count_no_more(id);
            }
            self.publish(Job::GiveUp(id));
            self.switch_looks();
            self.switch_work();
        }
    }

    /// Gives up recordings that were forgotten.
    pub(super) fn expire_recordings(&mut self) {
        let Recordings { open, asked, .. } = &self.recordings;
        // One that somebody waits for ends anyway.
        let is_old =
            |open: &&Open| open.began.elapsed() > LONGEST && !asked.iter().any(|asked| asked.id() == open.id);
        let old: Vec<u64> = open.iter().filter(is_old).map(|open| open.id).collect();
        old.into_iter().for_each(|id| self.give_up(id));
    }

    /// Serves those who wait for a cut, if it is time for one.
    pub(super) fn serve(&mut self) {
        let now = monotonic();
        if self.recordings.asked.is_empty() || now < self.recordings.next_cut {
            return;
        }
        if self.is_publisher_behind() {
            self.recordings.next_cut = now + PAUSE;
            return;
        }
        let own = || Clock::Thread(gettid()).now().unwrap_or_default();
        let before = own();
        let goes_on = self.work != Work::Times
            || self.work_of(&self.kinds, self.recordings.expected_kinds()) == Work::Times;
        self.cut(if goes_on { Cut::Within } else { Cut::IntoRest });
        self.answer();
        self.recordings.next_cut = monotonic() + (own() - before) * CUT_SHARE;
    }

    /// Begins and ends what was asked for, right behind a cut.
    fn answer(&mut self) {
        for asked in std::mem::take(&mut self.recordings.asked) {
            match asked {
                Asked::Begin(id, kind, begun) => {
                    self.recordings.begin(id, kind);
                    self.switch_work();
                    let answer = if self.switch_looks() { Ok(()) } else { Err(no_memory()) };
                    // Whoever asked may have given up waiting.
                    let failed = answer.is_err();
                    if begun.send(answer).is_err() || failed {
                        self.give_up(id);
                    }
                }
                Asked::End(id, named) => {
                    let Some(open) = self.recordings.take(id) else {
                        let _ = named.send(Err(too_long()));
                        continue;
                    };
                    if open.damaged {
                        let _ = named.send(Err(damaged()));
                        self.publish(Job::GiveUp(id));
                    } else {
                        self.publish(Job::Finish(id, named));
                    }
                }
            }
        }
        self.switch_looks();
        self.switch_work();
    }
}

fn too_long() -> Error {
    let longest = LONGEST.as_secs() / 60;
    let message =
        format!("the recording lasted for more than {longest} minutes and was given up: finish it sooner");
    Error::new(ErrorKind::Unavailable, message)
}

fn a_moment() -> Error {
    let message =
        "threads are seen at a moment, not over a stretch of time: take a snapshot (everprof::threads)";
    Error::new(ErrorKind::Unsupported, message)
}

fn nobody_tells(kind: Kind) -> Error {
    let name = kind.name();
    let message = format!(
        "{name}: no runtime of this process tells its pauses; in Python, start with kinds=cpu,{name}"
    );
    Error::new(ErrorKind::Unsupported, message)
}

fn damaged() -> Error {
    let message = "a part of the recording was given up, since it took too long to name it: try again later";
    Error::new(ErrorKind::Unavailable, message)
}

fn no_memory() -> Error {
    Error::new(ErrorKind::Unsupported, "there is no memory to look at threads that wait")
}
