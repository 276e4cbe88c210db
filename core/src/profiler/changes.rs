//! Options that change while the profiler runs: what the program says, and over it what a watched file says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lock;
use crate::drain::Handle;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Options, Overlay};
use crate::report;

/// What was said of the options, and what holds.
#[derive(Clone)]
pub(super) struct Said {
    /// By the environment and the program.
    pub(super) base: Options,
    /// By the watched file.
    pub(super) file: Overlay,
    pub(super) in_force: Options,
}

impl Said {
    /// At the start, where every option can be had.
    pub(super) fn new(base: Options, file: Overlay) -> Self {
        let in_force = settled(file.over(&base));
        Self { base: settled(base), file, in_force }
    }

    /// With something else said, as far as that can change while the profiler runs.
    fn with(&self, base: Options, file: Overlay) -> Self {
        let wanted = file.over(&base);
        let mut in_force = self.in_force.clone();
        for spec in wanted.differing(&in_force.clone()).filter(|spec| spec.live) {
            // It is the text of a value, and right.
            let _ = wanted.get(spec.name).map(|value| in_force.set(spec.name, &value));
        }
        Self { base, file, in_force }
    }
}

/// A daemon changes its working directory after the start; its profiles stay where they were asked for. Where the working
/// directory is gone, writing says so.
fn settled(mut options: Options) -> Options {
    options.dir = std::path::absolute(&options.dir).unwrap_or(options.dir);
    options.push_spool = options.push_spool.map(|spool| std::path::absolute(&spool).unwrap_or(spool));
    options
}

/// Changes any number of options at once: all of them, or where one cannot be had, none.
pub(crate) fn change(make: impl FnOnce(&mut Options) -> Result<()>) -> Result<()> {
    let fixed = |name: &str| {
        let message =
            format!("the option {name} cannot change while the profiler runs: stop it and start it anew");
        Error::new(ErrorKind::InvalidOption, message)
    };
    let held = |name: &str, place: &str| {
        let message = format!("{name} is given by {place}, which wins while it is there: change it there");
        Error::new(ErrorKind::InvalidOption, message)
    };
    say(None, |said| {
        let mut base = said.base.clone();
        make(&mut base)?;
        let differing: Vec<_> = base.differing(&said.base).collect();
        if let Some(spec) = differing.iter().find(|spec| !spec.live) {
            return Err(fixed(spec.name));
        }
        if let Some((name, place)) =
            differing.iter().find_map(|spec| Some((spec.name, said.file.place(spec.name)?)))
        {
            return Err(held(name, place));
        }
        Ok(said.with(base, said.file.clone()))
    })
}

/// Puts what a watched file says in the place of what it said before, and tells what has changed, and what cannot. Where
/// another profiler runs by now than the one that it was watched for, nothing happens: that one has its own watch.
pub(super) fn take_file(file: Overlay, watched_for: &Arc<Handle>) -> Result<()> {
    let mut told = (Vec::new(), Vec::new(), file.file().to_path_buf());
    say(Some(watched_for), |said| {
        let names: Vec<_> = file.differing(&said.file).collect();
        let next = said.with(said.base.clone(), file.clone());
        told.0 = next.in_force.differing(&said.in_force).map(|spec| spec.name).collect();
        told.1 = names.into_iter().filter(|name| is_fixed(name)).collect();
        Ok(next)
    })?;
    tell(&told.0, &told.1, &told.2);
    Ok(())
}

fn is_fixed(name: &str) -> bool {
    Options::table().iter().any(|spec| spec.name == name && !spec.live)
}

fn tell(changed: &[&str], fixed: &[&str], file: &Path) {
    if !fixed.is_empty() {
        report::warn(&format!(
            "{}: {} can change at a start only, and stays as it is until then",
            file.display(),
            fixed.join(", ")
        ));
    }
    if !changed.is_empty() {
        report::info(&format!("{} was read again: {} changed", file.display(), changed.join(", ")));
    }
}

/// Goes on with what `make` makes of what was said by now, if it is the profiler `only` that runs, or any.
fn say(only: Option<&Arc<Handle>>, make: impl FnOnce(&Said) -> Result<Said>) -> Result<()> {
    let _turn = Changing::take()?;
    let (handle, before) = {
        let running = lock();
        let running = running.as_ref().ok_or_else(not_running)?;
        (running.handle.clone(), running.said.clone())
    };
    if only.is_some_and(|only| !Arc::ptr_eq(only, &handle)) {
        return Ok(());
    }
    let said = make(&before)?;
    handle.set(&said.in_force)?;
    if let Some(running) = lock().as_mut().filter(|running| Arc::ptr_eq(&running.handle, &handle)) {
        running.said = said;
    }
    Ok(())
}

/// The right to change options: one after the other, since each begins with what the one before has left. It is no lock, for
/// which a fork would have to wait.
struct Changing;

static CHANGING: AtomicBool = AtomicBool::new(false);

impl Changing {
    fn take() -> Result<Changing> {
        const PATIENCE: Duration = Duration::from_secs(30);
        const NAP: Duration = Duration::from_micros(200);
        crate::drain::check_thread()?;
        let begin = Instant::now();
        while CHANGING.swap(true, Ordering::SeqCst) {
            if begin.elapsed() > PATIENCE {
                let message = "another thread is changing options: try again later";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            std::thread::sleep(NAP);
        }
        Ok(Changing)
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        CHANGING.store(false, Ordering::SeqCst);
    }
}

/// The thread that was changing something is not here. In a fork's child, on its only thread.
pub(super) fn after_fork() {
    CHANGING.store(false, Ordering::SeqCst);
}

fn not_running() -> Error {
    let message = "no profiler runs in this process: start one first (everprof's `start`)";
    Error::new(ErrorKind::Unavailable, message)
}
