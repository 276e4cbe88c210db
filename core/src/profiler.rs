//! The front door: start, stop, flush, statistics; and what happens around `fork` and `exit`.
//!
//! One profiler runs in a process. Its state is behind one lock, which is held for short moments only, never while
//! waiting for a profile to be written, and never by a handler. `fork` takes it, so that the child finds it whole.

mod changes;
mod google;
mod pulled;
mod watch;

use std::cell::RefCell;
use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use everprof_probe::{awaiting, os, sampling, scratch, stacks, thread, unwind};

use crate::drain::{Handle, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{self, Destinations, Exporter, sockets, spool};
use crate::labels;
use crate::options::{Kinds, Options, Rate};
use crate::pull;
use crate::recorder::{self, Recorded};
use crate::report;
use crate::serve;
use crate::stats::Stats;
use crate::tags::{Sources, Tags};
use crate::thread_names;

use changes::Said;
use watch::{Watch, Watched};

/// How long stopping and the end of the process may wait for the last profile.
const EXIT_BUDGET: Duration = Duration::from_secs(2);

const DIR: &str = "dir";

static STARTING: AtomicBool = AtomicBool::new(false);
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

struct Running {
    handle: Arc<Handle>,
    said: Said,
    tags: Tags,
    exporters: MakeExporters,
    /// The file of options that is watched, and what ends that.
    watched: Option<Watched>,
    _watch: Option<Watch>,
    /// The server that says itself when it wants a profile.
    asked: Option<export::google::Plan>,
    conversation: Option<google::Conversation>,
}

type MakeExporters = Arc<dyn Fn() -> Vec<Box<dyn Exporter>> + Send + Sync>;

/// The running profiler: it stops, and writes its last profile, when this guard is dropped.
///
/// ```no_run
/// fn main() -> everprof::Result<()> {
///     let _profiler = everprof::Profiler::start()?;
///     // the service runs here
///     Ok(())
/// }
/// ```
///
/// A guard that is kept for ever (in a `static`, or by `std::mem::forget`) is as good: the last profile is then written
/// when the process calls `exit` or returns from `main`. Stopping waits up to 2 seconds for the last profile.
///
/// After a `fork` the child goes on by itself, with a new tag `instance`; the guard's copy in the child stops the
/// child's profiler. After `exec` nothing of the profiler is left.
#[derive(Debug)]
#[must_use = "the profiler stops when the guard is dropped"]
pub struct Profiler {
    enabled: bool,
}

impl Profiler {
    /// Starts with every option from the environment, or its default: CPU profiles at 99 Hz, one a minute, into the
    /// directory `./everprof`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] for a variable `EVERPROF_…` that is wrong, [`ErrorKind::AlreadyRunning`] for a second
    /// start, [`ErrorKind::Unsupported`] where the kernel offers no timers or threads.
    pub fn start() -> Result<Profiler> {
        Self::builder().start()
    }

    /// Options in code, which win over the environment.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Another guard of the profiler that runs in this process, for whoever has no place to keep the first one, such as the
    /// binding of a language that has no guards. The profiler stops when either is dropped.
    ///
    /// ```no_run
    /// std::mem::forget(everprof::Profiler::start()?);
    /// // later, and elsewhere
    /// if let Some(profiler) = everprof::Profiler::of_process() {
    ///     profiler.stop()?;
    /// }
    /// # Ok::<(), everprof::Error>(())
    /// ```
    pub fn of_process() -> Option<Profiler> {
        // Not made before it is known: a guard that is dropped stops the profiler.
        running().map(|_| Profiler { enabled: true })
    }

    /// The kinds that are asked for, also where it is not the turn of all of them.
    ///
    /// ```no_run
    /// use everprof::profile::Kind;
    /// let profiler = everprof::Profiler::start()?;
    /// assert_eq!(profiler.kinds(), [Kind::Cpu]);
    /// # Ok::<(), everprof::Error>(())
    /// ```
    pub fn kinds(&self) -> Vec<crate::profile::Kind> {
        kinds().map_or_else(Vec::new, |kinds| kinds.iter().collect())
    }

    /// Closes the profile at hand early and waits until it is exported.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] where that took more than 2 seconds; it then goes on in the background. What an
    /// exporter could not do is in [`Stats::last_problem`].
    pub fn flush(&self) -> Result<()> {
        self.handle().map_or(Ok(()), |handle| handle.flush(EXIT_BUDGET))
    }

    /// Stops, and waits up to 2 seconds for the last profile. Dropping the guard does the same without the error.
    ///
    /// # Errors
    /// As [`Profiler::flush`].
    pub fn stop(mut self) -> Result<()> {
        let stopped = self.end();
        self.enabled = false;
        stopped
    }

    /// The value of an option that is in force, as canonical text: for bindings, which have options of their own to follow. `None`
    /// for a name that is no option, and where nothing runs.
    ///
    /// ```no_run
    /// let profiler = everprof::Profiler::builder().set("rate_hz", "199").start()?;
    /// assert_eq!(profiler.option("rate_hz").as_deref(), Some("199"));
    /// # Ok::<(), everprof::Error>(())
    /// ```
    pub fn option(&self, name: &str) -> Option<String> {
        if !self.enabled {
            return None;
        }
        lock().as_ref().and_then(|running| running.said.in_force.get(name))
    }

    /// Changes an option while the profiler runs, as [`crate::set`] does.
    ///
    /// # Errors
    /// As [`crate::set`]; a guard that does nothing, since the options said so, accepts what is right.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let mut options = Options::default();
        options.set(name, value)?;
        if self.enabled { set(name, value) } else { Ok(()) }
    }

    /// Samples at another rate from now on; profiles stay right across the change.
    ///
    /// # Errors
    /// As [`crate::set`].
    pub fn set_rate(&self, rate: Rate) -> Result<()> {
        self.set("rate_hz", &rate.hz().to_string())
    }

    /// What the profiler says about itself; renewed every 2 seconds and at each flush.
    pub fn stats(&self) -> Stats {
        let Some(handle) = self.handle() else { return Stats::default() };
        let mut stats = handle.stats();
        serve::tell(&mut stats);
        stats
    }

    fn handle(&self) -> Option<Arc<Handle>> {
        if self.enabled { running() } else { None }
    }

    fn end(&mut self) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        stop_running()
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            report::warn(&format!("the last profile: {error}"));
        }
    }
}

/// Changes an option of the profiler that runs in this process: one of those that [`OptionSpec::live`] says so of, such as
/// `kinds`, `rate_hz`, `interval_bytes` and `lock_threshold_ns`. Profiles stay right across the change, since each sample
/// carries what it stands for; a change of kinds ends the period at hand. Children that fork go on with what was set.
/// Blocks until the profiler has taken it over, some milliseconds.
///
/// As Go has `runtime.MemProfileRate`, `SetMutexProfileFraction` and `SetBlockProfileRate`:
///
/// ```no_run
/// let _profiler = everprof::Profiler::start()?;
/// everprof::set("kinds", "cpu,heap,mutex")?;
/// everprof::set("interval_bytes", "64KiB")?;
/// everprof::set("lock_threshold_ns", "off")?;
/// # Ok::<(), everprof::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidOption`] for a name that is no option, a wrong value, and an option that needs a new start;
/// [`ErrorKind::Unsupported`] for a kind of profile that cannot be had here, whether or not it is its turn;
/// [`ErrorKind::Unavailable`] where no profiler runs, on everprof's own thread, and where that does not answer within 30 seconds.
/// Nothing has changed then, nor will it, unless the message says that the change is under way. An option that the watched file of
/// `config` gives is [`ErrorKind::InvalidOption`] too.
///
/// [`OptionSpec::live`]: crate::options::OptionSpec::live
pub fn set(name: &str, value: &str) -> Result<()> {
    changes::change(|options| options.set(name, value))
}

/// Options in code for a profiler; see [`Options`] for their meaning.
///
/// ```no_run
/// let profiler = everprof::Profiler::builder()
///     .service("checkout")
///     .version(env!("CARGO_PKG_VERSION"))
///     .tag("team", "payments")
///     .set("rate_hz", "199")
///     .start()?;
/// # Ok::<(), everprof::Error>(())
/// ```
#[derive(Default)]
#[must_use = "nothing happens before start()"]
pub struct Builder {
    steps: Vec<(String, OsString)>,
    fallbacks: Vec<(String, String)>,
    program: Option<String>,
    exporters: Option<MakeExporters>,
}

impl Builder {
    /// Names the service; default: from the environment, else the executable's name.
    pub fn service(self, service: impl Into<String>) -> Self {
        self.set("service", service)
    }

    /// Names the version of the service.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.set("version", version)
    }

    /// Names the environment of the deployment, such as `production`.
    pub fn env(self, env: impl Into<String>) -> Self {
        self.set("env", env)
    }

    /// Adds a tag to every profile.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.steps.push((format!("tags.{key}"), value.into()));
        self
    }

    /// Samples per second of each thread's CPU time, 1 to 10,000; default 99.
    pub fn rate_hz(self, rate: u32) -> Self {
        self.set("rate_hz", rate.to_string())
    }

    /// The directory that profiles are written to; default `./everprof`. A relative one counts from the working
    /// directory at the start. It need not be UTF-8.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.steps.push((DIR.to_string(), dir.as_ref().into()));
        self
    }

    /// What the service is called where neither options nor environment name it: instead of the executable, which of a
    /// program in a language that is interpreted is the interpreter.
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.program = Some(name.into());
        self
    }

    /// What an option is where neither options nor environment say it: for bindings of runtimes that other defaults become.
    ///
    /// ```no_run
    /// let builder = everprof::Profiler::builder().fallback("wall_signal", "never");
    /// let _guard = builder.start()?;
    /// # Ok::<(), everprof::Error>(())
    /// ```
    pub fn fallback(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fallbacks.push((name.into(), value.into()));
        self
    }

    /// Sets any option by its name; a wrong one is the error of [`Builder::start`].
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.steps.push((name.into(), value.into().into()));
        self
    }

    /// Sends profiles where `make` says instead of where the option `push` does. It is called once at the start, on
    /// everprof's thread, and again in the child of a fork. Each exporter works on one of its own, where it may take its
    /// time: neither recordings nor other exporters wait for it, and so many sets do as `push_queue_bytes` allows.
    pub fn exporters(mut self, make: impl Fn() -> Vec<Box<dyn Exporter>> + Send + Sync + 'static) -> Self {
        self.exporters = Some(Arc::new(make));
        self
    }

    /// Starts the profiler.
    ///
    /// # Errors
    /// As [`Profiler::start`]; a wrong value of a builder call is [`ErrorKind::InvalidOption`] too.
    pub fn start(self) -> Result<Profiler> {
        let mut options = Options::default();
        for (name, value) in &self.fallbacks {
            options.set(name, value)?;
        }
        options.apply_vars(std::env::vars_os())?;
        for (name, value) in self.steps {
            match (name.strip_prefix("tags."), value.to_str()) {
                (Some(key), Some(value)) => options.tags.insert(key, value)?,
                (None, Some(value)) => options.set(&name, value)?,
                // Only a path can be something else than text.
                (_, None) => options.dir = value.into(),
            }
        }
        if !options.is_enabled() {
            return Ok(Profiler { enabled: false });
        }
        let (watched, file) = options.config.as_deref().map(Watched::begin).unzip();
        let said = Said::new(options, file.unwrap_or_default());
        let options = said.in_force.clone();
        if !options.is_enabled() {
            return Ok(Profiler { enabled: false });
        }
        let aims = match self.exporters {
            Some(make) => Destinations::of_the_program(make),
            None => export::destinations(&options)?,
        };
        let _turn = Turn::take()?;
        watch_process();
        let sources = match self.program {
            Some(name) => Sources::host().with_executable(name),
            None => Sources::host(),
        };
        let tags = Tags::resolve(&options, &sources);
        let problem = watched.as_ref().and_then(Watched::problem);
        let started = run(said, tags, aims.make.clone(), aims.google.clone(), watched, false)?;
        tell(&options, &aims);
        let handle = started.handle.clone();
        problem.into_iter().for_each(|problem| handle.problem(problem));
        *lock() = Some(started);
        listen(&options, &handle);
        Ok(Profiler { enabled: true })
    }
}

/// The right to start: one at a time, without holding the lock, for which a fork would have to wait.
struct Turn;

impl Turn {
    fn take() -> Result<Turn> {
        let running = || {
            let message =
                "a profiler runs in this process already: keep its guard, or stop it before starting another";
            Error::new(ErrorKind::AlreadyRunning, message)
        };
        if STARTING.swap(true, Ordering::SeqCst) {
            return Err(running());
        }
        let turn = Turn;
        if lock().is_some() { Err(running()) } else { Ok(turn) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        STARTING.store(false, Ordering::SeqCst);
    }
}

/// Says at the level `info` what goes on from now, and where to look for it.
fn tell(options: &Options, aims: &Destinations) {
    let (rate, period) = (options.rate_hz.hz(), options.period_s.duration().as_secs());
    // Told now, and not when the first profile is due. The program goes on: the file may be gone by then.
    for dir in aims.directories.iter().filter(|dir| std::fs::metadata(dir).is_ok_and(|found| !found.is_dir()))
    {
        report::warn(&format!("no profile can be written: {} is not a directory", dir.display()));
    }
    aims.warnings.iter().for_each(|warning| report::warn(warning));
    let aim = &aims.told;
    report::info(&format!(
        "every thread is sampled {rate} times a second of its CPU time, and a profile goes to {aim} every {period} s"
    ));
}

/// Lets profiles be fetched: always by the router of the program, and from a port of ours where the options say so. A port
/// that cannot be had is told, and keeps neither the program nor its profiles from going on.
fn listen(options: &Options, handle: &Handle) {
    pull::install(&pulled::Present);
    if options.serve.is_off() {
        return;
    }
    match serve::start(&options.serve, &options.serve_token) {
        Ok(address) if options.serve.port().is_some() => {
            report::info(&format!("profiles can be fetched at http://{address}/debug/pprof/"));
        }
        Ok(address) => report::info(&format!("profiles can be fetched at {address}, path /debug/pprof/")),
        Err(error) => {
            let problem = format!("the pull side does not listen: {error}");
            report::warn(&problem);
            handle.problem(problem);
        }
    }
}

fn run(
    said: Said,
    tags: Tags,
    exporters: MakeExporters,
    asked: Option<export::google::Plan>,
    watched: Option<Watched>,
    forked: bool,
) -> Result<Running> {
    let (options, all) = (said.in_force.clone(), tags.as_map().clone());
    let plan = Plan { options, tags: all, exporters: exporters.clone(), forked };
    let handle = Arc::new(Handle::start(plan)?);
    let conversation =
        asked.as_ref().and_then(|plan| google::begin(plan, &said.in_force, &tags, &handle, forked));
    let _watch = watched.clone().and_then(|watched| watch::begin(watched, &handle));
    Ok(Running { handle, said, tags, exporters, asked, conversation, watched, _watch })
}

fn stop_running() -> Result<()> {
    // The lock is not held while waiting: a fork must not wait for a disk.
    let running = lock().take();
    running.map_or(Ok(()), |running| {
        if let Some(conversation) = &running.conversation {
            conversation.end();
        }
        serve::stop(EXIT_BUDGET / 2);
        let stopped = running.handle.stop(EXIT_BUDGET);
        // Not before: the last profile comes first.
        pull::hurry();
        stopped
    })
}

/// The control of the profiler that runs in this process.
pub(crate) fn running() -> Option<Arc<Handle>> {
    lock().as_ref().map(|running| running.handle.clone())
}

/// The kinds that are taken now.
fn kinds() -> Option<Kinds> {
    lock().as_ref().map(|running| running.said.in_force.kinds.clone())
}

fn lock() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers what happens around `fork` and at `exit`, once for the life of the process.
fn watch_process() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // On the thread that starts: a library's own initialiser, which holds the loader's lock, may start the profiler.
        os::keep_loaded();
        if !(os::at_fork(before_fork, after_fork_in_parent, after_fork_in_child) && os::at_exit(at_exit)) {
            report::warn("no memory for the hooks of fork and exit: a forked child does not profile itself");
        }
    });
}

thread_local! {
    /// What the forking thread holds from before a fork until after it.
    ///
    /// Without a destructor: a thread may fork in one of its own, when those of other values ran already.
    static FORKING: RefCell<Option<ManuallyDrop<Held>>> = const { RefCell::new(None) };
}

/// Every lock of ours that another thread could hold at the moment of a fork and a child could need, and the forking
/// thread's id before.
struct Held {
    served: MutexGuard<'static, Option<serve::Server>>,
    asked: MutexGuard<'static, pull::Queue>,
    running: MutexGuard<'static, Option<Running>>,
    recorded: MutexGuard<'static, Option<Recorded>>,
    named: MutexGuard<'static, Option<thread_names::Names>>,
    counted: Option<MutexGuard<'static, labels::New>>,
    spools: MutexGuard<'static, spool::Locks>,
    sockets: MutexGuard<'static, sockets::Sockets>,
    tid: u32,
}

extern "C" fn before_fork() {
    // In the order in which our own threads take them.
    let held = Held {
        served: serve::lock(),
        asked: pull::lock(),
        running: lock(),
        recorded: recorder::lock(),
        named: thread_names::lock(),
        counted: labels::lock_counts(),
        spools: spool::before_fork(),
        sockets: sockets::before_fork(),
        tid: os::gettid(),
    };
    let _ = FORKING.try_with(|forking| forking.replace(Some(ManuallyDrop::new(held))));
    unwind::before_fork();
}

extern "C" fn after_fork_in_parent() {
    unwind::after_fork_in_parent();
    drop(held());
}

/// What was held through the fork.
fn held() -> Option<Held> {
    FORKING.try_with(RefCell::take).ok().flatten().map(ManuallyDrop::into_inner)
}

/// Goes on in the child: its copy of the parent's threads, timers and half-written samples means nothing.
extern "C" fn after_fork_in_child() {
    os::forget_context();
    sampling::after_fork();
    let Some(Held { served, asked, mut running, mut recorded, named, counted, spools, sockets, tid }) =
        held()
    else {
        return unwind::after_fork();
    };
    // Also where the profiler is just being stopped, or was: what a thread of the parent was in the middle of, nobody
    // finishes here, and a later start in the child would wait for it.
    scratch::after_fork();
    awaiting::after_fork();
    stacks::after_fork();
    unwind::after_fork();
    thread::after_fork(tid);
    *recorded = None;
    drop(recorded);
    thread_names::after_fork(named);
    labels::forget_counts(counted);
    crate::drain::after_fork();
    // The queue first: what the server drops looks there.
    pull::after_fork(asked);
    serve::after_fork(served);
    spool::after_fork(spools);
    sockets::after_fork(sockets);
    STARTING.store(false, Ordering::SeqCst);
    changes::after_fork();
    let Some(parent) = running.take() else { return };
    // Where it has no thread left for it, the child is not profiled. That is not told: a thread of the parent may have
    // been in the middle of the host's logger, which nobody leaves here.
    let (said, tags) = (parent.said.clone(), parent.tags.with_new_instance());
    *running =
        run(said, tags, parent.exporters.clone(), parent.asked.clone(), parent.watched.clone(), true).ok();
    // Its threads do not exist here, and some lock inside may be held by one of them for ever.
    std::mem::forget(parent);
}

extern "C" fn at_exit() {
    // Not under a panic's way: an exit handler must return.
    if let Err(error) = stop_running() {
        report::warn(&format!("the last profile at exit: {error}"));
    }
}
