//! What the pull side is answered with: the profiler that runs when it asks.

use std::sync::Arc;

use super::{Running, lock};
use crate::drain::Handle;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Kind, Profile};
use crate::pull::{About, Recorded, Source};

/// Whichever profiler runs.
pub(super) struct Present;

/// A recording that ends with the one who waits for it.
struct Own {
    handle: Arc<Handle>,
    /// None once it is finished.
    id: Option<u64>,
    as_change: bool,
}

impl Source for Present {
    fn record(&self, kind: Kind, as_change: bool) -> Result<Box<dyn Recorded>> {
        let handle = running()?;
        let id = handle.record(kind)?;
        Ok(Box::new(Own { handle, id: Some(id), as_change }))
    }

    fn now(&self, kind: Kind) -> Result<Profile> {
        match kind {
            Kind::Threads => running()?.threads(),
            _ => running()?.account(kind),
        }
    }

    fn about(&self) -> About {
        let asked = lock().as_ref().map(|running: &Running| {
            (running.handle.clone(), running.tags.clone(), running.said.in_force.clone())
        });
        let Some((handle, tags, options)) = asked else { return About::default() };
        let mut stats = handle.stats();
        crate::serve::tell(&mut stats);
        let taken = stats.active_kinds.clone();
        let is_taken = |kind: Kind| taken.contains(&kind.name());
        About {
            tags: tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            verdict: stats.verdict.clone(),
            stats,
            kinds: options.kinds.iter().filter(|kind| is_taken(*kind)).collect(),
            period_s: options.period_s.duration().as_secs(),
        }
    }
}

impl Recorded for Own {
    fn finish(mut self: Box<Self>) -> Result<Profile> {
        match self.id.take() {
            Some(id) if self.as_change => self.handle.finish_as_change(id),
            Some(id) => self.handle.finish(id),
            None => Err(Error::new(ErrorKind::Internal, "the recording ended already")),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.handle.give_up(id);
        }
    }
}

fn running() -> Result<Arc<Handle>> {
    super::running()
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the profiler of this process was stopped"))
}
