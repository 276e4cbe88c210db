//! THE table of options: name, type, default and documentation, each said once.
//!
//! The macro makes of it the struct [`Options`] with one typed field for each option, its defaults, and
//! [`OptionSpec`]s for everything that goes by name: [`Options::set`], the README's table, the bindings' stubs.

use std::path::PathBuf;

use super::fleet::{Duties, Share};
use super::list::{Kinds, UserTags};
use super::number::{
    Bytes, Days, FleetWindow, Frames, Interval, Percent, Period, Rate, Spans, Threshold, WallRate,
};
use super::preload::Preload;
use super::proxy::Proxy;
use super::push::{Headers, Project, Push, Tenant};
use super::serve::{Secret, Serve};
use super::value::{Setting, Shape, TagValue};
use super::word::{AsyncTasks, CpuClock, Guarantee, LogLevel, Malloc, SignalChoice, Symbolize, WallSignal};

/// One row of the table: everything about an option but its value.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OptionSpec {
    /// The one name, in snake_case.
    pub name: &'static str,
    /// Unit of a bare number, or empty.
    pub unit: &'static str,
    /// The kinds of profile that the option concerns, or empty for all.
    pub kinds: &'static str,
    /// The version that brought it.
    pub since: &'static str,
    /// Whether it can change while the profiler runs, by [`crate::set`]; others need a new start.
    pub live: bool,
    /// Whether its value is hidden in output and errors.
    pub secret: bool,
    /// What its values are like.
    pub shape: Shape,
    lines: &'static str,
    pub(super) accepts: fn() -> String,
    pub(super) set: fn(&mut Options, &str) -> Result<(), String>,
    pub(super) get: fn(&Options) -> String,
    pub(super) shown: fn(&Options) -> String,
}

impl OptionSpec {
    /// The environment variable of the option.
    pub fn environment(&self) -> String {
        format!("EVERPROF_{}", self.name.to_ascii_uppercase())
    }

    /// What it means, in plain sentences.
    pub fn doc(&self) -> String {
        self.lines.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What it accepts, such as `whole number, 1 to 10000`.
    pub fn accepts(&self) -> String {
        (self.accepts)()
    }

    /// Its default as canonical text.
    pub fn default_text(&self) -> String {
        (self.get)(&Options::default())
    }
}

/// The row of that name.
pub(super) fn find(name: &str) -> Option<&'static OptionSpec> {
    TABLE.iter().find(|spec| spec.name == name)
}

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $unit:literal, $kinds:literal, $since:literal $(, $live:ident)?;)+) => {
        /// Every option, typed. `Options::default()` is what runs when nothing is said.
        ///
        /// ```
        /// use everprof::options::{Options, Rate, TagValue};
        /// let mut options = Options::default();
        /// options.service = TagValue::new("checkout").unwrap();
        /// options.rate_hz = Rate::new(250).unwrap();
        /// assert_eq!(options.get("rate_hz").as_deref(), Some("250"));
        /// ```
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Options {
            $($(#[doc = $doc])+ pub $name: $type,)+
            /// The environment said `EVERPROF_ENABLED=false`.
            pub(super) vetoed: bool,
        }

        impl Default for Options {
            fn default() -> Self {
                Self { $($name: $default,)+ vetoed: false }
            }
        }

        pub(super) static TABLE: &[OptionSpec] = &[$(OptionSpec {
            name: stringify!($name),
            unit: $unit,
            kinds: $kinds,
            since: $since,
            live: [$(stringify!($live),)? ""].len() > 1,
            secret: <$type as Setting>::SECRET,
            shape: <$type as Setting>::SHAPE,
            lines: concat!($($doc),+),
            accepts: <$type as Setting>::accepts,
            set: |options, text| {
                options.$name = <$type as Setting>::parse(text)?;
                Ok(())
            },
            get: |options| options.$name.text(),
            shown: |options| options.$name.shown(),
        }),+];
    };
}

options! {
    /// Name of the service, the first thing to search profiles by. Empty: from `OTEL_SERVICE_NAME`,
    /// `OTEL_RESOURCE_ATTRIBUTES` or `DD_SERVICE`, else the file name of the executable.
    service: TagValue = TagValue::default(), "", "", "0.1.0";

    /// Version of the service. Empty: from `OTEL_RESOURCE_ATTRIBUTES` or `DD_VERSION`.
    version: TagValue = TagValue::default(), "", "", "0.1.0";

    /// Environment of the deployment, such as `production`. Empty: from `OTEL_RESOURCE_ATTRIBUTES` or `DD_ENV`.
    env: TagValue = TagValue::default(), "", "", "0.1.0";

    /// More tags for every profile, `key=value,key=value`; `%2C` stands for a comma in a value. They win over tags of
    /// the same key from the host.
    tags: UserTags = UserTags::default(), "", "", "0.1.0";

    /// The kinds of profile to take.
    kinds: Kinds = Kinds::default(), "", "", "0.1.0", live;

    /// Samples per second of CPU time of each thread.
    rate_hz: Rate = Rate::DEFAULT, "Hz", "cpu", "0.1.0", live;

    /// Looks per second at each thread, for what it waits for while it does not run. The longer a thread has not moved, the
    /// less often it is looked at, every two seconds at least.
    wall_rate_hz: WallRate = WallRate::DEFAULT, "Hz", "wall", "0.1.0", live;

    /// Whether a thread that waits may get a signal, which ends some calls with EINTR: once for each wait where the kernel
    /// does not tell where it waits or its stack is not whole, and once when it is met while it runs (`auto`); or never,
    /// at the price of such stacks.
    wall_signal: WallSignal = WallSignal::Auto, "", "cpu, wall", "0.1.0";

    /// Whether futures that are wrapped with labels tell what their tasks wait for. `off`: nobody's waits are told, and no
    /// poll gets a waker of everprof's, also while somebody records; for executors that accept their own wakers only.
    async_waits: bool = true, "", "wall, offcpu", "0.1.0";

    /// What is told of the tasks of Python's asyncio: `names` gives samples the label `task`, which is the name that the task was
    /// made with, or where it has none the qualified name of its coroutine. A task that is made costs about a microsecond more. `waits`
    /// also tells what tasks wait for, in the wall profile: each loop looks at some of its tasks up to ten times a second, for at most a
    /// hundredth of its time.
    async_tasks: AsyncTasks = AsyncTasks::Off, "", "cpu, wall, offcpu, alloc, heap, peak, lock, mutex, block", "0.1.0";

    /// Mean distance of samples of allocations: each byte has the same chance to be the one that makes its allocation a
    /// sample. Less is more precise and costs more; where more blocks live than can be followed, it is more by itself. `off`: no
    /// allocation is sampled.
    interval_bytes: Interval = Interval::of(512 << 10), "bytes", "alloc, heap, peak", "0.1.0", live;

    /// Whether allocations are seen where `malloc` and its kin are called, in all libraries: where Rust's allocator is not
    /// everprof's (`auto`); always, so that those of C libraries are told beside Rust's (`on`); or never (`off`).
    malloc: Malloc = Malloc::Auto, "", "alloc, heap, peak", "0.1.0";

    /// Whether memory that is mapped without a file (`mmap`) counts as an allocation too.
    mmap: bool = false, "", "alloc, heap, peak", "0.1.0";

    /// Which programs the library profiles that `LD_PRELOAD` puts into all that are started: the `first` one, with what it
    /// becomes by `exec`, and not those that it starts; `all`; or those whose executables have these names.
    preload: Preload = Preload::First, "", "", "0.1.0";

    /// Whether interpreters that everprof is installed for start it before every program: Python, by its `everprof.pth`. It is
    /// read in the environment alone.
    autostart: bool = false, "", "", "0.1.0";

    /// A wait for a lock of at least so long is always a sample, a shorter one in proportion, which its weight makes good.
    /// `off`: no wait is sampled, and no function is hooked.
    lock_threshold_ns: Threshold = Threshold::DEFAULT, "nanoseconds", "lock, mutex, block", "0.1.0", live;

    /// Whether waits for locks of C and C++ code are seen as well, whose functions are hooked: each lock and unlock of theirs
    /// costs a nanosecond or two more, and one that is fought for more than that. `off`: those of Rust alone, for which nothing is added to a lock that is free.
    c_locks: bool = true, "", "lock, mutex, block", "0.1.0";

    /// Length of one profile.
    period_s: Period = Period::DEFAULT, "seconds", "", "0.1.0", live;

    /// Directory that profiles are written to; it is created when the first one is written. A relative one counts from
    /// the working directory at the start.
    dir: PathBuf = PathBuf::from("./everprof"), "", "", "0.1.0";

    /// Profiles older than this are removed from `dir`.
    retention_days: Days = Days::DEFAULT, "days", "", "0.1.0";

    /// When the profiles in `dir` take more room than this, the oldest are removed.
    max_bytes: Bytes = Bytes::of(1 << 30), "bytes", "", "0.1.0";

    /// Where profiles go, one place or several parted by commas: into `dir`, into another directory, or to servers, such as
    /// `pyroscope+http://pyroscope:4040,dir`. `off`: nowhere, they can be fetched only. User and password in a URL are sent
    /// to its server alone; in the path of `post` and `put`, `{service}`, `{version}`, `{env}`, `{host}`, `{instance}`, `{kind}`,
    /// `{time}`, `{sequence}` and `{id}` are filled in. Without a port, it is 4040 for `pyroscope`, 7070 for `parca`, 4318 for
    /// `otlp`, 4317 for `otlp+grpc`, 8126 for `datadog`, else 80; with `https` and `grpcs` 443. `otlp` goes to `/v1development/profiles` unless the URL has a path.
    /// `https` and `grpcs` need the feature `tls`, `grpc` and `grpcs` the feature `grpc`; a Unix socket is
    /// `post+unix:///path/of.socket:/path`. `datadog` alone is the agent that `DD_TRACE_AGENT_URL` or `DD_AGENT_HOST` names. `google`
    /// is Google Cloud Profiler, which says itself when it wants one of the kinds that `kinds` has, once a minute of all replicas.
    push: Push = Push::default(), "", "", "0.1.0";

    /// Secret that requests to every server of `push` carry as `Authorization: Bearer`, but where the URL has a user; for
    /// Datadog's intake its API key, where `DD_API_KEY` says none. Datadog's agent and Google get none.
    push_token: Secret = Secret::default(), "", "", "0.1.0";

    /// Tenant that profiles belong to, for servers that have several (`X-Scope-OrgID`).
    push_tenant: Tenant = Tenant::default(), "", "", "0.1.0";

    /// Project of Google's that profiles belong to, for `push=google`. Empty: `GOOGLE_CLOUD_PROJECT`, or that of the key in
    /// `GOOGLE_APPLICATION_CREDENTIALS`, or of the machine.
    push_project: Project = Project::default(), "", "", "0.1.0";

    /// More headers of requests to every server of `push`; `%2C` stands for a comma in a value.
    push_headers: Headers = Headers::default(), "", "", "0.1.0";

    /// File of the certificates to trust for `https`, in PEM, instead of the system's.
    push_roots: Option<PathBuf> = None, "", "", "0.1.0";

    /// File of the certificate, with its chain, by which servers of `https` know this client, in PEM. It is read anew for
    /// each connection.
    push_certificate: Option<PathBuf> = None, "", "", "0.1.0";

    /// File of that certificate's private key, in PEM.
    push_key: Option<PathBuf> = None, "", "", "0.1.0";

    /// Proxy that servers of `push` are reached by, `http://user:password@host:port`, or `https` where it speaks TLS itself. `environment`: that of `HTTPS_PROXY`,
    /// `HTTP_PROXY` or `ALL_PROXY`. Not by it goes what `NO_PROXY` lists, what is on this machine, and Unix sockets.
    push_proxy: Proxy = Proxy::default(), "", "", "0.1.0";

    /// What becomes of a profile that was sent whole and not answered, or by a gateway only (504): `at_most_once` gives it
    /// up and counts it, so that nothing is counted twice where the server has it; `at_least_once` sends it again under the same ID.
    push_delivery: Guarantee = Guarantee::AtMostOnce, "", "", "0.1.0";

    /// Encoded profiles that may wait for each place of `push`; beyond it the oldest are given up, and counted.
    push_queue_bytes: Bytes = Bytes::of(16 << 20), "bytes", "", "0.1.0";

    /// Directory where profiles wait for servers of `push` that are away, so that they outlive the process: the next one of
    /// the service sends them. Empty: they wait in memory only. Several processes and services may share one.
    push_spool: Option<PathBuf> = None, "", "", "0.1.0";

    /// Room in `push_spool` for each process and each server; beyond it the oldest are given up, and counted.
    push_spool_bytes: Bytes = Bytes::of(256 << 20), "bytes", "", "0.1.0";

    /// Profiles in `push_spool` that are older than this are given up, and counted; for Pyroscope it is 55 minutes at the most.
    push_spool_days: Days = Days::WEEK, "days", "", "0.1.0";

    /// How much of an address is turned into source: nothing (build IDs and addresses only), function names, or names,
    /// lines and inlined functions.
    symbolize: Symbolize = Symbolize::Lines, "", "", "0.1.0";

    /// Memory that symbolizing may hold while it runs; with less, some frames carry names without lines.
    symbolize_memory_bytes: Bytes = Bytes::of(32 << 20), "bytes", "", "0.1.0";

    /// The deepest stack kept whole; of a deeper one the root side and the leaf side are kept and the gap is marked.
    max_frames: Frames = Frames::DEFAULT, "frames", "cpu", "0.1.0";

    /// How many spans a profile tells apart by the labels `trace_id`, `span_id` and `local_root_span_id`; samples of more
    /// have none of them, and are counted. `off`: of none, so that no ID of a request gets into a profile.
    trace_spans: Spans = Spans::DEFAULT, "spans", "", "0.1.0";

    /// Whether a profiler outside of the process, such as OpenTelemetry's for eBPF, can read which trace and span a thread
    /// works for, by the layout of OTEP 4947, and the service's name by that of OTEP 4719. The program has to be linked with
    /// `-Wl,--export-dynamic-symbol=otel_thread_ctx_v1`.
    otel_context: bool = false, "", "", "0.1.0";

    /// What paces the samples: a CPU timer for each thread, or the kernel's `perf_event` task clock, which falls back
    /// to timers with a reason where it is not permitted.
    cpu_clock: CpuClock = CpuClock::Timer, "", "cpu", "0.1.0";

    /// The signal that takes samples: SIGPROF, a number, `auto`, which takes another one where SIGPROF is in use, or
    /// `realtime`, which takes one that programs leave alone, and is the preloaded library's default. With `perf_event`, the
    /// latter two take SIGURG: a signal of an event may be left over when another program takes the process over (`exec`).
    signal: SignalChoice = SignalChoice::Auto, "", "cpu", "0.1.0";

    /// Whether samples carry a label `thread_id` beside `thread_name`; it makes profiles larger.
    thread_ids: bool = false, "", "cpu", "0.1.0";

    /// CPU time that sampling may use, as a share of the CPU time of the whole process, or of one processor's time where
    /// that is more; above it samples of CPU time, of allocations and of waits for locks and looks at threads that wait come less
    /// often, what costs the most first, until they fit.
    cpu_budget_percent: Percent = Percent::DEFAULT, "percent", "", "0.1.0", live;

    /// A file of lines `name = value` that is read at the start and again whenever it changes: options that are live change
    /// with it at once. What it says wins over the environment and the program for as long as it says it. A file that is wrong
    /// anywhere changes nothing.
    config: Option<PathBuf> = None, "", "", "0.1.0";

    /// Kinds of profile that are taken for a part of the time only, each in a cycle of its own: `alloc:10s/60s` is on for ten
    /// seconds of each minute. Not `heap` and `peak`, which follow blocks for as long as these live, nor `threads`. The tag
    /// `duty` tells it, so that totals can be scaled. Each change ends the profile at hand.
    duty: Duties = Duties::default(), "", "cpu, wall, offcpu, alloc, lock, mutex, block", "0.1.0", live;

    /// The share of a fleet's instances that profile at a time. Which ones changes with each window of `fleet_window_s`, and
    /// each instance knows by itself when it is its turn; the others take no samples, and answer requests as ever. 0: on request only.
    /// The tag `fleet_share` tells it, so that totals can be scaled.
    fleet_share: Share = Share::DEFAULT, "percent", "", "0.1.0", live;

    /// How long an instance profiles when it is its turn; the profile at hand ends with it.
    fleet_window_s: FleetWindow = FleetWindow::DEFAULT, "seconds", "", "0.1.0", live;

    /// Where profiles can be fetched while the program runs, as from Go's `net/http/pprof`: `/debug/pprof/`. A port alone is
    /// one of loopback, port 0 one that the system chooses. Where it cannot be had, the program goes on without.
    serve: Serve = Serve::default(), "", "", "0.1.0";

    /// Secret that the pull side asks for, as `Authorization: Bearer` or as the password of a URL. Empty: none.
    serve_token: Secret = Secret::default(), "", "", "0.1.0";

    /// The least important of everprof's own messages that go to the host's logger (crate `log`, target `everprof`).
    log: LogLevel = LogLevel::Info, "", "", "0.1.0", live;

    /// Whether to profile at all. `EVERPROF_ENABLED=false` wins over what the program says, and makes
    /// `Profiler::start()` return a guard that does nothing.
    enabled: bool = true, "", "", "0.1.0";
}
