# The parts between `begin` and `end` are written by `make bless` from the core's tables.
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, TypedDict, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_P = TypeVar("_P", bound=Profile)

# begin kinds
_Kind = Literal["cpu", "wall", "offcpu", "threads", "alloc", "heap", "peak", "lock", "mutex", "block", "gil", "gc"]
# end kinds

__version__: str

# begin errors
class Error(Exception):
    kind: str

class InvalidOptionError(Error):
    """Correct the option that the message names."""

class InvalidDataError(Error):
    """Correct the file or bytes that the message names: they are not what they should be."""

class StorageError(Error):
    """Make room, or grant access: a file or directory could not be read or written."""

class AlreadyRunningError(Error):
    """Start once only, or stop first: a profiler runs in this process already."""

class UnsupportedError(Error):
    """Nothing here: the kernel, the platform or its policy does not offer what was asked for."""

class UnavailableError(Error):
    """Try again later: the other side could not be reached or did not accept."""

class InternalError(Error):
    """Report it to us: everprof itself went wrong."""
# end errors

# begin start
def start(
    *,
    service: str | None = None,
    version: str | None = None,
    env: str | None = None,
    tags: str | Mapping[str, object] | None = None,
    kinds: str | Sequence[str] | None = None,
    rate_hz: int | None = None,
    wall_rate_hz: int | None = None,
    wall_signal: Literal["auto", "never"] | None = None,
    async_waits: bool | None = None,
    async_tasks: Literal["off", "names", "waits"] | None = None,
    interval_bytes: int | str | None = None,
    malloc: Literal["auto", "on", "off"] | None = None,
    mmap: bool | None = None,
    preload: str | Sequence[str] | None = None,
    autostart: bool | None = None,
    lock_threshold_ns: int | str | timedelta | None = None,
    c_locks: bool | None = None,
    period_s: int | timedelta | None = None,
    dir: str | os.PathLike[str] | None = None,
    retention_days: int | timedelta | None = None,
    max_bytes: int | str | None = None,
    push: str | Sequence[str] | None = None,
    push_token: str | None = None,
    push_tenant: str | None = None,
    push_project: str | None = None,
    push_headers: str | Mapping[str, object] | None = None,
    push_roots: str | os.PathLike[str] | None = None,
    push_certificate: str | os.PathLike[str] | None = None,
    push_key: str | os.PathLike[str] | None = None,
    push_proxy: str | None = None,
    push_delivery: Literal["at_most_once", "at_least_once"] | None = None,
    push_queue_bytes: int | str | None = None,
    push_spool: str | os.PathLike[str] | None = None,
    push_spool_bytes: int | str | None = None,
    push_spool_days: int | timedelta | None = None,
    symbolize: Literal["off", "names", "lines"] | None = None,
    symbolize_memory_bytes: int | str | None = None,
    max_frames: int | None = None,
    trace_spans: int | str | None = None,
    otel_context: bool | None = None,
    cpu_clock: Literal["timer", "perf_event"] | None = None,
    signal: int | str | None = None,
    thread_ids: bool | None = None,
    cpu_budget_percent: float | None = None,
    config: str | os.PathLike[str] | None = None,
    duty: str | Sequence[str] | None = None,
    fleet_share: float | None = None,
    fleet_window_s: int | timedelta | None = None,
    serve: int | str | None = None,
    serve_token: str | None = None,
    log: Literal["off", "error", "warn", "info", "debug"] | None = None,
    enabled: bool | None = None,
) -> None:
    """
    service: Name of the service, the first thing to search profiles by. Empty: from `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` or `DD_SERVICE`, else the file name of the executable. (text, at most 256 bytes)
    version: Version of the service. Empty: from `OTEL_RESOURCE_ATTRIBUTES` or `DD_VERSION`. (text, at most 256 bytes)
    env: Environment of the deployment, such as `production`. Empty: from `OTEL_RESOURCE_ATTRIBUTES` or `DD_ENV`. (text, at most 256 bytes)
    tags: More tags for every profile, `key=value,key=value`; `%2C` stands for a comma in a value. They win over tags of the same key from the host. (key=value,key=value)
    kinds: The kinds of profile to take. (one or more of cpu, wall, offcpu, threads, alloc, heap, peak, lock, mutex, block, gil, gc)
    rate_hz: Samples per second of CPU time of each thread. (whole number, 1 to 10000)
    wall_rate_hz: Looks per second at each thread, for what it waits for while it does not run. The longer a thread has not moved, the less often it is looked at, every two seconds at least. (whole number, 1 to 1000)
    wall_signal: Whether a thread that waits may get a signal, which ends some calls with EINTR: once for each wait where the kernel does not tell where it waits or its stack is not whole, and once when it is met while it runs (`auto`); or never, at the price of such stacks. (auto, never)
    async_waits: Whether futures that are wrapped with labels tell what their tasks wait for. `off`: nobody's waits are told, and no poll gets a waker of everprof's, also while somebody records; for executors that accept their own wakers only. (on, off)
    async_tasks: What is told of the tasks of Python's asyncio: `names` gives samples the label `task`, which is the name that the task was made with, or where it has none the qualified name of its coroutine. A task that is made costs about a microsecond more. `waits` also tells what tasks wait for, in the wall profile: each loop looks at some of its tasks up to ten times a second, for at most a hundredth of its time. (off, names, waits)
    interval_bytes: Mean distance of samples of allocations: each byte has the same chance to be the one that makes its allocation a sample. Less is more precise and costs more; where more blocks live than can be followed, it is more by itself. `off`: no allocation is sampled. (off, bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB)
    malloc: Whether allocations are seen where `malloc` and its kin are called, in all libraries: where Rust's allocator is not everprof's (`auto`); always, so that those of C libraries are told beside Rust's (`on`); or never (`off`). (auto, on, off)
    mmap: Whether memory that is mapped without a file (`mmap`) counts as an allocation too. (on, off)
    preload: Which programs the library profiles that `LD_PRELOAD` puts into all that are started: the `first` one, with what it becomes by `exec`, and not those that it starts; `all`; or those whose executables have these names. (first, all, or names of executables without their folders)
    autostart: Whether interpreters that everprof is installed for start it before every program: Python, by its `everprof.pth`. It is read in the environment alone. (on, off)
    lock_threshold_ns: A wait for a lock of at least so long is always a sample, a shorter one in proportion, which its weight makes good. `off`: no wait is sampled, and no function is hooked. (off, or whole number, 1 to 1000000000)
    c_locks: Whether waits for locks of C and C++ code are seen as well, whose functions are hooked: each lock and unlock of theirs costs a nanosecond or two more, and one that is fought for more than that. `off`: those of Rust alone, for which nothing is added to a lock that is free. (on, off)
    period_s: Length of one profile. (whole number, 1 to 3600)
    dir: Directory that profiles are written to; it is created when the first one is written. A relative one counts from the working directory at the start. (path)
    retention_days: Profiles older than this are removed from `dir`. (whole number, 1 to 3650)
    max_bytes: When the profiles in `dir` take more room than this, the oldest are removed. (bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB)
    push: Where profiles go, one place or several parted by commas: into `dir`, into another directory, or to servers, such as `pyroscope+http://pyroscope:4040,dir`. `off`: nowhere, they can be fetched only. User and password in a URL are sent to its server alone; in the path of `post` and `put`, `{service}`, `{version}`, `{env}`, `{host}`, `{instance}`, `{kind}`, `{time}`, `{sequence}` and `{id}` are filled in. Without a port, it is 4040 for `pyroscope`, 7070 for `parca`, 4318 for `otlp`, 4317 for `otlp+grpc`, 8126 for `datadog`, else 80; with `https` and `grpcs` 443. `otlp` goes to `/v1development/profiles` unless the URL has a path. `https` and `grpcs` need the feature `tls`, `grpc` and `grpcs` the feature `grpc`; a Unix socket is `post+unix:///path/of.socket:/path`. `datadog` alone is the agent that `DD_TRACE_AGENT_URL` or `DD_AGENT_HOST` names. `google` is Google Cloud Profiler, which says itself when it wants one of the kinds that `kinds` has, once a minute of all replicas. (off, dir, file:///path, datadog, google, and PROTOCOL+http://host, PROTOCOL+https://host or PROTOCOL+unix:///path/of.socket with one of the protocols pyroscope, parca, otlp, datadog, post and put, or otlp and parca with grpc:// and grpcs://; several parted by commas)
    push_token: Secret that requests to every server of `push` carry as `Authorization: Bearer`, but where the URL has a user; for Datadog's intake its API key, where `DD_API_KEY` says none. Datadog's agent and Google get none. (8 to 1024 visible ASCII characters)
    push_tenant: Tenant that profiles belong to, for servers that have several (`X-Scope-OrgID`). (at most 150 letters, digits and !-_.*'()|)
    push_project: Project of Google's that profiles belong to, for `push=google`. Empty: `GOOGLE_CLOUD_PROJECT`, or that of the key in `GOOGLE_APPLICATION_CREDENTIALS`, or of the machine. (the ID of a project, 6 to 63 of a-z, 0-9 and -:., a letter first)
    push_headers: More headers of requests to every server of `push`; `%2C` stands for a comma in a value. (name=value,name=value)
    push_roots: File of the certificates to trust for `https`, in PEM, instead of the system's. (path of a file)
    push_certificate: File of the certificate, with its chain, by which servers of `https` know this client, in PEM. It is read anew for each connection. (path of a file)
    push_key: File of that certificate's private key, in PEM. (path of a file)
    push_proxy: Proxy that servers of `push` are reached by, `http://user:password@host:port`, or `https` where it speaks TLS itself. `environment`: that of `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`. Not by it goes what `NO_PROXY` lists, what is on this machine, and Unix sockets. (environment, off, or http://host:port or https://host:port, with user:password@ before the host where it asks for them)
    push_delivery: What becomes of a profile that was sent whole and not answered, or by a gateway only (504): `at_most_once` gives it up and counts it, so that nothing is counted twice where the server has it; `at_least_once` sends it again under the same ID. (at_most_once, at_least_once)
    push_queue_bytes: Encoded profiles that may wait for each place of `push`; beyond it the oldest are given up, and counted. (bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB)
    push_spool: Directory where profiles wait for servers of `push` that are away, so that they outlive the process: the next one of the service sends them. Empty: they wait in memory only. Several processes and services may share one. (path of a file)
    push_spool_bytes: Room in `push_spool` for each process and each server; beyond it the oldest are given up, and counted. (bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB)
    push_spool_days: Profiles in `push_spool` that are older than this are given up, and counted; for Pyroscope it is 55 minutes at the most. (whole number, 1 to 3650)
    symbolize: How much of an address is turned into source: nothing (build IDs and addresses only), function names, or names, lines and inlined functions. (off, names, lines)
    symbolize_memory_bytes: Memory that symbolizing may hold while it runs; with less, some frames carry names without lines. (bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB)
    max_frames: The deepest stack kept whole; of a deeper one the root side and the leaf side are kept and the gap is marked. (whole number, 16 to 4096)
    trace_spans: How many spans a profile tells apart by the labels `trace_id`, `span_id` and `local_root_span_id`; samples of more have none of them, and are counted. `off`: of none, so that no ID of a request gets into a profile. (off, or whole number, 1 to 1000000)
    otel_context: Whether a profiler outside of the process, such as OpenTelemetry's for eBPF, can read which trace and span a thread works for, by the layout of OTEP 4947, and the service's name by that of OTEP 4719. The program has to be linked with `-Wl,--export-dynamic-symbol=otel_thread_ctx_v1`. (on, off)
    cpu_clock: What paces the samples: a CPU timer for each thread, or the kernel's `perf_event` task clock, which falls back to timers with a reason where it is not permitted. (timer, perf_event)
    signal: The signal that takes samples: SIGPROF, a number, `auto`, which takes another one where SIGPROF is in use, or `realtime`, which takes one that programs leave alone, and is the preloaded library's default. With `perf_event`, the latter two take SIGURG: a signal of an event may be left over when another program takes the process over (`exec`). (auto, prof, realtime, or a number: 34 to 64, 10, 12, 14, 16, 26, 29 or 30)
    thread_ids: Whether samples carry a label `thread_id` beside `thread_name`; it makes profiles larger. (on, off)
    cpu_budget_percent: CPU time that sampling may use, as a share of the CPU time of the whole process, or of one processor's time where that is more; above it samples of CPU time, of allocations and of waits for locks and looks at threads that wait come less often, what costs the most first, until they fit. (number, 0.01 to 100)
    config: A file of lines `name = value` that is read at the start and again whenever it changes: options that are live change with it at once. What it says wins over the environment and the program for as long as it says it. A file that is wrong anywhere changes nothing. (path of a file)
    duty: Kinds of profile that are taken for a part of the time only, each in a cycle of its own: `alloc:10s/60s` is on for ten seconds of each minute. Not `heap` and `peak`, which follow blocks for as long as these live, nor `threads`. The tag `duty` tells it, so that totals can be scaled. Each change ends the profile at hand. (kind:on/cycle or kind:percent, such as alloc:10s/60s,lock:50%; ms, s, m, h; at least 1s on, a cycle of a day at most)
    fleet_share: The share of a fleet's instances that profile at a time. Which ones changes with each window of `fleet_window_s`, and each instance knows by itself when it is its turn; the others take no samples, and answer requests as ever. 0: on request only. The tag `fleet_share` tells it, so that totals can be scaled. (number, 0 to 100, at most four digits behind the point)
    fleet_window_s: How long an instance profiles when it is its turn; the profile at hand ends with it. (whole number, 5 to 86400)
    serve: Where profiles can be fetched while the program runs, as from Go's `net/http/pprof`: `/debug/pprof/`. A port alone is one of loopback, port 0 one that the system chooses. Where it cannot be had, the program goes on without. (off, a port on loopback such as 6060, ADDRESS:PORT such as 0.0.0.0:6060, or unix:/path)
    serve_token: Secret that the pull side asks for, as `Authorization: Bearer` or as the password of a URL. Empty: none. (8 to 1024 visible ASCII characters)
    log: The least important of everprof's own messages that go to the host's logger (crate `log`, target `everprof`). (off, error, warn, info, debug)
    enabled: Whether to profile at all. `EVERPROF_ENABLED=false` wins over what the program says, and makes `Profiler::start()` return a guard that does nothing. (on, off)
    """
# end start

def stop() -> None: ...
def flush() -> None: ...

# begin set
def set(
    *,
    kinds: str | Sequence[str] | None = None,
    rate_hz: int | None = None,
    wall_rate_hz: int | None = None,
    interval_bytes: int | str | None = None,
    lock_threshold_ns: int | str | timedelta | None = None,
    period_s: int | timedelta | None = None,
    cpu_budget_percent: float | None = None,
    duty: str | Sequence[str] | None = None,
    fleet_share: float | None = None,
    fleet_window_s: int | timedelta | None = None,
    log: Literal["off", "error", "warn", "info", "debug"] | None = None,
) -> None:
    """
    kinds: The kinds of profile to take. (one or more of cpu, wall, offcpu, threads, alloc, heap, peak, lock, mutex, block, gil, gc)
    rate_hz: Samples per second of CPU time of each thread. (whole number, 1 to 10000)
    wall_rate_hz: Looks per second at each thread, for what it waits for while it does not run. The longer a thread has not moved, the less often it is looked at, every two seconds at least. (whole number, 1 to 1000)
    interval_bytes: Mean distance of samples of allocations: each byte has the same chance to be the one that makes its allocation a sample. Less is more precise and costs more; where more blocks live than can be followed, it is more by itself. `off`: no allocation is sampled. (off, bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB; 64KiB to 1024TiB)
    lock_threshold_ns: A wait for a lock of at least so long is always a sample, a shorter one in proportion, which its weight makes good. `off`: no wait is sampled, and no function is hooked. (off, or whole number, 1 to 1000000000)
    period_s: Length of one profile. (whole number, 1 to 3600)
    cpu_budget_percent: CPU time that sampling may use, as a share of the CPU time of the whole process, or of one processor's time where that is more; above it samples of CPU time, of allocations and of waits for locks and looks at threads that wait come less often, what costs the most first, until they fit. (number, 0.01 to 100)
    duty: Kinds of profile that are taken for a part of the time only, each in a cycle of its own: `alloc:10s/60s` is on for ten seconds of each minute. Not `heap` and `peak`, which follow blocks for as long as these live, nor `threads`. The tag `duty` tells it, so that totals can be scaled. Each change ends the profile at hand. (kind:on/cycle or kind:percent, such as alloc:10s/60s,lock:50%; ms, s, m, h; at least 1s on, a cycle of a day at most)
    fleet_share: The share of a fleet's instances that profile at a time. Which ones changes with each window of `fleet_window_s`, and each instance knows by itself when it is its turn; the others take no samples, and answer requests as ever. 0: on request only. The tag `fleet_share` tells it, so that totals can be scaled. (number, 0 to 100, at most four digits behind the point)
    fleet_window_s: How long an instance profiles when it is its turn; the profile at hand ends with it. (whole number, 5 to 86400)
    log: The least important of everprof's own messages that go to the host's logger (crate `log`, target `everprof`). (off, error, warn, info, debug)
    """
# end set

# begin stats
class _Stats(TypedDict):
    running: bool
    """Whether a profiler runs in this process."""
    active: bool
    """Whether this instance takes profiles of periods now; requests and recordings are answered in any case."""
    active_reason: str
    """Why it does, or does not: `fleet_share` and the window at hand."""
    active_kinds: list[str]
    """The kinds that it takes now: those of `kinds` whose turn it is by `fleet_share` and `duty`."""
    samples: int
    """Samples taken from the ring."""
    sampled_cpu: float
    """CPU time that the samples stand for, losses and unsampled time included."""
    process_cpu: float
    """CPU time of the process since the profiler began."""
    lost: int
    """Periods whose samples were dropped, for whatever reason; each is in the profile as a frame that names it."""
    lost_ring_full: int
    """Of them: the ring had no room."""
    lost_no_scratch: int
    """Of them: more handlers at once than scratch buffers."""
    truncated: int
    """Stacks deeper than `max_frames`, whose middle is missing and marked."""
    incomplete: int
    """Stacks that ended before the thread's first frame, or may lack callers of code without call-frame information; each has a mark where frames are missing."""
    incomplete_unknown_stack: int
    """Of them: the thread ran on a stack that is neither its own nor its alternate one, such as a coroutine's, and that nobody had told of by [`crate::StackRange`]."""
    unsampled_cpu: float
    """CPU time of threads that were gone, or not yet known, without any sample: a frame of the profile."""
    rate_hz: float
    """The rate in force, in Hz: lower than asked for while the governor holds it down."""
    wanted_rate_hz: float
    """The rate that was asked for, in Hz."""
    effective_rate_hz: float
    """Signals per second of CPU time really delivered: at most the kernel's tick with the clock `timer`. Each signal carries the weight of the expiries it stands for, so totals are right at any rate."""
    wall_rate_hz: float
    """Looks per second at each thread for what it waits for, in Hz: lower than `wall_rate_hz` while the governor holds it down; 0 where there are none."""
    throttled: bool
    """Whether the governor holds down the rate, samples of allocations or of waits for locks, or looks at threads that wait, because of `cpu_budget_percent`."""
    signals: int
    """Signals handled."""
    threads_cpu: float
    """CPU time of everprof's own threads."""
    handler_time: float
    """Time spent on the application's threads: in the handler, and on the stacks of futures that wait."""
    delivery_time: float
    """Estimated cost of delivering the signals, which the handler cannot see: 3 microseconds each."""
    memory_bytes: int
    """About how many bytes everprof holds: rings, tables, stacks and names."""
    threads: int
    """Live threads of the process."""
    threads_untimed: int
    """Live threads without a timer of their own, whose CPU time is told as that of threads without samples."""
    wall_signals: int
    """Signals sent to threads that waited, because the kernel did not tell where, or their stack was not whole: see `wall_signal`."""
    wall_untold: int
    """Looks at threads that waited of which the kernel did not tell where, or did not let their stacks be read."""
    awaits_lost: int
    """Waits of tasks that are in no profile, because more began in a moment than there is room for: at any time 4,096 of those that were watched can be told. Each is counted for as many as it would have stood for."""
    spans_left_out: int
    """Samples that are told without their trace and span, because a period had more spans than `trace_spans`, or more of them allocated or waited at more places than there is room for."""
    signal: int
    """The signal in use."""
    cpu_clock: str
    """The clock in use: `timer` or `perf_event`."""
    exported: int
    """Profile sets that each exporter has brought where they belong, and profiles that Google Cloud Profiler has asked for and got."""
    exported_bytes: int
    """The bytes of their profiles, encoded and compressed as they were sent."""
    export_failures: int
    """Profile sets that did not arrive whole, by each exporter, and profiles that Google Cloud Profiler did not get."""
    export_evicted: int
    """Of them: given up because more than `push_queue_bytes` waited, the oldest first."""
    export_refused: int
    """Of them: the server does not want them."""
    export_expired: int
    """Of them: they had become too old for the server."""
    export_unknown: int
    """Of them: sent and not answered; with `push_delivery = at_most_once` they are not sent again, and may be there."""
    export_broken: int
    """Of them: given up after several attempts that broke off or failed, while others arrived."""
    export_unsent: int
    """Of them: still waiting when the profiler ended."""
    export_unreadable: int
    """Of them: kept on disk (`push_spool`) and not readable any more."""
    export_retries: int
    """Attempts to export that failed and were made again."""
    spool_sets: int
    """Profile sets that wait on disk (`push_spool`), those of processes before included."""
    spool_bytes: int
    """Their bytes."""
    verdict: str | None
    """Whether the service was bound by its processors or by waiting in the last period that was closed; none before the first one, and where `wall` is not among `kinds`. Found on everprof's thread when the period is named."""
    serve_address: str | None
    """Where the pull side listens, such as `127.0.0.1:6060`; none where it does not."""
    serve_requests: int
    """Requests that it answered, refused ones included."""
    serve_refused: int
    """Requests and connections that it refused, for their form or for lack of room."""
    last_problem: str | None
    """What went wrong last: a fallback that was taken, or an export that failed."""
    alloc_samples: int
    """Samples of allocations that were taken."""
    alloc_lost: int
    """Those that were lost: they are in the profile as a frame that says so."""
    alloc_unfollowed: int
    """Sampled blocks that are not followed, because too many live at once near each other: the live heap has them as a frame, in the period in which they were allocated."""
    alloc_sources: str
    """Where allocations are seen: `rust` (the program's allocator is everprof's), `c` (calls of `malloc` and its kin), both as `rust, c`, or empty."""
    alloc_slots: int
    """Calls of `malloc` and its kin from one library into another that are seen."""
    alloc_slots_foreign: int
    """Those that are not, because they lead to somebody else's hook, or to a fifth allocator."""
    alloc_slots_refused: int
    """Those that are not, because the kernel does not let us change them."""
    lock_samples: int
    """Samples of waits for locks that were taken."""
    lock_lost: int
    """Samples of waits for locks that were lost: they are in the profiles as a frame that says so."""
    lock_slots: int
    """Slots of functions that wait for locks, in all loaded objects, that are hooked."""
    lock_slots_foreign: int
    """Such slots that hold somebody else's function, or an older version, and are left alone."""
    lock_slots_refused: int
    """Such slots that the system did not let be changed."""
    hooks_time: float
    """Time spent on the application's threads for samples of allocations and of waits for locks."""
    interval_bytes: int
    """The mean distance of samples of allocations in force, in bytes: more than `interval_bytes` while the governor holds it up, or where more blocks live than can be followed otherwise; 0 where none are taken."""
    lock_threshold: float
    """How long a wait for a lock is at least that is always a sample: more than `lock_threshold_ns` while the governor holds it up; 0 where none are taken."""
    frames_off: str | None
    """Why stacks have no frames of Python, where they have none."""
    gc_callback_cpu: float
    """What the kind `gc` took in the collector's callbacks."""
    labels_off: str | None
    """Why samples inside of tasks have no labels, where they have none."""
# end stats

def stats() -> _Stats: ...

class labels:
    def __init__(self, mapping: Mapping[str, object] | Iterable[tuple[str, object]] = (), /, **more: object) -> None: ...
    def __enter__(self) -> labels: ...
    def __exit__(self, *exception: object) -> None: ...
    async def __aenter__(self) -> labels: ...
    async def __aexit__(self, *exception: object) -> None: ...
    def __call__(self, function: _F) -> _F: ...

def current_labels() -> dict[str, str]: ...

class Profile:
    def __init__(self, core: object = None) -> None: ...
    @property
    def html(self) -> str: ...
    @property
    def pprof(self) -> bytes: ...
    @property
    def collapsed(self) -> str: ...
    @property
    def speedscope(self) -> str: ...
    @property
    def totals(self) -> dict[str, int]: ...
    def by_label(self, key: str) -> dict[str, int]: ...
    def top(self, rows: int = 15) -> str: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...

class profile(Profile):
    def __init__(self, kind: _Kind = "cpu", **options: object) -> None: ...
    def __enter__(self: _P) -> _P: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def __aenter__(self: _P) -> _P: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

def snapshot(kind: _Kind = "threads") -> Profile: ...

class wsgi:
    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        *,
        endpoint: Callable[[dict[str, Any]], str | None] | None = None,
        pprof: bool = False,
        token: str | None = None,
    ) -> None: ...
    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]: ...

class asgi:
    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        endpoint: Callable[[Mapping[str, Any]], str | None] | None = None,
        pprof: bool = False,
        token: str | None = None,
    ) -> None: ...
    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None: ...
